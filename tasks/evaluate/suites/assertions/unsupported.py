"""promptfoo's assertions that are not supported, and what to use instead."""

from __future__ import annotations

CODE = ("javascript", "python", "ruby", "webhook")
JUDGES = (
    "llm-rubric",
    "agent-rubric",
    "search-rubric",
    "research-rubric",
    "video-rubric",
    "factuality",
    "model-graded-closedqa",
    "model-graded-factuality",
    "g-eval",
    "answer-relevance",
    "conversation-relevance",
    "citation-faithfulness",
    "noise-sensitivity",
    "select-best",
    "max-score",
    "classifier",
    "moderation",
    "guardrails",
    "pi",
    "trajectory:goal-success",
)
FORMATS = ("is-xml", "contains-xml", "is-html", "contains-html", "is-sql", "contains-sql")
TRACES = ("trajectory:", "trace-", "skill-used")
OVERLAPS = ("rouge-n", "rouge-l", "rouge-s", "gleu", "meteor", "bertscore")


def alternative(kind: str, supported: list[str]) -> str:
    """Say what to use instead of an assertion that is not supported.

    Args:
        kind: promptfoo's name, without `not-`.
        supported: names of the supported kinds.
    """
    if kind in CODE:
        return "It would run code from the suite: write a `regex`, or `is-json` with a JSON schema, instead."
    if kind in JUDGES or kind.startswith(("context-", "promptfoo:", "model-graded")):
        return "It needs a second model as judge: write `icontains-any` or `regex` on what a right answer must say."
    if kind.startswith("similar"):
        return "It compares embeddings: use `icontains-any`, or `similar` with `provider: local:chrf`."
    if kind in FORMATS:
        return "There is no parser for that language here: write a `regex` on the part that matters."
    if kind in OVERLAPS:
        return "Use `bleu`, or `similar` with `provider: local:chrf`: both are computed by sacrebleu."
    if kind in ("perplexity", "perplexity-score"):
        return "Log-probabilities are compared by a general suite, not by an assertion on one answer."
    if kind == "cost":
        return "An engine of your own has no price per answer: use `latency`, or `word-count` for the length."
    if kind.startswith(TRACES):
        return "There is no trace of an agent here: use `tool-call-f1` on the tools that one answer calls."
    return f"Use one of {', '.join(supported)}, each also with `not-` before it."
