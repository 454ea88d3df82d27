"""Measure damaged copies of a real model by the parity gate, without a server: a table of docs/evidence/parity.md.

Run `OMP_NUM_THREADS=1 python -m benchmarks.parity_computed FOLDER [--context 2048]` with a release in safetensors, such
as SmolLM2-135M-Instruct. transformers computes the damaged copies of benchmarks/damage.py, as `transformers serve`
does, and the gauges are taken from its distributions: `choice` for engines that report no log-probabilities, `top`
for those that do. Stop tokens are left out: distributions do not measure them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.damage import DAMAGES
from tasks.evaluate.drift.held_out import held_documents
from tasks.serve.parity.judge import judge
from tasks.serve.parity.measure import COMPARED_CHOICES, LARGEST_NATS, Gauge, Measured, mean_difference, regret
from tasks.serve.parity.probes import Question
from tasks.serve.parity.reference_child import ReferenceModel, run
from tasks.serve.parity.reference_job import Job, Probe


def measured(good: Probe, broken: Probe) -> list[Measured]:
    """Both gauges of one prompt."""
    first = broken.choices[0]
    reported = {choice.text: choice.log_probability for choice in reversed(broken.choices[:COMPARED_CHOICES])}
    found: dict[Gauge, float] = {
        "choice": regret(good.choices, "" if first.hidden else first.text),
        "top": mean_difference(good.choices, reported),
    }
    question = good.question
    return [
        Measured(kind=question.kind, gauge=gauge, name=question.name, nats=min(nats, LARGEST_NATS), detail="")
        for gauge, nats in found.items()
    ]


def reads(tokenizer: object, question: Question) -> list[int]:
    """Token ids of a prompt, as an engine of the damaged copy reads it."""
    if not question.messages:
        return list(tokenizer(question.text)["input_ids"])  # type: ignore[operator]
    turns = [turn.model_dump() for turn in question.messages]
    write: Callable[..., dict[str, list[int]]] = tokenizer.apply_chat_template  # type: ignore[attr-defined]
    return list(write(turns, tokenize=True, add_generation_prompt=True)["input_ids"])


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--context", type=int, default=2048)
    options = parser.parse_args()
    print("| fault | by `choice` | ln p | by `top` | ln p |\n| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="weighbridge-parity-") as name:

        def job(folder: Path) -> Job:
            out = Path(name) / "out"
            documents = held_documents()
            return Job(
                folder=folder, documents=documents, context=options.context, device="cpu", dtype="float32", out=out
            )

        good = [probe for probe in run(job(options.folder)).probes if probe.question.kind not in ("stop", "read")]
        for fault, damage in DAMAGES.items():
            broken = Path(name) / "broken"
            damage(options.folder, broken)
            asker = ReferenceModel(job(broken))
            found = asker.probes([(probe.question, reads(asker.tokenizer, probe.question)) for probe in good])
            rows = [measurement for pair in zip(good, found) for measurement in measured(*pair)]
            cells = []
            for gauge in ("choice", "top"):
                groups = judge([measurement for measurement in rows if measurement.gauge == gauge])
                worst = groups[0]
                word = "refused" if worst.diverges else "passed"
                cells += [f"{word}: {worst.kind} {worst.mean_nats:.2f} nats", f"{worst.log_chance:.0f}"]
            print(f"| {fault} | {' | '.join(cells)} |", flush=True)
            shutil.rmtree(broken)


if __name__ == "__main__":
    main()
