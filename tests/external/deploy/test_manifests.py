"""The plain manifests and the chart's output, as a cluster and the server would read them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cdlm.scheduler.messages import EngineReady, EngineStats
from cdlm.server.access.keys import digest
from cdlm.server.command_line import SettingsError, parse_settings
from cdlm.server.health import router
from cdlm.server.observe.metrics import Metrics
from cdlm.server.run import _READINESS_PAUSE_S
from tests.external.deploy.custom_resources import SPECS
from tests.external.deploy.objects import FULL, PLAIN, Objects, environment, plain, pod, rendered, server

BUILT_IN = ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1")
CASES: dict[str, Callable[[], Objects]] = {
    "plain": plain,
    "chart": rendered,
    "chart, all": lambda: rendered(FULL),
    "chart, other names": lambda: rendered(FULL, name="chat", namespace="serving"),
    "chart, processor": lambda: rendered({"gpu": {"count": 0}, "networkPolicy": {"from": []}}),
}


@pytest.fixture(scope="module", params=CASES)
def objects(request: pytest.FixtureRequest) -> Objects:
    return CASES[request.param]()


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_built_in_objects_fit_the_clusters_schemas(objects: Objects, version: str) -> None:
    found = [item for item in objects.values() if item["apiVersion"] in BUILT_IN]
    assert {item["kind"] for item in found} >= {"Deployment", "Service", "ServiceAccount", "NetworkPolicy"}
    for item in found:
        kubernetes_validate.validate(item, version, strict=True)


def test_the_schemas_refuse_a_misspelled_field() -> None:
    broken = {**plain()["Service"], "spec": {"selectr": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.30", strict=True)


def test_other_operators_objects_fit_their_schemas(objects: Objects) -> None:
    for item in objects.values():
        if item["apiVersion"] not in BUILT_IN:
            jsonschema.validate(item["spec"], SPECS[item["apiVersion"], item["kind"]])
            assert set(item) == {"apiVersion", "kind", "metadata", "spec"}


@pytest.mark.parametrize("case", ["plain", "chart, all"])
def test_every_object_is_there(case: str) -> None:
    kinds = {
        "Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy",
        "ScaledObject", "ServiceMonitor", "InferencePool", "HTTPRoute",
    }  # fmt: skip
    assert set(CASES[case]()) == kinds


def test_probes_ask_for_paths_that_the_server_has(objects: Objects) -> None:
    container = server(objects)
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    assert set(paths.values()) <= {getattr(route, "path", None) for route in router.routes}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert all(container[name]["httpGet"]["port"] in ports for name in paths)
    assert str(ports["http"]) == environment(objects)["CDLM_PORT"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 600


def test_a_pod_is_not_killed_while_it_drains(objects: Objects) -> None:
    # After the drain limit: uvicorn's last bytes and the engine's end, five seconds each.
    after = _READINESS_PAUSE_S + 5 + 5
    pause = server(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(environment(objects)["CDLM_DRAIN_TIMEOUT_S"])
    assert pause >= 5
    assert pod(objects)["terminationGracePeriodSeconds"] >= pause + drain + after


def test_the_server_takes_the_environment(objects: Objects, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    for name, value in environment(objects).items():
        if name.startswith("CDLM_"):
            monkeypatch.setenv(name, str(keys) if name == "CDLM_API_KEY_FILE" else value)
    settings = parse_settings([])
    assert settings.host == "0.0.0.0"
    found = [key.digest for key in settings.api_keys]
    assert found == ([digest(b"secret")] if "CDLM_API_KEY_FILE" in environment(objects) else [])


def test_a_service_does_not_leak_into_the_settings(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pod(objects)["enableServiceLinks"] is False
    monkeypatch.setenv("CDLM_SERVE_SERVICE_HOST", "10.0.0.1")  # What service links would set.
    with pytest.raises(SettingsError):
        parse_settings([])


def test_the_pod_has_no_more_rights_than_it_needs(objects: Objects) -> None:
    spec, container = pod(objects), server(objects)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}


def test_selectors_match_the_pods(objects: Objects) -> None:
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    if "InferencePool" in objects:
        selectors.append(objects["InferencePool"]["spec"]["selector"]["matchLabels"])
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    if "ServiceMonitor" in objects:
        found = objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
        assert found.items() <= objects["Service"]["metadata"]["labels"].items()
    assert pod(objects)["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]


def test_no_egress_and_no_open_ingress(objects: Objects) -> None:
    policy = objects["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    assert all(rule["from"] and rule["ports"] for rule in policy["ingress"])


def test_the_autoscaler_alone_sets_the_replicas(objects: Objects) -> None:
    assert ("replicas" in objects["Deployment"]["spec"]) == ("ScaledObject" not in objects)
    if "ScaledObject" in objects:
        name = objects["Deployment"]["metadata"]["name"]
        assert objects["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == name


class _Engine:
    """An engine as a scrape sees it."""

    ready: EngineReady | None = None
    restarts = 0
    last_step_time = 0.0
    stats = EngineStats()


@pytest.mark.parametrize("case", ["plain", "chart, all", "chart, other names"])  # Those that scale.
def test_it_scales_on_waiting_and_running_series_that_exist(case: str) -> None:
    objects = CASES[case]()
    (trigger,) = objects["ScaledObject"]["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    names = re.findall(r"cdlm_\w+", re.sub(r"\{.*?\}", "", query))
    assert sorted(names) == ["cdlm_num_requests_running", "cdlm_num_requests_waiting"]
    metrics = Metrics("model", "0")
    metrics.watch(_Engine())
    exposed = metrics.render("")[0].decode()
    assert all(f"\n{name}{{" in exposed for name in names)
    namespace = objects["Deployment"]["metadata"].get("namespace", "default")
    service = objects["Service"]["metadata"]["name"]
    assert query.count(f'{{namespace="{namespace}",service="{service}"}}') == 2


def test_a_gpu_is_asked_for_unless_it_runs_on_the_processor(objects: Objects) -> None:
    limits = server(objects)["resources"]["limits"]
    wanted = environment(objects).get("CDLM_DEVICE") != "cpu"
    assert ("nvidia.com/gpu" in limits) == wanted


def test_the_chart_makes_the_plain_manifests() -> None:
    """What differs is the image's tag, the chart's labels and settings spelled out that equal the server's defaults."""
    chart = rendered(FULL)

    def core(objects: Objects, kind: str) -> Any:
        spec = yaml.safe_load(yaml.safe_dump(objects[kind]["spec"]))
        if kind == "Deployment":
            del spec["template"]["metadata"]
            (container,) = spec["template"]["spec"]["containers"]
            assert container.pop("image") == "cdlm-serve:0.1.0"
            container.pop("env")
        spec.pop("type", None)
        return spec

    for kind, item in plain().items():
        if kind == "ServiceAccount":
            continue
        assert core(chart, kind) == core(plain(), kind), kind
        assert item["metadata"]["name"] == chart[kind]["metadata"]["name"]
    assert environment(plain()).items() <= environment(chart).items()


def test_kustomize_lists_what_needs_no_operator() -> None:
    listed = yaml.safe_load((PLAIN / "kustomization.yaml").read_text())["resources"]
    needs_nothing = {
        path.name
        for path in PLAIN.glob("*.yaml")
        if all(part["apiVersion"] in BUILT_IN for part in yaml.safe_load_all(path.read_text()))
    }
    assert set(listed) == needs_nothing
