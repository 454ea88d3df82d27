"""Descriptions of OpenAI-compatible endpoints: engine, model, and whether they return prompt log-probabilities."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.evaluate.scoring.model_files import ModelFiles, digest_text
from tasks.evaluate.scoring.model_thoughts import thoughts_of
from weighbridge.errors import EndpointRefused
from weighbridge.files import write_whole

CONNECT_SECONDS, READ_SECONDS = 10.0, 300.0
"""An answer may queue behind others on a busy CPU; the first request to transformers compiles for 40 s."""
DESCRIBE_SECONDS = 10.0
VOLATILE_FIELDS = ("created", "permission")
"""Fields of a model's entry that differ from call to call (vLLM, llama.cpp)."""
PROBE = "The river runs past the old house and under the stone bridge."
PROBE_TOKENS = 5
"""Lower bound of the probe's length in tokens, with any vocabulary."""


class Endpoint(BaseModel):
    """An endpoint and one of its models."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    base: str
    """The address, with `/v1`."""
    model: str
    digest: str
    """64 hex digits of SHA-256 over the endpoint's description: the same weights under another name differ."""
    engine: str
    """Name and version, as far as the endpoint reports them."""
    model_files: ModelFiles = Field(ModelFiles(), alias="facts")
    """Written to disk as `facts`, the name in files of earlier versions."""
    context: int | None = None
    """Longest prompt plus answer, in tokens."""
    remembered: bool = False
    """Whether the endpoint did not answer, and this is its last known description."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str
    owned_by: str = ""
    max_model_len: int | None = None


class _Listing(BaseModel):
    data: list[_Entry]


def base_of(address: str) -> str:
    """Return an endpoint's address with `/v1`."""
    base = address.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def make_client(api_key: str | None, read_seconds: float = READ_SECONDS) -> httpx.Client:
    """A client with the endpoint's key."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
    # Engines are on this network: a proxy from the environment has no business between.
    return httpx.Client(headers=headers, timeout=timeout, trust_env=False)


def describe(address: str, model: str | None, api_key: str | None, memory: Path) -> Endpoint:
    """Ask an endpoint for its engine and model.

    Args:
        address: with or without `/v1`.
        model: the name under which it serves the model; its first model if None.
        api_key: sent as a bearer token if given.
        memory: folder of the last known descriptions, used if the endpoint does not answer: scores that are cached
            for it can then still be found.

    Raises:
        EndpointRefused: the endpoint never answered, refuses the key, or does not serve that model.
    """
    base = base_of(address)
    remembered_path = memory / f"{hashlib.sha256(json.dumps([base, model]).encode()).hexdigest()[:24]}.json"
    try:
        with make_client(api_key, DESCRIBE_SECONDS) as client:
            found = _request_description(client, base, model)
    except httpx.TransportError as error:
        if remembered_path.is_file():
            return Endpoint.model_validate_json(remembered_path.read_bytes()).model_copy(update={"remembered": True})
        raise EndpointRefused(
            f"The endpoint does not answer: {type(error).__name__}: {error}.",
            "Start it, or correct its address.",
            where=base,
        ) from None
    write_whole(remembered_path, found.model_dump_json(by_alias=True))
    return found


def lacks_log_probabilities(base: str, model: str, api_key: str | None) -> str:
    """Say why an endpoint cannot score log-likelihoods; empty if it can.

    A prompt is sent with `echo`, and the log-probabilities of its tokens must come back. llama.cpp's server accepts
    the parameter and ignores it, which would give scores at the level of chance.
    """
    body = {
        "model": model,
        "prompt": PROBE,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 1,
        "echo": True,
    }
    with make_client(api_key) as client:
        try:
            response = client.post(f"{base}/completions", json=body)
        except httpx.TransportError as error:
            return f"it does not answer: {type(error).__name__}: {error}"
    if response.status_code != 200:
        return f"its /v1/completions answers {response.status_code}: {response.text[:200]}"
    try:
        choice = response.json()["choices"][0]
        text, numbers = choice["text"], (choice.get("logprobs") or {}).get("token_logprobs") or []
    except (ValueError, LookupError, TypeError, AttributeError):
        return "its /v1/completions does not answer as OpenAI's does"
    if not isinstance(text, str) or not text.startswith(PROBE):
        return "it ignores `echo`: the prompt does not come back"
    usable = [
        number for number in numbers if isinstance(number, (int, float)) and math.isfinite(number) and number <= 0
    ]
    if len(usable) < PROBE_TOKENS:
        return f"it returns log-probabilities of {len(usable)} tokens of a prompt of more than {PROBE_TOKENS}"
    return ""


def _request_description(client: httpx.Client, base: str, model: str | None) -> Endpoint:
    response = client.get(f"{base}/models")
    if response.status_code != 200:
        raise EndpointRefused(
            f"{base}/models answers {response.status_code}: {response.text[:200]}",
            "Name the environment variable that holds the key (--candidate-key-env, --production-key-env)."
            if response.status_code in (401, 403)
            else "Name the address of an OpenAI-compatible endpoint.",
            where=base,
        )
    try:
        entries = _Listing.model_validate_json(response.content).data
    except ValidationError:
        entries = []
    entry = next((entry for entry in entries if model in (None, entry.id)), None)
    if entry is None:
        names = ", ".join(entry.id for entry in entries) or "no model at all"
        raise EndpointRefused(
            f"It does not serve {model!r} but {names}." if model else "It lists no model.",
            "Name one after the address: http://host:port#model.",
            where=base,
        )
    root = base.removesuffix("/v1")
    version, props = _optional(client, f"{root}/version"), _optional(client, f"{root}/props")
    build = str(version.get("version") or props.get("build_info") or "")
    server = response.headers.get("Server", "")
    engine = f"{entry.owned_by} {build}".strip() if build else f"unnamed, behind {server or 'no named server'}"
    template = props.get("chat_template")
    model_files = ModelFiles()
    if isinstance(template, str):
        model_files = ModelFiles(chat_template=digest_text(template), thoughts=thoughts_of(template, {}))
    stable = {key: value for key, value in entry.model_dump().items() if key not in VOLATILE_FIELDS}
    identity = [base, stable, engine, str(props.get("model_path", "")), model_files.model_dump(exclude={"thoughts"})]
    return Endpoint(
        base=base,
        model=entry.id,
        digest=hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest(),
        engine=engine,
        model_files=model_files,
        context=entry.max_model_len,
    )


def _optional(client: httpx.Client, url: str) -> dict[str, Any]:
    """Read a route that only some engines have; empty if this one does not."""
    try:
        found = client.get(url)
        content = found.json() if found.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        # vLLM has /version and llama.cpp /props; other engines may answer anything.
        return {}
    return content if isinstance(content, dict) else {}
