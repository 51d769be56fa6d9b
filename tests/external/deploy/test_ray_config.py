"""The shipped configuration of Ray Serve against the server's settings; needs no Ray. ``test_ray.py`` deploys it."""

from typing import Any

import yaml

from cdlm.server.settings import ServerSettings
from tests.support.places import ROOT

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())
(APPLICATION,) = CONFIG["applications"]
GATEWAY, REPLICA = APPLICATION["deployments"]
SETTINGS = ServerSettings(**APPLICATION["args"])


def test_a_replica_gets_what_fits_its_batch() -> None:
    assert REPLICA["max_ongoing_requests"] == SETTINGS.max_num_seqs
    assert REPLICA["max_queued_requests"] == SETTINGS.max_waiting_requests
    # Every request that replicas work on or that waits for one is in a gateway.
    places = REPLICA["autoscaling_config"]["max_replicas"] * REPLICA["max_ongoing_requests"]
    queue = GATEWAY["num_replicas"] * REPLICA["max_queued_requests"]
    assert GATEWAY["num_replicas"] * GATEWAY["max_ongoing_requests"] >= places + queue


def test_who_waits_for_another_waits_longer() -> None:
    assert CONFIG["http_options"]["request_timeout_s"] > SETTINGS.request_timeout_s
    assert GATEWAY["graceful_shutdown_timeout_s"] > REPLICA["graceful_shutdown_timeout_s"]


def test_it_scales_as_on_kubernetes() -> None:
    keda = yaml.safe_load((ROOT / "deploy/kubernetes/keda.yaml").read_text())["spec"]
    scaling = REPLICA["autoscaling_config"]
    assert scaling["target_ongoing_requests"] == float(keda["triggers"][0]["metadata"]["threshold"])
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    behavior = keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert scaling["downscale_delay_s"] == behavior["scaleDown"]["stabilizationWindowSeconds"]
