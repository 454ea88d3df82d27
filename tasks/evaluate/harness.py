"""Scores on the general suites: what the book has is taken, the rest is scored in one child process."""

from __future__ import annotations

import os
import re
import runpy
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Literal

from tasks.evaluate.lm_eval_child import ITEMS, MARK, Event, Job, result_path
from tasks.evaluate.scores import ScoreBook, SuiteScores
from tasks.evaluate.suites import Suite
from weighbridge.errors import ScoringFailed
from weighbridge.settings import load_settings

BATCH_SIZE = 8
"""Larger batches gain nothing on a CPU (measured: 240 tokens a CPU-second at 8 × 12 as at 64 × 12 tokens)."""
SILENCE_SECONDS = 3600.0
"""A child that prints nothing for so long hangs; loading a large model from a slow disk takes less."""
TAIL_LINES = 12
FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Processor features (x86, Arm) without which bfloat16 products are about 20 times slower than float32."""
PROGRESS = re.compile(r"Running \w+ requests:.*?(\d+)/(\d+) \[")
NOISE = ("fatal: not a git repository",)
"""lm-eval asks git for a commit that is of no interest here."""

Progress = Callable[[str, int, int], None]


def score_general(
    artifact_digest: str,
    model_folder: Path,
    suites: list[Suite],
    book: ScoreBook,
    progress: Progress | None = None,
    enough: Callable[[SuiteScores], bool] = lambda _: False,
) -> list[SuiteScores]:
    """Score a model on general suites.

    Args:
        artifact_digest: the model's identity in the book.
        model_folder: its files.
        suites: general suites, in the order wanted back.
        book: holds what was scored before; each suite is added as soon as it is done.
        progress: called with a suite's name, items done and items in all.
        enough: asked after each suite whether the rest may be spared; the scores so far are returned then.

    Raises:
        ScoringFailed: the child died, hung or gave scores that cannot be right; finished suites are kept.
    """
    scorer = scorer_name()
    known = [_find(book, artifact_digest, suite, scorer) for suite in suites]
    if any(scores is not None and enough(scores) for scores in known):
        return [scores for scores in known if scores is not None]
    missing = [suite for suite, scores in zip(suites, known) if scores is None]
    spared = False
    if missing:
        log = load_settings().logs_folder / f"scoring-{artifact_digest[:12]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="weighbridge-scoring-") as name:
            folder = Path(name)
            device, dtype = scoring_device(), scoring_dtype()
            job = Job(
                model_folder=model_folder.resolve(),
                device=device,
                dtype=dtype,
                batch_size=BATCH_SIZE,
                suites=tuple(missing),
                results_folder=folder,
            )
            for event in _events(job, log, progress or (lambda suite, done, total: None)):
                suite = next(suite for suite in missing if suite.name == event.suite)
                scores = _scores(artifact_digest, suite, scorer, folder, event.seconds)
                book.keep(scores)
                if spared := enough(scores):
                    break
    found = [_find(book, artifact_digest, suite, scorer) for suite in suites]
    lacking = [suite.name for suite, scores in zip(suites, found) if scores is None]
    if lacking and not spared:
        raise ScoringFailed(
            f"The scoring process ended without scores for {', '.join(lacking)}.",
            "Run the release again; finished suites are kept.",
        )
    return [scores for scores in found if scores is not None]


def scorer_name() -> str:
    """What scores on this machine, with all that may move a score; equal names are comparable."""
    packages = " ".join(
        f"{package} {version(package)}" for package in ("lm-eval", "transformers", "torch", "compressed-tensors")
    )
    return f"{packages} {scoring_dtype()} {_device_name()} batch {BATCH_SIZE} 0-shot plain-text"


def scoring_device() -> Literal["cpu", "cuda"]:
    """Where models are scored: on the GPU when there is one, it is not hidden, and torch is built for it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    if hidden or not Path("/proc/driver/nvidia/version").exists():
        return "cpu"
    torch = find_spec("torch")
    assert torch and torch.submodule_search_locations
    # torch's own note of its build: importing torch to ask takes seconds, in every process that plans.
    built_for = runpy.run_path(str(Path(torch.submodule_search_locations[0]) / "version.py"))["cuda"]
    return "cuda" if built_for else "cpu"


def scoring_dtype() -> str:
    """`auto` (the artifact's own) where bfloat16 is fast, else float32."""
    if scoring_device() == "cuda":
        return "auto"
    try:
        features = set(Path("/proc/cpuinfo").read_text().split())
    except FileNotFoundError:  # not Linux
        features = set()
    return "auto" if features & FAST_BF16 else "float32"


def _device_name() -> str:
    if scoring_device() == "cpu":
        return "cpu"
    told = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    models = {line.split(":", 1)[1].strip() for text in told for line in text.splitlines() if line.startswith("Model:")}
    return "cuda " + " ".join(sorted(models))


def _find(book: ScoreBook, artifact_digest: str, suite: Suite, scorer: str) -> SuiteScores | None:
    return book.find(artifact_digest=artifact_digest, suite_digest=suite.digest, scorer=scorer)


def _scores(artifact_digest: str, suite: Suite, scorer: str, folder: Path, seconds: float) -> SuiteScores:
    items = ITEMS.validate_json(result_path(folder, suite.name).read_bytes())
    return SuiteScores(
        suite=suite.name,
        suite_digest=suite.digest,
        artifact_digest=artifact_digest,
        scorer=scorer,
        items=items,
        seconds=seconds,
    )


def _events(job: Job, log: Path, progress: Progress) -> Iterator[Event]:
    """Run the child; yields an event for every suite that is done.

    Raises:
        ScoringFailed: it ended with an error, was killed, hung, or refused to give scores.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.evaluate.lm_eval_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(job),
    )
    assert process.stdin and process.stdout
    refused, current, totals = "", "", {suite.name: suite.items for suite in job.suites}
    try:
        # A child that dies before it reads breaks the pipe; its status and log say why.
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(job.model_dump_json().encode())
        with log.open("w") as written:
            for line in _lines(process.stdout):
                if line.startswith(MARK):
                    event = Event.model_validate_json(line.removeprefix(MARK))
                    current = event.suite
                    if event.kind == "done":
                        progress(current, totals[current], totals[current])
                        yield event
                    elif event.kind == "begin":
                        progress(current, 0, totals[current])
                    else:
                        refused = event.text
                elif match := PROGRESS.search(line):
                    # Requests, several an item; the last of them is told by the event.
                    done = int(match[1]) * totals.get(current, 0) // max(int(match[2]), 1)
                    progress(current, done, totals.get(current, 0))
                elif not line.startswith(NOISE):
                    written.write(line + "\n")
                    written.flush()
        status = process.wait()
    finally:
        # Also when the reader stops early: no scoring goes on that nobody waits for.
        process.kill()
        process.wait()
    if refused or status:
        raise _failure(refused, status, log)


def _failure(refused: str, status: int, log: Path) -> ScoringFailed:
    again = "Run the release again: suites that were finished are kept."
    if refused:
        return ScoringFailed(refused, "Check the model and the suite; no verdict was drawn.", where=str(log))
    if status < 0:
        return ScoringFailed(
            f"The scoring process was killed by signal {-status}, often for want of memory.", again, where=str(log)
        )
    tail = "\n".join(log.read_text().splitlines()[-TAIL_LINES:])
    return ScoringFailed(f"The scoring process ended with status {status}:\n{tail}\n", again, where=str(log))


def _lines(pipe: IO[bytes]) -> Iterator[str]:
    """Lines as they come; a progress bar's carriage return ends one too.

    Raises:
        ScoringFailed: nothing came for SILENCE_SECONDS.
    """
    rest = b""
    while True:
        if not select.select([pipe], [], [], SILENCE_SECONDS)[0]:
            raise ScoringFailed(
                f"The scoring process was silent for {SILENCE_SECONDS / 60:.0f} minutes and was ended.",
                "Check the machine's load and disk, then run the release again.",
            )
        block = os.read(pipe.fileno(), 65536)
        *lines, rest = (rest + block).replace(b"\r", b"\n").split(b"\n")
        yield from (line.decode(errors="replace") for line in lines if line.strip())
        if not block:
            if rest.strip():
                yield rest.decode(errors="replace")
            return


def _environment(job: Job) -> dict[str, str]:
    """Offline, with a scratch cache, and with threads that sleep while they wait.

    Spinning threads of several processes on the same cores slow each other down several times.
    """
    source = Path(__file__).resolve().parents[2]
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(job.results_folder / "datasets"),
        "TOKENIZERS_PARALLELISM": "false",
    }
