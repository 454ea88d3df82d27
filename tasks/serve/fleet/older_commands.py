"""Engines that an older Weighbridge started: their files get the launcher, so that the next restart verifies.

Rewritten are supervisord's files only. A running engine keeps its process, and supervisord keeps the old command in
memory until it is started again or the engine is retired.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from tasks.serve.fleet.launch import is_launched, launch_command
from tasks.serve.fleet.program import read_program
from tasks.serve.fleet.protocol import RunningEngine
from tasks.serve.fleet.refusal import REFUSED_STATUS
from weighbridge.files import write_whole
from weighbridge.settings import Settings


def launch_older_engines(settings: Settings, engines: Iterable[RunningEngine]) -> list[str]:
    """Give supervisord's files of older engines the launcher, each before the engine's own command.

    Args:
        settings: the installation.
        engines: the fleet's.

    Returns:
        Names of the engines whose file was rewritten.
    """
    rewritten = []
    for engine in engines:
        path = settings.home / "supervisor" / "programs" / f"{engine.name}.conf"
        program = read_program(engine.name, path)
        if program is None or is_launched(program.command):
            continue
        link = settings.home / "engines" / engine.name / engine.plan.model_name
        own = launch_command(settings.home, engine.artifact, link, engine.endpoints[0].port, program.command)
        launched = shlex.join(own).replace("%", "%%")
        changes = {
            "command=": f"command={launched}",
            "autorestart=": f"autorestart=unexpected\nexitcodes={REFUSED_STATUS}",
        }
        text = path.read_text().split("\n")
        lines = [next((new for old, new in changes.items() if line.startswith(old)), line) for line in text]
        write_whole(path, "\n".join(lines))
        rewritten.append(engine.name)
    return rewritten
