"""The few requests to MLflow of commands that a person waits for, over HTTP: without the import of MLflow's own client.

That import takes one to four seconds, and `status` and `approve` send few requests. Names and results are those
of `MlflowClient`; whatever is not here is asked of it, and imports it. Only a server is asked in this way: a database,
and a server behind other than a name and a password, are left to MLflow's client.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.accounts import credentials

if TYPE_CHECKING:
    import httpx
    from mlflow import MlflowClient

API = "/api/2.0/mlflow/"
OTHER_SIGN_IN = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
)
"""Variables of ways to sign in that only MLflow's own client knows."""


class Refused(Exception):
    """An answer of MLflow that is an error; the fields are those of MLflow's own exception.

    Args:
        response: The answer.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        try:
            content = response.json()
        except ValueError:
            content = {}
        content = content if isinstance(content, dict) else {}
        self.error_code = str(content.get("error_code", "") or response.status_code)
        super().__init__(f"{self.error_code}: {content.get('message') or response.reason_phrase}")


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


A = TypeVar("A", bound=_Answer)


class _Tag(_Answer):
    key: str
    value: str = ""


class ModelVersion(_Answer):
    """A version of a registered model, with the fields of MLflow's own that Weighbridge reads."""

    name: str
    version: str
    source: str = ""
    run_id: str = ""
    description: str = ""
    creation_timestamp: int = 0
    tag_list: tuple[_Tag, ...] = Field((), alias="tags")

    @property
    def tags(self) -> dict[str, str]:
        """The tags by name."""
        return {tag.key: tag.value for tag in self.tag_list}


class _Alias(_Answer):
    alias: str
    version: str


class RegisteredModel(_Answer):
    """A registered model with its aliases."""

    name: str
    alias_list: tuple[_Alias, ...] = Field((), alias="aliases")

    @property
    def aliases(self) -> dict[str, str]:
        """The versions by alias."""
        return {alias.alias: alias.version for alias in self.alias_list}


class Page(list[ModelVersion]):
    """Some versions, and the token with which the next are asked for."""

    token: str | None = None


class _Versions(_Answer):
    model_versions: tuple[ModelVersion, ...] = ()
    next_page_token: str = ""


class _Models(_Answer):
    registered_models: tuple[RegisteredModel, ...] = ()


class _Version(_Answer):
    model_version: ModelVersion


class QuickClient:
    """Stands in for `MlflowClient` before a server.

    Args:
        address: Of the server.
        whole: Makes MLflow's own client, for everything else.
    """

    def __init__(self, address: str, whole: Callable[[], MlflowClient]) -> None:
        self.tracking_uri = address
        self._make_whole = whole

    @staticmethod
    def knows(address: str) -> bool:
        """Return whether a server at this address may be asked without MLflow's own client."""
        return address.startswith(("http://", "https://")) and not any(map(os.environ.get, OTHER_SIGN_IN))

    def search_registered_models(self, filter_string: str) -> Sequence[RegisteredModel]:
        """Find registered models."""
        return _read(_Models, self._get("registered-models/search", filter=filter_string)).registered_models

    def search_model_versions(self, filter_string: str, max_results: int = 1000, page_token: str | None = None) -> Page:
        """Find versions, one page of them."""
        token = {"page_token": page_token} if page_token else {}
        answer = self._get("model-versions/search", filter=filter_string, max_results=str(max_results), **token)
        found = _read(_Versions, answer)
        page = Page(found.model_versions)
        page.token = found.next_page_token or None
        return page

    def get_model_version(self, name: str, version: str) -> ModelVersion:
        """Read one version."""
        return _read(_Version, self._get("model-versions/get", name=name, version=str(version))).model_version

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: dict[str, Any] | None = None,
        description: str | None = None,
        await_creation_for: int | None = None,
        model_id: str | None = None,
    ) -> ModelVersion:
        """Create a version; a server has made it when it answers."""
        content = {
            "name": name,
            "source": source,
            "run_id": run_id,
            "model_id": model_id,
            "description": description,
            "tags": [{"key": key, "value": str(value)} for key, value in (tags or {}).items()],
        }
        given = {key: value for key, value in content.items() if value is not None}
        return _read(_Version, self._send("POST", "model-versions/create", json=given)).model_version

    def update_model_version(self, name: str, version: str, description: str) -> None:
        """Change the description of a version."""
        self._send(
            "PATCH", "model-versions/update", json={"name": name, "version": version, "description": description}
        )

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version."""
        content = {"name": name, "version": version, "key": key, "value": value}
        self._send("POST", "model-versions/set-tag", json=content)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Move an alias of a registered model."""
        self._send("POST", "registered-models/alias", json={"name": name, "alias": alias, "version": version})

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Remove an alias of a registered model."""
        self._send("DELETE", "registered-models/alias", json={"name": name, "alias": alias})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._whole, name)

    @cached_property
    def _whole(self) -> MlflowClient:
        return self._make_whole()

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        return httpx.Client(
            base_url=self.tracking_uri.rstrip("/") + API, timeout=float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        )

    def _get(self, endpoint: str, **parameters: str) -> httpx.Response:
        return self._send("GET", endpoint, params=parameters)

    def _send(self, method: str, endpoint: str, **content: Any) -> httpx.Response:
        # Asked for each request: `signed_in` changes the account of a running process.
        name, password = credentials()
        answer = self._http.request(method, endpoint, auth=(name, password) if name else None, **content)
        if answer.status_code != 200:
            raise Refused(answer)
        return answer


def _read(kind: type[A], answer: httpx.Response) -> A:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError:
        # Another server has the port.
        raise Refused(answer) from None
