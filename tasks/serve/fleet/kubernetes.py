"""Kubernetes manifests of a line's engines: Deployments, Services, and a Gateway API route with weights.

They are generated, not applied: `weighbridge manifests LINE | kubectl apply -f -`, or committed for Argo CD or Flux.
They need Kubernetes 1.30 (`preStop.sleep`).
Canary steps, their judgement and draining exist only for the local fleet so far. The manifests were never applied to a
cluster: tests validate Deployments and Services with Kubernetes' own schemas, and the route by the fields that Gateway
API documents (v1).
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
from tasks.serve.fleet import pod_launch
from tasks.serve.fleet.launch import SLOWEST_BYTES_PER_SECOND
from tasks.serve.fleet.protocol import plan_engine
from weighbridge.line import Line
from weighbridge.units import GIB

PORT = 8000
MODELS = PurePosixPath("/models")
ARTIFACT = PurePosixPath("/artifact")
"""The artifact's folder in the store, with its manifest."""
LAUNCHER = PurePosixPath("/weighbridge/pod_launch.py")
"""Verifies the artifact at each start of the container, in the engine's own image."""
PLAN_DIGITS = 8
"""Hex digits of a plan's digest in a Deployment's name and labels."""
PROBE_SECONDS = 10
PRE_STOP_SECONDS = 10
"""Time between the end of new requests and the signal to the engine: changed endpoints reach every node within
seconds."""


class Cluster(BaseModel):
    """The cluster for a line's engines; the image is their version."""

    model_config = ConfigDict(frozen=True)

    image: str = Field(min_length=1, description="contains the engine; name a digest, because a tag may change")
    namespace: str = Field("default", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    gateway: str = Field("weighbridge", description="name of the Gateway that the route belongs to")
    claim: str = Field("weighbridge-store", description="PersistentVolumeClaim of the store, readable from all nodes")
    gpu_resource: str = Field("nvidia.com/gpu", description="the device plug-in's resource name of a GPU")


class PlacedVersion(BaseModel):
    """One version of a line on the cluster."""

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    scheme: str
    weight: int = Field(ge=0, le=100, description="per cent of the line's requests")
    row: FitRow | None = None
    """Planned GPUs and memory; None if they are not planned."""


def manifests(line: Line, placed: Sequence[PlacedVersion], cluster: Cluster) -> list[dict[str, Any]]:
    """Make a Deployment and a Service for each version, the launcher, and one HTTPRoute that distributes requests.

    Args:
        line: engine, flags, context, concurrency and rollout.
        placed: versions with weights of 100 in all.
        cluster: where they run.

    Raises:
        ValueError: the weights do not sum to 100.
    """
    if sum(version.weight for version in placed) != 100:
        raise ValueError("weights must sum to 100")
    documents: list[dict[str, Any]] = []
    for version in placed:
        documents += [_deployment(line, version, cluster), _service(line, version, cluster)]
    return [*documents, _launcher(line, cluster), _route(line, placed, cluster)]


def _name(line: Line, version: PlacedVersion) -> str:
    return f"{line.name}-v{version.version}"


def _plan_label(line: Line, cluster: Cluster) -> str:
    return plan_engine(line, cluster.image).digest[:PLAN_DIGITS]


def _metadata(line: Line, name: str, cluster: Cluster, **annotations: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": line.name, "app.kubernetes.io/managed-by": "weighbridge"}
    metadata = {"name": name, "namespace": cluster.namespace, "labels": labels}
    # A digest is too long for a label's value.
    return {**metadata, "annotations": {f"weighbridge/{key}": value for key, value in annotations.items()}}


def _selector(line: Line, version: PlacedVersion) -> dict[str, str]:
    """Labels of a version's pods under any plan: while a new plan's pods start, those of the old one answer."""
    return {"app.kubernetes.io/name": line.name, "weighbridge/version": str(version.version)}


def _tolerations(line: Line) -> list[dict[str, Any]]:
    """By default Kubernetes waits five minutes for a node that does not answer."""
    return [
        {
            "key": f"node.kubernetes.io/{condition}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": line.rollout.node_lost_seconds,
        }
        for condition in ("not-ready", "unreachable")
    ]


def _deployment(line: Line, version: PlacedVersion, cluster: Cluster) -> dict[str, Any]:
    plan = plan_engine(line, cluster.image)
    folder = MODELS / line.name
    # A pod listens on every address of its own network namespace; the cluster's policies decide who may reach it.
    spec = engine(plan.engine).launch(plan, Path(folder), "0.0.0.0", PORT)
    probe = {"httpGet": {"path": engine(plan.engine).health_path(plan), "port": PORT}, "timeoutSeconds": PROBE_SECONDS}
    container = {
        "name": "engine",
        "image": cluster.image,
        # The program by its name in the image, not by its path on this machine.
        "command": [
            *("python3", "-P", str(LAUNCHER), version.digest, str(ARTIFACT), "--"),
            *(PurePosixPath(spec.command[0]).name, *spec.command[1:]),
        ],
        "workingDir": str(MODELS),
        "env": [{"name": name, "value": value} for name, value in spec.environment.items()],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(version, cluster),
        # As long as the engine may take to start; later a slow answer is no reason to kill it.
        "startupProbe": {
            **probe,
            "periodSeconds": PROBE_SECONDS,
            "failureThreshold": math.ceil(
                (engine(plan.engine).ready_seconds + _verify_seconds(version)) / PROBE_SECONDS
            ),
        },
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            # Under the line's name: some engines name the model after its folder.
            _mount("store", folder, f"{line.name}/{version.digest}/model"),
            _mount("store", ARTIFACT, f"{line.name}/{version.digest}"),
            _mount("launcher", LAUNCHER.parent),
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    pod = {
        "automountServiceAccountToken": False,
        "tolerations": _tolerations(line),
        "terminationGracePeriodSeconds": PRE_STOP_SECONDS + math.ceil(line.rollout.drain_seconds),
        "containers": [container],
        "volumes": [
            {"name": "store", "persistentVolumeClaim": {"claimName": cluster.claim, "readOnly": True}},
            {"name": "launcher", "configMap": {"name": _launcher_name(line)}},
            # Engines on several GPUs exchange tensors there, and the default is 64 MiB.
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    labels = {**_selector(line, version), "weighbridge/plan": _plan_label(line, cluster)}
    annotations = {
        "digest": version.digest,
        "scheme": version.scheme,
        "engine": plan.engine_version,
        "plan": plan.digest,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(line, f"{_name(line, version)}-{_plan_label(line, cluster)}", cluster, **annotations),
        "spec": {
            "replicas": 1,
            # GPUs for a second copy are rarely available; a new version or plan is a new Deployment. `Recreate` would
            # wait for the end of the old pod, which one on a dead node never reports.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _verify_seconds(version: PlacedVersion) -> float:
    """Time to hash the weights, which the first start on a node reads over the network; 0 if they are not planned."""
    return version.row.weights_gib * version.row.count * GIB / SLOWEST_BYTES_PER_SECOND if version.row else 0.0


def _mount(volume: str, path: PurePosixPath, sub_path: str = "") -> dict[str, Any]:
    inside = {"subPath": sub_path} if sub_path else {}
    return {"name": volume, "mountPath": str(path), **inside, "readOnly": True}


def _launcher_name(line: Line) -> str:
    return f"{line.name}-launcher"


def _launcher(line: Line, cluster: Cluster) -> dict[str, Any]:
    """The program that verifies, as a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(line, _launcher_name(line), cluster),
        "data": {LAUNCHER.name: Path(pod_launch.__file__).read_text()},
    }


def _resources(version: PlacedVersion, cluster: Cluster) -> dict[str, Any]:
    if version.row is None:
        return {}
    if version.row.gpu == HOST:
        memory = f"{math.ceil(version.row.total_gib + version.row.band_gib)}Gi"
        return {"requests": {"memory": memory}, "limits": {"memory": memory}}
    return {"limits": {cluster.gpu_resource: str(version.row.count)}}


def _service(line: Line, version: PlacedVersion, cluster: Cluster) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(line, _name(line, version), cluster, digest=version.digest),
        "spec": {
            "selector": _selector(line, version),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}],
        },
    }


def _route(line: Line, placed: Sequence[PlacedVersion], cluster: Cluster) -> dict[str, Any]:
    """The route, by path only: Gateway API cannot read the body's `model`."""
    backends = [{"name": _name(line, version), "port": PORT, "weight": version.weight} for version in placed]
    rewrite = {
        "type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v1"}},
    }
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": f"/{line.name}/v1"}}],
        "filters": [rewrite],
        "backendRefs": backends,
        # A long response is no fault.
        "timeouts": {"request": "0s"},
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": _metadata(line, line.name, cluster),
        "spec": {"parentRefs": [{"name": cluster.gateway}], "rules": [rule]},
    }
