"""Inputs of a comparison: a model folder, an artifact of the store or a model behind an endpoint, and suites."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.store import Store
from tasks.evaluate.scoring.chat import ChatScorer
from tasks.evaluate.scoring.endpoint import Endpoint, describe
from tasks.evaluate.scoring.lm_eval import LmEvalScorer
from tasks.evaluate.scoring.lm_eval_child import RemoteModel
from tasks.evaluate.scoring.model_files import ModelFiles, folder_digest, read_model_files
from tasks.evaluate.suites.lint.check import locate
from tasks.evaluate.suites.suite import SUFFIX, Suite, find_suite, suite_at
from tasks.source.local_folder import folder_at
from weighbridge.errors import ArtifactMissing, ModelUnreadable, OptionInvalid
from weighbridge.settings import Settings

STORED = re.compile(r"store://(?P<line>[a-z0-9-]+)/(?P<digest>[0-9a-f]{6,64})")


class ComparedModel(BaseModel):
    """One of the two models of a comparison."""

    model_config = ConfigDict(frozen=True)

    label: str
    """The model as the user named it."""
    kind: Literal["folder", "endpoint"]
    digest: str
    """64 hex digits: of the folder's files, or of the endpoint's description."""
    model_files: ModelFiles
    folder: Path | None = None
    endpoint: Endpoint | None = None
    api_key: str | None = Field(None, repr=False, exclude=True)

    @property
    def engine(self) -> str:
        """The engine's name for the report."""
        return self.endpoint.engine if self.endpoint else "lm-eval on its files"

    def lm_eval_scorer(self, tokenizer: Path | None, batch_size: int | None = None) -> LmEvalScorer:
        """Scorer of general suites."""
        if self.endpoint is None:
            assert self.folder is not None
            return LmEvalScorer(self.digest, self.folder, model_files=self.model_files, batch_size=batch_size)
        remote = RemoteModel(
            base=self.endpoint.base, model=self.endpoint.model, tokenizer=tokenizer, context=self.endpoint.context
        )
        return LmEvalScorer(
            self.digest,
            remote,
            engine=self.endpoint.engine,
            model_files=self.model_files,
            batch_size=batch_size,
            api_key=self.api_key,
        )

    def chat_scorer(self, rescored: bool = False) -> ChatScorer:
        """Scorer of regression suites; only an endpoint has one."""
        assert self.endpoint is not None
        return ChatScorer(
            endpoint=self.endpoint.base,
            model=self.endpoint.model,
            artifact_digest=self.digest,
            engine=self.endpoint.engine,
            model_files=self.model_files,
            rescored=rescored,
        )


def resolve_model(name: str, settings: Settings, key_env: str | None = None) -> ComparedModel:
    """Find a model by the name that the user gave.

    Args:
        name: a folder or `file:///folder`, `store://line/digest` (6 digits or more), or `http://host:port[/v1][#model]`.
        settings: of the installation.
        key_env: environment variable with the endpoint's key.

    Raises:
        ModelUnreadable: the folder is not a model's.
        SourceInvalid: it is an address of another kind.
        ArtifactMissing: the store has no such artifact, or several.
        EndpointRefused: the endpoint does not answer, or does not serve that model.
        OptionInvalid: the environment variable is not set.
    """
    if name.startswith(("http://", "https://")):
        address, _, model = name.partition("#")
        key = _read_key(key_env)
        endpoint = describe(address, model or None, key, settings.home / "scores" / "endpoints")
        return ComparedModel(
            label=f"{endpoint.base}#{endpoint.model}",
            kind="endpoint",
            digest=endpoint.digest,
            model_files=endpoint.model_files,
            endpoint=endpoint,
            api_key=key,
        )
    if name.startswith("store://"):
        return _find_artifact(name, Store.of(settings))
    folder = folder_at(name)
    if not (folder / "config.json").is_file():
        raise ModelUnreadable(
            f"{name} is no model's folder: it has no config.json.",
            "Name a model's folder, store://line/digest, or an endpoint's address such as http://127.0.0.1:8000.",
        )
    return _folder_model(name, folder_digest(folder, settings.home), folder)


def resolve_suite(name: str) -> Suite:
    """Find a suite by its name, with or without its kind, or by the path of its file.

    Raises:
        SuiteUnknown: there is no such suite or file, or several.
        SuiteInvalid: its file cannot be used.
    """
    found, path = locate(name)
    if "/" in found:
        return find_suite(found)
    return suite_at(f"{'general' if path.suffix == SUFFIX['general'] else 'regression'}/{found}", path)


def _folder_model(label: str, digest: str, folder: Path) -> ComparedModel:
    return ComparedModel(label=label, kind="folder", digest=digest, model_files=read_model_files(folder), folder=folder)


def _find_artifact(name: str, store: Store) -> ComparedModel:
    match = STORED.fullmatch(name)
    artifacts = store.artifacts(match["line"]) if match else []
    matches = [artifact for artifact in artifacts if match and artifact.digest.startswith(match["digest"])]
    if len(matches) != 1:
        raise ArtifactMissing(
            f"The store has {'several artifacts' if matches else 'no artifact'} {name}.",
            "Name it as store://line/digest, with enough digits; `weighbridge status` lists them.",
            where=str(store.folder),
        )
    return _folder_model(matches[0].uri, matches[0].digest, store.path(matches[0]))


def _read_key(key_env: str | None) -> str | None:
    if key_env is None:
        return None
    if not os.environ.get(key_env):
        raise OptionInvalid(f"The environment variable {key_env} is not set.", "Set it to the endpoint's key.")
    return os.environ[key_env]
