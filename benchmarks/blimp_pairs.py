"""Real per-item scores for `benchmarks.verdict_errors`: minimal pairs (BLiMP) under a model and its quantizations.

Run `python -m benchmarks.blimp_pairs --pairs FOLDER --models fp32=FOLDER int8=FOLDER --cache FOLDER`: about four
minutes a model on one core for 4,000 pairs of SmolLM2-135M; scores are cached. An item is right if the grammatical
sentence has the larger log-probability; the difference of the two, in nats, is the model's confidence. Scored in
float32 with plain transformers, sentences sorted by length; padding does not enter a score.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

PAIRS_IN_A_BATCH = 24
SEED = 7
DEFAULT_CACHE = Path(tempfile.gettempdir()) / "weighbridge-verdict-errors"


def read_pairs(folder: Path, count: int) -> list[tuple[str, str, str]]:
    """Draw pairs uniformly at random from all files of a folder: id, good sentence, bad sentence."""
    pairs = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines()):
            item = json.loads(line)
            pairs.append((f"{path.stem}-{number}", item["sentence_good"], item["sentence_bad"]))
    order = np.random.default_rng(SEED).permutation(len(pairs))[:count]
    return [pairs[number] for number in sorted(order)]


def log_probability_differences(model_folder: Path, pairs: list[tuple[str, str, str]], cache: Path) -> np.ndarray:
    """Log-probability of the good minus that of the bad sentence of each pair, in nats; cached."""
    key = hashlib.sha256(json.dumps([str(model_folder.resolve()), pairs]).encode()).hexdigest()[:16]
    cached = cache / f"blimp-{key}.npy"
    if cached.is_file():
        return np.load(cached)
    differences = _score(model_folder, pairs)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(cached, differences)
    return differences


def _score(model_folder: Path, pairs: list[tuple[str, str, str]]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    texts = [text for _, good, bad in pairs for text in (good, bad)]
    tokens = [[start, *tokenizer(text, add_special_tokens=False).input_ids] for text in texts]
    scores = np.zeros(len(texts))
    by_length = sorted(range(len(texts)), key=lambda number: len(tokens[number]))
    for begin in range(0, len(texts), 2 * PAIRS_IN_A_BATCH):
        batch = by_length[begin : begin + 2 * PAIRS_IN_A_BATCH]
        longest = max(len(tokens[number]) for number in batch)
        ids = torch.full((len(batch), longest), start)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, number in enumerate(batch):
            ids[row, : len(tokens[number])] = torch.tensor(tokens[number])
            mask[row, : len(tokens[number])] = 1
        with torch.inference_mode():
            # Padding on the right does not affect earlier positions of a causal model.
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            taken = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
        scores[batch] = (taken * mask[:, 1:]).sum(-1).double().numpy()
        if begin % (100 * PAIRS_IN_A_BATCH) == 0:
            print(f"{model_folder.name}: {begin} of {len(texts)} sentences", file=sys.stderr)
    return scores[0::2] - scores[1::2]


def main() -> None:
    """Score each model, and print how many items it gains and loses against the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of BLiMP's JSON-lines files")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER", help="production first")
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    options = parser.parse_args()
    pairs = read_pairs(options.pairs, options.items)
    scores = {}
    for name, _, folder in (text.partition("=") for text in options.models):
        scores[name] = log_probability_differences(Path(folder), pairs, options.cache)
    production = next(iter(scores.values())) > 0
    print("| model | right | gained | lost | flips |\n| --- | --- | --- | --- | --- |")
    for name, differences in scores.items():
        right = differences > 0
        gained, lost = (right & ~production).sum(), (~right & production).sum()
        print(f"| {name} | {right.mean():.1%} | {gained} | {lost} | {(gained + lost) / len(right):.1%} |")


if __name__ == "__main__":
    main()
