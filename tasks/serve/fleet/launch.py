"""Verify an artifact, then become its engine: the command under which supervisord starts every engine.

    python -P -m tasks.serve.fleet.launch --home HOME --line LINE --digest DIGEST --link LINK --port PORT -- COMMAND…

It runs at each start of an engine: by a flow, by supervisord after a crash, and by `weighbridge up` after a restart of
the machine. The signature is checked and every file is hashed; only then the process becomes the engine's (`exec`). A
damaged artifact ends it with `REFUSED_STATUS`, after which supervisord does not start it again, and leaves the reason
in the engine's log and beside its record (`refusal.py`).

It imports little, because each start waits for it. It trusts its own command line, which lies below the installation's
home. It does not trust the link from the engine's folder to the weights: the folder is found from the digest.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from registry.store import MODEL, Artifact, Store
from tasks.serve.fleet.ports import require_own_listener
from tasks.serve.fleet.refusal import REFUSED_STATUS, START_SECONDS, forget_refusal, keep_refusal
from weighbridge.errors import ArtifactDamaged, ArtifactUnsigned, PortTaken, WeighbridgeError
from weighbridge.settings import load_settings
from weighbridge.units import GIB

FINAL = (ArtifactDamaged, ArtifactUnsigned, PortTaken)
"""Errors that another start cannot end. Others, such as a disk that is not mounted yet, may be gone by then."""
REPORT_SECONDS = 10.0
"""Between two sentences on the progress in the engine's log."""
SLOWEST_BYTES_PER_SECOND = 150e6
"""A start is given the time to hash its artifact at this rate: a hard disk's, or a busy core's."""


def launch_command(home: Path, artifact: Artifact, link: Path, port: int, command: Sequence[str]) -> tuple[str, ...]:
    """Build the command that verifies an artifact before it runs another command.

    Args:
        home: of the installation.
        artifact: what the engine serves.
        link: leads from the engine's folder to the weights.
        port: that the engine listens on.
        command: the engine's own.
    """
    options = {"--home": home, "--line": artifact.line, "--digest": artifact.digest, "--link": link, "--port": port}
    given = [text for name, value in options.items() for text in (name, str(value))]
    # -P: the folder that it runs in holds a publisher's files, and must not be searched for modules.
    return (sys.executable, "-P", "-m", __name__, *given, "--", *command)


def is_launched(command: Sequence[str]) -> bool:
    """True if a command verifies its artifact first."""
    return __name__ in command


def verify_seconds(artifact: Artifact) -> float:
    """Longest sensible time to verify an artifact."""
    return artifact.size_bytes / SLOWEST_BYTES_PER_SECOND


def verify(home: Path, line: str, digest: str, link: Path) -> None:
    """Verify an artifact on this disk, and that an engine's link leads to it.

    Raises:
        ArtifactMissing, ArtifactDamaged, ArtifactUnsigned, SigningKeyUnusable: the engine must not start.
    """
    os.environ["WEIGHBRIDGE_HOME"] = str(home)
    settings = load_settings()
    # Without the remote store: what is not on this disk cannot be served from it.
    store = Store.of(settings.model_copy(update={"store_url": None}))
    began = reported = time.monotonic()

    def progress(done_bytes: int, total_bytes: int) -> None:
        nonlocal reported
        if (now := time.monotonic()) - reported >= REPORT_SECONDS:
            reported = now
            _say(f"{done_bytes / GIB:.1f} of {total_bytes / GIB:.1f} GiB verified, {now - began:.0f} s")

    artifact = store.get(line, digest)
    store.verify(artifact, progress)
    model = settings.store_folder / line / digest / MODEL
    target = link.readlink() if link.is_symlink() else None
    if target != model:
        raise ArtifactDamaged(
            f"The engine's link leads to {target or 'nothing, for it is no link'}, and not to {artifact.uri}.",
            f"Find out who changed it, then run `weighbridge promote {line}`, which makes the engine anew.",
            where=str(link),
        )
    _say(f"{artifact.uri} verified: {artifact.size_bytes / GIB:.2f} GiB in {time.monotonic() - began:.1f} s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify, then replace this process by the engine."""
    began = time.monotonic()
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, command = given[: given.index("--")], given[given.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="launch")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--line", required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--link", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(own)
    name = options.link.parent.name
    try:
        require_own_listener(options.port, name)
        verify(options.home, options.line, options.digest, options.link)
        # Meanwhile the port was free for everybody.
        require_own_listener(options.port, name)
    except WeighbridgeError as error:
        _say(str(error))
        if not isinstance(error, FINAL):
            sys.exit(error.exit_status)
        keep_refusal(options.link.parent, error)
        if isinstance(error, PortTaken):
            _withdraw(options.home, name)
        # supervisord takes an earlier end for a failed start, and tries again whatever the status.
        time.sleep(max(0.0, START_SECONDS + 0.5 - (time.monotonic() - began)))
        sys.exit(REFUSED_STATUS)
    forget_refusal(options.link.parent)
    # The engine's own Python does not search the folder that it runs in either.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    os.execvp(command[0], command)


def _withdraw(home: Path, engine_name: str) -> None:
    """Take the engine out of rotation, because whoever has its port answers the gateway's health checks."""
    # Not at each start: the gateway's modules take a while.
    from tasks.serve.gateway import Gateway
    from tasks.serve.rollout.traffic import withdraw_engine

    os.environ["WEIGHBRIDGE_HOME"] = str(home)
    try:
        withdraw_engine(Gateway(load_settings()), engine_name)
    except WeighbridgeError as error:
        _say(str(error))


def _say(sentence: str) -> None:
    print(f"launch: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
