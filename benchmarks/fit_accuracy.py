"""Errors of the memory planner, against the memory in vLLM's logs.

    python -m benchmarks.fit_accuracy [--cases FILE] [--models FOLDER] [--plot FILE.png] [--rows]

Cases: a JSON list in the layout of `memory_cases.json` (shared/data): public issue threads of vLLM 0.2 to 0.11,
and llm-d Planner's published sweep of vLLM 0.19 on H100. The models' configs are in `fit_models/`. Nothing is
downloaded and no weights are read. A group's figure is the mean absolute error of its predictions. The table also has
llm-d Planner's published errors on its sweep, and the rule of thumb on the same rows.

A pipeline with several stages is compared by an inner stage, whose log was recorded; its cache by the tightest stage.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from tasks.fit.catalogue import model_of
from tasks.fit.hardware.gpus import gpu as find_gpu
from tasks.fit.hardware.gpus import use_gpus
from tasks.fit.model.shape import shape_of_config
from tasks.fit.plan import fit_row
from tasks.fit.request import FitRequest
from tasks.fit.rows import FitRow
from tasks.schemes import scheme as find_scheme

HERE = Path(__file__).parent
CASES = HERE.parent.parent / "shared" / "data" / "memory_cases.json"
# Field of `FitRow`, and whether its error is a share of the measured value or GiB.
TERMS = {
    "weights_gib": "%",
    "kv_gib": "%",
    "kv_tokens": "%",
    "activation_gib": "GiB",
    "non_torch_gib": "GiB",
    "cuda_graph_gib": "GiB",
    "max_concurrency": "%",
}
TARGETS = {"weights_gib": 0.5, "kv_tokens": 2.0, "activation_gib": 0.15, "max_concurrency": 3.0}
PEER = {"weights_gib": "0.9", "kv_tokens": "6.6", "activation_gib": "+195 %", "non_torch_gib": "-44 %",
        "max_concurrency": "15"}  # fmt: skip
GPU_NAMES = {
    "RTX 3090": "RTX3090",
    "RTX 4060": "RTX4060",
    "H100": "H100",
    "A100": "A100-80",
    "L40S": "L40S",
    "A10 24GB": "A10",
    "79.22": "A100-80-7922",
}


class Compared(NamedTuple):
    """A case and its predicted row."""

    case: dict[str, Any]
    row: FitRow


def main() -> None:
    """Print the errors by term and group, and draw them with `--plot`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--models", type=Path, default=HERE / "fit_models")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--rows", action="store_true", help="print every case too")
    options = parser.parse_args()
    use_gpus(HERE / "fit_gpus.yaml")
    if not options.cases.is_file():
        parser.error(f"{options.cases} does not exist: name a file of cases with --cases")
    cases = json.loads(options.cases.read_text())
    compared, skipped = compare_all(cases, options.models)
    if options.rows:
        print_rows(compared)
    print_errors(compared)
    print_outcomes(compared)
    for case, why in skipped:
        print(f"not compared: {case['model']} on {case['gpu']}: {why}")
    if options.plot:
        draw(compared, options.plot)


def compare_all(cases: list[dict[str, Any]], models: Path) -> tuple[list[Compared], list[tuple[dict[str, Any], str]]]:
    """Predict every case with a known GPU and model; return the others with the reason."""
    compared, skipped = [], []
    for case in cases:
        name = gpu_name(case["gpu"])
        path = models / f"{slug(case['model'])}.json"
        if name is None or not path.is_file():
            skipped.append((case, "its GPU's memory is not stated" if name is None else f"no {path.name}"))
            continue
        compared.append(Compared(case, predict(case, json.loads(path.read_text()), name)))
    return compared, skipped


def predict(case: dict[str, Any], config: dict[str, Any], gpu: str) -> FitRow:
    """Predict the row of a case."""
    if case["dtype"]:
        config = {**config, "torch_dtype": case["dtype"], "dtype": case["dtype"]}
    at_runtime = "runtime" in (case["quantization"] or "")
    kv = str(case["kv_cache_dtype"] or "auto").split()[0]
    request = FitRequest(
        engine="vllm",
        version=version(case),
        context=case["max_model_len"] or config.get("max_position_embeddings") or 4096,
        kv_dtype=kv,
        utilization=case["gpu_memory_utilization"] or 0.9,
        max_num_seqs=case.get("max_num_seqs"),
        max_num_batched_tokens=case.get("max_num_batched_tokens"),
    )
    model = model_of(shape_of_config(case["model"], config))
    scheme = find_scheme("fp8" if at_runtime else "bf16")
    return fit_row(model, request, find_gpu(gpu), scheme, case["tp"], case.get("pp") or 1)


def version(case: dict[str, Any]) -> str:
    """Parse the engine's version from a report's free text."""
    text = str(case.get("vllm") or "0.16")
    if "Mistral" in text:
        return "0.11.0" if "istral" in case["model"] else "0.16"
    return text.split()[0].strip("~v").split("/")[0].removesuffix(".x")


def slug(model: str) -> str:
    """File name of a model's config, without its suffix."""
    if "name not shown" in model:
        return "qwen2.5-7b-class"
    return model.lower().replace("/", "--")


def gpu_name(text: str) -> str | None:
    """Find the catalogue's name of a case's GPU; None if its memory is not stated."""
    return next((name for part, name in GPU_NAMES.items() if part in text), None)


def errors(compared: Iterable[Compared], term: str) -> list[float]:
    """Compute the signed errors of a term: per cent of the measured value, or GiB."""
    found = []
    for case, row in compared:
        measured = case.get(term)
        if measured is None or (TERMS[term] == "%" and measured <= 0) or (term == "cuda_graph_gib" and measured <= 0):
            continue
        predicted = float(getattr(row, term))
        found.append(100 * (predicted / measured - 1) if TERMS[term] == "%" else predicted - measured)
    return found


def print_errors(compared: list[Compared]) -> None:
    """Print a Markdown table of mean absolute errors."""
    groups: dict[str, list[Compared]] = defaultdict(list)
    for comparison in compared:
        groups[comparison.case["group"]].append(comparison)
    print("| group | rows | term | mean absolute error | largest | target | llm-d Planner's own |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for group, members in sorted(groups.items(), reverse=True):
        sweep = "sweep" in group
        for term, unit in TERMS.items():
            found = errors(members, term)
            if not found:
                continue
            size = mean(abs(error) for error in found)
            target = TARGETS.get(term) if sweep else None
            word = "" if target is None else f"{target} {unit}: {'held' if size <= target else 'MISSED'}"
            largest = max(found, key=abs)
            print(
                f"| {group} | {len(found)} | {term} | {size:.2f} {unit} | {largest:+.2f} {unit} | {word} "
                f"| {PEER.get(term, '') if sweep else ''} |"
            )
        thumb = [100 * (thumb_gib(case) / taken_gib(case) - 1) for case in members if taken_gib(case)]
        if thumb:
            print(
                f"| {group} | {len(thumb)} | rule of thumb (weights + 20 %) against weights + activation + non-torch "
                f"| {mean(abs(error) for error in thumb):.1f} % | {max(thumb, key=abs):+.1f} % | | |"
            )


def thumb_gib(comparison: Compared) -> float:
    """Memory of one GPU by the rule of thumb."""
    bits = 8 if "8" in (comparison.case["quantization"] or "") else 16
    return comparison.row.rule_of_thumb_gib * bits / 16


def taken_gib(comparison: Compared) -> float:
    """Measured memory of one GPU without the cache; 0 if a term was not measured."""
    parts = [comparison.case.get(term) for term in ("weights_gib", "activation_gib", "non_torch_gib")]
    return sum(parts) if all(part is not None for part in parts) else 0.0  # type: ignore[arg-type]


def print_outcomes(compared: list[Compared]) -> None:
    """Count the outcomes: a failed start must be predicted `no` or `tight`, a successful one not `no`."""
    wrong = []
    counted: dict[str, int] = defaultdict(int)
    for case, row in compared:
        bad = any(word in case["outcome"] for word in ("refused", "OOM", "failure to run"))
        counted[f"{'refused or out of memory' if bad else 'ran'}: {row.verdict}"] += 1
        if (bad and row.verdict == "fits") or (not bad and row.verdict == "no"):
            wrong.append(f"{case['model']} on {case['gpu']}: {case['outcome']}, predicted {row.verdict} ({row.reason})")
    print("\nOutcomes: " + "; ".join(f"{what} {count}" for what, count in sorted(counted.items())))
    print("Wrong: " + ("none" if not wrong else "; ".join(wrong)))


def print_rows(compared: list[Compared]) -> None:
    """Print every case as predicted / measured."""
    for case, row in compared:
        cells = [f"{term} {getattr(row, term):,.2f}/{case[term]:,.2f}" for term in TERMS if case.get(term) is not None]
        print(f"{case['model']} {case.get('vllm')} tp{row.tp} pp{row.pp}: {row.verdict}, {', '.join(cells)}")
    print()


def draw(compared: list[Compared], path: Path) -> None:
    """Draw predicted against measured, one panel for each term."""
    from matplotlib.figure import Figure

    terms = ("weights_gib", "kv_gib", "activation_gib", "non_torch_gib", "cuda_graph_gib", "max_concurrency")
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, term in zip(figure.subplots(2, 3).flat, terms, strict=True):
        for group, colour in (("llm-d-sweep-v0.19", "#0072B2"), ("llm-d-empirical", "#E69F00"), ("issue", "#999999")):
            points = [
                (case[term], getattr(row, term))
                for case, row in compared
                if case["group"] == group and (case.get(term) or 0) > 0
            ]
            if points:
                axes.scatter(*zip(*points, strict=True), s=14, color=colour, label=group, alpha=0.8)
        limit = 1.05 * max(*axes.get_xlim(), *axes.get_ylim())
        axes.plot([0, limit], [0, limit], color="#888888", linewidth=0.8)
        axes.set(xlim=(0, limit), ylim=(0, limit), title=term, xlabel="measured", ylabel="predicted")
    figure.axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
