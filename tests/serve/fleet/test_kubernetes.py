"""Kubernetes manifests: valid by Kubernetes' schemas, with the values of line and plan."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tasks.fit.rows import FitRow
from tasks.serve.fleet.kubernetes import ARTIFACT, LAUNCHER, MODELS, PORT, Cluster, PlacedVersion, manifests
from tests.serve.serve_support import alter_byte, make_artifact
from weighbridge.line import Admission, Engine, Line, Rollout, SuiteUse, Target
from weighbridge.settings import Settings

VERSIONS = ("1.30", "1.31", "1.34", "1.37")
DIGEST = "ab" * 32


def line(engine: str, **flags: Any) -> Line:
    return Line(
        name="llama",
        source="hf://org/llama",
        admission=Admission(licences=["mit"]),
        schemes=["int8"],
        target=Target(gpus=["H100"], context=8192, concurrency=16),
        engine=Engine(name=engine, flags=flags),
        suites=[SuiteUse(name="general/agreement")],
        rollout=Rollout(drain_seconds=300),
    )


def row(gpu: str, count: int) -> FitRow:
    sizes = dict.fromkeys(
        ("weights_gib", "kv_gib", "kv_needed_gib", "activation_gib", "non_torch_gib", "cuda_graph_gib"), 1.0
    )
    more = {"capacity_gib": 70.0, "total_gib": 6.2, "max_concurrency": 4.0, "rule_of_thumb_gib": 1.0, "band_gib": 0.5}
    whole = {"kv_bytes_per_token": 1, "kv_tokens": 1, "verdict": "fits", "reason": "", "scheme": "int8"}
    return FitRow(gpu=gpu, count=count, tp=count, **sizes, **more, **whole)


def placed(version: int, weight: int, gpu: str = "H100", count: int = 2) -> PlacedVersion:
    return PlacedVersion(version=version, digest=DIGEST, scheme="int8", weight=weight, row=row(gpu, count))


def render(engine: str = "vllm", **flags: Any) -> list[dict[str, Any]]:
    return manifests(line(engine, **flags), [placed(7, 90), placed(8, 10)], Cluster(image="vllm@sha256:1"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "transformers", "llama-cpp"])
def test_manifests_are_valid_kubernetes_objects(engine: str, version: str) -> None:
    checked = [manifest for manifest in render(engine) if manifest["kind"] != "HTTPRoute"]
    assert [manifest["kind"] for manifest in checked] == [*["Deployment", "Service"] * 2, "ConfigMap"]
    for manifest in checked:
        kubernetes_validate.validate(manifest, version, strict=True)
    broken = {**checked[0], "spec": {**checked[0]["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_the_route_has_no_field_that_gateway_api_does_not_know() -> None:
    schema = yaml.safe_load((Path(__file__).parent / "http_route.yaml").read_text())
    route = render()[-1]
    jsonschema.validate(route, schema)
    route["spec"]["rules"][0]["backendRefs"][0]["wieght"] = 1
    with pytest.raises(jsonschema.ValidationError, match="wieght"):
        jsonschema.validate(route, schema)


def test_a_deployment_follows_the_line_and_the_plan() -> None:
    deployment, service = render("vllm", **{"tensor-parallel-size": 2})[:2]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = " ".join(container["command"])
    assert command.startswith(f"python3 -P {LAUNCHER} {DIGEST} {ARTIFACT} -- python")
    for said in (f"--model {MODELS}/llama", "--max-model-len 8192", "--max-num-seqs 16", "--tensor-parallel-size 2"):
        assert said in command
    assert f"--port {PORT}" in command and container["ports"][0]["containerPort"] == PORT
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[f"{MODELS}/llama"]["subPath"] == f"llama/{DIGEST}/model"
    assert mounts[str(ARTIFACT)]["subPath"] == f"llama/{DIGEST}"
    assert all(mount["readOnly"] for path, mount in mounts.items() if path != "/dev/shm")
    # Longer than the line's drain timeout.
    assert pod["terminationGracePeriodSeconds"] > 300
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 1800
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert container["ports"][0]["protocol"] == service["spec"]["ports"][0]["protocol"] == "TCP"
    assert deployment["metadata"]["annotations"]["weighbridge/digest"] == DIGEST


def test_a_new_plan_is_a_new_deployment_behind_the_same_service() -> None:
    old = manifests(line("vllm"), [placed(7, 100)], Cluster(image="vllm@sha256:1"))
    new = manifests(line("vllm", **{"max-num-batched-tokens": 512}), [placed(7, 100)], Cluster(image="vllm@sha256:1"))
    assert old[0]["metadata"]["name"] != new[0]["metadata"]["name"]
    assert old[0]["metadata"]["name"].startswith("llama-v7-")
    # Else each Deployment would claim the other's pods.
    assert old[0]["spec"]["selector"] != new[0]["spec"]["selector"]
    assert old[1] == new[1]


@pytest.mark.parametrize("seconds", [0, 30, 300])
def test_the_pod_of_a_lost_node_is_replaced_after_the_line_s_time(seconds: int) -> None:
    given = line("vllm")
    given = given.model_copy(update={"rollout": Rollout(node_lost_seconds=seconds)})
    spec = manifests(given, [placed(7, 100)], Cluster(image="vllm"))[0]["spec"]
    assert {known["key"]: known["tolerationSeconds"] for known in spec["template"]["spec"]["tolerations"]} == {
        "node.kubernetes.io/not-ready": seconds,
        "node.kubernetes.io/unreachable": seconds,
    }
    # `Recreate` waits for the end of a pod that nobody can report.
    assert spec["strategy"]["type"] == "RollingUpdate"


def test_two_versions_share_nothing_but_the_route() -> None:
    rendered = render()
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered]
    assert len(set(names)) == len(names)
    assert rendered[0]["spec"]["selector"] != rendered[2]["spec"]["selector"]
    route = rendered[-1]
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    (rule,) = route["spec"]["rules"]
    shares = {backend["name"]: (backend["port"], backend["weight"]) for backend in rule["backendRefs"]}
    assert shares == {"llama-v7": (PORT, 90), "llama-v8": (PORT, 10)}
    assert rule["matches"][0]["path"] == {"type": "PathPrefix", "value": "/llama/v1"}


def test_a_cpu_deployment_requests_the_planned_memory() -> None:
    placed = PlacedVersion(version=7, digest=DIGEST, scheme="int8", weight=100, row=row("host", 1))
    deployment = manifests(line("vllm"), [placed], Cluster(image="vllm"))[0]
    resources = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"memory": "7Gi"}, "limits": {"memory": "7Gi"}}


def test_weights_that_are_not_100_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 100"):
        manifests(line("vllm"), [placed(7, 90)], Cluster(image="vllm"))


@pytest.mark.parametrize("damage", ["nothing", "byte", "link", "extra", "missing", "manifest", "other digest"])
def test_the_launcher_of_a_pod_starts_whole_artifacts_only(settings: Settings, tmp_path: Path, damage: str) -> None:
    """As the manifests write it: by a Python without Weighbridge."""
    artifact = make_artifact(settings)
    folder = settings.store_folder / artifact.line / artifact.digest
    model = folder / "model"
    for path in (folder, model, *model.iterdir(), folder / "manifest.json"):
        path.chmod(0o700)
    if damage == "byte":
        alter_byte(settings, artifact)
    elif damage == "link":
        (model / "config.json").rename(tmp_path / "config.json")
        (model / "config.json").symlink_to(tmp_path / "config.json")
    elif damage == "extra":
        (model / "modeling.py").write_text("")
    elif damage == "missing":
        (model / "config.json").unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{}")
    digest = "0" * 64 if damage == "other digest" else artifact.digest
    launcher = next(document for document in render() if document["kind"] == "ConfigMap")["data"][LAUNCHER.name]
    (tmp_path / "pod_launch.py").write_text(launcher)
    command = [sys.executable, "-I", str(tmp_path / "pod_launch.py"), digest, str(folder), "--", "echo", "it", "serves"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    if damage == "nothing":
        assert (done.returncode, done.stdout) == (0, "it serves\n")
    else:
        assert (done.returncode, done.stdout) == (86, "") and "ArtifactDamaged" in done.stderr
