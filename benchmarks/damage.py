"""Sensitivity of each drift signal (`tasks/evaluate/drift`) to damaged models: a table for docs/evidence/drift.md.

Run `OMP_NUM_THREADS=1 python -m benchmarks.damage --production FOLDER [--int8 FOLDER] [--int4 FOLDER]` with a release
of SmolLM2-135M-Instruct and two quantizations of it (`weighbridge release smollm2` stores them). It took 1,053 s on two
cores shared with ten other processes. Production's distributions are computed once and kept in memory (0.9 GB).

The damages are typical mistakes: a wrong scale after a merge, a pruned head, the chat template of another family,
exchanged tokenizer entries, another RoPE base in the config, a context limited to a window. Beside the KL of each is
the number of documents, in order of their names, after which its interval alone decides, and the share of minimal
pairs (`general/agreement`) that flip.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.blimp_pairs import DEFAULT_CACHE, log_probability_differences
from examples.damage import damage
from tasks.evaluate.drift.distributions import Distributions, distribution_signals
from tasks.evaluate.drift.distributions_child import (
    DocumentDivergence,
    divergence_of,
    load_model,
    load_tokenizer,
    logits_of,
)
from tasks.evaluate.drift.divergence import line_up
from tasks.evaluate.drift.drift_check import config_signal, what_changed
from tasks.evaluate.drift.held_out import held_documents
from tasks.evaluate.drift.intervals import positive_mean_interval, share_interval
from tasks.evaluate.drift.reading import read_documents
from weighbridge.line import Bounds
from weighbridge.settings import load_settings

CONTEXT_TOKENS, CONFIDENCE = 512, 0.95
OTHER_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %} {{ message['content'] }}\n"
    "{% else %}[INST] {{ message['content'] }} [/INST]{% endif %}{% endfor %}"
)
EXCHANGED_ENTRIES = 200
WINDOW_TOKENS = 64
Damage = Callable[[Path, Path], None]


def _copy(source: Path, out: Path, *, but: tuple[str, ...] = ()) -> None:
    out.mkdir()
    for path in source.iterdir():
        if path.name in but:
            shutil.copyfile(path, out / path.name)
        else:
            (out / path.name).symlink_to(path.resolve())


def _edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _tensors(source: Path, out: Path, change: Callable[[str, Any], Any]) -> None:
    from safetensors.torch import load_file, save_file

    _copy(source, out)
    for path in sorted(source.glob("*.safetensors")):
        (out / path.name).unlink()
        changed = {name: change(name, tensor) for name, tensor in load_file(path).items()}
        save_file(changed, out / path.name, metadata={"format": "pt"})


def one_layer_halved(source: Path, out: Path) -> None:
    """The feed-forward output of the middle layer at half its scale."""
    _tensors(source, out, lambda name, tensor: tensor / 2 if re.search(r"\.15\.mlp\.down_proj\.", name) else tensor)


def one_head_zeroed(source: Path, out: Path) -> None:
    """The first attention head of every layer pruned away."""
    size = json.loads((source / "config.json").read_text())["head_dim"]

    def change(name: str, tensor: Any) -> Any:
        if name.endswith("self_attn.o_proj.weight"):
            tensor[:, :size] = 0
        return tensor

    _tensors(source, out, change)


def other_template(source: Path, out: Path) -> None:
    """The chat template of another family."""
    _copy(source, out, but=("chat_template.jinja",))
    (out / "chat_template.jinja").write_text(OTHER_TEMPLATE)


def exchanged_entries(source: Path, out: Path) -> None:
    """Two hundred entries of the vocabulary exchanged in pairs, as by a faulty merge of tokenizers."""
    _copy(source, out, but=("tokenizer.json",))
    content = json.loads((source / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    by_id = sorted(vocabulary, key=vocabulary.__getitem__)[300 : 300 + EXCHANGED_ENTRIES]
    for first, second in zip(by_id[::2], by_id[1::2]):
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (out / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))


def other_rope_base(source: Path, out: Path) -> None:
    """Positions rotated with a tenth of the base that the model was trained with."""
    _copy(source, out, but=("config.json",))
    rope = json.loads((source / "config.json").read_text())["rope_parameters"]
    _edit_json(out / "config.json", rope_parameters={**rope, "rope_theta": rope["rope_theta"] / 10})


def context_cut(source: Path, out: Path) -> None:
    """Attention limited to 64 tokens, as by a wrong sliding window or a truncated KV cache."""
    _copy(source, out, but=("config.json",))
    # A Mistral is a Llama with a window.
    _edit_json(
        out / "config.json", model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=WINDOW_TOKENS
    )


def _as_published(source: Path, out: Path) -> None:
    _copy(source, out)


def _six_layers_scaled(source: Path, out: Path) -> None:
    damage(source, out)


DAMAGES: dict[str, Damage] = {
    "identical copy": _as_published,
    "attention of 6 layers × 0.1": _six_layers_scaled,
    "feed-forward of 1 layer × 0.5": one_layer_halved,
    "1 of 9 heads zeroed in every layer": one_head_zeroed,
    "RoPE base / 10": other_rope_base,
    f"context cut to {WINDOW_TOKENS} tokens": context_cut,
    f"{EXCHANGED_ENTRIES} tokenizer entries exchanged": exchanged_entries,
    "chat template of another family": other_template,
}


class Production:
    """The production model, with its distributions in memory."""

    def __init__(self, folder: Path, pairs: list[tuple[str, str, str]], cache: Path) -> None:
        self.folder, self.pairs, self.cache = folder, pairs, cache
        self.tokenizer, self.model = load_tokenizer(folder), load_model(folder, "cpu", "float32")
        self.documents = held_documents(load_settings().root)
        self._logits: dict[tuple[tuple[int, ...], int], Any] = {}
        self.right = log_probability_differences(folder, pairs, cache) > 0 if pairs else None

    def logits(self, ids: tuple[int, ...], compared: int) -> Any:
        """Compute the logits of one window, once."""
        if (ids, compared) not in self._logits:
            self._logits[ids, compared] = logits_of(self.model, ids, compared).clone()
        return self._logits[ids, compared]

    def compare(self, folder: Path) -> Distributions:
        """Measure the same as `check_drift`, without loading production again."""
        started = time.monotonic()
        tokenizer, model = load_tokenizer(folder), load_model(folder, "cpu", "float32")
        windows, reading = read_documents(self.documents, self.tokenizer, tokenizer, CONTEXT_TOKENS)
        found: dict[str, list[Any]] = {}
        for window in windows:
            production_logits = self.logits(window.production_ids, window.compared)
            candidate_logits = logits_of(model, window.candidate_ids, window.compared)
            columns = line_up(
                self.tokenizer.get_vocab(),
                tokenizer.get_vocab(),
                production_logits.shape[-1],
                candidate_logits.shape[-1],
            )
            found.setdefault(window.document, []).append(
                divergence_of(production_logits, candidate_logits, window, columns)
            )
        return Distributions(
            production_digest="",
            candidate_digest="",
            text_digest="",
            scorer="",
            reading=reading,
            documents=tuple(
                DocumentDivergence(
                    document=name,
                    **{
                        field: sum(getattr(divergence, field) for divergence in divergences)
                        for field in ("tokens", "kl_nats", "agreed", "production_nll_nats", "candidate_nll_nats")
                    },
                )
                for name, divergences in found.items()
            ),
            together=True,
            seconds=time.monotonic() - started,
        )

    def flips(self, folder: Path) -> str:
        """Share of minimal pairs that flip, with its interval."""
        if self.right is None:
            return "–"
        flips = list(map(bool, self.right != (log_probability_differences(folder, self.pairs, self.cache) > 0)))
        share = share_interval(flips, range(len(flips)), CONFIDENCE)
        return f"{share.mean:.1%} ({share.low:.1%}–{share.high:.1%})"


def documents_to_decide(found: Distributions, bound: float) -> str:
    """Documents and tokens after which the KL interval lies on one side of the bound, and the side."""
    for count in range(2, len(found.documents) + 1):
        first = found.documents[:count]
        kl = positive_mean_interval(
            [document.kl_nats for document in first], [document.tokens for document in first], CONFIDENCE
        )
        assert kl.low is not None and kl.high is not None
        if kl.low > bound or kl.high < bound:
            tokens = sum(document.tokens for document in first)
            return f"{'beyond' if kl.low > bound else 'within'}: {count} ({tokens:,})"
    return "undecided"


def row(production: Production, name: str, folder: Path, bounds: Bounds) -> str:
    """Measure one variant, as a line of the table."""
    found = production.compare(folder)
    config = config_signal(folder, production.folder, same_release=True)
    signals = {signal.name: signal for signal in (config, *distribution_signals(found, bounds, CONFIDENCE))}
    caught = [f"{signal.name}" for signal in signals.values() if signal.outcome == "worse"]
    unsure = [f"{signal.name} (unsure)" for signal in signals.values() if signal.outcome == "unsure"]
    # Differences of the chat template and the config, found in milliseconds.
    files = [sentence.split(" is ")[0] for sentence in what_changed(folder, production.folder)]
    kl, top1, perplexity = (signals[key] for key in ("KL", "top-1 agreement", "perplexity"))
    read = found.reading
    chat = [document for document in found.documents if document.document.startswith("chat")]
    cells = (
        name,
        f"{kl.difference:.3f} ({kl.low:.3f}–{kl.high:.3f})",
        f"{sum(text.kl_nats for text in chat) / sum(text.tokens for text in chat):.3f}",
        f"{top1.difference:.1%} ({top1.low:.1%}–{top1.high:.1%})",
        f"{perplexity.candidate:.1f}",
        f"{len(read.differ)}/{read.documents}",
        production.flips(folder),
        documents_to_decide(found, bounds.max_kl_nats or 0.0),
        ", ".join([*caught, *unsure]) or "nothing",
        ", ".join(files) or "–",
    )
    return f"| {' | '.join(cells)} |"


HEADER = (
    "| variant | KL, nats a token | on chat answers | top-1 | perplexity | texts read differently | flips | "
    "KL gate alone: documents (tokens) | beyond a bound | files that differ |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--production", type=Path, required=True, help="a release as published")
    parser.add_argument("--int8", type=Path, help="its INT8 quantization")
    parser.add_argument("--int4", type=Path, help="its INT4 quantization")
    parser.add_argument("--pairs", type=int, default=120, help="minimal pairs for the flips; 0: none")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder for the pairs' scores")
    options = parser.parse_args()
    started = time.monotonic()
    suite = load_settings().root / "eval_suites" / "general" / "agreement.jsonl"
    items = [json.loads(line) for line in suite.read_text().splitlines()[: options.pairs]]
    pairs = [(item["id"], item["right"], item["wrong"]) for item in items]
    production = Production(options.production, pairs, options.cache)
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory(prefix="weighbridge-damage-") as scratch:
        for name, folder in {"INT8 W8A8": options.int8, "INT4 W4A16": options.int4}.items():
            if folder is not None:
                print(row(production, name, folder, Bounds()), flush=True)
        for number, (name, change) in enumerate(DAMAGES.items()):
            out = Path(scratch) / f"{number}"
            change(options.production, out)
            print(row(production, name, out, Bounds()), flush=True)
            shutil.rmtree(out)
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
