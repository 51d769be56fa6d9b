"""The objects under test: the plain manifests, and the chart rendered with some values."""

from functools import cache
from typing import Any

import helm_python
import yaml

from tests.support.places import ROOT

PLAIN = ROOT / "deploy/kubernetes"
CHART = ROOT / "deploy/helm/cdlm-serve"

FULL: dict[str, Any] = {
    "model": {
        "path": "/models/student",
        "servedName": "student",
        "volume": {"persistentVolumeClaim": {"claimName": "cdlm-models", "readOnly": True}},
    },
    "auth": {"existingSecret": "cdlm-serve-keys"},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "inferencePool": {"enabled": True},
    "httpRoute": {"enabled": True},
}

Objects = dict[str, dict[str, Any]]


@cache
def plain() -> Objects:
    """The plain manifests by kind, but for kustomize's own."""
    loaded = [part for path in sorted(PLAIN.glob("*.yaml")) for part in yaml.safe_load_all(path.read_text())]
    return by_kind([part for part in loaded if part["kind"] != "Kustomization"])


def rendered(values: dict[str, Any] | None = None, name: str = "cdlm-serve", namespace: str = "default") -> Objects:
    """What ``helm template`` makes of the chart, by kind."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values or {}, name=name, namespace=namespace)
    parts = [
        part for path, text in texts.items() if path.endswith(".yaml") for part in yaml.safe_load_all(text) if part
    ]
    return by_kind(parts)


def notes(values: dict[str, Any]) -> str:
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name="chat", namespace="default")
    return next(text for path, text in texts.items() if path.endswith("NOTES.txt"))


def by_kind(parts: list[dict[str, Any]]) -> Objects:
    objects = {part["kind"]: part for part in parts}
    assert len(objects) == len(parts), "two objects of one kind"
    return objects


def pod(objects: Objects) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


def server(objects: Objects) -> dict[str, Any]:
    (container,) = pod(objects)["containers"]
    found: dict[str, Any] = container
    return found


def environment(objects: Objects) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in server(objects)["env"]}
