"""The engine `transformers` answers with the model name that the client sent, without a revision."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.engines import EnginePlan, engine


def test_answers_name_the_model_as_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.model_manager import ModelManager
    from transformers.cli.serving.utils import BaseHandler

    from tasks.engines._transformers_serve import answer_by_requested_name

    manager = SimpleNamespace(
        force_model="smollm2",
        process_model_name=ModelManager.process_model_name,
        load_model_and_processor=lambda name, gguf_file: (f"model of {name}", "processor"),
    )
    chat, completion = object.__new__(ChatCompletionHandler), object.__new__(CompletionHandler)
    chat.model_manager = completion.model_manager = manager
    # What transformers 5.17 answers without the launcher; if this fails, the launcher is no longer needed.
    assert chat._resolve_model({"model": "smollm2"})[0] == "smollm2@main"

    monkeypatch.setattr(BaseHandler, "_resolve_model", BaseHandler._resolve_model)  # restored after the test
    answer_by_requested_name()
    for handler in (chat, completion):
        assert handler._resolve_model({"model": "smollm2"}) == ("smollm2", "model of smollm2@main", "processor")
    name = chat._resolve_model({})[0]
    assert name == "smollm2", "a request without a name gets the one that the server was started with"
    streamed = chat._build_chunk_sse("id", content="Paris", model=name)
    assert json.loads(streamed.removeprefix("data: "))["model"] == "smollm2"
    assert (
        json.loads(completion._build_chunk_sse("id", name, text="Paris").removeprefix("data: "))["model"] == "smollm2"
    )


def test_the_engine_is_launched_through_that_program(tmp_path: Path) -> None:
    plan = EnginePlan(engine="transformers", engine_version="1", model_name="llama", context=64, concurrency=1)
    command = engine("transformers").launch(plan, tmp_path, "127.0.0.1", 8200).command
    assert command[1:5] == ("-m", "tasks.engines._transformers_serve", "serve", "llama")
