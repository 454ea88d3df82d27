"""A program of supervisord, and its file, in the form that supervisord reads back as it was meant."""

from __future__ import annotations

import re
import shlex
from configparser import Error, RawConfigParser
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from supervisor.datatypes import dict_of_key_value_pairs

from tasks.serve.fleet.refusal import REFUSED_STATUS, START_SECONDS
from weighbridge.errors import SettingsInvalid
from weighbridge.private_files import UMASK


class Program(BaseModel):
    """One long-lived process."""

    model_config = ConfigDict(frozen=True)

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = {}
    folder: Path
    log: Path
    stop_seconds: int = 20
    """Time between SIGTERM and SIGKILL."""
    may_refuse: bool = False
    """Whether an end with `REFUSED_STATUS` is final; after any other end supervisord starts the program again."""


def program_section(program: Program) -> str:
    """Write the file of a program.

    Raises:
        SettingsInvalid: supervisord would read something else.
    """
    restarts = ["autorestart=true"]
    if program.may_refuse:
        restarts = ["autorestart=unexpected", f"exitcodes={REFUSED_STATUS}"]
    environment = ",".join(f"{name}={_quoted(name, value)}" for name, value in sorted(program.environment.items()))
    return "\n".join(
        [
            f"[program:{program.name}]",
            f"command={_command(program)}",
            f"directory={escape_expansions(str(program.folder))}",
            f"umask={UMASK:03o}",
            f"environment={environment}",
            f"stdout_logfile={escape_expansions(str(program.log))}",
            "redirect_stderr=true",
            "stdout_logfile_maxbytes=20MB",
            "stdout_logfile_backups=2",
            "autostart=true",
            *restarts,
            f"startsecs={START_SECONDS}",
            "startretries=5",
            f"stopwaitsecs={program.stop_seconds}",
            # Servers start workers of their own: unless the whole group ends, the port stays taken.
            "stopasgroup=true",
            "killasgroup=true",
            "",
        ]
    )


def daemon_section(socket: Path, log: Path, pid_file: Path, programs: Path) -> str:
    """Write the file of supervisord itself, which includes those of all programs in a folder."""
    return "\n".join(
        [
            "[unix_http_server]",
            f"file={escape_expansions(str(socket))}",
            "chmod=0600",
            "[supervisord]",
            f"logfile={escape_expansions(str(log))}",
            f"pidfile={escape_expansions(str(pid_file))}",
            f"umask={UMASK:03o}",
            "logfile_maxbytes=5MB",
            "logfile_backups=2",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
            "[include]",
            f"files={escape_expansions(str(programs))}/*.conf",
            "",
        ]
    )


def read_program(name: str, path: Path) -> Program | None:
    """Read a program's file as supervisord does; None if there is none, or nothing that supervisord would run.

    Args:
        name: The program's.
        path: Its file, of this version or of an older one.
    """
    # Without interpolation: `%%` is undone below, and `%(…)s` is nowhere in our files.
    parser = RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        parser.read_string(path.read_text())
        section = parser[f"program:{name}"]
        return Program(
            name=name,
            command=tuple(shlex.split(_unescaped(section["command"]))),
            environment={
                variable: _unescaped(value)
                for variable, value in dict_of_key_value_pairs(section.get("environment", "")).items()
            },
            folder=Path(_unescaped(section.get("directory", "/"))),
            log=Path(_unescaped(section.get("stdout_logfile", "/dev/null"))),
            may_refuse=str(REFUSED_STATUS) in section.get("exitcodes", ""),
        )
    except (FileNotFoundError, UnicodeDecodeError, ValueError, KeyError, Error):
        return None


def _unescaped(text: str) -> str:
    return text.replace("%%", "%")


_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]|\s[;#]|^[;#]")
"""Line breaks end a value in supervisord's files, and a space before `;` or `#` begins a comment."""


def escape_expansions(text: str) -> str:
    """Escape `%`: supervisord expands %(name)s everywhere."""
    return text.replace("%", "%%")


def _command(program: Program) -> str:
    command = shlex.join(program.command)
    if _UNREADABLE.search(command):
        raise SettingsInvalid(
            f"The command of {program.name} has a line break, ` #` or ` ;` in it, which supervisord does not read.",
            "Write the engine's flag without it.",
            where=program.name,
        )
    return escape_expansions(command)


def _quoted(name: str, value: str) -> str:
    """Quote a variable's value: supervisord takes either quote around it, and has no escape for quotes within.

    Raises:
        SettingsInvalid: supervisord would read another value.
    """
    quote = "'" if '"' in value else '"'
    if quote in value or value != value.strip("'\"") or _UNREADABLE.search(value):
        raise SettingsInvalid(
            f"The value of {name} cannot be handed to a service: it has line breaks, quotes at an end or of both "
            "kinds, or ` #` or ` ;` in it.",
            "Put it into a file that the program reads, or unset the variable.",
            where=name,
        )
    return f"{quote}{escape_expansions(value)}{quote}"
