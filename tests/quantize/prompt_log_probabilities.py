"""Run by vLLM's own Python: the log-probability of each token of one prompt under each model folder, as JSON lines.

A folder that vLLM refuses has the reason in its line instead, as text."""

import gc
import json
import os
import sys

# One process, so that a model takes seconds once vLLM is imported; small caches, no network.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
)

from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

PROMPT = list(range(64))


def main() -> None:
    """One line a folder, in their order."""
    for folder in sys.argv[1:]:
        try:
            print(json.dumps(log_probabilities(folder)), flush=True)
        except Exception as refused:  # vLLM's errors have no class of their own
            print(json.dumps(f"{refused!r} {refused.__cause__!r}"), flush=True)
        gc.collect()


def log_probabilities(folder: str) -> list[float]:
    """That of each token of the prompt but the first."""
    model = LLM(
        model=folder,
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=2,
        skip_tokenizer_init=True,
        distributed_executor_backend="uni",
    )
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    (answer,) = model.generate([{"prompt_token_ids": PROMPT}], asked, use_tqdm=False)
    return [entry[token].logprob for token, entry in zip(PROMPT[1:], answer.prompt_logprobs[1:])]


if __name__ == "__main__":
    main()
