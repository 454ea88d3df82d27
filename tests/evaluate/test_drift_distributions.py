import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks.evaluate.drift import DriftReport, check_drift, distributions, distributions_child
from tasks.evaluate.drift.distributions import distribution_signals, measure_distributions
from tasks.evaluate.drift.distributions_child import Job, Message, NotEnoughDisk, Refused, run
from tasks.evaluate.drift.held_out import HeldDocument, Turn
from weighbridge.errors import DiskFull, ScoringFailed
from weighbridge.line import Bounds

# A child imports torch and transformers: 10 s on idle cores, a minute on crowded ones.
pytestmark = pytest.mark.timeout(400)

WORDS = ["the", "cat", "dog", "sees", "a", "bird", "runs", "sleeps", "big", "small", "house", "tree", "river", "sun"]
TURNS = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}sun {% endif %}"
DOCUMENTS = (
    *(
        HeldDocument(name=f"english-{number}", text=" ".join((WORDS[number:] + WORDS)[: 9 + number]))
        for number in range(6)
    ),
    HeldDocument(
        name="chat-a",
        text="…",
        turns=(Turn(role="user", content="the cat sees"), Turn(role="assistant", content="a big bird runs")),
    ),
)


def tiny(folder: Path, *, words: list[str] = WORDS, template: str = TEMPLATE, head_scale: float = 1.0) -> Path:
    """A Llama of two layers and its tokenizer; the same weights every time, but for the head's scale."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<s>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(vocabulary) + 3,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # Random weights hardly prefer a token; these do.
        model.lm_head.weight *= 20 * head_scale
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("production"))


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("scaled"), head_scale=0.4)


def compared(
    candidate: Path, production: Path, scratch: Path, together: bool | None = True, context: int = 32
) -> Message:
    job = Job(
        production_folder=production,
        candidate_folder=candidate,
        documents=DOCUMENTS,
        context_tokens=context,
        device="cpu",
        dtype="float32",
        scratch=scratch,
        together=together,
    )
    return run(job, lambda message: None)


def test_a_copy_does_not_differ_at_all(production: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(production, tmp_path / "copy")
    found = compared(copy, production, tmp_path)
    assert all(document.kl_nats == 0.0 and document.agreed == document.tokens for document in found.documents)
    assert {document.document for document in found.documents} == {document.name for document in DOCUMENTS}


def test_divergences_of_a_scaled_head_equal_numpys(production: Path, scaled: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = {divergence.document: divergence for divergence in compared(scaled, production, tmp_path).documents}
    ids = AutoTokenizer.from_pretrained(production)(DOCUMENTS[3].text, add_special_tokens=False).input_ids
    tables = []
    for folder in (production, scaled):
        with torch.inference_mode():
            logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0, :-1].double().numpy()
        tables.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    production_logs, candidate_logs = tables
    divergence, rows = found["english-3"], np.arange(len(ids) - 1)
    assert divergence.tokens == len(ids) - 1
    assert divergence.kl_nats == pytest.approx(
        (np.exp(production_logs) * (production_logs - candidate_logs)).sum(), rel=1e-4
    )
    assert divergence.kl_nats > 0.1
    assert divergence.agreed == divergence.tokens  # a scale moves no maximum
    assert divergence.production_nll_nats == pytest.approx(-production_logs[rows, ids[1:]].sum(), rel=1e-4)
    assert divergence.candidate_nll_nats == pytest.approx(-candidate_logs[rows, ids[1:]].sum(), rel=1e-4)


def test_one_after_the_other_by_way_of_the_disk_is_the_same(production: Path, scaled: Path, tmp_path: Path) -> None:
    apart = compared(scaled, production, tmp_path, together=False, context=8)
    assert not apart.together
    assert apart.documents == compared(scaled, production, tmp_path, context=8).documents
    assert list(tmp_path.glob("*.npy")) == []


def test_too_little_disk_space_is_found_before_writing(
    production: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(distributions_child.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(NotEnoughDisk, match=r"0\.0 GiB are free"):
        compared(production, production, tmp_path, together=False)
    assert list(tmp_path.glob("*.npy")) == []
    failure = distributions._failure(Message(kind="disk full", text="No room."), 1, tmp_path / "log")
    assert isinstance(failure, DiskFull) and failure.what == "No room."


def test_a_model_without_numbers_is_refused(production: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(production, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], float("nan"))
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match="the candidate gives probabilities that are not numbers"):
        compared(broken, production, tmp_path)


def test_exchanged_tokens_show_although_the_weights_are_the_same(production: Path, tmp_path: Path) -> None:
    exchanged = tiny(tmp_path / "exchanged", words=["cat", "the", *WORDS[2:]])
    found = compared(exchanged, production, tmp_path)
    assert found.reading is not None
    # The one that is left has neither of the two words.
    assert set(found.reading.differ) == {document.name for document in DOCUMENTS} - {"english-2"}
    assert found.reading.vocabulary_shared == 1.0
    assert sum(document.kl_nats for document in found.documents) > 0.1


def test_a_wrong_template_shows_only_on_conversations(production: Path, tmp_path: Path) -> None:
    other = tiny(tmp_path / "other", template=TEMPLATE.replace("sun", "river"))
    found = compared(other, production, tmp_path)
    assert found.reading is not None and found.reading.differ == ("chat-a",)
    assert {document.document for document in found.documents if document.kl_nats > 0} == {"chat-a"}


def test_a_drift_check_is_cached(
    production: Path, scaled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir("/")

    def check(progress: distributions.Progress | None = None) -> DriftReport:
        return check_drift(
            scaled, production, bounds=Bounds(), documents=DOCUMENTS, progress=progress, home=tmp_path / "home"
        )

    reported: list[tuple[int, int]] = []
    report = check(lambda done, total: reported.append((done, total)))
    assert reported[0] == (1, 14) and reported[-1] == (14, 14)
    assert report.outcome == "regression" and report.stops and "KL " in report.sentence and "bound" in report.sentence
    assert report.changed == ()
    monkeypatch.setattr("weighbridge.child_process.subprocess.Popen", None)
    assert check() == report


def test_no_result_is_stored_when_the_process_is_killed(
    production: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weighbridge.child_process.sys.executable", str(_killed(tmp_path)))
    with pytest.raises(ScoringFailed, match="signal 9, often for lack of memory") as caught:
        measure_distributions(production, production, documents=DOCUMENTS, home=tmp_path / "home")
    assert Path(caught.value.where).is_file()
    assert list((tmp_path / "home" / "scores").rglob("*.json")) == []


def _killed(folder: Path) -> Path:
    """What stands in for Python: it tells of one window, and is killed."""
    program = folder / "python"
    program.write_text(
        "#!/bin/sh\necho '" + Message(kind="step", done=1, total=14).model_dump_json() + "'\nkill -9 $$\n"
    )
    program.chmod(0o755)
    return program


def test_an_error_of_the_process_has_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Traceback …\nOSError: no file named model.safetensors")
    failure = distributions._failure(None, 1, log)
    assert isinstance(failure, ScoringFailed) and failure.where == str(log)
    assert "status 1" in failure.what and "no file named model.safetensors" in failure.what
    refused = distributions._failure(Message(kind="refused", text="No numbers."), 1, log)
    assert isinstance(refused, ScoringFailed) and refused.what == "No numbers."


def test_other_vocabularies_are_not_compared(production: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = tiny(tmp_path / "foreign", words=[f"{word}s" for word in WORDS])
    message = compared(foreign, production, tmp_path)
    assert message.documents == () and message.reading is not None and message.reading.vocabulary_shared < 0.2
    monkeypatch.setattr(distributions, "_run_child", lambda job, log, progress: message)
    report = check_drift(foreign, production, bounds=Bounds(), documents=DOCUMENTS, home=tmp_path)
    assert report.outcome == "invalid" and "17.6% of production's tokens" in report.sentence
    assert report.changed and report.changed[0].startswith("The tokenizer differs")
    # A line may expect it, for a release with another tokenizer.
    free = Bounds(max_kl_nats=None, min_top1_agreement=None, max_text_mismatch_share=None)
    assert check_drift(foreign, production, bounds=free, documents=DOCUMENTS, home=tmp_path).outcome == "non_inferior"


def test_numbers_are_kept_by_all_that_moves_them(
    production: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Job] = []
    message = Message(
        kind="done",
        reading={
            "documents": 1,
            "differ": (),
            "tokens": 9,
            "tokens_differ": 0,
            "incomparable": (),
            "vocabulary_shared": 1,
        },
    )

    def run_child(job: Job, log: Path, progress: object) -> Message:
        runs.append(job)
        return message

    monkeypatch.setattr(distributions, "_run_child", run_child)
    for text, context in ((DOCUMENTS, 64), (DOCUMENTS, 64), (DOCUMENTS[:3], 64), (DOCUMENTS, 32)):
        measure_distributions(production, production, documents=text, context_tokens=context, home=tmp_path)
    assert len(runs) == 3
    (stored, *_) = sorted((tmp_path / "scores" / "drift").iterdir())
    assert json.loads(stored.read_text())["scorer"].startswith("drift 1 transformers ")


def test_intervals_count_documents_and_not_tokens(production: Path, scaled: Path, tmp_path: Path) -> None:
    message = compared(scaled, production, tmp_path)
    found = distributions.Distributions(
        production_digest="p",
        candidate_digest="c",
        text_digest="t",
        scorer="s",
        reading=message.reading,
        documents=message.documents,
        together=True,
        seconds=1,
    )
    signals = {signal.name: signal for signal in distribution_signals(found, Bounds(), 0.95)}
    kl = signals["KL"]
    assert kl.low is not None and kl.high is not None
    assert kl.units == len(DOCUMENTS) and 0 < kl.low < kl.difference < kl.high
    assert signals["top-1 agreement"].difference == 1.0 and signals["top-1 agreement"].outcome == "ok"
    assert signals["perplexity"].outcome == "reported"
    of_one_document = found.model_copy(update={"documents": found.documents[:1]})
    assert {signal.outcome for signal in distribution_signals(of_one_document, Bounds(), 0.95)} == {
        "ok",
        "unsure",
        "reported",
    }
