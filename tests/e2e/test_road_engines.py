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
from tasks.serve.fleet.protocol import fleet_of
from tests.e2e.e2e_support import Road
from tests.support.waiting import wait_for
from weighbridge.processor import processor_features

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

CHECKOUT = Path(__file__).parents[2]
AVX512 = "avx512f" in processor_features()
# Without AVX-512 only what needs no kernels of its own was seen to run in vLLM.
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
    made = tmp_path_factory.mktemp("root")
    (made / "eval_suites").symlink_to(CHECKOUT / "eval_suites", target_is_directory=True)
    (made / "lines").mkdir()
    ours = CHECKOUT / "lines" / "smollm2.yaml"
    (made / "lines" / ours.name).symlink_to(ours)
    common = yaml.safe_load(ours.read_text())
    target = {"gpus": ["host"], "context": 1024, "concurrency": 4}
    for name, fields in ENGINES.items():
        path = made / "lines" / f"smollm2-{name}.yaml"
        path.write_text(yaml.safe_dump({**common, "target": target, "suites": SUITES, **fields}))
    return made


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
    # Lines that MLflow has not seen yet are made known by who gives out rights.
    road.apply_roles(**here)
    versions = []
    for scheme, outcome in zip(ENGINES[engine]["schemes"], OUTCOMES[engine], strict=True):
        [candidate] = road.json("release", line, "--scheme", scheme, **here)["candidates"]
        assert (candidate["outcome"], candidate["scheme"]) == (outcome, scheme)
        road.run("approve", line, str(candidate["version"]), "--reason", "serves", **here, **road.reviewer)
        promoted = road.json("promote", line, **here)
        assert promoted["changed"]
        versions.append(promoted["version"])
    fleet = fleet_of(road.settings)
    assert {one.plan.engine for one in fleet.engines(line)} == {engine}

    said = httpx.post(
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
    assert said.headers["x-weighbridge-version"] == str(versions[-1])
    # Which words so small a model finds after rounding is its own; that they are words is the engine's.
    assert degenerate(said.json()["choices"][0]["message"]["content"]) == ""

    with Load(f"{road.settings.gateway_url}/v1", road.key, line, clients=4) as load:
        wait_for(lambda: load.by_version.get(str(versions[-1]), 0) >= 8, "answers through the gateway")
        if len(versions) > 1:
            assert road.json("rollback", line, "--reason", "test", **here)["version"] == versions[0]
            wait_for(lambda: load.by_version.get(str(versions[0])), "answers of the version before")
    assert load.failed == []
    made = list(yaml.safe_load_all(road.run("manifests", line, "--image", "engine@sha256:1", **here).stdout))
    # What was rolled back is not what one would go back to.
    assert [one["kind"] for one in made] == ["Deployment", "Service", "HTTPRoute"]
    for one in fleet.engines(line):
        fleet.stop(one)
