"""The chart: lint, values that are refused, toggles, notes."""

from typing import Any

import helm_python
import pytest

from tests.external.deploy.objects import CHART, FULL, environment, notes, pod, rendered, server


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "all"])
def test_lint(values: dict[str, Any]) -> None:
    report = helm_python.lint(CHART, values, strict=True, kube_version="v1.30.0")
    assert report["errors"] == []
    # An icon is recommended, which is information (1); warnings are 2 and errors 3.
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": 2}, "replicas"),
        ({"server": {"maxNumSeqs": 0}}, "maxNumSeqs"),
        ({"server": {"extraEnv": {"CDLM_API_KEY": "secret"}}}, "CDLM_API_KEY"),
        ({"server": {"extraEnv": {"CDLM_DTYPE": 16}}}, "CDLM_DTYPE"),
        ({"server": {"extraEnv": {"CDLM_DRAIN_TIMEOUT_S": "9"}}}, "CDLM_DRAIN_TIMEOUT_S"),
        ({"shutdown": {"marginSeconds": 0}}, "marginSeconds"),
        ({"gpu": {"count": 2}}, "count"),
        ({"autoscaling": {"minReplicas": 0}}, "minReplicas"),
        ({"model": {"path": "models/student"}}, "path"),
        ({"model": {"path": "/models/student"}}, "model.volume"),
        ({"model": {"adapter": "/adapter"}}, "model.adapter"),
        ({"autoscaling": {"minReplicas": 8, "maxReplicas": 4}}, "minReplicas"),
        ({"strategy": {"maxSurge": 0}}, "maxSurge"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_python.HelmError, match=named):
        rendered(values)


def test_toggles() -> None:
    off = {"podDisruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False}}
    assert set(rendered(off)) == {"Deployment", "Service", "ServiceAccount"}


def test_an_extra_setting_reaches_the_server() -> None:
    objects = rendered({"server": {"extraEnv": {"CDLM_DTYPE": "bfloat16"}}})
    assert environment(objects)["CDLM_DTYPE"] == "bfloat16"
    assert len(environment(objects)) == len(server(objects)["env"])


def test_the_grace_period_follows_pause_and_drain() -> None:
    longer = rendered({"shutdown": {"drainSeconds": 600, "preStopSeconds": 30}})
    assert pod(longer)["terminationGracePeriodSeconds"] == 650
    assert environment(longer)["CDLM_DRAIN_TIMEOUT_S"] == "600"


def test_the_route_goes_to_the_service_without_a_pool() -> None:
    objects = rendered({"httpRoute": {"enabled": True}, "service": {"port": 8080}})
    (backend,) = objects["HTTPRoute"]["spec"]["rules"][0]["backendRefs"]
    assert backend == {"name": objects["Service"]["metadata"]["name"], "port": 8080}


def test_no_peers_means_that_nobody_comes_in() -> None:
    assert rendered({"networkPolicy": {"from": []}})["NetworkPolicy"]["spec"]["ingress"] == []


def test_notes_warn_of_an_open_server() -> None:
    assert "No keys are set" in notes({})
    assert "No keys are set" not in notes(FULL)
    assert "check keys at the gateway" in notes(FULL)
