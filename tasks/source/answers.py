"""The Hub's answers: received within limits of size and time, and checked against one model each.

A Hub, or whoever answers in its name, may send without end, send slowly, compress a gigabyte into a megabyte, or
redirect. A question about a repository is answered by the Hub's own host; files may come from another one, to which
httpx sends no token, and are verified by their hashes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from tasks.source import client
from tasks.source.client import Hub
from weighbridge.documents import parse_json
from weighbridge.errors import DocumentInvalid
from weighbridge.validation import fault_of, field_of

if TYPE_CHECKING:
    from httpx import Response

T = TypeVar("T", bound=BaseModel)
Received = TypeVar("Received")

MAX_ANSWER_BYTES = 32 * 2**20
"""Of an answer about a repository; one with 10,000 files has 3 MB."""
ANSWER_SECONDS = 120.0
"""For an answer as a whole, beside the timeout of each read."""
MAX_ERROR_BYTES = 2**16
REDIRECTS = 5
MAX_FILES = 50_000

Commit = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
Bytes = Annotated[StrictInt, Field(ge=0, le=2**50)]
Tag = Annotated[StrictStr, Field(max_length=1000)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class LargeFile(_Answer):
    """`lfs` of a file."""

    sha256: Sha256
    size: Bytes


class ListedFile(_Answer):
    """One of `siblings`."""

    path: Annotated[StrictStr, Field(alias="rfilename", min_length=1, max_length=1000)]
    size: Bytes | None = None
    blob_id: Commit | None = Field(None, alias="blobId")
    lfs: LargeFile | None = None


class Parameters(_Answer):
    """`safetensors`: the Hub's count of parameters."""

    total: Annotated[StrictInt, Field(ge=0, le=2**60)] | None = None


class Model(_Answer):
    """The Hub's answer about a repository."""

    id: Annotated[StrictStr, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", max_length=200)]
    sha: Commit | None = None
    gated: StrictBool | Annotated[StrictStr, Field(max_length=40)] | None = None
    disabled: StrictBool | None = None
    tags: Annotated[list[Tag], Field(max_length=10_000)] | None = None
    card: dict[str, Any] | None = Field(None, alias="cardData")
    created_at: AwareDatetime | None = Field(None, alias="createdAt")
    safetensors: Parameters | None = None
    files: Annotated[list[ListedFile], Field(alias="siblings", max_length=MAX_FILES)] = []

    @property
    def licence_tag(self) -> str | None:
        """Licence by which the Hub lists it; None without one."""
        return next((tag.removeprefix("license:") for tag in self.tags or [] if tag.startswith("license:")), None)


class Listing(_Answer):
    """The Hub's list of an author's repositories."""

    models: Annotated[list[Model], Field(max_length=10_000)]


def ask_model(hub: Hub, repo: str, revision: str, *, files: bool = False) -> Model:
    """Ask about a repository at a revision.

    Args:
        hub: The Hub.
        repo: `org/model`.
        revision: A branch, tag or commit.
        files: Whether the answer lists the files with their sizes and hashes.

    Raises:
        SourceUnknown, SourceUnreachable: As `Hub.call`; also if the answer is not a Hub's.
        SourceUnknown: The repository has another name now.
    """
    from urllib.parse import quote

    from huggingface_hub.utils import validate_repo_id

    address = f"{hub.endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}"

    def request() -> Model:
        validate_repo_id(repo)
        return _parsed(hub, _from_own_host(hub, address, {"blobs": True} if files else {}), Model)

    found = hub.call(request, repo=repo, revision=revision)
    if found.id.casefold() != repo.casefold():
        raise hub.renamed(repo, found.id)
    return found


def ask_listing(hub: Hub, author: str, parameters: Mapping[str, Any]) -> list[Model]:
    """Ask for an author's repositories, one answer.

    Raises:
        SourceUnknown, SourceUnreachable: As `Hub.call`; also if the answer is not a Hub's.
    """

    def request() -> list[Model]:
        content = _from_own_host(hub, f"{hub.endpoint}/api/models", {"author": author, **parameters})
        return _parsed(hub, b'{"models":' + content + b"}", Listing).models

    return hub.call(request, repo=author, revision="main")


def read_file(hub: Hub, repo: str, commit: str, path: str, limit_bytes: int, *, first_byte: int | None = None) -> bytes:
    """Read a file, or the part of it up to a limit.

    A longer file is cut there, so that its hash does not fit.

    Args:
        hub: The Hub.
        repo, commit, path: Of the file.
        limit_bytes: Most bytes to receive.
        first_byte: Where to begin; by default at the start, and without asking for a range.

    Raises:
        SourceUnknown, SourceUnreachable: As `Hub.call`.
    """
    ranged = {} if first_byte is None else {"Range": f"bytes={first_byte}-{first_byte + limit_bytes - 1}"}

    def read() -> bytes:
        answer, content = _receive(hub, hub.file_url(repo, path, commit), limit_bytes, headers=ranged, redirects=True)
        if first_byte and answer.status_code != 206:
            raise hub.unusable(f"it sends {path[:200]} from its start instead of from byte {first_byte}")
        return content

    return hub.call(read, repo=repo, revision=commit)[:limit_bytes]


def within(hub: Hub, answer: Response, limit_bytes: int, what: str) -> bytes:
    """Receive an answer's body, as sent, up to a limit of bytes and of time.

    Raises:
        SourceUnreachable: It is compressed, although that was not asked for, or comes too slowly.
    """
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise hub.unusable(f"it sends {what} compressed, which was not asked for")
    content, deadline = bytearray(), time.monotonic() + ANSWER_SECONDS
    for block in answer.iter_raw():
        content += block
        if len(content) > limit_bytes:
            break
        if time.monotonic() > deadline:
            raise hub.unusable(f"{what} is not complete after {ANSWER_SECONDS:g} s")
    return bytes(content)


def raise_for_error(answer: Response) -> None:
    """Raise huggingface_hub's error for an answer that is one; its body is read up to a limit."""
    import httpx
    from huggingface_hub.utils import hf_raise_for_status

    if not answer.is_error:
        return
    body, deadline = b"", time.monotonic() + client.TIMEOUT_SECONDS
    for block in answer.iter_raw():
        body += block
        if len(body) > MAX_ERROR_BYTES or time.monotonic() > deadline:
            break
    kept = [(name, value) for name, value in answer.headers.multi_items() if name.lower() not in _OF_THE_BODY]
    hf_raise_for_status(
        httpx.Response(answer.status_code, headers=kept, content=body[:MAX_ERROR_BYTES], request=answer.request)
    )


_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")


def _from_own_host(hub: Hub, address: str, parameters: Mapping[str, Any]) -> bytes:
    """Get an answer from the Hub's own host; a redirect to another one is refused."""
    import httpx

    origin = httpx.URL(hub.endpoint)
    url = httpx.URL(address, params=dict(parameters)) if parameters else httpx.URL(address)
    for _ in range(REDIRECTS):
        answer, content = _receive(hub, str(url), MAX_ANSWER_BYTES, headers={}, redirects=False)
        if not answer.has_redirect_location:
            if len(content) > MAX_ANSWER_BYTES:
                raise hub.unusable(f"the answer is larger than {MAX_ANSWER_BYTES / 2**20:g} MiB")
            return content
        url = url.join(answer.headers["Location"])
        if (url.scheme, url.host, url.port) != (origin.scheme, origin.host, origin.port):
            raise hub.unusable(f"it redirects the question to {url.scheme}://{url.host[:100]}")
    raise hub.unusable(f"it redirects more than {REDIRECTS} times")


def _receive(
    hub: Hub, url: str, limit_bytes: int, *, headers: Mapping[str, str], redirects: bool
) -> tuple[Response, bytes]:
    from huggingface_hub.utils import build_hf_headers, get_session

    asked = {**build_hf_headers(), "Accept-Encoding": "identity", **headers}

    def receive() -> tuple[Response, bytes]:
        with get_session().stream(
            "GET", url, headers=asked, timeout=client.TIMEOUT_SECONDS, follow_redirects=redirects
        ) as answer:
            raise_for_error(answer)
            if answer.has_redirect_location:
                return answer, b""
            return answer, within(hub, answer, limit_bytes, "the answer")

    return _in_time(hub, receive)


def _in_time(hub: Hub, receive: Callable[[], Received]) -> Received:
    """Receive in a thread that is given up when the time is over.

    httpx limits the wait for each byte and not for all of them, headers included.
    """
    outcome: SimpleQueue[Received | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put(receive())
        except BaseException as error:
            outcome.put(error)

    Thread(target=run, daemon=True, name="hub-answer").start()
    try:
        found = outcome.get(timeout=ANSWER_SECONDS + client.TIMEOUT_SECONDS)
    except Empty:
        raise hub.unusable(f"the answer has not begun after {ANSWER_SECONDS:g} s") from None
    if isinstance(found, BaseException):
        raise found
    return found


def _parsed(hub: Hub, content: bytes, kind: type[T]) -> T:
    try:
        return kind.model_validate(parse_json(content, hub.endpoint, MAX_ANSWER_BYTES + 100))
    except DocumentInvalid as error:
        raise hub.invalid_answer(error.what.removesuffix(".")) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = field_of(first)[:100]
        what = f"`{field}`" if field else "it"
        raise hub.invalid_answer(f"{what}: {fault_of(first)}") from None
