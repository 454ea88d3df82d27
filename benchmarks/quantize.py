"""Every scheme and method on a small real model and a large synthetic one: the tables of docs/evidence/quantization.md.

Run `python -m benchmarks.quantize --smollm2 FOLDER` with a release of SmolLM2-135M-Instruct. A row is a scheme and a
method: `--row int4:gptq` adds one, `--only int8:rtn` (which may be given again) measures nothing else. Each row runs in
a process of its own: its CPU seconds are those of the whole step, imports, proof and hashing included, its memory that
of the quantizing process. Where llm-compressor's `model_free_ptq` knows the scheme, it does the same right after, in a
process of its own, with the same targets and groups. The synthetic model (1.2 billion random weights in eight files,
2.4 GB) and what is made of it need 10 GB under $TMPDIR. Calibrated methods watch it on a twelfth of the project's
calibration text: random weights have nothing to gain from more, and their cost a token is the same.
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
from tasks.quantize.calibration import calibration_documents
from tasks.quantize.methods import WITHOUT_DATA
from tasks.quantize.plan.recipe import make_recipe
from weighbridge.errors import QuantizationUncovered
from weighbridge.line import Bounds

MIB = 2**20
DATA_FREE = ("int8:rtn", "int8-w8a16:rtn", "int4:rtn", "int4-asym:rtn", "fp8:rtn", "fp8-block:rtn")
HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY, KEYS, SHARDS = 2048, 5632, 22, 49152, 256, 8
"""TinyLlama's shapes, SmolLM2's vocabulary."""
LARGE_DOCUMENTS = 7
"""Of the calibration text, for the synthetic model, where nothing else is asked for; about 2,000 tokens."""
OURS = """
import json, resource, sys, time
from pathlib import Path
from tasks.quantize import quantize_folder
source, out, scheme, method, *text = sys.argv[1:]
began = time.monotonic()
record = quantize_folder(Path(source), Path(out), scheme, method, calibration=Path(text[0]) if text else None)
seconds = time.monotonic() - began
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu = sum(one.ru_utime + one.ru_stime for one in used)
print(json.dumps([seconds, cpu, record.peak_rss_bytes, record.coverage.written_bytes]))
"""
OUR_IMPORTS = """
import importlib, json, sys
from tasks.quantize.process.child import peak_rss_bytes
importlib.import_module(f"tasks.quantize.methods.{sys.argv[1]}")
print(json.dumps(peak_rss_bytes()))
"""
THEIRS = """
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
        """Memory that the work itself took."""
        return max(1.0, self.peak_mib - self.imports_mib)


class Quality(BaseModel):
    """How far a quantized model is from its release, on the project's held text."""

    kl_nats: float
    top1: float
    perplexity: float
    release_perplexity: float


class Row(BaseModel):
    """One scheme by one method on one model."""

    model: str
    scheme: str
    method: str
    ours: Run | None = None
    theirs: Run | None = None
    quality: Quality | None = None
    refused: str = ""


def main() -> None:
    """Measure, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct; without it only the large model")
    parser.add_argument("--row", action="append", default=[], metavar="SCHEME:METHOD", help="add one")
    parser.add_argument("--only", action="append", default=[], metavar="SCHEME:METHOD", help="instead of all others")
    parser.add_argument("--no-small", action="store_true", help="leave SmolLM2 out, but for its tokenizer")
    parser.add_argument("--no-large", action="store_true", help="leave the synthetic model out")
    parser.add_argument("--no-quality", action="store_true", help="measure no distributions")
    parser.add_argument(
        "--documents", type=int, default=LARGE_DOCUMENTS, help="of the calibration text, for the synthetic model"
    )
    parser.add_argument("--json", type=Path, help="write all rows here too")
    asked = parser.parse_args()
    entries = [entry.split(":", 1) for entry in asked.only or (*DATA_FREE, *asked.row)]
    rows: list[Row] = []

    def keep(row: Row) -> None:
        # After each one: hours of work are not to be lost with the last row.
        rows.append(row)
        if asked.json:
            asked.json.write_text(json.dumps([one.model_dump() for one in rows], indent=2))

    with tempfile.TemporaryDirectory(prefix="weighbridge-quantize-") as temporary:
        scratch = Path(temporary)
        os.environ["WEIGHBRIDGE_HOME"] = str(scratch / "home")
        if asked.smollm2 and not asked.no_small:
            source = asked.smollm2.resolve()
            with_quality = not asked.no_quality
            for name, how in entries:
                keep(measure("SmolLM2", source, name, how, scratch, quality=with_quality))
        if not asked.no_large:
            large = build(scratch / "large", tokenizer_of=asked.smollm2)
            text = _short_text(scratch / "calibration.jsonl", asked.documents)
            with_quality = bool(asked.smollm2) and not asked.no_quality
            for name, how in entries:
                if how in WITHOUT_DATA or asked.smollm2:
                    keep(measure("1.2 B", large, name, how, scratch, quality=with_quality, text=text))
    print(as_markdown(rows))


def measure(
    model: str, source: Path, name: str, method: str, scratch: Path, *, quality: bool, text: Path | None = None
) -> Row:
    """Quantize once, by us and by `model_free_ptq` where it can.

    Args:
        model: its name in the table.
        source, name, method: the release, the scheme and the method.
        scratch: where results go.
        quality: also measure distributions.
        text: calibration text instead of the project's.
    """
    row = Row(model=model, scheme=name, method=method)
    print(f"{model} {name} {method}", file=sys.stderr, flush=True)
    ours, theirs = scratch / "ours", scratch / "theirs"
    for folder in (ours, theirs):
        shutil.rmtree(folder, ignore_errors=True)
    if scheme(name).format != "gguf":
        try:
            recipe = make_recipe(source, scheme(name), method)
        except QuantizationUncovered as error:
            return row.model_copy(update={"refused": error.what})
    imports = float(_python(OUR_IMPORTS, method))
    own_text = [str(text)] if text and method not in WITHOUT_DATA else []
    row.ours = _run(_python(OURS, str(source), str(ours), name, method, *own_text), imports)
    if quality:
        row.quality = _quality(ours, source, scratch)
    if method == "rtn" and scheme(name).format != "gguf":
        view = _only_weights(source, scratch / "view")
        group = str(recipe.group_size or 0)
        row.theirs = _run(_python(THEIRS, str(view), str(theirs), name, group, *recipe.ignore))
    return row


def _short_text(path: Path, count: int) -> Path:
    documents = calibration_documents()[:count]
    path.write_text("".join(f"{one.model_dump_json(exclude_defaults=True)}\n" for one in documents))
    return path


def _python(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def _run(said: str, imports: float | None = None) -> Run:
    seconds, cpu, peak, written, *own = json.loads(said)
    return Run(
        seconds=seconds,
        cpu_seconds=cpu,
        peak_mib=peak / MIB,
        imports_mib=(own[0] if imports is None else imports) / MIB,
        written_bytes=written,
    )


def _only_weights(source: Path, view: Path) -> Path:
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir()
    for file in [source / "config.json", *source.glob("*.safetensors"), *source.glob("*.index.json")]:
        (view / file.name).symlink_to(file)
    return view


def _quality(candidate: Path, source: Path, scratch: Path) -> Quality:
    report = check_drift(candidate, source, bounds=Bounds(), home=scratch / "looks")
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
        shapes += [(f"{at}.self_attn.{one}_proj.weight", (HIDDEN, HIDDEN)) for one in "qo"]
        shapes += [(f"{at}.self_attn.{one}_proj.weight", (KEYS, HIDDEN)) for one in "kv"]
        shapes += [(f"{at}.mlp.{one}_proj.weight", (INTERMEDIATE, HIDDEN)) for one in ("gate", "up")]
        shapes += [(f"{at}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE))]
        shapes += [(f"{at}.{one}_layernorm.weight", (HIDDEN,)) for one in ("input", "post_attention")]
    shapes += [("model.norm.weight", (HIDDEN,)), ("lm_head.weight", (VOCABULARY, HIDDEN))]
    sizes = [2 * int(np.prod(shape)) for _, shape in shapes]
    ends = np.cumsum(sizes)
    random = np.random.default_rng(0)
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        mine = [shapes[at] for at in range(len(shapes)) if (ends[at] - 1) * SHARDS // ends[-1] == shard]
        _write_shard(folder / name, mine, random)
        weight_map |= dict.fromkeys((one for one, _ in mine), name)
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
    """Of a tensor's numbers, as in a model that is about to be trained: what is added to the stream is kept small.

    Were it not, each layer would swell the rounding errors of those before until nothing of the release is left in the
    answers (measured: 4.7 nats by INT4). The head is large, so that distributions have peaks, as a language model's.
    """
    if name == "lm_head.weight":
        return 0.06
    if name == "model.embed_tokens.weight":
        return 0.25
    return 0.02 / (2 * LAYERS) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02


def as_markdown(rows: list[Row]) -> str:
    """The rows as two tables: cost, and distance from the release."""
    cost = [
        "| model | scheme | method | s | CPU-s | `model_free_ptq` CPU-s | memory above imports, MiB "
        "| `model_free_ptq` MiB | imports, MiB | written, MB |",
        "|" + "---|" * 10,
    ]
    quality = ["| model | scheme | method | KL, nats | top-1 | perplexity (release) |", "|" + "---|" * 6]
    for row in rows:
        names = f"| {row.model} | {row.scheme} | {row.method} |"
        if row.ours is None:
            cost.append(f"{names} refused: {row.refused} |" + " |" * 6)
            continue
        ours, theirs = row.ours, row.theirs
        cpu = f"{theirs.cpu_seconds:.1f} ({ours.cpu_seconds / theirs.cpu_seconds:.2f} ×)" if theirs else "–"
        memory = (
            f"{theirs.above_imports_mib:.0f} ({ours.above_imports_mib / theirs.above_imports_mib:.2f} ×)"
            if theirs
            else "–"
        )
        imports = f"{ours.imports_mib:.0f} ({theirs.imports_mib:.0f})" if theirs else f"{ours.imports_mib:.0f}"
        cost.append(
            f"{names} {ours.seconds:.1f} | {ours.cpu_seconds:.1f} | {cpu} | {ours.above_imports_mib:.0f} | {memory} "
            f"| {imports} | {ours.written_bytes / 1e6:.0f} |"
        )
        if row.quality:
            one = row.quality
            quality.append(
                f"{names} {one.kl_nats:.3g} | {one.top1:.1%} | {one.perplexity:.1f} ({one.release_perplexity:.1f}) |"
            )
    return "\n".join([*cost, "", *quality] if len(quality) > 2 else cost)


if __name__ == "__main__":
    main()
