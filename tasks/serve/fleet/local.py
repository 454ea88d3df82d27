"""Engines on this machine: started under supervisord, proven by a real request, stopped when drained.

An engine is one version of one line on one port. Its folder `<home>/engines/<name>/` holds its record (`engine.json`)
and a link, named like the line, to the weights.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from pydantic import ValidationError

from registry.store import Artifact, Store
from tasks.engines import EnginePlan, launch_spec
from tasks.engines import engine as engine_kind
from tasks.engines._guard.weighbridge_guard import KEY_VARIABLE
from tasks.fit.hardware.free_memory import free_memory
from tasks.serve.engine_keys import EngineKeys
from tasks.serve.fleet import trial_mark
from tasks.serve.fleet.launch import FINAL, launch_command, verify_seconds
from tasks.serve.fleet.ports import answers_as_ours, port_is_free, require_own_listener
from tasks.serve.fleet.program import Program
from tasks.serve.fleet.protocol import Endpoint, EngineState, Report, RunningEngine, no_report, plan_engine
from tasks.serve.fleet.ready import wait_ready
from tasks.serve.fleet.refusal import refusal
from tasks.serve.fleet.starts import longest_start_seconds, note_start
from tasks.serve.fleet.supervisor import Supervisor
from weighbridge.errors import EngineDiverges, EngineFailed, NoRoomBeside, PortTaken
from weighbridge.files import READABLE, write_whole
from weighbridge.line import Line
from weighbridge.settings import Settings
from weighbridge.validation import first_fault

if TYPE_CHECKING:
    from tasks.serve.parity.reference import Reference

# What proves an engine's answers and plans its memory takes a second to import. Only a start needs it: `status` and
# `rollback` list engines.

RECORD = "engine.json"
OUT_MARK = "out-of-rotation"
TRIAL_MARK = "trial"


class LocalFleet:
    """All engines of an installation, on its own machine; the interface is `Fleet`.

    Args:
        settings: the installation.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.home / "engines"
        self._supervisor = Supervisor(settings)
        self._store = Store.of(settings)
        self._keys = EngineKeys(settings)

    def engines(self, line_name: str | None = None) -> list[RunningEngine]:
        """List the fleet's engines, or one line's, by name.

        Raises:
            EngineFailed: The record of one cannot be read.
        """
        engines = [_read(path) for path in sorted(self._folder.glob(f"*/{RECORD}"))]
        return [self._with_key(engine) for engine in engines if line_name in (None, engine.line)]

    def _with_key(self, engine: RunningEngine) -> RunningEngine:
        return engine.model_copy(update={"key": self._keys.of(engine.name)})

    def find(self, line: Line, artifact: Artifact) -> RunningEngine | None:
        """Find the engine that serves this artifact under this line's plan."""
        return self._named(line.name, _engine_name(line.name, artifact, plan_engine(line)))

    def _named(self, line_name: str, name: str) -> RunningEngine | None:
        return next((engine for engine in self.engines(line_name) if engine.name == name), None)

    def state(self, engine: RunningEngine) -> EngineState | None:
        """State of the engine's process, as supervisord reports it; None if there is no such process."""
        program = self._supervisor.state(engine.name)
        if program is None:
            return None
        return EngineState(status=program.status, pid=program.pid, up_seconds=program.up_seconds)

    def _pid(self, engine: RunningEngine) -> int:
        state = self.state(engine)
        return state.pid if state else 0

    def ensure(self, line: Line, artifact: Artifact, report: Report = no_report) -> RunningEngine:
        """Return an engine that serves this artifact: the running one, or a new one, warmed up and proven.

        Args:
            line: whose engine.
            artifact: what it serves.
            report: called with a sentence at each stage.

        Raises:
            EngineFailed: it does not start, or its first real requests fail; nothing of it is left.
            EngineDiverges: its answers differ from what the artifact computes, and the line refuses that; nothing
                of it is left.
            NoRoomBeside: the memory that it needs is not free.
            ArtifactDamaged: the weights are not those of the manifest.
            ScoringFailed: transformers does not load the artifact, so there is nothing to compare with.
            StackDown: there is no supervisord to run it.
        """
        engine = self._ensure(line, artifact, report)
        self._trial_mark(engine).unlink(missing_ok=True)
        return engine

    def _ensure(self, line: Line, artifact: Artifact, report: Report) -> RunningEngine:
        from tasks.serve.memory_check import check_before_start, note_after_start, planned_rows
        from tasks.serve.parity.reference import reference_for

        # Before the engine starts: the two may not fit into a GPU's memory together.
        reference = None
        if line.engine.parity != "off":
            reference = reference_for(self._settings, artifact, line.target.context, report)
        engine = self._register(line, artifact, plan_engine(line))
        state = self.state(engine)
        running = state is not None and state.alive
        rows = planned_rows(line, artifact.scheme, self._store.path(artifact), report)
        try:
            began = time.monotonic()
            if not running:
                check_before_start(rows, self.free_memory(), engine.name)
                # Only here: a newer Weighbridge may have another command for the same plan, and a program whose command
                # changes is restarted, under its traffic.
                self._start(engine)
            self.warm_up(engine, report)
            if not running:
                note_start(self._settings, engine.line, engine.plan.engine_version, time.monotonic() - began)
            if reference is not None:
                self._check_parity(line, engine, reference, report)
        except (EngineFailed, EngineDiverges, NoRoomBeside, *FINAL):
            self.stop(engine)
            raise
        version, pid = engine.plan.engine_version, self._pid(engine)
        note_after_start(rows, artifact.digest, version, self._log(engine), pid, report)
        return engine

    def expected_start_seconds(self, line: Line) -> float | None:
        """Longest start of the line's engines so far, seconds; None if none was seen."""
        return longest_start_seconds(self._settings, line.name, plan_engine(line).engine_version)

    def warm_up(self, engine: RunningEngine, report: Report = no_report) -> None:
        """Wait until an engine is up, and send it its first real requests.

        Raises:
            EngineFailed: it does not become ready, or answers its first requests wrongly.
            ArtifactDamaged, ArtifactUnsigned: it was not started, because its weights are not what was weighed.
        """
        from tasks.serve.fleet.prove import prove

        ready_seconds = engine_kind(engine.plan.engine).ready_seconds + verify_seconds(engine.artifact)
        health_url = engine.health_urls[0]
        try:
            wait_ready(engine.name, health_url, lambda: self.state(engine), self._log(engine), ready_seconds, report)
        except EngineFailed as failed:
            raise refusal(self._settings, engine.name) or failed from None
        require_own_listener(engine.endpoints[0].port, engine.name)
        prove(engine.url, engine.plan, report, self._keys.of(engine.name))

    def _check_parity(self, line: Line, engine: RunningEngine, reference: Reference, report: Report) -> None:
        """Compare an engine's answers with its artifact's reference."""
        from tasks.serve.parity.gate import pass_gate

        try:
            folder, pid = self._folder / engine.name, self._pid(engine)
            key = self._keys.of(engine.name)
            pass_gate(self._settings, engine.url, engine.plan, reference, folder, pid, report, key)
        except EngineDiverges as error:
            if line.engine.parity == "refuse":
                raise
            report(f"It would be refused under `parity: refuse`: {error.what}")

    def stop(self, engine: RunningEngine) -> None:
        """Stop an engine and forget it; harmless when it is gone. The caller has drained it."""
        self._supervisor.remove(engine.name)
        shutil.rmtree(self._folder / engine.name, ignore_errors=True)

    @contextmanager
    def trial(self, line: Line, artifact: Artifact, report: Report = no_report) -> Iterator[RunningEngine]:
        """An engine for scoring: the running one if there is one, else one that is stopped after the block."""
        known = self.find(line, artifact)
        if known is not None and not self._trial_mark(known).exists():
            yield self._ensure(line, artifact, report)
            return
        # Marked before it starts, or a promotion meanwhile would stop it as one that nothing uses.
        engine = self._register(line, artifact, plan_engine(line))
        try:
            with trial_mark.held(self._trial_mark(engine)):
                yield self._ensure(line, artifact, report)
        finally:
            # The mark goes when a promotion takes the engine over. Of several trials the last one stops it.
            if self._trial_mark(engine).exists() and not self.on_trial(engine):
                self.stop(engine)

    def _register(self, line: Line, artifact: Artifact, plan: EnginePlan) -> RunningEngine:
        name = _engine_name(line.name, artifact, plan)
        weights = self._store.path(artifact)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Ports are handed out one at a time, or two engines started together take the same.
        with FileLock(self._folder / ".lock"):
            known = self._named(line.name, name)
            if known is not None:
                return known
            endpoint = Endpoint(host=self._settings.host, port=self._free_port())
            engine = RunningEngine(name=name, line=line.name, artifact=artifact, plan=plan, endpoints=(endpoint,))
            folder = self._folder / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / plan.model_name).symlink_to(weights, target_is_directory=True)
            if engine_kind(plan.engine).takes_key:
                self._keys.make(name)
            write_whole(folder / RECORD, engine.model_dump_json(indent=1), READABLE)
            return self._with_key(engine)

    def _start(self, engine: RunningEngine) -> None:
        model_folder = self._folder / engine.name / engine.plan.model_name
        endpoint = engine.endpoints[0]
        kind = engine_kind(engine.plan.engine)
        spec = launch_spec(kind, engine.plan, model_folder, endpoint.host, endpoint.port)
        if key := self._keys.of(engine.name):
            # In the environment: every user sees a command line.
            spec = kind.with_key_check(spec)
            spec = spec.model_copy(update={"environment": {**spec.environment, KEY_VARIABLE: key}})
        self._supervisor.run(
            Program(
                name=engine.name,
                command=launch_command(self._settings.home, engine.artifact, model_folder, endpoint.port, spec.command),
                environment=spec.environment,
                folder=model_folder.parent,
                log=self._log(engine),
                may_refuse=True,
            )
        )

    def on_trial(self, engine: RunningEngine) -> bool:
        """True if the engine runs only to be scored."""
        return trial_mark.is_held(self._trial_mark(engine))

    def mark_rotation(self, engine: RunningEngine, serves: bool) -> None:
        """Record that an engine serves, or that it left rotation now if it has not left before."""
        mark = self._folder / engine.name / OUT_MARK
        if serves:
            from tasks.serve.parity.gate import keep_as_noise

            mark.unlink(missing_ok=True)
            keep_as_noise(self._settings, engine.line, self._folder / engine.name)
        elif not mark.exists():
            mark.touch()

    def out_since(self, engine: RunningEngine | None) -> float:
        """Time at which an engine left rotation, seconds since the epoch; 0 if unknown."""
        mark = self._folder / engine.name / OUT_MARK if engine else None
        return mark.stat().st_mtime if mark and mark.exists() else 0.0

    def is_warm(self, engine: RunningEngine) -> bool:
        """True if the engine can take traffic at once: its process runs and answers."""
        state = self.state(engine)
        if state is None or not state.alive:
            return False
        return all(answers_as_ours(endpoint, engine.health_path) for endpoint in engine.endpoints)

    def log_tail(self, engine: RunningEngine, lines: int = 20) -> tuple[str, ...]:
        """Last lines of the engine's log, oldest first; none if there is no log."""
        if not self._log(engine).is_file():
            return ()
        with self._log(engine).open(errors="replace") as log:
            return tuple(line.rstrip("\n") for line in deque(log, maxlen=lines))

    def free_memory(self) -> dict[str, tuple[float, ...]]:
        """Free memory in GiB by kind of GPU, one number a device; `host` is the machine's own memory."""
        return free_memory()

    def _trial_mark(self, engine: RunningEngine) -> Path:
        return self._folder / engine.name / TRIAL_MARK

    def _log(self, engine: RunningEngine) -> Path:
        return self._settings.logs_folder / f"{engine.name}.log"

    def _free_port(self) -> int:
        taken = {endpoint.port for engine in self.engines() for endpoint in engine.endpoints}
        first = self._settings.engine_port_first
        for port in range(first, first + self._settings.engine_ports):
            if port not in taken and port_is_free(self._settings.host, port):
                return port
        raise PortTaken(
            f"All of the engines' ports {first} to {first + self._settings.engine_ports - 1} are in use.",
            "Set WEIGHBRIDGE_ENGINE_PORT_FIRST or WEIGHBRIDGE_ENGINE_PORTS to a larger range.",
        )


def _engine_name(line_name: str, artifact: Artifact, plan: EnginePlan) -> str:
    return f"engine-{line_name}-{artifact.short}-{plan.digest[:6]}"


def _read(path: Path) -> RunningEngine:
    try:
        engine = RunningEngine.model_validate_json(path.read_bytes())
        if engine.name == path.parent.name:
            return engine
        problem = "its name is not its folder's"
    except ValidationError as error:
        problem = first_fault(error)
    raise EngineFailed(
        f"The record of the engine {path.parent.name} is damaged: {problem}.",
        "Undo the edit; or delete the file, and `weighbridge promote` starts the line's engine anew.",
        where=str(path),
    )
