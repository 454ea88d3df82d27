"""Note the audit log's head at its witnesses, from inside MLflow's server, within a second of each entry.

A thread looks at the note of the head beside the log, which every process that writes an entry renews. So no entry
waits for MLflow or for a bucket, entries of flows and commands are noted too, and what a witness missed while it did
not answer is noted later. Of several server processes one notes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from filelock import FileLock

from registry.audit import AuditLog, Head
from registry.witnesses import EXPERIMENT, TAG, Folder, parse
from weighbridge.errors import WeighbridgeError
from weighbridge.settings import Settings

LOOK_SECONDS = 1.0
RETRY_SECONDS = 30.0
"""Pause after a witness did not answer."""

_logger = logging.getLogger("weighbridge.audit")


def note_heads(settings: Settings) -> threading.Thread:
    """Begin to note the heads of an installation's audit log.

    Args:
        settings: Settings of the installation.

    Returns:
        The thread; it ends with the process.
    """
    notes: list[Callable[[Head], None]] = [note_in_mlflow]
    if settings.audit_witness_url:
        notes.append(Folder(settings.audit_witness_url).note)
    log = AuditLog.of(settings)
    lock = FileLock(log.folder / "noting.lock")
    thread = threading.Thread(target=_keep_noting, args=(log, lock, notes), name="audit-heads", daemon=True)
    log.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    thread.start()
    return thread


def note_in_mlflow(head: Head) -> None:
    """Note a head in the tag of MLflow's own experiment for it; an older head does not replace a newer one."""
    from mlflow.entities import ExperimentTag
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import _get_tracking_store

    store = _get_tracking_store()
    experiment = store.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            store.create_experiment(EXPERIMENT)
        except MlflowException:
            # Another process of the server was faster.
            _logger.debug("%s exists", EXPERIMENT)
        experiment = store.get_experiment_by_name(EXPERIMENT)
    noted = parse([experiment.tags.get(TAG, "").replace(" ", "-")])
    if not noted or noted[0].number < head.number:
        store.set_experiment_tag(experiment.experiment_id, ExperimentTag(TAG, f"{head.number} {head.hash}"))


def _keep_noting(log: AuditLog, lock: FileLock, notes: list[Callable[[Head], None]]) -> None:
    pause, stop = LOOK_SECONDS, threading.Event()
    # Of several processes of a server, one notes; another steps in when that one ends.
    lock.acquire()
    noted: dict[int, Head] = {}
    while not stop.wait(pause):
        pause = LOOK_SECONDS
        try:
            head = log.head()
        except WeighbridgeError as error:
            _logger.error("%s", error)
            pause = RETRY_SECONDS
            continue
        for number, note in enumerate(notes):
            if head is None or noted.get(number) == head:
                continue
            try:
                note(Head(number=head.number, hash=head.hash))
                noted[number] = head
            # A witness's own errors are its business; the server answers on, and this is tried again.
            except Exception as error:
                _logger.warning("The audit log's head is not noted yet: %s", type(error).__name__)
                pause = RETRY_SECONDS
