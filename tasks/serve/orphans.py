"""Orphans: lines whose file is gone while the gateway still has a route, or the fleet an engine of theirs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.serve.fleet.choice import fleet_of
from tasks.serve.fleet.protocol import RunningEngine
from tasks.serve.gateway import Gateway
from tasks.serve.gateway.routes import LineRoute
from weighbridge.errors import LineUnknown
from weighbridge.line import Admission, Engine, Line, SuiteUse, Target, line_names
from weighbridge.settings import Settings
from weighbridge.source_urls import url_of


class Orphan(BaseModel):
    """A line without a file."""

    model_config = ConfigDict(frozen=True)

    line: str
    serving: str
    """Version with most of the traffic; empty if none has any."""
    engines: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What is the matter, and what to do."""
        serves = f"version {self.serving} still serves" if self.serving else "nothing serves any more"
        engines = f", on {', '.join(self.engines)}" if self.serving and self.engines else ""
        rest = f", and {', '.join(self.engines)} runs" if self.engines and not self.serving else ""
        return (
            f"{self.line}: its file lines/{self.line}.yaml is gone, and {serves}{engines}{rest}. Put the file back, or "
            f"end the line: `weighbridge lines retire {self.line}`."
        )


def orphans(settings: Settings) -> list[Orphan]:
    """List the lines without a file that have a backend or an engine; reads files only.

    Raises:
        GatewayFailed, EngineFailed: The routes, or the record of an engine, cannot be read.
    """
    known = set(line_names(settings.root / "lines"))
    routes = {route.line: route for route in Gateway(settings).routes().lines if route.backends}
    engines: dict[str, list[RunningEngine]] = {}
    for engine in fleet_of(settings).engines():
        engines.setdefault(engine.line, []).append(engine)
    return [
        Orphan(
            line=name,
            serving=_serving(routes.get(name)),
            engines=tuple(engine.name for engine in engines.get(name, ())),
        )
        for name in sorted((routes.keys() | engines.keys()) - known)
    ]


def orphan_notes(settings: Settings) -> list[str]:
    """A sentence for each orphan, for `weighbridge status`."""
    return [orphan.sentence for orphan in orphans(settings)]


def line_or_orphan(settings: Settings, name: str) -> Line:
    """Load a line; of one whose file is gone, what its engines tell, which is enough for a rollback.

    Raises:
        LineUnknown: There is neither a file nor an engine of this line.
        LineInvalid: Its file has a mistake.
    """
    try:
        return Line.load(name)
    except LineUnknown:
        engine = next(iter(fleet_of(settings).engines(name)), None)
        if engine is None:
            raise
        return _line_of(engine)


def _line_of(engine: RunningEngine) -> Line:
    plan = engine.plan
    return Line(
        name=engine.line,
        source=url_of(engine.artifact.repo),
        admission=Admission(licences=[]),
        schemes=[engine.artifact.scheme],
        target=Target(gpus=["host"], context=plan.context, concurrency=plan.concurrency),
        engine=Engine(name=plan.engine, flags=dict(plan.flags)),
        suites=[SuiteUse(name=f"regression/{engine.line}")],
    )


def _serving(route: LineRoute | None) -> str:
    most = max(route.backends, key=lambda backend: backend.weight, default=None) if route else None
    return most.version if most and most.weight else ""
