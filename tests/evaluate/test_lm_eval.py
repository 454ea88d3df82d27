import json
import os
import signal
from pathlib import Path

import pytest

from examples.answering import Answering
from tasks.evaluate.scoring import lm_eval, lm_eval_process
from tasks.evaluate.scoring.lm_eval import LmEvalScorer, local_scorer_name, score_by_lm_eval
from tasks.evaluate.scoring.lm_eval_child import Refused, RemoteModel, _item
from tasks.evaluate.scoring.partial_scores import read_partial_scores
from tasks.evaluate.scoring.scores import ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite, find_suite
from weighbridge.errors import ScoringFailed

# A child imports torch and lm-eval: 10 s on idle cores, a minute on crowded ones.
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


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def suites(root: Path, *names: str) -> list[Suite]:
    return [find_suite(f"general/{name}", root) for name in names]


def test_scores_are_kept_when_the_child_is_killed_and_go_on_from_there(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, wanted = ScoreCache(tmp_path / "scores"), suites(root, "first", "second", "echo")
    monkeypatch.chdir("/")

    def kill_in_the_second(suite: str, done: int, total: int) -> None:
        if suite == "general/second":
            os.kill(_child(), signal.SIGKILL)

    with pytest.raises(ScoringFailed, match="signal 9"):
        score_by_lm_eval(LmEvalScorer("a" * 64, model), wanted, cache, progress=kill_in_the_second)
    kept = cache.find(artifact_digest="a" * 64, suite_digest=wanted[0].digest, scorer=local_scorer_name())
    assert kept is not None
    _are_sound_choices(kept, wanted[0])

    told: list[tuple[str, int, int]] = []
    scores = score_by_lm_eval(LmEvalScorer("a" * 64, model), wanted, cache, progress=lambda *event: told.append(event))
    assert {suite for suite, _, _ in told} == {"general/second", "general/echo"}
    assert ("general/second", 0, 6) in told and ("general/echo", 14, 14) in told
    assert [one.suite for one in scores] == ["general/first", "general/second", "general/echo"]
    assert scores[0] == kept
    _are_sound_choices(scores[1], wanted[1])
    assert [item.id for item in scores[2].items] == list(wanted[2].ids)
    assert scores[2].items[2].question == "the dog is"

    monkeypatch.setattr(lm_eval_process.subprocess, "Popen", None)
    assert score_by_lm_eval(LmEvalScorer("a" * 64, model), wanted[::-1], cache) == scores[::-1]


def test_a_killed_suite_goes_on_from_its_last_chunk(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_eval, "CHUNK_ITEMS", 4)
    cache, (suite,) = ScoreCache(tmp_path / "scores"), suites(root, "first")
    scoring = lm_eval.LmEvalScorer("d" * 64, model)

    def kill(_: str, done: int, total: int) -> None:
        if read_partial_scores(cache.partial_scores_path(**scoring.key(suite))):
            os.kill(_child(), signal.SIGKILL)

    with pytest.raises(ScoringFailed, match="signal 9"):
        lm_eval.score_by_lm_eval(scoring, [suite], cache, progress=kill)
    kept = read_partial_scores(cache.partial_scores_path(**scoring.key(suite)))
    assert len(kept) == 4 and list(kept) != list(suite.ids[:4]), "not in the file's order"

    asked: list[str] = []
    real = lm_eval_process.ScoringProcess.score
    monkeypatch.setattr(
        lm_eval_process.ScoringProcess,
        "score",
        lambda self, of, ids, tell: asked.extend(ids) or real(self, of, ids, tell),
    )
    looked: list[int] = []
    (part,) = lm_eval.score_by_lm_eval(
        scoring, [suite], cache, stop=lambda _, seen: looked.append(len(seen)) or len(seen) >= 8
    )
    assert looked == [4, 8] and (len(part.items), part.suite_items) == (8, 9)
    assert cache.find(**scoring.key(suite)) is None, "a part is no scoring"
    (whole,) = lm_eval.score_by_lm_eval(scoring, [suite], cache)
    assert sorted(asked) == sorted(set(suite.ids) - kept.keys())
    _are_sound_choices(whole, suite)
    assert {item.id: item for item in whole.items}.items() >= kept.items()
    assert whole.conditions is not None and whole.conditions.tokenizer and whole.conditions.quantization == "none"
    for item in whole.items:
        assert item.margin is not None and (item.margin > 0) == (item.score == 1)


def test_an_endpoint_that_echoes_log_probabilities_is_scored_like_a_folder(
    root: Path, model: Path, tmp_path: Path
) -> None:
    with Answering(lambda question: "", echoes="log-probabilities") as toy:
        remote = RemoteModel(base=f"{toy.url}/v1", model="toy", tokenizer=model, context=128, concurrency=2)
        scoring = lm_eval.LmEvalScorer("e" * 64, remote, engine="toyworks 1")
        (scores,) = lm_eval.score_by_lm_eval(scoring, suites(root, "second"), ScoreCache(tmp_path / "scores"))
    assert len(toy.asked) == 18
    # The toy takes a token for the less likely the higher its number is: `a bird` is made of the lowest.
    assert {item.answer for item in scores.items} == {"a bird"}
    assert "toyworks 1" in scores.scorer and "local-completions" in scores.scorer


def _are_sound_choices(scores: SuiteScores, suite: Suite) -> None:
    assert [item.id for item in scores.items] == list(suite.ids)
    assert scores.seconds > 0 and scores.scorer == local_scorer_name()
    for number, item in enumerate(scores.items):
        assert item.answer in OPTIONS
        assert item.score == (item.answer == OPTIONS[number % 3])
        assert item.question == f"the {WORDS[number]} sees"


def _child() -> int:
    import psutil

    (child,) = [one for one in psutil.Process().children() if "tasks.evaluate.scoring.lm_eval_child" in one.cmdline()]
    return child.pid


class Words:
    """What the child asks of a model besides likelihoods: how long a text is."""

    max_length = 128

    def tok_encode(self, text: str) -> list[str]:
        return text.split()


def test_numbers_that_are_none_give_no_scores(root: Path) -> None:
    (suite,) = suites(root, "second")
    sample = {
        "doc": {"id": "c0", "question": "the cat sees"},
        "arguments": [("the cat sees", f" {option}") for option in OPTIONS],
        "filtered_resps": [(-1.0, False), (float("nan"), False), (-3.0, False)],
        "acc": 1.0,
    }
    with pytest.raises(Refused, match="c0 has log-likelihoods that are no numbers"):
        _item(Words(), suite, sample, "c0", "acc")
    sound = {**sample, "filtered_resps": [(-1.0, False), (-2.0, False), (-3.0, False)]}
    assert _item(Words(), suite, sound, "c0", "acc").answer == "a bird"
    with pytest.raises(Refused, match="c0 is longer than the model's context of 128 tokens"):
        _item(Words(), suite, {**sound, "arguments": [("cat " * 200, " a bird")]}, "c0", "acc")


def test_a_model_that_does_not_load_is_told_with_the_logs_tail(root: Path, tmp_path: Path, home: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScoringFailed, match="status 1") as caught:
        score_by_lm_eval(
            LmEvalScorer("c" * 64, tmp_path / "empty"), suites(root, "first"), ScoreCache(tmp_path / "scores")
        )
    assert caught.value.where == str(home / "logs" / f"scoring-{'c' * 12}.log")
    assert "Error" in caught.value.what
    assert "Traceback" in Path(caught.value.where).read_text()


def test_the_scorers_name_says_what_moves_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(part in local_scorer_name() for part in ("lm-eval 0.", "transformers 5.", "torch 2.", "0-shot"))
    before = local_scorer_name()
    monkeypatch.setattr(lm_eval, "BATCH_SIZE", 4)
    assert local_scorer_name() != before


def test_a_hidden_gpu_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert lm_eval.scoring_device() == "cpu"
