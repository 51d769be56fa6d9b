"""Schemas of the other operators' objects, as far as they are used here; an unknown field is an error.

Written from the published references: KEDA 2.17 and later (keda.sh/docs/latest/reference/scaledobject-spec), Prometheus
operator (prometheus-operator.dev/docs/api-reference), Gateway API v1 and Inference Extension v1.
"""

from typing import Any

STRING: dict[str, Any] = {"type": "string", "minLength": 1}
NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}
PORT: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 65535}
LABELS: dict[str, Any] = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}


def closed(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others; those named in ``required`` must be there."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def each(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


_policy = closed("type value periodSeconds", type={"enum": ["Pods", "Percent"]}, value=PORT, periodSeconds=PORT)
_rules = closed(
    "policies",
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    policies=each(_policy),
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
)
# KEDA reads a trigger's metadata as strings.
_prometheus = closed(
    "serverAddress query threshold",
    serverAddress={"type": "string", "pattern": "^https?://"},
    query=STRING,
    threshold={"type": "string", "pattern": "^[0-9.]+$"},
    activationThreshold={"type": "string", "pattern": "^[0-9.]+$"},
    ignoreNullValues={"enum": ["true", "false"]},
)

SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        "scaleTargetRef triggers",
        scaleTargetRef=closed("name", name=STRING, kind=STRING, apiVersion=STRING),
        pollingInterval=PORT,
        cooldownPeriod=NUMBER,
        minReplicaCount=NUMBER,
        maxReplicaCount=PORT,
        fallback=closed(
            "failureThreshold replicas",
            failureThreshold=PORT,
            replicas=NUMBER,
            behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]},
        ),
        advanced=closed(
            horizontalPodAutoscalerConfig=closed(behavior=closed(scaleUp=_rules, scaleDown=_rules), name=STRING),
        ),
        triggers=each(closed("type metadata", type={"const": "prometheus"}, metadata=_prometheus)),
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        "selector endpoints",
        selector=closed("matchLabels", matchLabels=LABELS),
        endpoints=each(
            closed(
                "port",
                port=STRING,
                path={"type": "string", "pattern": "^/"},
                interval={"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
                authorization=closed(
                    "credentials", type=STRING, credentials=closed("name key", name=STRING, key=STRING)
                ),
            )
        ),
    ),
    ("inference.networking.k8s.io/v1", "InferencePool"): closed(
        "selector targetPorts endpointPickerRef",
        selector=closed("matchLabels", matchLabels=LABELS),
        targetPorts=each(closed("number", number=PORT)),
        endpointPickerRef=closed(
            "name port",
            name=STRING,
            port=closed("number", number=PORT),
            failureMode={"enum": ["FailOpen", "FailClose"]},
        ),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): closed(
        "rules",
        parentRefs=each(closed("name", name=STRING, namespace=STRING, sectionName=STRING)),
        hostnames=each(STRING),
        rules=each(
            closed(
                "matches backendRefs",
                matches=each(closed(path=closed("type value", type={"enum": ["Exact", "PathPrefix"]}, value=STRING))),
                backendRefs=each(closed("name", group=STRING, kind=STRING, name=STRING, port=PORT)),
                timeouts=closed(request={"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}),
            )
        ),
    ),
}
