"""Strict reading of a request, so that whoever checks it and whoever carries it out read the same message.

MLflow's permissions and its handlers parse a request separately: another media type, a query beside a body or a field
given twice lets the one see a builder's model and the other the reviewers'. So there is one form of each message, and
what has another form is refused. A body is passed on as it was understood here, not as it was sent.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

from weighbridge.documents import RepeatedName, object_of

LARGEST_BODY_BYTES = 4 * 2**20
"""Largest JSON body. MLflow's own limit is 1 MB for a batch of metrics; a file is sent as it is."""
LONGEST_QUERY = 100_000
"""Longest query, in bytes: a comparison names hundreds of runs."""
MOST_FIELDS = 2000
"""Most fields in a query."""
_FIELD = re.compile(r"[a-z][a-z0-9_]*")
"""Fields of MLflow's messages. Protocol Buffers also take `runId` for `run_id`, which MLflow's permissions do not."""
_MEDIA_TYPE = re.compile(r'application/json(?:\s*;\s*charset="?utf-8"?)?', re.IGNORECASE)


class Refused(Exception):
    """A request that is not passed on; its text is the reason, a clause without a full stop."""


def check_path(path: str, raw: bytes) -> None:
    """Refuse a path that has another spelling.

    Args:
        path: Percent-decoded, as routers see it.
        raw: As sent.

    Raises:
        Refused: The path has empty, `.` or `..` segments, control characters, backslashes, or is encoded twice.
    """
    if unquote(raw.decode("latin-1"), errors="replace") != path or "\ufffd" in path:
        raise Refused("its path cannot be read in one way")
    segments = path.split("/")
    if any(part in ("", ".", "..") for part in segments[1:-1]) or segments[-1] in (".", ".."):
        raise Refused("its path has an empty segment or one of dots")
    if "%" in path or "\\" in path or not path.isprintable():
        raise Refused("its path is encoded twice, or has a character that no path of ours has")


def read_query(query: bytes, repeated: frozenset[str]) -> dict[str, str]:
    """Read a query, and refuse one that two parsers may read differently.

    Args:
        query: As sent.
        repeated: Fields that may occur more than once.

    Returns:
        Field -> its last value.

    Raises:
        Refused: A field occurs twice, or the query is too long or not UTF-8.
    """
    if len(query) > LONGEST_QUERY:
        raise Refused(f"its query has more than {LONGEST_QUERY} bytes")
    try:
        text = query.decode("ascii")
        fields = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Refused("its query cannot be read") from None
    once = [name for name, _ in fields if name not in repeated]
    if len(once) != len(set(once)):
        raise Refused("its query has a field twice")
    if not all(_FIELD.fullmatch(name) for name, _ in fields):
        raise Refused("its query has a field that MLflow does not have")
    return dict(fields)


def read_json(body: bytes, media_type: str) -> dict[str, Any]:
    """Read a body in the one form that MLflow's client and page send.

    Args:
        body: As sent; empty counts as an empty object.
        media_type: The header `Content-Type`.

    Raises:
        Refused: It is no JSON object in UTF-8, has a field twice, or is said to be something else.
    """
    if not body:
        return {}
    if not _MEDIA_TYPE.fullmatch(media_type.strip()):
        raise Refused("its body is not said to be application/json")
    try:
        content = json.loads(body.decode("utf-8"), object_pairs_hook=object_of, parse_constant=_no_number)
    except Refused:
        raise
    except RepeatedName:
        raise Refused("its body has a field twice") from None
    except (ValueError, RecursionError):
        raise Refused("its body is no JSON in UTF-8") from None
    if not isinstance(content, dict):
        raise Refused("its body is no JSON object")
    return content


def check_fields(content: dict[str, Any]) -> None:
    """Refuse a message of MLflow's API with a field in a second spelling.

    Raises:
        Refused: A field has a capital letter, for instance.
    """
    if not all(_FIELD.fullmatch(name) for name in content):
        raise Refused("its body has a field in a spelling that MLflow's permissions do not read")


def write_json(content: dict[str, Any]) -> bytes:
    """Write a message as it is passed on.

    Raises:
        Refused: A number is too large for JSON's readers.
    """
    try:
        return json.dumps(content, allow_nan=False).encode("ascii")
    except (ValueError, RecursionError):
        raise Refused("its body has a number that cannot be passed on") from None


def _no_number(name: str) -> NoReturn:
    raise Refused(f"its body has {name}, which is not JSON")
