"""MLflow's webhook: creating it, and checking its deliveries.

A delivery only makes `promote` start sooner; a lost one costs the wait for the schedule. MLflow keeps deliveries in
memory and retries three times within about ten seconds, with the same id and time.

Requests are plain HTTP, because importing MLflow's client takes seconds and 200 MiB, and the receiver should stay
small.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from registry.models.records import PRODUCTION
from weighbridge.documents import parse_json
from weighbridge.errors import DeliveryRefused, DocumentInvalid, RegistryFailed, StackDown
from weighbridge.files import PRIVATE, write_whole

NAME = "weighbridge"
EVENTS = [
    {"entity": "MODEL_VERSION", "action": "CREATED"},
    {"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"},
]
# From mlflow.webhooks.constants of 3.17.2. The version precedes the signature, as in `v1,<base64>`.
SIGNATURE, TIMESTAMP, DELIVERY = "X-MLflow-Signature", "X-MLflow-Timestamp", "X-MLflow-Delivery-Id"
VERSION = "v1"
LONGEST_AGE_SECONDS = 300
"""Oldest accepted time of a delivery; also the furthest in the future, since two clocks may differ."""
# What MLflow sends: a UUID, seconds, and 32 bytes in base64.
_IDENTITY, _STAMP = re.compile(r"[\w-]{1,100}", re.ASCII), re.compile(r"[0-9]{1,12}")
_SIGNED = re.compile(rf"{VERSION},[A-Za-z0-9+/]{{43}}=")
REMEMBERED = 1000
"""Delivery ids that are kept. Those of five minutes would suffice: far fewer than a thousand approvals."""
TIMEOUT_SECONDS = 10


class Delivery(BaseModel):
    """A change that MLflow reports."""

    model_config = ConfigDict(frozen=True)

    id: str
    entity: str
    action: str
    data: dict[str, object]

    @property
    def model(self) -> str:
        """The registered model that changed."""
        return str(self.data.get("name", ""))

    @property
    def asks_to_serve(self) -> bool:
        """Whether it may change what should serve: a new version, or a moved `production`."""
        return self.entity == "model_version" or self.data.get("alias") == PRODUCTION


def check_headers(headers: Mapping[str, str], now: float) -> None:
    """Refuse a request that cannot be a delivery, before a byte of its body is read.

    Args:
        headers: Headers of the request; names in any case.
        now: Seconds since 1970.

    Raises:
        DeliveryRefused: It has no signature or identity, is older than five minutes, or is too large.
    """
    if not _SIGNED.fullmatch(headers.get(SIGNATURE, "")) or not _IDENTITY.fullmatch(headers.get(DELIVERY, "")):
        raise _refused("is not signed with this installation's secret")
    stamp = headers.get(TIMESTAMP, "")
    if not _STAMP.fullmatch(stamp) or abs(now - int(stamp)) > LONGEST_AGE_SECONDS:
        raise _refused(f"is stale: it was made more than {LONGEST_AGE_SECONDS // 60} minutes from now")


def read_delivery(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> Delivery:
    """Check a delivery's signature and age, and parse it.

    Args:
        secret: Secret that is shared with MLflow.
        headers: Headers of the request; names in any case.
        body: Body of the request.
        now: Seconds since 1970.

    Raises:
        DeliveryRefused: It is not signed with the secret, is older than five minutes, or cannot be parsed.
    """
    check_headers(headers, now)
    identity, stamp = headers[DELIVERY], headers[TIMESTAMP]
    if not hmac.compare_digest(headers.get(SIGNATURE, "").encode(), _signature(secret, identity, stamp, body).encode()):
        raise _refused("is not signed with this installation's secret")
    try:
        return Delivery.model_validate({**parse_json(body, "delivery"), "id": identity})
    except (DocumentInvalid, TypeError, ValidationError):
        raise _refused("cannot be read") from None


def _signature(secret: str, identity: str, stamp: str, body: bytes) -> str:
    signed = f"{identity}.{stamp}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return f"{VERSION},{base64.b64encode(digest).decode()}"


def _refused(why: str) -> DeliveryRefused:
    return DeliveryRefused(f"The delivery {why}.", "Nothing was started; the schedule will find what is to be done.")


class Keys:
    """Secrets of an installation's webhook, created at first use and readable by their owner only.

    Args:
        folder: Folder of the secrets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def secret(self) -> str:
        """Secret that deliveries are signed with."""
        return self._key("secret")

    @property
    def encryption(self) -> str:
        """Key with which MLflow encrypts the secret in its database: a Fernet key, 32 bytes in URL-safe base64."""
        return self._key("encryption.key")

    def _key(self, name: str) -> str:
        path = self.folder / name
        if not path.is_file():
            write_whole(path, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(), PRIVATE)
        return path.read_text().strip()


class Seen:
    """Ids of deliveries that were acted on, kept on disk: the newest `REMEMBERED`.

    Args:
        path: The file. An unreadable one counts as empty, because a repeated start is harmless.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._ids: dict[str, None] = dict.fromkeys(map(str, json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            self._ids = {}

    def __contains__(self, identity: str) -> bool:
        return identity in self._ids

    def add(self, identity: str) -> None:
        """Add an id; it is synced to disk when this returns."""
        self._ids[identity] = None
        while len(self._ids) > REMEMBERED:
            del self._ids[next(iter(self._ids))]
        write_whole(self.path, json.dumps(list(self._ids)))


def ensure_webhook(mlflow_url: str, receiver_url: str, secret: str, account: tuple[str, str] | None = None) -> None:
    """Create or correct Weighbridge's webhook in MLflow, and remove duplicates; harmless to repeat.

    Args:
        mlflow_url: Address of MLflow.
        receiver_url: Address that MLflow calls.
        secret: Secret for the signatures.
        account: Name and password of an administrator, if MLflow has accounts.

    Raises:
        StackDown: MLflow does not answer.
        RegistryFailed: MLflow refuses, for instance the receiver's address, the encryption key or the account.
    """
    webhook = {"name": NAME, "url": receiver_url, "events": EVENTS, "secret": secret, "status": "ACTIVE"}
    api = f"{mlflow_url}/api/2.0/mlflow/webhooks"
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS, auth=account, trust_env=False) as client:
            first, *others = [known["webhook_id"] for known in _known(client, api)] or [""]
            answer = client.patch(f"{api}/{first}", json=webhook) if first else client.post(api, json=webhook)
            answer.raise_for_status()
            for other in others:
                client.delete(f"{api}/{other}").raise_for_status()
    except httpx.HTTPStatusError as error:
        raise RegistryFailed(
            f"MLflow refuses the webhook: HTTP {error.response.status_code} {error.response.text[:300]}",
            "Until then only the schedule sees approvals; `weighbridge logs mlflow` may say more.",
            where=mlflow_url,
        ) from None
    except httpx.HTTPError:
        raise StackDown("The MLflow server does not answer.", "Run `weighbridge up`.", where=mlflow_url) from None


def _known(client: httpx.Client, api: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    token = ""
    while True:
        answer = client.get(api, params={"max_results": 100, **({"page_token": token} if token else {})})
        answer.raise_for_status()
        page = answer.json()
        found += [webhook for webhook in page.get("webhooks", []) if webhook["name"] == NAME]
        if not (token := page.get("next_page_token", "")):
            return found
