"""What ``serve deploy`` builds: gateways in front of replicas."""

from typing import Any

from ray.serve import Application

from cdlm.server.settings import ServerSettings
from deploy.ray.gateway import Gateway
from deploy.ray.replica import Replica


def build(options: dict[str, Any]) -> Application:
    """The application; ``options`` are settings of the server by name.

    Raises:
        ValidationError: one is unknown or has a bad value.
    """
    ServerSettings(**options)
    return Gateway.bind(Replica.bind(options), options)  # type: ignore[attr-defined]
