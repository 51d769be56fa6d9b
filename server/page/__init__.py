"""Pages for people: the playground at ``/`` and the reference at ``/docs``."""
