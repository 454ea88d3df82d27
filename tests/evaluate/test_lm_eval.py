"""lm-eval scoring: killed and resumed processes, early stops, endpoints, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from examples.answering import Answering
from tasks.evaluate.scoring import lm_eval, lm_eval_process
from tasks.evaluate.scoring.lm_eval import LmEvalScorer, local_scorer_name, score_by_lm_eval
from tasks.evaluate.scoring.lm_eval_child import Refused, RemoteModel, _item
from tasks.evaluate.scoring.lm_eval_process import ScoringProcess
from tasks.evaluate.scoring.partial_scores import read_partial_scores
from tasks.evaluate.scoring.scores import ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite, find_suite
from weighbridge.errors import ScoringFailed

# A scoring process imports torch and lm-eval: 5 s on idle cores, a minute on crowded ones.
pytestmark = pytest.mark.timeout(400)

WORDS = ["the", "cat", "dog", "sees", "a", "bird", "runs", "sleeps", "big", "small", "house", "tree", "river", "sun"]
OPTIONS = ["a bird", "the house", "a river"]
CHOICES = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
GENERATED = """
task: echo
dataset_path: json
dataset_kwargs: {data_files: {test: echo.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 3}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def write(root: Path, name: str, definition: str, rows: list[dict[str, object]]) -> None:
    folder = root / "eval_suites/general"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(definition)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def choice_rows(count: int) -> list[dict[str, object]]:
    return [
        {
            "id": f"c{number}",
            "question": f"the {WORDS[number % 14]} sees",
            "options": OPTIONS,
            "answer": number % 3,
        }
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suites")
    write(root, "first", CHOICES.format(name="first"), choice_rows(9))
    write(root, "second", CHOICES.format(name="second"), choice_rows(6))
    write(
        root, "echo", GENERATED, [{"id": f"e{n}", "question": f"the {w} is", "answer": w} for n, w in enumerate(WORDS)]
    )
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


def tiny_llama(folder: Path) -> Path:
    """A Llama of two layers that knows fourteen words and nothing about them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def suites(root: Path, *names: str) -> list[Suite]:
    return [find_suite(f"general/{name}", root) for name in names]


@pytest.fixture(scope="module")
def shared_process(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringProcess]:
    """One scoring process of the model for all tests that do not kill theirs."""
    job = LmEvalScorer("a" * 64, model).job
    with ScoringProcess(job, tmp_path_factory.mktemp("logs") / "scoring.log") as process:
        yield process


@pytest.fixture
def use_shared_process(
    shared_process: ScoringProcess, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[tuple[str, ...]]]:
    """Let `score_by_lm_eval` use the shared process; return the list of the chunks that are requested of it."""

    def use() -> list[tuple[str, ...]]:
        chunks: list[tuple[str, ...]] = []
        score = ScoringProcess.score

        def record(
            self: ScoringProcess, suite: Suite, ids: tuple[str, ...], report: Callable[[float], None]
        ) -> tuple[ItemScore, ...]:
            chunks.append(ids)
            return score(self, suite, ids, report)

        monkeypatch.setattr(ScoringProcess, "score", record)
        monkeypatch.setattr(lm_eval, "ScoringProcess", lambda *_: nullcontext(shared_process))
        return chunks

    return use


def test_scores_survive_a_killed_process_and_scoring_resumes(
    root: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use_shared_process: Callable[[], list[tuple[str, ...]]],
) -> None:
    monkeypatch.setattr(lm_eval, "CHUNK_ITEMS", 4)
    cache, logs, chosen = ScoreCache(tmp_path / "scores"), tmp_path / "logs", suites(root, "first", "second", "echo")
    scorer = LmEvalScorer("a" * 64, model)
    partial = cache.partial_scores_path(**scorer.key(chosen[1]))
    monkeypatch.chdir("/")

    def kill_in_the_second(suite: str, done: int, total: int) -> None:
        if read_partial_scores(partial):
            os.kill(_child_pid(), signal.SIGKILL)

    with pytest.raises(ScoringFailed, match="signal 9"):
        score_by_lm_eval(scorer, chosen, cache, logs, progress=kill_in_the_second)
    first = cache.find(artifact_digest="a" * 64, suite_digest=chosen[0].digest, scorer=local_scorer_name())
    assert first is not None
    _check_choices(first, chosen[0])
    partial_items = read_partial_scores(partial)
    assert len(partial_items) == 4 and list(partial_items) != list(chosen[1].ids[:4]), "not in the file's order"

    chunks = use_shared_process()
    reported: list[tuple[str, int, int]] = []
    scores = score_by_lm_eval(
        scorer, chosen, cache, logs, progress=lambda suite, done, total: reported.append((suite, done, total))
    )
    assert {suite for suite, _, _ in reported} == {"general/second", "general/echo"}
    assert ("general/second", 4, 6) in reported and ("general/echo", 14, 14) in reported
    assert sorted(chunks[0]) == sorted(set(chosen[1].ids) - partial_items.keys())
    assert [suite.suite for suite in scores] == ["general/first", "general/second", "general/echo"]
    assert scores[0] == first
    _check_choices(scores[1], chosen[1])
    assert {item.id: item for item in scores[1].items}.items() >= partial_items.items()
    assert [item.id for item in scores[2].items] == list(chosen[2].ids)
    assert scores[2].items[2].question == "the dog is"

    monkeypatch.setattr(lm_eval, "ScoringProcess", ScoringProcess)
    monkeypatch.setattr(lm_eval_process.subprocess, "Popen", None)
    assert score_by_lm_eval(scorer, chosen[::-1], cache, logs) == scores[::-1], "no process is started"


def test_a_suite_that_stopped_early_is_not_cached_and_resumes(
    root: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use_shared_process: Callable[[], list[tuple[str, ...]]],
) -> None:
    monkeypatch.setattr(lm_eval, "CHUNK_ITEMS", 4)
    cache, logs, (suite,) = ScoreCache(tmp_path / "scores"), tmp_path / "logs", suites(root, "first")
    scorer = LmEvalScorer("d" * 64, model)
    chunks, counts = use_shared_process(), list[int]()

    def stop_at_eight(_: Suite, items: list[ItemScore]) -> bool:
        counts.append(len(items))
        return len(items) >= 8

    (part,) = score_by_lm_eval(scorer, [suite], cache, logs, stop=stop_at_eight)
    assert counts == [4, 8] and (len(part.items), part.suite_items) == (8, 9)
    assert cache.find(**scorer.key(suite)) is None, "part of a suite is not cached"
    (whole,) = score_by_lm_eval(scorer, [suite], cache, logs)
    assert sorted(id for chunk in chunks for id in chunk) == sorted(suite.ids), "each item is scored once"
    _check_choices(whole, suite)
    assert whole.conditions is not None and whole.conditions.tokenizer and whole.conditions.quantization == "none"
    for item in whole.items:
        assert item.margin is not None and (item.margin > 0) == (item.score == 1)


def test_no_score_of_files_that_changed_meanwhile_is_kept(
    root: Path, model: Path, tmp_path: Path, use_shared_process: Callable[[], list[tuple[str, ...]]]
) -> None:
    chunks = use_shared_process()
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    scorer, cache = LmEvalScorer("c" * 64, folder), ScoreCache(tmp_path / "cache")
    (suite,) = suites(root, "first")

    def alter(*_: object) -> None:
        (folder / "config.json").touch()

    with pytest.raises(ScoringFailed, match="altered while it was scored"):
        score_by_lm_eval(scorer, [suite], cache, tmp_path, progress=alter)
    assert chunks, "it was scored"
    assert cache.find(**scorer.key(suite)) is None
    assert read_partial_scores(cache.partial_scores_path(**scorer.key(suite))) == {}


def test_an_endpoint_with_prompt_log_probabilities_is_scored_like_a_folder(
    root: Path, model: Path, tmp_path: Path
) -> None:
    with Answering(lambda question: "", echoes="log-probabilities") as toy:
        remote = RemoteModel(base=f"{toy.url}/v1", model="toy", tokenizer=model, context=128, concurrency=2)
        scorer = LmEvalScorer("e" * 64, remote, engine="toyworks 1")
        (scores,) = score_by_lm_eval(scorer, suites(root, "second"), ScoreCache(tmp_path / "scores"), tmp_path / "logs")
    assert len(toy.asked) == 18 + 1, "one sentence first, to see what an echo returns"
    # To the toy a token is the less likely the higher its number: `a bird` has the lowest.
    assert {item.answer for item in scores.items} == {"a bird"}
    assert "toyworks 1" in scores.scorer and "local-completions" in scores.scorer


def test_an_engine_is_asked_about_the_ids_that_the_tokenizer_gives_with_its_bos(
    root: Path, model: Path, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path / "with-bos"
    shutil.copytree(model, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    bos = settings.get("bos_token") or settings["eos_token"]
    number = tokenizer.token_to_id(bos)
    tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": bos}))
    with Answering(lambda question: "", echoes="log-probabilities") as toy:
        remote = RemoteModel(base=f"{toy.url}/v1", model="toy", tokenizer=folder, context=128, concurrency=2)
        scorer = LmEvalScorer("e" * 64, remote, engine="toyworks 1")
        score_by_lm_eval(scorer, suites(root, "second"), ScoreCache(tmp_path / "scores"), tmp_path / "logs")
    sent = [json.loads(prompt) for prompt in toy.asked]
    ids = [prompt[0] if isinstance(prompt[0], list) else prompt for prompt in sent]
    assert all(one[0] == number and one[1] != number for one in ids)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ([None, -1.0], "an echo of 3 tokens and one more has 2"),
        ([None, -1.0, -1.0, -1.0, -1.0], "has 5"),
        ([None, -1.0, None, -1.0], "are none"),
        ([None, -1.0, 1.5, -1.0], "are none"),
        (None, "has 0"),
    ],
)
def test_an_echo_of_other_tokens_is_refused_and_not_summed(numbers: list[float | None] | None, reason: str) -> None:
    from tasks.evaluate.scoring.checked_completions import CheckedCompletions, WrongTokens

    tops = [None, *({"x": 0.0} for _ in (numbers or [])[1:])]
    answer = {"choices": [{"index": 0, "logprobs": {"token_logprobs": numbers, "top_logprobs": tops}}]}
    with pytest.raises(WrongTokens, match=reason):
        CheckedCompletions.parse_logprobs(answer, tokens=[[5, 6, 7]], ctxlens=[1])
    whole = {"choices": [{"index": 0, "logprobs": {"token_logprobs": [None, -1.0, -2.0, -9.0], "top_logprobs": [
        None, {"x": -1.0}, {"x": -2.0}, {"x": -9.0}]}}]}  # fmt: skip
    assert CheckedCompletions.parse_logprobs(whole, tokens=[[5, 6, 7]], ctxlens=[1]) == [(-3.0, True)]


def _check_choices(scores: SuiteScores, suite: Suite) -> None:
    assert [item.id for item in scores.items] == list(suite.ids)
    assert scores.seconds > 0 and scores.scorer == local_scorer_name()
    for number, item in enumerate(scores.items):
        assert item.answer in OPTIONS
        assert item.score == (item.answer == OPTIONS[number % 3])
        assert item.question == f"the {WORDS[number]} sees"


def _child_pid() -> int:
    import psutil

    pids = [child.pid for child in psutil.Process().children() if _is_scoring(child.cmdline())]
    (pid,) = pids
    return pid


def _is_scoring(command: list[str]) -> bool:
    return "tasks.evaluate.scoring.lm_eval_child" in command


class WordModel:
    """A model whose tokens are words."""

    max_length = 128

    def tok_encode(self, text: str) -> list[str]:
        return text.split()


def test_log_likelihoods_that_are_not_finite_are_refused(root: Path) -> None:
    (suite,) = suites(root, "second")
    sample = {
        "doc": {"id": "c0", "question": "the cat sees"},
        "arguments": [("the cat sees", f" {option}") for option in OPTIONS],
        "filtered_resps": [(-1.0, False), (float("nan"), False), (-3.0, False)],
        "acc": 1.0,
    }
    with pytest.raises(Refused, match="c0 has log-likelihoods that are not finite"):
        _item(WordModel(), suite, sample, "c0", "acc")
    finite = {**sample, "filtered_resps": [(-1.0, False), (-2.0, False), (-3.0, False)]}
    assert _item(WordModel(), suite, finite, "c0", "acc").answer == "a bird"
    with pytest.raises(Refused, match="c0 is longer than the model's context of 128 tokens"):
        _item(WordModel(), suite, {**finite, "arguments": [("cat " * 200, " a bird")]}, "c0", "acc")


def test_a_model_that_does_not_load_fails_with_the_tail_of_the_log(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScoringFailed, match="status 1") as caught:
        score_by_lm_eval(
            LmEvalScorer("c" * 64, tmp_path / "empty"),
            suites(root, "first"),
            ScoreCache(tmp_path / "scores"),
            tmp_path / "logs",
        )
    assert caught.value.where == str(tmp_path / "logs" / f"scoring-{'c' * 12}.log")
    assert "Error" in caught.value.what
    assert "Traceback" in Path(caught.value.where).read_text()


def test_the_scorers_name_contains_every_version_that_changes_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(part in local_scorer_name() for part in ("lm-eval 0.", "transformers 5.", "torch 2.", "0-shot"))
    before = local_scorer_name()
    monkeypatch.setattr(lm_eval, "BATCH_SIZE", 4)
    assert local_scorer_name() != before


def test_a_hidden_gpu_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert lm_eval.scoring_device() == "cpu"
