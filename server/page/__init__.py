"""HTML pages: the playground at ``/`` and the API reference at ``/docs``."""
