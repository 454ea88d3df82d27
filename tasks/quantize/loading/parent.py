"""Ask the loading process: one for all proofs of this process, started anew when it has gone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from threading import Lock

from tasks.quantize.loading.proof import Loading, LoadJob
from tasks.quantize.plan.recipe import Recipe
from tasks.quantize.plan.targets import is_expert
from weighbridge.child_process import child_command, model_environment
from weighbridge.errors import QuantizationFailed, QuantizationUncovered
from weighbridge.private_files import UMASK

_lock = Lock()
_running: list[subprocess.Popen[str]] = []


def prove_loading(artifact: Path, source: Path, recipe: Recipe, log: Path) -> Loading:
    """Load a written artifact as an engine would.

    Args:
        artifact, source: the written files and the release.
        recipe: of the quantization.
        log: receives the loading process's standard error.

    Raises:
        QuantizationUncovered: it does not load as planned.
        QuantizationFailed: the loading process ended without an answer.
    """
    job = LoadJob(
        artifact=artifact.absolute(),
        source=source.absolute(),
        modules=sum(not is_expert(layer.name) for layer in recipe.layers),
        source_bytes=recipe.linear_bytes,
    )
    with _lock:
        answer = _send_job(job, log) or _send_job(job, log)
    if not answer:
        raise QuantizationFailed(
            "The loading process ended without an answer; nothing was kept.",
            "Read the log; if memory was short, free some and run the command again.",
            where=str(log),
        )
    loading = Loading.model_validate_json(answer)
    if loading.loaded and loading.why:
        raise QuantizationUncovered(
            f"The quantized weights do not load as planned: {loading.why}.",
            "Name int8, int8-w8a16 or fp8 in the line, or keep such layers as published by `ignore` of the scheme's "
            "recipe (`quantize.schemes`); bf16 serves the release as published.",
            where=str(log),
        )
    return loading


def _send_job(job: LoadJob, log: Path) -> str:
    """The answer's line; empty if the process has gone, which it does after a while without jobs."""
    if not _running or _running[0].poll() is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as log_file:
            _running[:] = [
                subprocess.Popen(
                    child_command("tasks.quantize.loading.child"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log_file,
                    env=model_environment(),
                    umask=UMASK,
                    text=True,
                )
            ]
    process = _running[0]
    assert process.stdin and process.stdout
    try:
        process.stdin.write(job.model_dump_json() + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    except BaseException:
        # Its answer would be taken for that of the next job.
        process.kill()
        raise
    if not answer:
        process.kill()
        process.wait()
    return answer
