"""The installation's supervisord: long-lived processes that outlive the process that started them.

Each program is one file in `<home>/supervisor/programs/`, so the set of programs survives a restart of the machine:
`weighbridge up` starts supervisord, which starts them all. It is controlled through its XML-RPC interface, on a Unix
socket that only this user can open. It has an allow-listed environment, because all programs inherit it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable
from typing import Any, Literal

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict
from supervisor.xmlrpc import SupervisorTransport

from tasks.serve.fleet.program import Program, daemon_section, program_section
from tasks.serve.fleet.refusal import REFUSED_STATUS
from weighbridge.environment import allowed_environment, is_open
from weighbridge.errors import StackDown, StackFailed
from weighbridge.files import write_whole
from weighbridge.home import PREFIX
from weighbridge.private_files import UMASK, socket_path
from weighbridge.settings import Settings

NO_SUCH_PROGRAM = 10
ALREADY_ADDED = 90


class ProgramState(BaseModel):
    """State of a program, as supervisord reports it."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    """RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL, …"""
    pid: int
    up_seconds: float
    exit_status: int = 0
    """Of its latest end; 0 if it never ended."""

    @property
    def status(self) -> Literal["starting", "running", "restarting", "stopped", "failed"]:
        """The state in the words of `EngineState`."""
        if self.state == "EXITED" and self.exit_status == REFUSED_STATUS:
            return "failed"
        return _STATUS.get(self.state, "restarting")


_STATUS: dict[str, Literal["starting", "running", "restarting", "stopped", "failed"]] = {
    "RUNNING": "running",
    "STARTING": "starting",
    "STOPPING": "stopped",
    "STOPPED": "stopped",
    "FATAL": "failed",
}
"""BACKOFF and EXITED are not in it: supervisord restarts such a program within a second, unless it refused."""


class Supervisor:
    """The installation's supervisord.

    Args:
        settings: the installation.
    """

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.home / "supervisor"
        self.programs = self.folder / "programs"
        self.log = settings.logs_folder / "supervisord.log"
        self.pid_file = self.folder / "supervisord.pid"
        self.socket = socket_path(self.folder, "supervisor.sock")
        self._harmless = set(settings.library_environment())
        self._lock = FileLock(self.folder / ".lock")

    @property
    def pid(self) -> int | None:
        """supervisord's process id; None if it is not alive."""
        try:
            pid = int(self.pid_file.read_text())
            alive = "supervisord" in " ".join(psutil.Process(pid).cmdline())
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return pid if alive else None

    def start(self, environment: dict[str, str]) -> None:
        """Start supervisord and all programs on file; harmless when it runs.

        Args:
            environment: added to what supervisord and its programs may have of the present one.

        Raises:
            StackFailed: it did not start; the message names its log.
        """
        if self.answers():
            return
        self.programs.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        configuration = self.folder / "supervisord.conf"
        write_whole(configuration, daemon_section(self.socket, self.log, self.pid_file, self.programs))
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)],
            env={**allowed_environment("supervisor"), **environment},
            umask=UMASK,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and _within(120, self.answers):
            return
        raise StackFailed(
            f"supervisord did not start: {(done.stderr or done.stdout).strip()[-400:] or 'no answer on its socket'}.",
            "Read its log, then run `weighbridge up` again.",
            where=str(self.log),
        )

    def inherited_names(self) -> list[str]:
        """Names of variables that the running supervisord has and should not.

        One that an older Weighbridge started has the whole environment of a shell. Only its end clears that, and its
        end is that of all engines; so programs that start meanwhile get these variables empty.
        """
        try:
            present = psutil.Process(self.pid).environ() if self.pid else {}
        except psutil.Error:
            return []
        return sorted(
            name for name, value in present.items() if value and name.isidentifier() and self._is_leaked(name)
        )

    def _is_leaked(self, name: str) -> bool:
        is_password = name.startswith(f"{PREFIX}PASSWORD_")
        is_own = name.startswith(("SUPERVISOR_", PREFIX)) and not is_password
        return not (is_open(name) or is_own or name in self._harmless)

    def answers(self) -> bool:
        """True if supervisord runs and answers."""
        if self.pid is None or not self.socket.exists():
            return False
        try:
            return bool(self._rpc.getState()["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def run(self, program: Program, keep: bool = False) -> None:
        """Write a program's file and start it; a program that runs with the same file is left alone.

        Args:
            program: it.
            keep: leave a running one alone though its file differs; it gets the new file at its next start.
        """
        with self._lock:
            path = self.programs / f"{program.name}.conf"
            blanked = dict.fromkeys(self.inherited_names(), "")
            text = program_section(program.model_copy(update={"environment": {**blanked, **program.environment}}))
            known = self.state(program.name)
            if known is not None and path.is_file():
                is_same, runs = path.read_text() == text, known.state in ("RUNNING", "STARTING", "BACKOFF")
                if keep and runs and not is_same:
                    write_whole(path, text)
                if runs and (keep or is_same):
                    return
                if is_same:
                    self._call("startProcess", program.name, False)
                    return
            if known is not None:
                self._forget(program.name)
            program.folder.mkdir(parents=True, exist_ok=True)
            program.log.parent.mkdir(parents=True, exist_ok=True)
            # Readable by its owner only: an environment may contain a key.
            write_whole(path, text)
            self._add(program.name)

    def restart(self, name: str) -> None:
        """Stop a program, and start it as its file says; harmless if it does not run.

        Raises:
            StackDown: supervisord does not answer.
            StackFailed: it knows no such program.
        """
        with self._lock:
            if self.state(name) is not None:
                self._forget(name)
            self._add(name)

    def _add(self, name: str) -> None:
        # Only this program is added: other changes on disk are not this call's.
        self._call("reloadConfig")
        self._call("addProcessGroup", name)

    def remove(self, name: str) -> None:
        """Stop a program and remove its file; harmless if there is none."""
        with self._lock:
            (self.programs / f"{name}.conf").unlink(missing_ok=True)
            if self.answers() and self.state(name) is not None:
                self._forget(name)
                self._call("reloadConfig")

    def forget_files(self, names: Iterable[str]) -> None:
        """Remove programs' files while supervisord does not run, so that it does not start them."""
        for name in names:
            (self.programs / f"{name}.conf").unlink(missing_ok=True)

    def state(self, name: str) -> ProgramState | None:
        """State of a program; None if supervisord does not know it."""
        return next((state for state in self.states() if state.name == name), None)

    def states(self) -> list[ProgramState]:
        """States of all programs."""
        return [
            ProgramState(
                name=program["name"],
                state=program["statename"],
                pid=program["pid"],
                up_seconds=max(0, program["now"] - program["start"]) if program["pid"] else 0,
                exit_status=program["exitstatus"],
            )
            for program in self._call("getAllProcessInfo")
        ]

    def shut_down(self, wait_seconds: float = 60) -> None:
        """Stop all programs and supervisord itself, and wait until their processes are gone.

        Raises:
            StackFailed: a process is still alive after `wait_seconds` and a SIGKILL.
        """
        pid = self.pid
        if pid is None:
            return
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        try:
            self._rpc.shutdown()
        except (OSError, xmlrpc.client.Error):
            # It no longer listens; the signal has the same effect.
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).terminate()
        _, alive = psutil.wait_procs(family, timeout=wait_seconds)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, alive = psutil.wait_procs(alive, timeout=10)
        if alive:
            raise StackFailed(
                f"Processes {[process.pid for process in alive]} did not end.", "Look at them with `ps` and end them."
            )

    def _forget(self, name: str) -> None:
        self._call("stopProcessGroup", name, True)
        self._call("removeProcessGroup", name)

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            return getattr(self._rpc, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in (NO_SUCH_PROGRAM, ALREADY_ADDED):
                return []
            raise StackFailed(
                f"supervisord refused {method}{arguments}: {fault.faultString}.",
                "Read its log.",
                where=str(self.log),
            ) from None
        except (OSError, xmlrpc.client.ProtocolError):
            raise StackDown("The local stack is not up.", "Run `weighbridge up`.", where=str(self.folder)) from None

    @property
    def _rpc(self) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        return xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False
