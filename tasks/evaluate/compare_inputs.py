"""What `compare` compares, and on what: a model's folder, an artifact of the store, or a model behind an endpoint."""

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
from weighbridge.errors import ArtifactMissing, ModelUnreadable, OptionInvalid
from weighbridge.settings import load_settings

STORED = re.compile(r"store://(?P<line>[a-z0-9-]+)/(?P<digest>[0-9a-f]{6,64})")


class ComparedModel(BaseModel):
    """One of the two that are compared."""

    model_config = ConfigDict(frozen=True)

    label: str
    """As it was named."""
    kind: Literal["folder", "endpoint"]
    digest: str
    """64 hex digits: of the files, or of what the endpoint says of itself."""
    model_files: ModelFiles
    folder: Path | None = None
    endpoint: Endpoint | None = None
    api_key: str | None = Field(None, repr=False, exclude=True)

    @property
    def engine(self) -> str:
        """What runs it, in words."""
        return self.endpoint.engine if self.endpoint else "lm-eval on its files"

    def general(self, tokenizer: Path | None, batch_size: int | None = None) -> LmEvalScorer:
        """How it is scored on general suites."""
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

    def chat_scorer(self, again: bool = False) -> ChatScorer:
        """How it is asked regression suites; only an endpoint can be."""
        assert self.endpoint is not None
        return ChatScorer(
            endpoint=self.endpoint.base,
            model=self.endpoint.model,
            artifact_digest=self.digest,
            engine=self.endpoint.engine,
            model_files=self.model_files,
            again=again,
        )


def resolve_model(named: str, key_env: str | None = None, store: Store | None = None) -> ComparedModel:
    """Find out what was named.

    Args:
        named: a folder, `store://line/digest` (its first 6 digits or more), or `http://host:port[/v1][#model]`.
        key_env: the environment variable with an endpoint's key.
        store: the installation's by default.

    Raises:
        ModelUnreadable: it is no model's folder.
        ArtifactMissing: the store has no such artifact, or several.
        EndpointRefused: it does not answer, or does not serve that model.
        OptionInvalid: the variable is not set.
    """
    if named.startswith(("http://", "https://")):
        address, _, model = named.partition("#")
        key = _key(key_env)
        endpoint = describe(address, model or None, key, load_settings().home / "scores" / "endpoints")
        return ComparedModel(
            label=f"{endpoint.base}#{endpoint.model}",
            kind="endpoint",
            digest=endpoint.digest,
            model_files=endpoint.model_files,
            endpoint=endpoint,
            api_key=key,
        )
    if named.startswith("store://"):
        return _stored(named, store or Store())
    folder = Path(named)
    if not (folder / "config.json").is_file():
        raise ModelUnreadable(
            f"{named} is no model's folder: it has no config.json.",
            "Name a model's folder, store://line/digest, or an endpoint's address such as http://127.0.0.1:8000.",
        )
    return ComparedModel(
        label=named, kind="folder", digest=folder_digest(folder), model_files=read_model_files(folder), folder=folder
    )


def resolve_suite(named: str) -> Suite:
    """A suite by its name, with or without its kind, or by the path of its file.

    Raises:
        SuiteUnknown: there is no such suite or file, or several.
        SuiteInvalid: its file cannot be used.
    """
    name, path = locate(named)
    if "/" in name:
        return find_suite(name)
    return suite_at(f"{'general' if path.suffix == SUFFIX['general'] else 'regression'}/{name}", path)


def _stored(named: str, store: Store) -> ComparedModel:
    match = STORED.fullmatch(named)
    fitting = [one for one in store.artifacts(match["line"]) if one.digest.startswith(match["digest"])] if match else []
    if len(fitting) != 1:
        raise ArtifactMissing(
            f"The store has {'several artifacts' if fitting else 'no artifact'} {named}.",
            "Name it as store://line/digest, with enough digits; `weighbridge status` lists them.",
            where=str(store.folder),
        )
    folder = store.path(fitting[0])
    return ComparedModel(
        label=fitting[0].uri,
        kind="folder",
        digest=fitting[0].digest,
        model_files=read_model_files(folder),
        folder=folder,
    )


def _key(key_env: str | None) -> str | None:
    if key_env is None:
        return None
    if not os.environ.get(key_env):
        raise OptionInvalid(f"The environment variable {key_env} is not set.", "Set it to the endpoint's key.")
    return os.environ[key_env]
