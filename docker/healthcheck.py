"""Exit code 0 when the server of this container serves and its engine steps, else 1."""

import http.client
import os
import sys


def main() -> int:
    """Asks both probes; a proxy in the environment plays no part."""
    for path in ("/livez", "/readyz"):
        connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("CDLM_PORT", "8000")), timeout=4)
        try:
            connection.request("GET", path)
            if connection.getresponse().status != 200:
                return 1
        except (OSError, http.client.HTTPException):
            return 1
        finally:
            connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
