"""The scorer of a release: it scores artifacts through the engine and flags that will serve the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from registry.store import Artifact, Store
from tasks.evaluate.scoring.chat import ChatScorer, chat_scorer_name
from tasks.evaluate.scoring.endpoint import base_of, lacks_log_probabilities
from tasks.evaluate.scoring.lm_eval import LmEvalScorer, local_scorer_name, remote_scorer_name
from tasks.evaluate.scoring.lm_eval_child import RemoteModel
from tasks.evaluate.scoring.model_files import read_model_files
from weighbridge.errors import SuiteNeedsMore
from weighbridge.line import Line


class StartedEngine(Protocol):
    """A running engine, as far as scoring needs it."""

    @property
    def url(self) -> str:
        """The engine's address without `/v1`."""

    @property
    def key(self) -> str:
        """What the engine demands of every request; empty if nothing."""


StartEngine = Callable[[Line, Artifact, Callable[[str], None]], AbstractContextManager[StartedEngine]]
"""Finds or starts the line's engine with an artifact; ends it on exit if it was started here."""


@dataclass(frozen=True, slots=True)
class ServingScorer:
    """Scores artifacts through a line's own engine."""

    engine: str
    """Name, version and flags of the engine, as scores record them."""
    prompt_log_probabilities: bool
    """Whether the engine returns prompt log-probabilities, so that general suites can be scored through it."""
    can_serve: Callable[[Artifact], bool]
    """Whether the engine reads an artifact's file format."""
    start_engine: StartEngine
    store: Store
    """The artifact store."""

    def lm_eval_name(self, batch_size: int | None = None) -> str:
        """Name of the scorer of general suites, part of the score cache's key."""
        if self.prompt_log_probabilities:
            return remote_scorer_name(self.engine, batch_size)
        return local_scorer_name(batch_size)

    def chat_name(self) -> str:
        """Name of the scorer of regression suites, with the assertions' version; part of the score cache's key."""
        return chat_scorer_name(self.engine)

    @property
    def sentence(self) -> str:
        """What scored the general suites, and what that leaves open, for the report."""
        if self.prompt_log_probabilities:
            return f"General suites were scored through the engine that will serve, {self.engine}."
        return (
            "General suites were scored by transformers on the same files, because the engine that will serve "
            f"({self.engine}) returns no prompt log-probabilities. Errors of the engine itself show only in the "
            "regression suites, which were scored through it."
        )

    @contextmanager
    def lm_eval_scorer(
        self, line: Line, artifact: Artifact, log: Callable[[str], None], batch_size: int | None = None
    ) -> Iterator[LmEvalScorer]:
        """Prepare an artifact for general suites; an engine that is needed runs within the block.

        Args:
            line: its name is the model's name, its target gives context and concurrency.
            artifact: the model to score.
            log: called with progress messages of the engine's start.
            batch_size: items at once; `lm_eval.BATCH_SIZE` if None.

        Raises:
            SuiteNeedsMore: the engine returns no prompt log-probabilities although its kind is known to.
        """
        folder = self.store.path(artifact)
        if not self.prompt_log_probabilities:
            yield LmEvalScorer(artifact.digest, folder, batch_size=batch_size)
            return
        with self.start_engine(line, artifact, log) as engine:
            base = base_of(engine.url)
            if missing := lacks_log_probabilities(base, line.name, engine.key or None):
                raise SuiteNeedsMore(
                    f"{self.engine} is needed for general suites, but returns no prompt log-probabilities: {missing}.",
                    "Look at its log and flags; a newer version may have changed its API.",
                    where=base,
                )
            remote = RemoteModel(
                base=base,
                model=line.name,
                tokenizer=folder,
                context=line.target.context,
                concurrency=line.target.concurrency,
            )
            yield LmEvalScorer(
                artifact.digest,
                remote,
                engine=self.engine,
                model_files=read_model_files(folder),
                batch_size=batch_size,
                api_key=engine.key or None,
            )

    def chat_scorer(self, line: Line, artifact: Artifact, engine: StartedEngine) -> ChatScorer:
        """Scorer of regression suites through a running engine that serves the artifact."""
        return ChatScorer(
            endpoint=engine.url,
            model=line.name,
            artifact_digest=artifact.digest,
            engine=self.engine,
            model_files=read_model_files(self.store.path(artifact)),
        )
