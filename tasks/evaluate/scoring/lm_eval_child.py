"""The scoring process: it loads a model once, then scores chunks of items on request.

It is a separate process so that running out of memory ends nothing else, and so that a program that only compares
scores imports neither torch nor lm-eval. The first line on stdin is the job, each further line a chunk. The process
ends with stdin, so it never outlives its parent. Events go to stdout, one per line after MARK, between the output of
the libraries.

Prompts are plain completions without a chat template, for every task and model: log-likelihoods of sentences have no
turns, and the same text fits base and instruct models. The regression suites measure the effect of the chat template
and the engine.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.scoring.model_loading import model_arguments
from tasks.evaluate.scoring.scores import ItemScore
from tasks.evaluate.suites.suite import Suite, metric_of, task_config

MARK = "@weighbridge "
ANSWER_CHARACTERS = 400
"""Length to which answers and questions are cut for the report."""

ENDPOINT_TRIES = 12
"""Attempts per request; lm-eval waits 1 to 10 s between them, 90 s in all: engines start in less."""


class RemoteModel(BaseModel):
    """A model behind an endpoint that returns prompt log-probabilities; OPENAI_API_KEY of the process is its key."""

    model_config = ConfigDict(frozen=True)

    base: str
    """The address, with `/v1`."""
    model: str
    tokenizer: Path | None
    """A folder with the model's tokenizer; None if the endpoint provides it (vLLM's /tokenizer_info)."""
    context: int | None
    """Longest prompt plus answer, in tokens."""
    concurrency: int = 8


class Job(BaseModel):
    """The model that a process scores, and its settings."""

    model_config = ConfigDict(frozen=True)

    model: Path | RemoteModel
    device: Literal["cpu", "cuda"]
    dtype: str
    batch_size: int


class Chunk(BaseModel):
    """The next items to score."""

    model_config = ConfigDict(frozen=True)

    suite: Suite
    ids: tuple[str, ...]


class Event(BaseModel):
    """A message from the process to its parent."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["ready", "scored", "refused"]
    items: tuple[ItemScore, ...] = ()
    text: str = ""
    """refused: the reason."""


class Refused(Exception):
    """Scores would be wrong or incomplete."""


def run(job: Job) -> None:
    """Load the model, then score every chunk from stdin."""
    from lm_eval.tasks import TaskManager

    # Without the thousands of tasks that lm-eval ships: listing them takes seconds.
    manager = TaskManager(include_defaults=False)
    model = _load(job)
    _send(Event(kind="ready"))
    for line in sys.stdin:
        chunk = Chunk.model_validate_json(line)
        _send(Event(kind="scored", items=_score(model, chunk, manager)))


def _load(job: Job) -> Any:
    if isinstance(job.model, RemoteModel):
        return _connect(job.model)
    import torch
    from lm_eval.models.huggingface import HFLM

    if job.device == "cuda" and not torch.cuda.is_available():
        raise Refused("torch sees no GPU although this machine has one; set CUDA_VISIBLE_DEVICES= to score on the CPU.")
    return HFLM(
        pretrained=str(job.model),
        device=job.device,
        dtype=job.dtype,
        batch_size=job.batch_size,
        parallelize=job.device == "cuda" and torch.cuda.device_count() > 1,
        trust_remote_code=False,
        # The release's own tokenizer files, also for a GGUF, which contains another form of the tokenizer.
        tokenizer=str(job.model),
        **model_arguments(job.model),
    )


def _connect(remote: RemoteModel) -> Any:
    from tasks.evaluate.scoring.checked_completions import CheckedCompletions, WrongTokens

    context = {"max_length": remote.context} if remote.context else {}
    local = {"tokenizer_backend": "huggingface", "tokenizer": str(remote.tokenizer)} if remote.tokenizer else {}
    try:
        return CheckedCompletions(
            base_url=f"{remote.base}/completions",
            model=remote.model,
            num_concurrent=remote.concurrency,
            tokenized_requests=True,
            max_retries=ENDPOINT_TRIES,
            **({"tokenizer_backend": "remote"} | local | context),
        )
    except WrongTokens as error:
        raise Refused(f"{remote.base}: {error}") from None


def _score(model: Any, chunk: Chunk, manager: Any) -> tuple[ItemScore, ...]:
    from lm_eval import simple_evaluate

    suite, config = chunk.suite, task_config(chunk.suite)
    places = {id: number for number, id in enumerate(suite.ids)}
    results = simple_evaluate(
        model,
        tasks=[config],
        task_manager=manager,
        samples={config["task"]: [places[id] for id in chunk.ids]},
        log_samples=True,
        bootstrap_iters=0,
        num_fewshot=0,
    )
    metric = metric_of(suite)
    samples = {sample["doc"]["id"]: sample for sample in results["samples"][config["task"]]}
    if missing := [id for id in chunk.ids if id not in samples]:
        raise Refused(f"{suite.name}: lm-eval returned no result for {len(missing)} items, first {missing[0]}.")
    return tuple(_item(model, suite, samples[id], id, metric) for id in chunk.ids)


def _item(model: Any, suite: Suite, sample: dict[str, Any], id: str, metric: str) -> ItemScore:
    """Turn lm-eval's record of an item into its score.

    Raises:
        Refused: a log-likelihood is not finite, or the prompt did not fit into the context.
    """
    # lm-eval truncates long prompts from the left with only a warning.
    longest = max(("".join(map(str, arguments[:1])) for arguments in sample["arguments"]), key=len)
    if len(model.tok_encode(longest)) >= model.max_length:
        raise Refused(f"{suite.name}: {id} is longer than the model's context of {model.max_length} tokens.")
    responses, margin, chance = sample["filtered_resps"], None, 0.0
    if metric == "acc":
        likelihoods = [float(response[0]) for response in responses]
        if not all(math.isfinite(likelihood) for likelihood in likelihoods):
            raise Refused(f"{suite.name}: {id} has log-likelihoods that are not finite: {likelihoods}.")
        preferred = likelihoods.index(max(likelihoods))
        answer = str(sample["arguments"][preferred][1])
        margin, chance = _margin(likelihoods, sample.get("target")), 1 / len(likelihoods)
    else:
        answer = str(responses[0])
    score = float(sample[metric])
    if score not in (0.0, 1.0):
        raise Refused(f"{suite.name}: {id} has the score {score}, neither 0 nor 1.")
    question = str(sample["doc"].get("question") or "Which sentence is more likely?")
    cluster = sample["doc"].get("cluster")
    return ItemScore(
        id=id,
        score=score,
        answer=answer.strip()[:ANSWER_CHARACTERS],
        question=question[:ANSWER_CHARACTERS],
        cluster=None if cluster is None else str(cluster),
        margin=margin,
        chance=chance,
        trouble="" if answer.strip() else "empty",
    )


def _margin(likelihoods: list[float], target: object) -> float | None:
    """Log-likelihood of the right option minus that of the best other one, in nats; None if the target is unknown."""
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < len(likelihoods) > 1:
        return None
    return likelihoods[target] - max(likelihood for number, likelihood in enumerate(likelihoods) if number != target)


def _send(event: Event) -> None:
    # Progress bars go to stderr, which is the same pipe: keep the order.
    sys.stderr.flush()
    print(f"\n{MARK}{event.model_dump_json()}", flush=True)


if __name__ == "__main__":
    try:
        run(Job.model_validate_json(sys.stdin.readline()))
    except Refused as error:
        _send(Event(kind="refused", text=str(error)))
        sys.exit(1)
