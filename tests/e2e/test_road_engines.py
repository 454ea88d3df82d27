"""Other engines down the same road: vLLM and llama.cpp each serve a release, from the Hub to answers at the gateway.

Needs `make vllm`. Both lines' general and regression suites are few, so that the whole takes minutes on two cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from examples.load import Load
from tasks.evaluate.drift.degenerate import degenerate
from tasks.serve.fleet.choice import fleet_of
from tests.e2e.e2e_support import Road
from tests.support.waiting import wait_for
from weighbridge.processor import processor_features

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

CHECKOUT = Path(__file__).parents[2]
AVX512 = "avx512f" in processor_features()
# Without AVX-512 vLLM runs only schemes without kernels of their own.
FOR_VLLM = {"int8": "non_inferior"} if AVX512 else {"bf16": "baseline"}
ENGINES: dict[str, dict[str, Any]] = {
    "vllm": {"schemes": list(FOR_VLLM), "engine": {"name": "vllm", "flags": {"enforce-eager": True}}},
    "llama-cpp": {"schemes": ["q8-0", "q4-k-m"], "engine": {"name": "llama-cpp"}},
}
# What each release is weighed by: vLLM is asked for the prompts' log-probabilities, transformers scores for llama.cpp.
SUITES = [{"name": "general/agreement", "margin": 0.15}, {"name": "regression/smollm2", "margin": 0.25}]
OUTCOMES = {"vllm": list(FOR_VLLM.values()), "llama-cpp": ["baseline", "non_inferior"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a line for each engine, beside the checkout's suites."""
    root = tmp_path_factory.mktemp("root")
    (root / "eval_suites").symlink_to(CHECKOUT / "eval_suites", target_is_directory=True)
    (root / "lines").mkdir()
    line_file = CHECKOUT / "lines" / "smollm2.yaml"
    (root / "lines" / line_file.name).symlink_to(line_file)
    common = yaml.safe_load(line_file.read_text())
    target = {"gpus": ["host"], "context": 1024, "concurrency": 4}
    for name, fields in ENGINES.items():
        path = root / "lines" / f"smollm2-{name}.yaml"
        path.write_text(yaml.safe_dump({**common, "target": target, "suites": SUITES, **fields}))
    return root


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(
            "vllm",
            marks=pytest.mark.skipif(
                not (CHECKOUT / ".vllm" / ".installed").exists(), reason="vLLM is not installed: make vllm"
            ),
        ),
        "llama-cpp",
    ],
)
def test_an_engine_serves_a_release_from_the_hub_to_the_gateway(road: Road, root: Path, engine: str) -> None:
    line = f"smollm2-{engine}"
    here = {"WEIGHBRIDGE_ROOT": str(root), "WEIGHBRIDGE_VLLM_PYTHON": str(CHECKOUT / ".vllm" / "bin" / "python")}
    # Lines that are new to MLflow are registered by whoever grants permissions.
    road.apply_roles(environment=here)
    versions = []
    for scheme, outcome in zip(ENGINES[engine]["schemes"], OUTCOMES[engine], strict=True):
        [candidate] = road.json("release", line, "--scheme", scheme, environment=here)["candidates"]
        assert (candidate["outcome"], candidate["scheme"]) == (outcome, scheme)
        road.run(
            "approve", line, str(candidate["version"]), "--reason", "serves", environment={**here, **road.reviewer}
        )
        promoted = road.json("promote", line, "--here", environment=here)
        assert promoted["changed"]
        versions.append(promoted["version"])
    fleet = fleet_of(road.settings)
    assert {running.plan.engine for running in fleet.engines(line)} == {engine}

    response = httpx.post(
        f"{road.settings.gateway_url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {road.key}"},
        json={
            "model": line,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": 24,
            "temperature": 0,
        },
        timeout=120,
    )
    assert response.headers["x-weighbridge-version"] == str(versions[-1])
    # Which words so small a model finds after rounding is its own; that they are words is the engine's.
    assert degenerate(response.json()["choices"][0]["message"]["content"]) == ""

    with Load(f"{road.settings.gateway_url}/v1", road.key, line, clients=4) as load:
        wait_for(lambda: load.by_version.get(str(versions[-1]), 0) >= 8, "answers through the gateway")
        if len(versions) > 1:
            assert road.json("rollback", line, "--reason", "test", environment=here)["version"] == versions[0]
            wait_for(lambda: load.by_version.get(str(versions[0])), "answers of the version before")
    assert load.failed == []
    documents = list(
        yaml.safe_load_all(road.run("manifests", line, "--image", "engine@sha256:1", environment=here).stdout)
    )
    # A version that was rolled back is no target of a rollback.
    assert [document["kind"] for document in documents] == ["Deployment", "Service", "ConfigMap", "HTTPRoute"]
    for running in fleet.engines(line):
        fleet.stop(running)
