"""The engine that is to serve a line, as far as weighing needs it: what it is, and how models are scored through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from registry.store import Artifact, Store
from tasks.evaluate.scoring.chat import Asking
from tasks.evaluate.scoring.endpoint import base_of, lacks_log_probabilities
from tasks.evaluate.scoring.lm_eval import GeneralScoring, remote_scorer_name, scorer_name
from tasks.evaluate.scoring.lm_eval_child import Remote
from tasks.evaluate.scoring.model_files import read_facts
from weighbridge.errors import SuiteNeedsMore
from weighbridge.line import Line


class Launched(Protocol):
    """What a launched engine must tell of itself."""

    @property
    def url(self) -> str:
        """Address without `/v1`."""


Launch = Callable[[Line, Artifact, Callable[[str], None]], AbstractContextManager[Launched]]
"""Starts (or finds) the engine that is to serve an artifact, and ends it again if it started it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How a line's engine is tried."""

    engine: str
    """Its name, version and flags, as scores record them."""
    prompt_log_probabilities: bool
    """Whether general suites can be scored through it."""
    serves: Callable[[Artifact], bool]
    """Whether it reads an artifact's files."""
    launch: Launch

    def scorer(self, batch_size: int | None = None) -> str:
        """What scores general suites, as the book records it."""
        if self.prompt_log_probabilities:
            return remote_scorer_name(self.engine, batch_size)
        return scorer_name(batch_size)

    @property
    def sentence(self) -> str:
        """Through what the general suites are scored, and what that leaves open."""
        if self.prompt_log_probabilities:
            return f"General suites were scored through the engine that is to serve, {self.engine}."
        return (
            "General suites were scored by transformers on the same files: the engine that is to serve "
            f"({self.engine}) tells no log-probabilities of prompts. What it does to them itself, only the regression "
            "suites have seen, which were asked through it."
        )

    @contextmanager
    def scoring(
        self, line: Line, artifact: Artifact, tell: Callable[[str], None], batch_size: int | None = None
    ) -> Iterator[GeneralScoring]:
        """How an artifact is scored on general suites; the engine runs within the block where it is scored through it.

        Raises:
            SuiteNeedsMore: the engine does not give what its kind is known to give.
        """
        folder = Store().path(artifact)
        if not self.prompt_log_probabilities:
            yield GeneralScoring(artifact.digest, folder, batch_size=batch_size)
            return
        with self.launch(line, artifact, tell) as launched:
            base = base_of(launched.url)
            if lacking := lacks_log_probabilities(base, line.name, None):
                raise SuiteNeedsMore(
                    f"{self.engine} is to score general suites and gives no log-probabilities of prompts: {lacking}.",
                    "Look at its log and flags; a newer version may have changed its API.",
                    where=base,
                )
            remote = Remote(
                base=base,
                model=line.name,
                tokenizer=folder,
                context=line.target.context,
                concurrency=line.target.concurrency,
            )
            facts = read_facts(folder)
            yield GeneralScoring(artifact.digest, remote, engine=self.engine, facts=facts, batch_size=batch_size)

    def asking(self, line: Line, artifact: Artifact, launched: Launched) -> Asking:
        """How a launched engine is asked regression suites."""
        return Asking(
            endpoint=launched.url,
            model=line.name,
            artifact_digest=artifact.digest,
            engine=self.engine,
            facts=read_facts(Store().path(artifact)),
        )
