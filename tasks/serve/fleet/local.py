"""Engines on this machine: started under supervisord, proven by a real request, stopped when drained.

An engine is one version of one line on one port. Its folder `<home>/engines/<name>/` holds `engine.json`,
which says what it is, and a link of the line's name that leads to the weights.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from registry.store import Artifact, Store
from tasks.engines import EnginePlan, engine, launch_spec
from tasks.serve.fleet.prove import prove
from tasks.serve.fleet.ready import answers, wait_ready
from tasks.serve.fleet.starts import longest_start_seconds, note_start
from tasks.serve.fleet.supervisor import Program, ProgramState, Supervisor
from tasks.serve.memory_check import check_before_start, note_after_start, planned_rows
from tasks.serve.parity.gate import keep_as_noise, pass_gate
from tasks.serve.parity.reference import Reference, reference_for
from weighbridge.errors import EngineDiverges, EngineFailed, NoRoomBeside, PortTaken
from weighbridge.files import READABLE, write_whole
from weighbridge.line import Line
from weighbridge.settings import Settings

RECORD = "engine.json"
OUT_MARK = "out-of-rotation"


class RunningEngine(BaseModel):
    """One engine of the fleet."""

    model_config = ConfigDict(frozen=True)

    name: str
    line: str
    artifact: Artifact
    plan: EnginePlan
    host: str
    port: int

    @property
    def url(self) -> str:
        """Address of its OpenAI-compatible server, without `/v1`."""
        return f"http://{self.host}:{self.port}"

    @property
    def health_path(self) -> str:
        """Where it answers 200 once it can serve."""
        return engine(self.plan.engine).health_path(self.plan)

    @property
    def health_url(self) -> str:
        """The same as an address."""
        return f"{self.url}{self.health_path}"


def plan_engine(line: Line, version: str | None = None) -> EnginePlan:
    """What an engine of this line is told; equal plans on equal artifacts answer alike.

    Args:
        line: whose engine.
        version: of the engine where it does not run on this machine.
    """
    return EnginePlan(
        engine=line.engine.name,
        engine_version=version or engine(line.engine.name).version(),
        model_name=line.name,
        context=line.target.context,
        concurrency=line.target.concurrency,
        flags=line.engine.flags,
    )


class LocalFleet:
    """All engines of this installation.

    Args:
        settings: the installation.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.home / "engines"
        self._supervisor = Supervisor(settings)
        self._store = Store.of(settings)

    def engines(self, line: str | None = None) -> list[RunningEngine]:
        """The fleet's engines, or a line's, by name."""
        found = [
            RunningEngine.model_validate_json(path.read_bytes()) for path in sorted(self._folder.glob(f"*/{RECORD}"))
        ]
        return [one for one in found if line in (None, one.line)]

    def find(self, line: Line, artifact: Artifact) -> RunningEngine | None:
        """The engine that serves this artifact under this line's plan, if the fleet has one."""
        name = _name(line.name, artifact, plan_engine(line))
        return next((one for one in self.engines(line.name) if one.name == name), None)

    def _pid(self, one: RunningEngine) -> int:
        state = self.state(one)
        return state.pid if state else 0

    def state(self, one: RunningEngine) -> ProgramState | None:
        """What supervisord says of it."""
        return self._supervisor.state(one.name)

    def ensure(self, line: Line, artifact: Artifact, tell: Callable[[str], None] = lambda _: None) -> RunningEngine:
        """An engine that serves this artifact: the running one, or a new one, warmed up and proven.

        Args:
            tell: called with a sentence at each stage.

        Raises:
            EngineFailed: it does not start, or its first real requests fail; nothing of it is left.
            EngineDiverges: it computes something else than the artifact says, and the line refuses that; nothing
                of it is left.
            ArtifactDamaged: the weights are not those of the manifest.
            ScoringFailed: transformers does not load the artifact, so nobody knows what it says.
            StackDown: there is no supervisord to run it.
        """
        one = self._ensure(line, artifact, tell)
        self._trial_mark(one).unlink(missing_ok=True)
        return one

    def _ensure(self, line: Line, artifact: Artifact, tell: Callable[[str], None]) -> RunningEngine:
        # Before the engine starts: the two may not fit into a GPU's memory together.
        reference = None if line.engine.parity == "off" else reference_for(artifact, line.target.context, tell)
        one = self._register(line, artifact, plan_engine(line))
        known = self.state(one)
        running = known is not None and known.state in ("RUNNING", "STARTING")
        if not running:
            self._store.verify(artifact)
        rows = planned_rows(line, artifact.scheme, self._store.path(artifact), tell)
        try:
            if not running:
                check_before_start(rows, one.name)
            began = time.monotonic()
            self._start(one)
            self.warm_up(one, tell)
            if not running:
                note_start(self._settings, one.line, one.plan.engine_version, time.monotonic() - began)
            if reference is not None:
                self._compare(line, one, reference, tell)
        except (EngineFailed, EngineDiverges, NoRoomBeside):
            self.stop(one)
            raise
        note_after_start(rows, artifact.digest, one.plan.engine_version, self.log(one), self._pid(one), tell)
        return one

    def expected_start_seconds(self, line: Line) -> float | None:
        """How long the line's engines have taken to start, at the longest; None: not seen yet."""
        return longest_start_seconds(self._settings, line.name, plan_engine(line).engine_version)

    def warm_up(self, one: RunningEngine, tell: Callable[[str], None] = lambda _: None) -> None:
        """Bring an engine that was started to where it may take traffic.

        Raises:
            EngineFailed: it does not become ready or answers its first requests wrongly.
        """
        patience = engine(one.plan.engine).ready_seconds
        wait_ready(one.name, one.health_url, lambda: self.state(one), self.log(one), patience, tell)
        prove(one.url, one.plan, tell)

    def _compare(self, line: Line, one: RunningEngine, reference: Reference, tell: Callable[[str], None]) -> None:
        """Hold what an engine computes against what its artifact says."""
        try:
            pass_gate(one.url, one.plan, reference, self._folder / one.name, self._pid(one), tell)
        except EngineDiverges as error:
            if line.engine.parity == "refuse":
                raise
            tell(f"It would be refused under `parity: refuse`: {error.what}")

    def stop(self, one: RunningEngine) -> None:
        """Stop an engine and forget it; the caller has drained it."""
        self._supervisor.remove(one.name)
        shutil.rmtree(self._folder / one.name, ignore_errors=True)

    @contextmanager
    def trial(
        self, line: Line, artifact: Artifact, tell: Callable[[str], None] = lambda _: None
    ) -> Iterator[RunningEngine]:
        """An engine for weighing: the running one when there is one, else one that ends with the block."""
        before = self.find(line, artifact)
        one = self._ensure(line, artifact, tell)
        if before is None:
            self._trial_mark(one).touch()
        try:
            yield one
        finally:
            # The mark outlives a killed weighing, and goes when a promotion takes the engine over.
            if self._trial_mark(one).exists():
                self.stop(one)

    def _register(self, line: Line, artifact: Artifact, plan: EnginePlan) -> RunningEngine:
        name = _name(line.name, artifact, plan)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Ports are handed out one at a time, or two engines started together take the same.
        with FileLock(self._folder / ".lock"):
            known = next((one for one in self.engines(line.name) if one.name == name), None)
            if known is not None:
                return known
            one = RunningEngine(
                name=name,
                line=line.name,
                artifact=artifact,
                plan=plan,
                host=self._settings.host,
                port=self._free_port(),
            )
            folder = self._folder / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / plan.model_name).symlink_to(self._store.path(artifact), target_is_directory=True)
            write_whole(folder / RECORD, one.model_dump_json(indent=1), READABLE)
            return one

    def _start(self, one: RunningEngine) -> None:
        model_folder = self._folder / one.name / one.plan.model_name
        spec = launch_spec(engine(one.plan.engine), one.plan, model_folder, one.host, one.port)
        self._supervisor.run(
            Program(
                name=one.name,
                command=spec.command,
                environment=spec.environment,
                folder=model_folder.parent,
                log=self.log(one),
            )
        )

    def on_trial(self, one: RunningEngine) -> bool:
        """Whether it runs only to be weighed."""
        return self._trial_mark(one).exists()

    def mark_rotation(self, one: RunningEngine, serves: bool) -> None:
        """Write down that an engine serves, or since when it does not."""
        mark = self._folder / one.name / OUT_MARK
        if serves:
            mark.unlink(missing_ok=True)
            keep_as_noise(one.line, self._folder / one.name)
        elif not mark.exists():
            mark.touch()

    def out_since(self, one: RunningEngine | None) -> float:
        """When an engine left rotation, seconds since the epoch; 0 when that is not known."""
        mark = self._folder / one.name / OUT_MARK if one else None
        return mark.stat().st_mtime if mark and mark.exists() else 0.0

    def is_warm(self, one: RunningEngine) -> bool:
        """Whether it can take traffic at once: its process runs and answers."""
        state = self.state(one)
        return state is not None and state.state in ("RUNNING", "STARTING") and answers(one.health_url)

    def _trial_mark(self, one: RunningEngine) -> Path:
        return self._folder / one.name / "trial"

    def log(self, one: RunningEngine) -> Path:
        """The engine's log."""
        return self._settings.logs_folder / f"{one.name}.log"

    def _free_port(self) -> int:
        taken = {one.port for one in self.engines()}
        first = self._settings.engine_port_first
        for port in range(first, first + self._settings.engine_ports):
            if port not in taken and port_is_free(self._settings.host, port):
                return port
        raise PortTaken(
            f"All of the engines' ports {first} to {first + self._settings.engine_ports - 1} are in use.",
            "Set WEIGHBRIDGE_ENGINE_PORT_FIRST or WEIGHBRIDGE_ENGINE_PORTS to a larger range.",
        )


def port_is_free(host: str, port: int) -> bool:
    """Whether nobody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _name(line: str, artifact: Artifact, plan: EnginePlan) -> str:
    return f"engine-{line}-{artifact.short}-{plan.digest[:6]}"
