"""The ports of a stack: who has a taken one, and an offset by which all of them are free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from stack.environments import variable
from stack.restarts import Plan
from stack.services import Service
from tasks.serve.fleet.ports import listeners_of, port_is_free
from tasks.serve.fleet.program import read_program
from tasks.serve.fleet.supervisor import Supervisor
from weighbridge.errors import PortTaken
from weighbridge.private_files import user_name
from weighbridge.settings import Settings, default_port
from weighbridge.settings_sources import PORT_FIELDS

LOOPBACK = "127.0.0.1"
OFFSETS = range(100, 10_000, 100)
"""Steps of 100: the gateway's 80 and the webhook's 90 then never meet the engines of another home, 00 to 49."""
HOME_VARIABLE = "WEIGHBRIDGE_HOME"


class Listener(NamedTuple):
    """A port that a service of this home needs."""

    service: str
    host: str
    port: int
    field: str
    """The setting of the port."""


def listeners(settings: Settings) -> list[Listener]:
    """Every port that the services need."""
    ports = [
        Listener("mlflow", settings.host, settings.mlflow_port, "mlflow_port"),
        Listener("prefect", settings.host, settings.prefect_port, "prefect_port"),
        Listener("gateway", settings.host, settings.gateway_port, "gateway_port"),
        Listener("webhook", LOOPBACK, settings.webhook_port, "webhook_port"),
    ]
    if settings.gateway_metrics_port is not None:
        host = settings.gateway_metrics_host
        ports.append(Listener("gateway", host, settings.gateway_metrics_port, "gateway_metrics_port"))
    return ports


def new_listeners(
    settings: Settings, supervisor: Supervisor, services: Sequence[Service], plan: Plan
) -> list[Listener]:
    """Ports on which this home's services do not listen yet, and will."""
    programs = {service.name: service.program for service in services}
    fresh = []
    for listener in listeners(settings):
        if listener.service in plan.restarting:
            before = read_program(listener.service, supervisor.programs / f"{listener.service}.conf")
            after = programs[listener.service].environment
            names = (variable(listener.field), variable("host"))
            if before is None or all(before.environment.get(name) == after.get(name) for name in names):
                continue
        elif listener.service not in plan.starts:
            continue
        fresh.append(listener)
    return fresh


def require_ports(settings: Settings, needed: Sequence[Listener]) -> None:
    """Check that ports are free.

    Raises:
        PortTaken: Some are not. All of them are named, with who has them, and an offset that helps.
    """
    taken = [listener for listener in needed if not port_is_free(listener.host, listener.port)]
    twice = [need for need in needed if [other.port for other in needed].count(need.port) > 1 and need not in taken]
    if not taken and not twice:
        return
    said, homes = _who_has(taken, settings.home)
    said += [f"Port {need.port} is meant for more than one service of this home." for need in twice[:1]]
    raise PortTaken(
        " ".join(said),
        f"{_way_out(settings, [*taken, *twice], homes)} Nothing was started.",
        where=", ".join(f"{listener.host}:{listener.port}" for listener in (*taken, *twice)),
    )


def free_offset(settings: Settings) -> int | None:
    """Find an offset by which every port of this home is free; None if there is none."""
    for offset in OFFSETS:
        ports = [default_port(field) + offset for field in PORT_FIELDS]
        first = default_port("engine_port_first") + offset
        # Of the engines' ports the first few are looked at: those that a home with one line uses.
        if all(port_is_free(settings.host, port) for port in (*ports, *range(first, first + 4))):
            return offset
    return None


def _has_own_variable(settings: Settings, field: str) -> bool:
    return field not in PORT_FIELDS or getattr(settings, field) != default_port(field) + settings.port_offset


def _way_out(settings: Settings, taken: Sequence[Listener], homes: Sequence[str]) -> str:
    ways = []
    named = [variable(listener.field) for listener in taken if _has_own_variable(settings, listener.field)]
    if len(named) < len(taken) and (offset := free_offset(settings)) is not None:
        ways.append(
            f"run `weighbridge up --port-offset {offset}`, which moves all ports of this home by {offset} for good"
        )
    if homes:
        ways.append("end the other: " + ", ".join(f"`WEIGHBRIDGE_HOME={home} weighbridge down`" for home in homes))
    else:
        ways.append(f"end what has {'it' if len(taken) == 1 else 'them'}")
    variables = named or [variable(listener.field) for listener in taken]
    ways.append(f"set {', '.join(variables)} to {'a free port' if len(variables) == 1 else 'free ports'}")
    sentence = "; or ".join(ways)
    return f"{sentence[0].upper()}{sentence[1:]}, and run `weighbridge up` again."


def _who_has(taken: Sequence[Listener], home: Path) -> tuple[list[str], list[str]]:
    """Say who has which of the ports, a sentence for each owner, and name the homes of other Weighbridges."""
    said: list[str] = []
    ports: dict[str, list[str]] = {}
    homes: list[str] = []
    for listener in taken:
        process, whose, other = _holder(listener.port, home)
        if other and other not in homes:
            homes.append(other)
        if whose:
            ports.setdefault(whose, []).append(f"{listener.port} ({listener.service}: {process})")
        else:
            said.append(f"Port {listener.port}, which {listener.service} needs, is taken by {process}.")
    for whose, these in ports.items():
        subject = f"Port {these[0]} is" if len(these) == 1 else f"Ports {', '.join(these)} are"
        said.append(f"{subject} taken by {whose}")
    return said, homes


def _holder(port: int, home: Path) -> tuple[str, str, str]:
    """Find who listens on a port, as far as this user may see it.

    Returns:
        The process; whose Weighbridge it belongs to, as the end of a sentence, or nothing; that Weighbridge's home if
        it is another one.
    """
    owners = listeners_of(port)
    for pid in _listening(port):
        try:
            process = psutil.Process(pid)
            name, found, owner = f"process {pid} ({process.name()})", _home_of(process), process.uids().real
        except psutil.Error:
            continue
        if found == str(home):
            return name, "this very home, left over from a stack that was killed; `weighbridge down` ends it.", ""
        return name, f"the Weighbridge of {found}, user {user_name(owner)}." if found else "", found
    if not owners:
        return "another process", "", ""
    owner = min(owners)
    homes = sorted({found for found in map(_home_of, _supervisors(owner)) if found})
    of = f", who runs the Weighbridge of {' and '.join(homes)}" if homes else ""
    return f"a process of user {user_name(owner)}{of}", "", ""


def _listening(port: int) -> list[int]:
    """Processes that listen on a port, as far as this user may see them."""
    try:
        sockets = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return []
    return [
        socket.pid
        for socket in sockets
        if socket.status == psutil.CONN_LISTEN and socket.laddr and socket.laddr.port == port and socket.pid
    ]


def _home_of(process: psutil.Process) -> str:
    """The home of a Weighbridge's process, by its environment, else by its command line; empty if neither tells."""
    try:
        if named := process.environ().get(HOME_VARIABLE):
            return named
    except (psutil.Error, OSError):
        pass
    try:
        words = process.cmdline()
    except (psutil.Error, OSError):
        return ""
    for word in words:
        path = word.removeprefix("sqlite:///")
        for tail in ("/gateway/envoy.json", "/supervisor/supervisord.conf", "/mlflow/mlflow.db", "/mlflow/artifacts"):
            if path.startswith("/") and path.endswith(tail):
                return path.removesuffix(tail)
    return ""


def _supervisors(owner: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == owner and any("supervisord" in word for word in process.cmdline()):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
