"""Every scheme and method on a small real model and a large synthetic one: the tables of docs/evidence/quantization.md.

Run `python -m benchmarks.quantize --smollm2 FOLDER` with a release of SmolLM2-135M-Instruct. A row is a scheme and a
method: `--row int4:gptq` adds a row, `--only int8:rtn` (repeatable) measures only the named rows. Each row runs in a
separate process: CPU seconds are those of the whole step with imports, coverage check and hashing; memory is that of
the quantizing process. If llm-compressor's `model_free_ptq` supports the scheme, it then quantizes the same model in
another process, with the same targets and groups. The synthetic model (1.2 billion random weights in eight files,
2.4 GB) and its results need 10 GB under $TMPDIR. Calibrated methods use a twelfth of the project's calibration text
for it: random weights gain nothing from more, and the cost per token is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from tasks.evaluate.drift import check_drift
from tasks.quantize import scheme
from tasks.quantize.calibration import calibration_documents, calibration_files
from tasks.quantize.methods import WITHOUT_DATA
from tasks.quantize.plan.recipe import make_recipe
from weighbridge.errors import QuantizationUncovered
from weighbridge.line import Bounds
from weighbridge.settings import load_settings

MIB = 2**20
DATA_FREE = ("int8:rtn", "int8-w8a16:rtn", "int4:rtn", "int4-asym:rtn", "fp8:rtn", "fp8-block:rtn")
HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY, KEYS, SHARDS = 2048, 5632, 22, 49152, 256, 8
"""TinyLlama's shapes, SmolLM2's vocabulary."""
LARGE_DOCUMENTS = 7
"""Default number of calibration documents for the synthetic model; about 2,000 tokens."""
WEIGHBRIDGE = """
import json, resource, sys, time
from pathlib import Path
from tasks.quantize import quantize_folder
from weighbridge.settings import load_settings
source, out, scheme, method, *text = sys.argv[1:]
began = time.monotonic()
text = Path(text[0]) if text else None
record = quantize_folder(load_settings(), Path(source), Path(out), scheme, method, calibration=text)
seconds = time.monotonic() - began
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
print(json.dumps([seconds, cpu, record.peak_rss_bytes, record.coverage.written_bytes]))
"""
IMPORTS = """
import importlib, json, sys
from tasks.quantize.process.child import peak_rss_bytes
importlib.import_module(f"tasks.quantize.methods.{sys.argv[1]}")
print(json.dumps(peak_rss_bytes()))
"""
MODEL_FREE_PTQ = """
import json, resource, sys, time
from pathlib import Path
began = time.monotonic()
from llmcompressor import model_free_ptq
from tasks.quantize.process.child import peak_rss_bytes
from tasks.schemes import scheme
source, out, name, group, *ignore = sys.argv[1:]
imports = peak_rss_bytes()
rounding = scheme(name).compressed_tensors(int(group) or None)
model_free_ptq(source, out, scheme=rounding, ignore=ignore, max_workers=1, device="cpu")
used = resource.getrusage(resource.RUSAGE_SELF)
written = sum(file.stat().st_size for file in Path(out).glob("*.safetensors"))
seconds = time.monotonic() - began
print(json.dumps([seconds, used.ru_utime + used.ru_stime, peak_rss_bytes(), written, imports]))
"""


class Run(BaseModel):
    """One quantization of one model."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    imports_mib: float
    written_bytes: int

    @property
    def above_imports_mib(self) -> float:
        """Peak memory without the imports."""
        return max(1.0, self.peak_mib - self.imports_mib)


class Quality(BaseModel):
    """Distance of a quantized model from its release, on the project's held-out text."""

    kl_nats: float
    top1: float
    perplexity: float
    release_perplexity: float


class Row(BaseModel):
    """One scheme by one method on one model."""

    model: str
    scheme: str
    method: str
    weighbridge: Run | None = None
    model_free_ptq: Run | None = None
    quality: Quality | None = None
    refused: str = ""


def main() -> None:
    """Measure, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct; without it only the large model")
    parser.add_argument("--row", action="append", default=[], metavar="SCHEME:METHOD", help="add a row")
    parser.add_argument(
        "--only", action="append", default=[], metavar="SCHEME:METHOD", help="measure only this row; repeatable"
    )
    parser.add_argument("--no-small", action="store_true", help="skip SmolLM2, except for its tokenizer")
    parser.add_argument("--no-large", action="store_true", help="skip the synthetic model")
    parser.add_argument("--no-quality", action="store_true", help="measure no distributions")
    parser.add_argument(
        "--documents", type=int, default=LARGE_DOCUMENTS, help="of the calibration text, for the synthetic model"
    )
    parser.add_argument("--json", type=Path, help="also write all rows to this file")
    options = parser.parse_args()
    entries = [entry.split(":", 1) for entry in options.only or (*DATA_FREE, *options.row)]
    rows: list[Row] = []

    def keep(row: Row) -> None:
        # After each row, so that an interruption loses only the current one.
        rows.append(row)
        if options.json:
            options.json.write_text(json.dumps([row.model_dump() for row in rows], indent=2))

    with tempfile.TemporaryDirectory(prefix="weighbridge-quantize-") as temporary:
        scratch = Path(temporary)
        os.environ["WEIGHBRIDGE_HOME"] = str(scratch / "home")
        if options.smollm2 and not options.no_small:
            source = options.smollm2.resolve()
            with_quality = not options.no_quality
            for name, method in entries:
                keep(measure("SmolLM2", source, name, method, scratch, quality=with_quality))
        if not options.no_large:
            large = build(scratch / "large", tokenizer_of=options.smollm2)
            text = _short_text(scratch / "calibration.jsonl", options.documents)
            with_quality = bool(options.smollm2) and not options.no_quality
            for name, method in entries:
                if method in WITHOUT_DATA or options.smollm2:
                    keep(measure("1.2 B", large, name, method, scratch, quality=with_quality, text=text))
    print(as_markdown(rows))


def measure(
    model: str, source: Path, name: str, method: str, scratch: Path, *, quality: bool, text: Path | None = None
) -> Row:
    """Quantize once with Weighbridge, and with `model_free_ptq` if it supports the scheme.

    Args:
        model: its name in the table.
        source, name, method: the release, the scheme and the method.
        scratch: folder for results.
        quality: also measure distributions.
        text: calibration text instead of the project's.
    """
    row = Row(model=model, scheme=name, method=method)
    print(f"{model} {name} {method}", file=sys.stderr, flush=True)
    out, reference_out = scratch / "weighbridge", scratch / "model_free_ptq"
    for folder in (out, reference_out):
        shutil.rmtree(folder, ignore_errors=True)
    if scheme(name).format != "gguf":
        try:
            recipe = make_recipe(source, scheme(name), method)
        except QuantizationUncovered as error:
            return row.model_copy(update={"refused": error.what})
    imports = float(_python(IMPORTS, method))
    own_text = [str(text)] if text and method not in WITHOUT_DATA else []
    row.weighbridge = _run(_python(WEIGHBRIDGE, str(source), str(out), name, method, *own_text), imports)
    if quality:
        row.quality = _quality(out, source, scratch)
    if method == "rtn" and scheme(name).format != "gguf":
        view = _only_weights(source, scratch / "view")
        group = str(recipe.group_size or 0)
        row.model_free_ptq = _run(_python(MODEL_FREE_PTQ, str(view), str(reference_out), name, group, *recipe.ignore))
    return row


def _short_text(path: Path, count: int) -> Path:
    documents = calibration_documents(calibration_files(load_settings()))[:count]
    path.write_text("".join(f"{document.model_dump_json(exclude_defaults=True)}\n" for document in documents))
    return path


def _python(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def _run(output: str, imports: float | None = None) -> Run:
    seconds, cpu, peak, written, *measured_imports = json.loads(output)
    return Run(
        seconds=seconds,
        cpu_seconds=cpu,
        peak_mib=peak / MIB,
        imports_mib=(measured_imports[0] if imports is None else imports) / MIB,
        written_bytes=written,
    )


def _only_weights(source: Path, view: Path) -> Path:
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir()
    for file in [source / "config.json", *source.glob("*.safetensors"), *source.glob("*.index.json")]:
        (view / file.name).symlink_to(file)
    return view


def _quality(candidate: Path, source: Path, scratch: Path) -> Quality:
    report = check_drift(candidate, source, bounds=Bounds(), home=scratch / "drift")
    signals = {signal.name: signal for signal in report.signals}
    perplexity = signals["perplexity"]
    return Quality(
        kl_nats=signals["KL"].difference,
        top1=signals["top-1 agreement"].difference,
        perplexity=perplexity.candidate or 0,
        release_perplexity=perplexity.production or 0,
    )


def build(folder: Path, *, tokenizer_of: Path | None) -> Path:
    """Write the synthetic model: a Llama of random bfloat16 weights, in files of about the same size."""
    folder.mkdir()
    for file in tokenizer_of.glob("*token*") if tokenizer_of else ():
        shutil.copy(file, folder)
    shapes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (VOCABULARY, HIDDEN))]
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        shapes += [(f"{at}.self_attn.{part}_proj.weight", (HIDDEN, HIDDEN)) for part in "qo"]
        shapes += [(f"{at}.self_attn.{part}_proj.weight", (KEYS, HIDDEN)) for part in "kv"]
        shapes += [(f"{at}.mlp.{part}_proj.weight", (INTERMEDIATE, HIDDEN)) for part in ("gate", "up")]
        shapes += [(f"{at}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE))]
        shapes += [(f"{at}.{part}_layernorm.weight", (HIDDEN,)) for part in ("input", "post_attention")]
    shapes += [("model.norm.weight", (HIDDEN,)), ("lm_head.weight", (VOCABULARY, HIDDEN))]
    sizes = [2 * int(np.prod(shape)) for _, shape in shapes]
    ends = np.cumsum(sizes)
    random = np.random.default_rng(0)
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        own_shapes = [shapes[at] for at in range(len(shapes)) if (ends[at] - 1) * SHARDS // ends[-1] == shard]
        _write_shard(folder / name, own_shapes, random)
        weight_map |= dict.fromkeys((tensor for tensor, _ in own_shapes), name)
    index = {"metadata": {"total_size": int(ends[-1])}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // 64,
        "num_key_value_heads": KEYS // 64,
        "vocab_size": VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _write_shard(path: Path, shapes: list[tuple[str, tuple[int, ...]]], random: np.random.Generator) -> None:
    header, at = {}, 0
    for name, shape in shapes:
        end = at + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes:
            values = random.standard_normal(shape, np.float32) * np.float32(_spread(name))
            if len(shape) == 1:
                values += np.float32(1)
            file.write((values.view("<u4") >> np.uint32(16)).astype("<u2").tobytes())


def _spread(name: str) -> float:
    """Standard deviation of a tensor's values, as in an initialised model: contributions to the residual are small.

    Otherwise each layer would amplify the rounding errors of earlier layers until answers are unrelated to the release
    (measured: 4.7 nats by INT4). The head is large, so that distributions have peaks, as in a language model.
    """
    if name == "lm_head.weight":
        return 0.06
    if name == "model.embed_tokens.weight":
        return 0.25
    return 0.02 / (2 * LAYERS) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02


def as_markdown(rows: list[Row]) -> str:
    """Render the rows as two tables: cost, and distance from the release."""
    cost = [
        "| model | scheme | method | s | CPU-s | `model_free_ptq` CPU-s | memory above imports, MiB "
        "| `model_free_ptq` MiB | imports, MiB | written, MB |",
        "|" + "---|" * 10,
    ]
    quality = ["| model | scheme | method | KL, nats | top-1 | perplexity (release) |", "|" + "---|" * 6]
    for row in rows:
        names = f"| {row.model} | {row.scheme} | {row.method} |"
        if row.weighbridge is None:
            cost.append(f"{names} refused: {row.refused} |" + " |" * 6)
            continue
        run, reference = row.weighbridge, row.model_free_ptq
        cpu = f"{reference.cpu_seconds:.1f} ({run.cpu_seconds / reference.cpu_seconds:.2f} ×)" if reference else "–"
        memory = (
            f"{reference.above_imports_mib:.0f} ({run.above_imports_mib / reference.above_imports_mib:.2f} ×)"
            if reference
            else "–"
        )
        imports = f"{run.imports_mib:.0f} ({reference.imports_mib:.0f})" if reference else f"{run.imports_mib:.0f}"
        cost.append(
            f"{names} {run.seconds:.1f} | {run.cpu_seconds:.1f} | {cpu} | {run.above_imports_mib:.0f} | {memory} "
            f"| {imports} | {run.written_bytes / 1e6:.0f} |"
        )
        if row.quality:
            found = row.quality
            quality.append(
                f"{names} {found.kl_nats:.3g} | {found.top1:.1%} | {found.perplexity:.1f} "
                f"({found.release_perplexity:.1f}) |"
            )
    return "\n".join([*cost, "", *quality] if len(quality) > 2 else cost)


if __name__ == "__main__":
    main()
