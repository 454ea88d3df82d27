"""The process that scores: reads a job on stdin, loads the model once, leaves one file a finished suite.

It is a process of its own so that a scoring that runs out of memory takes nothing else with it, and so
that torch and lm-eval are imported by nobody who only compares scores. Events go to stdout as one line
each after MARK, between whatever the libraries print.

Prompts are plain completions without a chat template, for every task and every model: sentences'
log-likelihoods have no turns, and the same text fits base and instruct models. What the chat template
and the engine do to a model is what the regression suites weigh.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from tasks.evaluate.scores import ItemScore
from tasks.evaluate.suites import Suite, metric_of, task_config

MARK = "@weighbridge "
ANSWER_CHARACTERS = 400
"""How much of an answer or a question is kept for the report."""


class Job(BaseModel):
    """What one child has to do."""

    model_config = ConfigDict(frozen=True)

    model_folder: Path
    device: Literal["cpu", "cuda"]
    dtype: str
    batch_size: int
    suites: tuple[Suite, ...]
    results_folder: Path


class Event(BaseModel):
    """What the child tells while it works."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["begin", "done", "refused"]
    suite: str = ""
    text: str = ""
    """refused: why there are no scores."""
    seconds: float = 0


class Refused(Exception):
    """The scores would be wrong or partial."""


ITEMS = TypeAdapter(tuple[ItemScore, ...])


def result_path(folder: Path, suite: str) -> Path:
    """Where a suite's items are left."""
    return folder / f"{suite.replace('/', '-')}.json"


def run(job: Job) -> None:
    """Score every suite of a job, writing each as soon as it is done."""
    import time

    from lm_eval.tasks import TaskManager

    # Without the thousands of tasks that lm-eval ships, which take seconds to list.
    manager = TaskManager(include_defaults=False)
    model = _load(job)
    for suite in job.suites:
        _tell(Event(kind="begin", suite=suite.name))
        started = time.monotonic()
        items = _score(model, suite, manager)
        path = result_path(job.results_folder, suite.name)
        partial = path.with_suffix(".partial")
        partial.write_bytes(ITEMS.dump_json(items))
        partial.replace(path)
        _tell(Event(kind="done", suite=suite.name, seconds=time.monotonic() - started))


def _load(job: Job) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    if job.device == "cuda" and not torch.cuda.is_available():
        raise Refused("torch sees no GPU although this machine has one; set CUDA_VISIBLE_DEVICES= to score on the CPU.")
    return HFLM(
        pretrained=str(job.model_folder),
        device=job.device,
        dtype=job.dtype,
        batch_size=job.batch_size,
        parallelize=job.device == "cuda" and torch.cuda.device_count() > 1,
        trust_remote_code=False,
    )


def _score(model: Any, suite: Suite, manager: Any) -> tuple[ItemScore, ...]:
    from lm_eval import simple_evaluate

    config = task_config(suite)
    results = simple_evaluate(
        model, tasks=[config], task_manager=manager, log_samples=True, bootstrap_iters=0, num_fewshot=0
    )
    metric = metric_of(suite)
    samples = {sample["doc"]["id"]: sample for sample in results["samples"][config["task"]]}
    if missing := [id for id in suite.ids if id not in samples]:
        raise Refused(f"{suite.name}: lm-eval gave no result for {len(missing)} items, first {missing[0]}.")
    return tuple(_item(model, suite, samples[id], id, metric) for id in suite.ids)


def _item(model: Any, suite: Suite, sample: dict[str, Any], id: str, metric: str) -> ItemScore:
    """One item's score and the answer behind it.

    Raises:
        Refused: the model gave no number, or it did not see the whole prompt.
    """
    # lm-eval cuts a prompt that is too long from the left, with no more than a warning.
    longest = max(("".join(map(str, arguments[:1])) for arguments in sample["arguments"]), key=len)
    if len(model.tok_encode(longest)) >= model.max_length:
        raise Refused(f"{suite.name}: {id} is longer than the model's context of {model.max_length} tokens.")
    responses = sample["filtered_resps"]
    if metric == "acc":
        likelihoods = [float(response[0]) for response in responses]
        if not all(math.isfinite(likelihood) for likelihood in likelihoods):
            raise Refused(f"{suite.name}: {id} has log-likelihoods that are no numbers: {likelihoods}.")
        preferred = likelihoods.index(max(likelihoods))
        answer = str(sample["arguments"][preferred][1])
    else:
        answer = str(responses[0])
    score = float(sample[metric])
    if score not in (0.0, 1.0):
        raise Refused(f"{suite.name}: {id} has the score {score}, neither 0 nor 1.")
    question = str(sample["doc"].get("question") or "Which sentence is more likely?")
    return ItemScore(
        id=id, score=score, answer=answer.strip()[:ANSWER_CHARACTERS], question=question[:ANSWER_CHARACTERS]
    )


def _tell(event: Event) -> None:
    # stderr, where the progress bars go, is the same pipe: keep the order.
    sys.stderr.flush()
    print(f"\n{MARK}{event.model_dump_json()}", flush=True)


if __name__ == "__main__":
    try:
        run(Job.model_validate_json(sys.stdin.read()))
    except Refused as error:
        _tell(Event(kind="refused", text=str(error)))
        sys.exit(1)
