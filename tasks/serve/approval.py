"""Hold what was approved against what was weighed, and against what serves today; say it where the reviewer looks."""

from __future__ import annotations

from registry.models import records
from registry.models.records import Version
from registry.models.registry import Registry
from registry.store import Artifact, Store
from weighbridge.deployments import start
from weighbridge.errors import (
    ApprovalRefused,
    ArtifactDamaged,
    ArtifactMissing,
    ArtifactUnsigned,
    ReleaseNotStarted,
    StackDown,
    StackFailed,
)
from weighbridge.line import Line
from weighbridge.settings import Settings

OUT = ("refused", "failed", "rolled_back")
"""States that only another approval leads out of."""
LASTING = (ApprovalRefused, ArtifactMissing, ArtifactDamaged, ArtifactUnsigned)
"""What is a property of the approval. Anything else, such as a store that is unreachable, the next try may not meet."""


def hold(line: Line, target: Version, registry: Registry, store: Store, settings: Settings) -> Artifact:
    """Find an approved version's artifact, whole and signed; what must not serve is tagged and commented on.

    Returns:
        The artifact, every file of which was hashed.

    Raises:
        ApprovalRefused, ArtifactMissing, ArtifactDamaged, ArtifactUnsigned: and the version carries the reason.
        StackDown, RegistryFailed, StoreUnreachable, AuditBroken: nothing was decided.
    """
    if target.state in OUT:
        raise ApprovalRefused(
            f"Version {target.version} of {line.name} is {target.state}: {target.state_reason or 'no reason'}.",
            "Approve a candidate again to give it another try; `weighbridge status` lists them.",
        )
    try:
        registry.check_approval(target, line.approval)
        check_production(line, target, registry, settings)
        artifact = store.get(line.name, target.digest)
        store.verify(artifact)
    except LASTING as error:
        registry.comment(line.name, target.version, str(error))
        if target.state is None:
            registry.set_state(line.name, target.version, "refused", str(error))
        raise
    registry.comment(line.name, target.version, "")
    return artifact


def check_production(line: Line, version: Version, registry: Registry, settings: Settings | None = None) -> None:
    """Make sure that production still is what a candidate, or its approval, was weighed against.

    Args:
        settings: where Prefect is to be asked to weigh it again; it is not asked without.

    Raises:
        ApprovalRefused: production has moved; how it is weighed again stands in it.
    """
    serving = registry.moved_production(version)
    if serving is None:
        return
    against = version.production_digest
    doing = settings is not None and _weigh_again(line, version, serving, settings)
    next_step = f"{'It is being weighed' if doing else 'Weigh it'} again: `{_command(line, version)}`"
    raise ApprovalRefused(
        f"Version {version.version} of {version.model} was weighed against {against[:12] if against else 'nothing'}, "
        f"and production is version {serving.version} ({serving.scheme}, {serving.short}) now.",
        f"{next_step}{' was started in Prefect' if doing else ''}; then approve what passes.",
        where=version.url,
    )


def _weigh_again(line: Line, version: Version, serving: Version, settings: Settings) -> bool:
    """Start the release of the same commit and scheme: all but the weighing comes from the cache. Once a production."""
    key = f"weigh-again/{line.name}/{version.digest}/{serving.digest}"
    try:
        return bool(start(settings, f"release/{line.name}", _parameters(line, version), key))
    except (StackDown, StackFailed, ReleaseNotStarted):
        return False


def _parameters(line: Line, version: Version) -> dict[str, object]:
    source, _, commit = version.tags.get(records.SOURCE, "").partition("@")
    wanted: dict[str, object] = {"line": line.name, "schemes": [version.scheme]}
    if commit:
        wanted["revision"] = commit
    if source not in ("", line.source):
        wanted["source"] = source
    return wanted


def _command(line: Line, version: Version) -> str:
    wanted = _parameters(line, version)
    if "source" in wanted:
        options = f"-p source={wanted['source']} -p revision={wanted['revision']}"
        return f"prefect deployment run release/{line.name} {options}"
    revision = f" --revision {wanted['revision']}" if "revision" in wanted else ""
    return f"weighbridge release {line.name}{revision} --scheme {version.scheme}"
