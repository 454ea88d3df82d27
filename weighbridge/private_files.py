"""Files of an installation that only its own user may read: the umask, the home, and a place for sockets.

The home holds password digests, keys, databases and the commands that supervisord runs. Whoever may read it reads
secrets, and whoever may write it runs programs as the installation's user.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from weighbridge.errors import HomeNotYours, HomeUnsafe, HomeUnusable
from weighbridge.files import disk_full, is_full

UMASK = 0o077
"""Of every process: what it creates is for its user only, temporary files included."""

OTHERS, WRITE = 0o077, 0o022
"""Permission bits of everybody else, and those by which they write."""

STORE = "store"
"""Folder of the home whose files are no secrets: of weights only the right to write is taken from others."""

ANOTHER_HOME = "set WEIGHBRIDGE_HOME to a folder of your own."

OWN_FILES = ("stack.json", "settings.json", ".up.lock")
"""Files of the home that commands read first."""
EFFECTIVE = os.access in os.supports_effective_ids
"""Whether access can be asked for the user that a process acts as."""

LONGEST_SOCKET_PATH = 100
"""A Unix socket's path may be 107 bytes long (sun_path in unix(7))."""
SHORT_PLACE = Path("/tmp")
"""Sockets of homes with a long path; not $TMPDIR, which differs from shell to shell."""


def keep_files_private() -> None:
    """Let this process, and those that it starts, create files for its user only."""
    os.umask(UMASK)


def private_home(home: Path) -> list[str]:
    """Create an installation's home, or make an existing one private.

    Args:
        home: Absolute, without symbolic links.

    Returns:
        Sentences on what was changed, and on what deserves a look.

    Raises:
        HomeUnusable: It is no folder, or cannot be made, read or written.
        HomeNotYours: It belongs to another user, or another user runs its stack.
        HomeUnsafe: Something in it belongs to another user, or everybody could put another in its place.
        DiskFull: There is no space for it.
    """
    require_own_home(home)
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        if is_full(error):
            raise disk_full(home) from error
        raise HomeUnusable(
            f"The home cannot be made: {error.strerror}.",
            "Set WEIGHBRIDGE_HOME to a folder that this user may create.",
            where=str(home),
        ) from None
    _require_own(home, home.lstat())
    said = [_looked_at(parent) for parent in home.parents]
    # The home first: from then on nobody else reaches what is below.
    changed = _tighten(home) + sum(_tighten(path, bits) for path, bits in _below(home))
    if changed:
        said.append(f"made private: {changed} files and folders of {home} were open to other users of this machine")
    return [sentence for sentence in said if sentence]


def require_own_home(home: Path) -> None:
    """Check that an installation's home is this user's, and can be used; one that does not exist yet can.

    Raises:
        HomeNotYours: It belongs to another user, or another user runs its stack.
        HomeUnusable: It is no folder, or cannot be read or written.
    """
    try:
        state = home.lstat()
    except FileNotFoundError:
        return
    except NotADirectoryError:
        parent = next(parent for parent in home.parents if parent.exists())
        raise HomeUnusable(
            f"{parent} is no folder, so no home can lie in it.", f"Move it away, or {ANOTHER_HOME}", where=str(home)
        ) from None
    except PermissionError:
        closed = next(parent for parent in home.parents if _is_seen(parent))
        raise HomeNotYours(
            f"The home lies in {closed}, which belongs to user {user_name(closed.stat().st_uid)} and is closed to you "
            f"({user_name(os.geteuid())}).",
            f"Work as that user (`sudo -u …`), or {ANOTHER_HOME}",
            where=str(home),
        ) from None
    _require_own(home, state)
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK, effective_ids=EFFECTIVE):
        is_read_only = bool(os.statvfs(home).f_flag & os.ST_RDONLY)
        raise HomeUnusable(
            "The home lies on a disk that is mounted read-only."
            if is_read_only
            else f"The home is yours, but its mode {stat.S_IMODE(state.st_mode):03o} keeps you out.",
            f"Mount it for writing, or {ANOTHER_HOME}" if is_read_only else f"Run `chmod u+rwx {home}`.",
            where=str(home),
        )
    _require_own_stack(home)


def _require_own_stack(home: Path) -> None:
    """Check that nobody else runs the stack of a home, as after `sudo weighbridge up`.

    Raises:
        HomeNotYours: Somebody does.
    """
    _require_own_record(home)
    path = home / "supervisor" / "supervisord.pid"
    try:
        owner = path.lstat().st_uid
        # Its number is that of the folder in /proc, where there is one; elsewhere the file alone is looked at.
        number = path.read_text().strip() if os.access(path, os.R_OK) else ""
        if owner == os.geteuid() or (number and Path("/proc/self").exists() and not Path("/proc", number).exists()):
            return
    except OSError:
        return
    whose = user_name(owner)
    raise HomeNotYours(
        f"The stack of this home is run by user {whose}{f', process {number}' if number else ''}; you are "
        f"{user_name(os.geteuid())}.",
        f"Work as that user. Or let them end it (`sudo kill {number or 'PID'}`), take what it wrote with "
        f"`sudo chown -R {_name(os.geteuid())} {home}`, and run `weighbridge up`.",
        where=str(home),
    )


def _require_own_record(home: Path) -> None:
    """Check that the files which each command reads first are not closed to this user, as after a `sudo`.

    Raises:
        HomeNotYours: Another user owns one, and it is.
    """
    for path in (home / name for name in OWN_FILES):
        try:
            owner = path.lstat().st_uid
        except OSError:
            continue
        if owner != os.geteuid() and not os.access(path, os.R_OK, effective_ids=EFFECTIVE):
            raise HomeNotYours(
                f"This belongs to user {user_name(owner)}, lies in your home and is closed to you.",
                f"Take it back with `sudo chown -R {_name(os.geteuid())} {home}`, then run the command again.",
                where=str(path),
            )


def user_name(number: int) -> str:
    """A user of this machine for a message: `0 (root)`; the number alone if the user has no name."""
    name = _name(number)
    return name if name == str(number) else f"{number} ({name})"


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _is_seen(folder: Path) -> bool:
    try:
        folder.lstat()
    except OSError:
        return False
    return True


def private_folder(folder: Path) -> Path:
    """Create a folder for this user only, or check an existing one.

    Raises:
        HomeUnsafe: There is something else, or it belongs to another user.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _require_own(folder, folder.lstat())
    _tighten(folder)
    return folder


def socket_path(folder: Path, name: str) -> Path:
    """Return where a socket of a folder lies: in it, or below `/tmp` if its path would be too long for a socket.

    Args:
        folder: Folder of the service.
        name: The socket's.

    Raises:
        HomeUnsafe: Another user has made the folder below `/tmp`.
    """
    path = folder / name
    if len(str(path).encode()) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return private_folder(SHORT_PLACE / f"weighbridge-{os.getuid()}") / f"{digest}{path.suffix}"


def _require_own(folder: Path, state: os.stat_result) -> None:
    if not stat.S_ISDIR(state.st_mode):
        raise HomeUnusable("This is no folder.", f"Move it away, or {ANOTHER_HOME}", where=str(folder))
    if state.st_uid != os.geteuid():
        owner = user_name(state.st_uid)
        raise HomeNotYours(
            f"This folder belongs to user {owner}, and you are {user_name(os.geteuid())}.",
            f"Work as that user: `sudo -u {_name(state.st_uid)} weighbridge …`, or {ANOTHER_HOME}",
            where=str(folder),
        )


def _looked_at(parent: Path) -> str:
    """Look at a folder above the home: whoever writes there can put another home in its place.

    Raises:
        HomeUnsafe: Everybody may.
    """
    state = parent.stat()
    if state.st_mode & stat.S_IWOTH and not state.st_mode & stat.S_ISVTX:
        raise HomeUnsafe(
            f"Every user of this machine may write to {parent}, and so replace the home.",
            f"Run `chmod o-w {parent}`, or set WEIGHBRIDGE_HOME to another place.",
            where=str(parent),
        )
    if state.st_uid not in (0, os.geteuid()):
        return f"note: {parent} belongs to user {user_name(state.st_uid)}, who can replace the home"
    if state.st_mode & stat.S_IWGRP and not state.st_mode & stat.S_ISVTX and state.st_gid not in (0, os.getegid()):
        return f"note: group {state.st_gid} may write to {parent}, and so replace the home"
    return ""


def _below(home: Path) -> Iterator[tuple[Path, int]]:
    """Find everything below the home, with the permission bits that it must not have.

    Raises:
        HomeUnsafe: Something there belongs to another user, who may have put it there to be run.
    """
    for folder, folders, files in os.walk(home):
        bits = WRITE if home / STORE in (Path(folder), *Path(folder).parents) else OTHERS
        for name in (*folders, *files):
            path = Path(folder, name)
            if (owner := _owner(path)) not in (0, os.geteuid()):
                raise HomeUnsafe(
                    f"This belongs to user {user_name(owner)}, and lies in a home of user {user_name(os.geteuid())}.",
                    "Look at it; remove it, or change its owner with `chown`, then run the command again.",
                    where=str(path),
                )
            yield path, bits


def _owner(path: Path) -> int:
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        # Services write and remove files meanwhile.
        return os.geteuid()


def _tighten(path: Path, wrong: int = OTHERS) -> bool:
    """Take permission bits from a file or folder of this user; true if it had any of them."""
    try:
        state = path.lstat()
        if stat.S_ISLNK(state.st_mode) or not state.st_mode & wrong or state.st_uid != os.geteuid():
            return False
        path.chmod(stat.S_IMODE(state.st_mode) & ~wrong)
    except FileNotFoundError:
        return False
    return True
