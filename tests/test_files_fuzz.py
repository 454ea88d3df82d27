"""Files that a user or a killed process left damaged: each reader gives a value or one named error."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry.access.roles import read_roles
from registry.watch.ledger import Ledger
from tasks.cost.prices import load_prices
from tasks.evaluate.scoring.partial_scores import open_partial_scores
from tasks.evaluate.scoring.scores import ScoreCache
from tasks.evaluate.suites.promptfoo.items import import_config
from tasks.evaluate.suites.suite import suite_at
from tasks.fit.hardware.gpus import read_gpus
from tasks.fit.hardware.measured_memory import read_measurement
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.gateway.keys import KeysFile
from tasks.serve.gateway.routes import RoutesFile
from tests.support.mutation import blobs, documents, examples
from weighbridge.errors import WeighbridgeError
from weighbridge.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
DIGEST = "d" * 64
ITEM = {"id": "a", "score": 1.0, "answer": "x", "question": "y", "must_pass": False, "cluster": None, "margin": 0.5}
SCORES = {
    "suite": "general/choice", "suite_digest": DIGEST, "artifact_digest": DIGEST, "scorer": "s", "items": [ITEM],
    "seconds": 1.5, "conditions": {"scorer": "s", "parsing": "p", "engine": "e"}, "suite_items": None,
}  # fmt: skip
KEY = {"artifact_digest": DIGEST, "suite_digest": DIGEST, "scorer": "s"}
DECISION = {
    "line": "m", "kind": "commit", "repo": "a/b", "commit": "c" * 40, "outcome": "release", "rules": "r", "new": True,
    "reasons": [{"code": "licence", "text": "t", "weight": "notes", "lasting": True}], "numbers": {"download_gib": 1.5},
}  # fmt: skip
ENDPOINT = {"host": "127.0.0.1", "port": 8200}
PRICES = {
    "exchange": {"usd_per_eur": 1.1, "date": "2026-01-01", "source": "s"},
    "rentals": {"x": {"provider": "p", "gpu": "L4", "sizes": [1, 2], "sovereign": True, "price": 1.0, "currency": "EUR",
                      "per": "hour", "setup": 0, "date": "2026-01-01", "source": "s"}},
    "owned": {"y": {"gpu": "L4", "sizes": [1], "capex_eur": 1.0, "amortisation_months": 36, "power_kw": 1.0,
                    "eur_per_kwh": 0.2, "hosting_eur_per_month": 1, "date": "2026-01-01", "source": "s"}},
    "hosted": {"z": {"provider": "p", "model": "m", "parameters_billion": 8, "input_price": 0.1, "output_price": 0.2,
                     "currency": "USD", "sovereign": False, "date": "2026-01-01", "source": "s"}},
}  # fmt: skip
QUESTION = {
    "id": "a", "messages": [{"role": "user", "content": "x"}], "must_pass": True, "tags": ["t"], "max_tokens": 8,
    "assert": [{"type": "regex", "value": "[A-Z]+"}, {"type": "is-json", "value": {"type": "object"}},
               {"type": "word-count", "value": {"min": 1, "max": 4}}],
    "threshold": 0.5, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
}  # fmt: skip
PROMPTFOO = {
    "prompts": ["Say {{word}}", {"raw": "[{\"role\": \"user\", \"content\": \"{{word}}\"}]", "label": "chat"}],
    "providers": [{"id": "openai:gpt-4", "config": {"max_tokens": 8, "tools": []}}],
    "defaultTest": {"vars": {"word": "x"}, "options": {"prefix": "p"}},
    "scenarios": [{"config": [{"vars": {"word": "y"}}], "tests": [{"assert": [{"type": "equals", "value": "y"}]}]}],
    "tests": [{"description": "d", "vars": {"word": ["a", "b"]}, "metadata": {"tags": ["t"]}, "threshold": 0.5,
               "assert": [{"type": "contains", "value": "{{word}}", "weight": 2, "metric": "m"},
                          {"type": "assert-set", "assert": [{"type": "is-json", "value": {"type": "object"}}]}]}],
}  # fmt: skip
GENERAL = {
    "task": "x", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "x.jsonl"}}, "test_split": "test",
    "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": ["a", "b"], "doc_to_target": 0,
    "metric_list": [{"metric": "acc"}], "metadata": {"version": 1},
}  # fmt: skip


class File(NamedTuple):
    """A file that is read: where it lies in an installation, a valid content, and its reader."""

    name: str
    valid: Any
    read: Callable[[Path], object]


def general(path: Path) -> object:
    (path.parent / "x.jsonl").write_text('{"id": "a", "q": "x"}\n')
    return suite_at("general/x", path)


def partial(path: Path) -> object:
    with open_partial_scores(path) as scores:
        return scores.seconds


def cached(path: Path) -> object:
    cache = ScoreCache(path.parent.parent)
    others = cache.by_other_scorers(**{**KEY, "scorer": "other"})
    return [scores.mean for scores in (cache.find(**KEY), *others) if scores]


FILES = {
    "roles": File("roles.yaml", {"users": {"ada": {"reviewer": ["m"]}, "bo": {"builder": "all", "password_file": "p"}}},
                  lambda path: read_roles(path, ["m"])),
    "prices": File("prices.yaml", PRICES, load_prices),
    "gpus": File("gpus.yaml", {"X": {"memory_gib": 24, "bandwidth_gbs": 300, "capabilities": ["fp8"], "source": "s"}},
                 read_gpus),
    "general suite": File("x.yaml", GENERAL, general),
    "regression suite": File("x.jsonl", QUESTION, lambda path: suite_at("regression/x", path)),
    "promptfoo": File("promptfooconfig.yaml", PROMPTFOO, import_config),
    "stack.json": File("stack.json", json.loads(Settings(home=Path("/x")).model_dump_json(exclude={"root", "home"})),
                       lambda _: load_settings().as_environment()),
    "routes.json": File("routes.json", {"lines": [{
        "line": "m", "backends": [{"version": "1", "digest": DIGEST, "engine": "e", "endpoints": [ENDPOINT],
                                   "weight": 100, "health_path": "/health"}],
        "sticky_by": "none", "shadow": {"version": "1", "per_cent": 5}, "limits": {"requests_per_minute": 5},
        "back_at": "2026-01-01T00:00:00Z", "held": {"version": "1", "digest": DIGEST, "seconds": 2}}], "generation": 3},
        lambda path: RoutesFile(path.parent).load()),
    "keys.json": File("keys.json", {"default": {
        "sha256": DIGEST, "added": "2026-01-01T00:00:00Z", "expires": None, "limits": {"tokens_per_minute": 5}}},
                      lambda path: KeysFile(path.parent).load()),
    "engine.json": File("engines/e/engine.json", {
        "name": "e", "line": "m", "endpoints": [ENDPOINT],
        "artifact": {"line": "m", "digest": DIGEST, "scheme": "int8", "repo": "a/b",
                     "commit": "c" * 40, "size_bytes": 5},
        "plan": {"engine": "vllm", "engine_version": "1", "model_name": "m", "context": 64, "concurrency": 1,
                 "flags": {"a": True, "b": 1.5}}}, lambda _: LocalFleet(load_settings()).engines()),
    "ledger": File("watch/m.json", {"entries": [
        {"decision": DECISION, "state": "seen", "decided_at": "2026-01-01T00:00:00+00:00"}]},
        lambda path: [(entry.decision.uri, entry.digest) for entry in Ledger("m", path.parent).entries()]),
    "partial scores": File("x.jsonl", {"item": ITEM, "seconds": 1.5}, partial),
    "score cache": File("scores/" + ScoreCache(Path())._path(**KEY).as_posix(), SCORES, cached),
    "measured memory": File(f"fit/reality/{DIGEST}.json", {
        "gpu": "L4", "engine": "vllm 0.9", "deviations": [{"term": "kv_gib", "predicted": 1.0, "measured": 2.0}]},
        lambda _: (found := read_measurement(DIGEST)) and found.sentence),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_a_value_or_a_named_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, valid, read = FILES[kind]
    as_text = yaml.safe_dump if name.endswith(".yaml") else json.dumps
    contents = st.one_of(documents(valid).map(lambda value: as_text(value).encode()), blobs(as_text(valid).encode()))

    def attempt(content: bytes) -> WeighbridgeError | None:
        with tempfile.TemporaryDirectory() as home:
            monkeypatch.setenv("WEIGHBRIDGE_HOME", home)
            path = Path(home, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            try:
                read(path)
            except WeighbridgeError as error:
                return error
        return None

    @examples()
    @given(contents)
    def check(content: bytes) -> None:
        if error := attempt(content):
            assert error.what and error.next_step

    assert attempt(as_text(valid).encode()) is None
    check()
