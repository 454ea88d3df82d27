"""Run by vLLM's own Python: the log-probability of each token of one prompt under each model folder, as JSON lines."""

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
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    for folder in sys.argv[1:]:
        model = LLM(
            model=folder,
            enforce_eager=True,
            max_model_len=128,
            max_num_seqs=2,
            skip_tokenizer_init=True,
            distributed_executor_backend="uni",
        )
        (answer,) = model.generate([{"prompt_token_ids": PROMPT}], asked, use_tqdm=False)
        probabilities = [entry[token].logprob for token, entry in zip(PROMPT[1:], answer.prompt_logprobs[1:])]
        print(json.dumps(probabilities), flush=True)
        del model
        gc.collect()


if __name__ == "__main__":
    main()
