"""The same engines on a cluster: manifests for Deployments, Services and a Gateway API route with weights.

They are generated, not applied: `weighbridge manifests LINE | kubectl apply -f -`, or committed for Argo CD or Flux.
What a cluster then does is its own; the steps of a rollout, judged and drained, are the local fleet's so far. Never
applied to a cluster here: Deployments and Services are held against Kubernetes' own schemas, the route against the
fields that Gateway API documents (v1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.engines import engine
from tasks.fit.hardware.gpus import HOST
from tasks.fit.rows import FitRow
from tasks.serve.fleet.protocol import plan_engine
from weighbridge.line import Line

PORT = 8000
MODELS = PurePosixPath("/models")
PROBE_SECONDS = 10
GOODBYE_SECONDS = 10
"""Between the end of new requests and the signal to the engine: endpoints take seconds to reach every node."""


class Cluster(BaseModel):
    """Where a line's engines are to run; the image is their version."""

    model_config = ConfigDict(frozen=True)

    image: str = Field(min_length=1, description="with the engine in it; name a digest, or it may change under you")
    namespace: str = Field("default", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    gateway: str = Field("weighbridge", description="name of the Gateway that the route hangs on")
    claim: str = Field("weighbridge-store", description="PersistentVolumeClaim that holds the store, read by all nodes")
    gpu_resource: str = Field("nvidia.com/gpu", description="what the device plug-in calls a GPU")


class Placed(BaseModel):
    """One version of a line on the cluster."""

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    scheme: str
    weight: int = Field(ge=0, le=100, description="per cent of the line's requests")
    row: FitRow | None = None
    """What the plan says it takes; None where it says nothing."""


def manifests(line: Line, placed: Sequence[Placed], cluster: Cluster) -> list[dict[str, Any]]:
    """A Deployment and a Service for each version, and one HTTPRoute that shares requests out.

    Args:
        line: engine, flags, context, concurrency and rollout.
        placed: versions with weights of 100 in all.
        cluster: where.

    Raises:
        ValueError: the weights are not 100 in all.
    """
    if sum(one.weight for one in placed) != 100:
        raise ValueError("weights must be 100 in all")
    found: list[dict[str, Any]] = []
    for one in placed:
        found += [_deployment(line, one, cluster), _service(line, one, cluster)]
    return [*found, _route(line, placed, cluster)]


def _name(line: Line, one: Placed) -> str:
    return f"{line.name}-v{one.version}"


def _metadata(line: Line, name: str, cluster: Cluster, **annotations: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": line.name, "app.kubernetes.io/managed-by": "weighbridge"}
    made = {"name": name, "namespace": cluster.namespace, "labels": labels}
    # A digest is too long for a label's value.
    return {**made, "annotations": {f"weighbridge/{key}": said for key, said in annotations.items()}}


def _selector(line: Line, one: Placed) -> dict[str, str]:
    return {"app.kubernetes.io/name": line.name, "weighbridge/version": str(one.version)}


def _deployment(line: Line, one: Placed, cluster: Cluster) -> dict[str, Any]:
    plan = plan_engine(line, cluster.image)
    folder = MODELS / line.name
    # In its own network namespace a pod listens on every address; who may reach it is the cluster's policy.
    spec = engine(plan.engine).launch(plan, Path(folder), "0.0.0.0", PORT)
    probe = {"httpGet": {"path": engine(plan.engine).health_path(plan), "port": PORT}, "timeoutSeconds": PROBE_SECONDS}
    container = {
        "name": "engine",
        "image": cluster.image,
        # The program as the image has it, not where it lies on this machine.
        "command": [PurePosixPath(spec.command[0]).name, *spec.command[1:]],
        "workingDir": str(MODELS),
        "env": [{"name": name, "value": value} for name, value in spec.environment.items()],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": _resources(one, cluster),
        # As long as the engine may take to start; a slow answer later is no reason to kill it.
        "startupProbe": {
            **probe,
            "periodSeconds": PROBE_SECONDS,
            "failureThreshold": math.ceil(engine(plan.engine).ready_seconds / PROBE_SECONDS),
        },
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": GOODBYE_SECONDS}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            # Under the line's name, by which some engines call what they serve.
            {"name": "store", "mountPath": str(folder), "subPath": f"{line.name}/{one.digest}", "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GOODBYE_SECONDS + math.ceil(line.rollout.drain_seconds),
        "containers": [container],
        "volumes": [
            {"name": "store", "persistentVolumeClaim": {"claimName": cluster.claim, "readOnly": True}},
            # Engines on several GPUs exchange tensors there, and 64 MiB are the default.
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    facts = {"digest": one.digest, "scheme": one.scheme, "engine": plan.engine_version, "plan": plan.digest}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(line, _name(line, one), cluster, **facts),
        "spec": {
            "replicas": 1,
            # GPUs for a second copy are seldom there; a new version is a new Deployment.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _selector(line, one)},
            "template": {"metadata": {"labels": _selector(line, one)}, "spec": pod},
        },
    }


def _resources(one: Placed, cluster: Cluster) -> dict[str, Any]:
    if one.row is None:
        return {}
    if one.row.gpu == HOST:
        memory = f"{math.ceil(one.row.total_gib + one.row.band_gib)}Gi"
        return {"requests": {"memory": memory}, "limits": {"memory": memory}}
    return {"limits": {cluster.gpu_resource: str(one.row.count)}}


def _service(line: Line, one: Placed, cluster: Cluster) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(line, _name(line, one), cluster, digest=one.digest),
        "spec": {
            "selector": _selector(line, one),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "appProtocol": "http"}],
        },
    }


def _route(line: Line, placed: Sequence[Placed], cluster: Cluster) -> dict[str, Any]:
    """By path only: Gateway API cannot read the body's `model`."""
    backends = [{"name": _name(line, one), "port": PORT, "weight": one.weight} for one in placed]
    rewrite = {
        "type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v1"}},
    }
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": f"/{line.name}/v1"}}],
        "filters": [rewrite],
        "backendRefs": backends,
        # A long answer is no fault.
        "timeouts": {"request": "0s"},
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": _metadata(line, line.name, cluster),
        "spec": {"parentRefs": [{"name": cluster.gateway}], "rules": [rule]},
    }
