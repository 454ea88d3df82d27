"""A real small model as GGUF: its loss, and the answers of llama.cpp's server. Takes minutes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.smollm2 import build
from tasks.engines import EnginePlan
from tasks.engines.llama_cpp import Engine
from tasks.evaluate.scoring.model_loading import model_arguments
from tasks.quantize.run import quantize_folder
from tests.support.ports import free_port
from weighbridge.errors import QuantizationUncovered
from weighbridge.settings import load_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TEXT = (
    "The capital of France is Paris. Water boils at one hundred degrees, and the sea is full of fish. People have "
    "sailed on it for a long time, from one country to another, with 12 or 13 men in a boat."
)
# Measured: 0.0024 and 0.085 nats a token (docs/explanation/gguf.md).
MOST_KL_NATS = {"q8-0": 0.01, "q4-k-m": 0.2}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """End-to-end tests bring their own installation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("smollm2") / "release")


@pytest.fixture(scope="module", params=sorted(MOST_KL_NATS))
def artifact(request: pytest.FixtureRequest, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifact") / request.param
    record = quantize_folder(load_settings(), release, out, request.param)
    assert record.coverage.share_of_linear_bytes == 1
    return out


def logits(folder: Path, ids: list[int]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **model_arguments(folder))
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """llama.cpp's server of an artifact, as the fleet starts it."""
    port = free_port()
    plan = EnginePlan(engine="llama_cpp", engine_version="1", model_name="smollm2", context=256, concurrency=4)
    spec = Engine().launch(plan, folder, "127.0.0.1", port)
    server = subprocess.Popen(spec.command, env={**os.environ, **spec.environment}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not _healthy(f"http://127.0.0.1:{port}"):
            assert server.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


def test_kl_divergence_is_small_and_the_server_agrees(artifact: Path, release: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(artifact)
    ids = tokenizer.encode(TEXT)
    published, quantized = logits(release, ids), logits(artifact, ids)
    assert (published.exp() * (published - quantized)).sum(-1).mean() < MOST_KL_NATS[artifact.name]
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    expected = logits(artifact, prompt)[-1]
    with served(artifact) as url:
        found = httpx.post(f"{url}/tokenize", json={"content": TEXT}).json()["tokens"]
        assert found == ids, "another tokenizer is another model"
        body = {"messages": QUESTION, "max_tokens": 24, "temperature": 0, "logprobs": True, "top_logprobs": 10}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).json()["choices"][0]
    first = answer["logprobs"]["content"][0]["top_logprobs"]
    # llama.cpp rounds activations to eight bits, which is what the loss in weights does not show.
    differences = [math.exp(entry["logprob"]) * abs(entry["logprob"] - float(expected[entry["id"]])) for entry in first]
    assert sum(differences) / sum(math.exp(entry["logprob"]) for entry in first) < 0.25
    assert len(answer["message"]["content"].split()) > 3


def test_a_tokenizer_that_the_converter_takes_for_another_is_refused(release: Path, tmp_path: Path) -> None:
    """As transformers 5.17 writes it from a GGUF: the file would load, be healthy, and answer 400 to every prompt."""
    spoilt = shutil.copytree(release, tmp_path / "spoilt")
    path = spoilt / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["byte_fallback"] = True
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(QuantizationUncovered, match="took the tokenizer for a SentencePiece one"):
        quantize_folder(load_settings(), spoilt, tmp_path / "out", "q8-0")
    assert not (tmp_path / "out").exists()
