"""lm-eval's client of `/v1/completions`, held to what the model's own tokenizer sends and what an echo must return.

Only the scoring process imports this file: lm-eval takes seconds.
"""

from __future__ import annotations

from typing import Any

from lm_eval.models.openai_completions import LocalCompletionsAPI

TOLERANCE = 1e-3
"""By which rounding may lift a log-probability above 0."""
SAMPLE = "The river runs past the old house."


class WrongTokens(Exception):
    """The engine was or would be asked about other tokens than the model's own tokenizer gives."""


class CheckedCompletions(LocalCompletionsAPI):
    """Sends the ids that the tokenizer gives by default, with its BOS, and takes only echoes of just these ids.

    lm-eval's client leaves the BOS out unless told, and engines add none to ids: models that were trained with one
    then score near chance.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        own, bos = self._own_ids(SAMPLE), self.tokenizer.bos_token_id
        self.add_bos_token = bos is not None and own[:1] == [bos]
        sent = self.tok_encode(SAMPLE)
        if sent != own:
            raise WrongTokens(
                f"the model's own tokenizer makes {len(own)} tokens of a sentence, first {own[:3]}, and "
                f"{len(sent)} would be sent, first {sent[:3]}."
            )
        # Now, because lm-eval asks again and again after an answer that cannot be read.
        answer = self.model_call([own], generate=False)
        self.parse_logprobs(answer or {"choices": []}, tokens=[own], ctxlens=[1])

    def tok_encode(self, string: Any, *arguments: Any, **options: Any) -> Any:
        """Encode with the BOS also by a tokenizer behind the endpoint, which lm-eval asks for none."""
        ids = super().tok_encode(string, *arguments, **options)
        if self.tokenizer_backend != "remote" or not self.add_bos_token:
            return ids
        bos = [self.tokenizer.bos_token_id]
        return bos + ids if isinstance(string, str) else [bos + each for each in ids]

    @staticmethod
    def parse_logprobs(
        outputs: Any, tokens: Any = None, ctxlens: Any = None, **options: Any
    ) -> list[tuple[float, bool]]:
        """Sum log-probabilities of echoes that have one number for each id sent, and one for the token after.

        Raises:
            WrongTokens: an echo has another length.
        """
        answers = outputs if isinstance(outputs, list) else [outputs]
        choices = [
            choice for answer in answers for choice in sorted(answer["choices"], key=lambda entry: entry["index"])
        ]
        if len(choices) != len(tokens or []):
            raise WrongTokens(f"{len(tokens or [])} prompts got {len(choices)} answers.")
        for choice, ids in zip(choices, tokens or [], strict=True):
            numbers = (choice.get("logprobs") or {}).get("token_logprobs") or []
            if len(numbers) != len(ids) + 1:
                raise WrongTokens(f"an echo of {len(ids)} tokens and one more has {len(numbers)} log-probabilities.")
            if not all(isinstance(number, int | float) and number <= TOLERANCE for number in numbers[1:]):
                raise WrongTokens(f"an echo of {len(ids)} tokens has log-probabilities that are none.")
        return LocalCompletionsAPI.parse_logprobs(outputs, tokens=tokens, ctxlens=ctxlens, **options)

    def _own_ids(self, text: str) -> list[int]:
        if self.tokenizer_backend == "huggingface":
            return list(self.tokenizer(text).input_ids)
        url = f"{self.tokenizer.base_url}/tokenize"
        answer = self.tokenizer._request_with_retries("POST", url, json={"prompt": text})
        return list(answer.json()["tokens"])
