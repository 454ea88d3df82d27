"""Compare an approved version with what was weighed and with what serves today; comment where the reviewer looks.

What passes is admitted: the audit log gets the version with the digest that was compared, and only that digest may get
traffic under that version (`standing.py`, `rollout/traffic.py`).
"""

from __future__ import annotations

import math

from registry.installation import Installation
from registry.models import records
from registry.models.records import Version
from registry.models.registry import Registry
from registry.store import Artifact
from tasks.serve.standing import ADMIT, BARRED, not_admitted, standing_of
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

OUT = (*BARRED, "rolled_back")
"""States that only another approval ends."""

LASTING = (ApprovalRefused, ArtifactMissing, ArtifactDamaged, ArtifactUnsigned)
"""Errors that belong to the approval. Any other, such as an unreachable store, may be gone at the next try."""


def verify_approval(installation: Installation, line: Line, target: Version) -> Artifact:
    """Find an approved version's artifact, complete and signed; tag and comment a version that must not serve.

    Args:
        installation: whose registry and store.
        line: its rules of approval.
        target: the approved version.

    Returns:
        The artifact, every file of which was hashed.

    Raises:
        ApprovalRefused, ArtifactMissing, ArtifactDamaged, ArtifactUnsigned: and the version carries the reason.
        StackDown, RegistryFailed, StoreUnreachable, AuditBroken: nothing was decided.
    """
    registry, store = installation.registry, installation.store
    logged = standing_of(installation.audit_log, target).state
    # Anybody may write the tag; the log has what Weighbridge itself decided.
    if out := next((state for state in (logged, target.state) if state in OUT), None):
        raise ApprovalRefused(
            f"Version {target.version} of {line.name} is {out}: {target.state_reason or 'no reason'}.",
            f"Approve a candidate again to give it another try: `weighbridge candidates {line.name}` lists them.",
        )
    try:
        registry.check_approval(target, line.approval)
        check_production(line, target, registry, installation.settings)
        artifact = store.get(line.name, target.digest)
        store.verify(artifact)
    except LASTING as error:
        registry.comment(line.name, target.version, str(error))
        if target.state is None:
            registry.set_state(line.name, target.version, "refused", str(error))
        raise
    registry.comment(line.name, target.version, "")
    _admit(installation, target)
    return artifact


def verify_return(installation: Installation, line: Line, target: Version) -> Artifact:
    """Find the artifact of a version that a rollback goes back to.

    It has served before, with the same artifact; else it must pass the approval check now.

    Returns:
        The artifact; whoever starts an engine from it verifies its files.

    Raises:
        ApprovalRefused: it was refused, failed, or never passed the check, or it names another artifact by now.
        ArtifactMissing, ArtifactDamaged, ArtifactUnsigned: as `verify_approval`.
        StackDown, RegistryFailed, StoreUnreachable, AuditBroken: nothing was decided.
    """
    require_unbarred(installation, target)
    standing = standing_of(installation.audit_log, target)
    if standing.begun:
        require_same_artifact(installation, line, target)
        return installation.store.get(line.name, target.digest)
    return verify_approval(installation, line, target)


def require_unbarred(installation: Installation, target: Version) -> None:
    """Check that a version was neither refused nor failed.

    Raises:
        ApprovalRefused: it was, by the audit log or by its tag.
    """
    logged = standing_of(installation.audit_log, target).state
    if out := next((state for state in (logged, target.state) if state in BARRED), None):
        raise not_admitted(target.line, target.version, out)


def require_same_artifact(installation: Installation, line: Line, target: Version) -> None:
    """Check that a version which has begun to serve still names the artifact that passed its check.

    The check of an older Weighbridge noted no digest. Then the version must still be what it was approved as, which is
    noted.

    Raises:
        ApprovalRefused: it names another artifact.
    """
    standing = standing_of(installation.audit_log, target)
    if standing.admits(target.digest):
        return
    if not standing.admitted or standing.digest:
        passed = f"passed its check with the artifact {standing.digest[:12]}" if standing.digest else "passed no check"
        raise ApprovalRefused(
            f"Version {target.version} of {line.name} {passed}, and names {target.short or 'none'} now.",
            f"Its tags were changed: `weighbridge audit --line {line.name}` says by whom. Approve a candidate again: "
            f"`weighbridge candidates {line.name}` lists them.",
            where=target.url,
        )
    ageless = line.approval.model_copy(update={"max_age_days": math.inf})
    installation.registry.check_approval(target, ageless)
    _admit(installation, target)


def _admit(installation: Installation, target: Version) -> None:
    if not standing_of(installation.audit_log, target).admits(target.digest):
        installation.audit_log.append(ADMIT, target.line, target.version, what=target.digest)


def check_production(line: Line, version: Version, registry: Registry, settings: Settings | None = None) -> None:
    """Make sure that production is still the version that a candidate, or its approval, was weighed against.

    Args:
        line: whose production.
        version: the candidate or the approved version.
        registry: of the installation.
        settings: where Prefect is asked to weigh the version again; without them it is not asked.

    Raises:
        ApprovalRefused: production has moved; the message has the command that weighs the version again.
    """
    production = registry.moved_production(version)
    if production is None:
        return
    weighed_against = version.production_digest
    started = settings is not None and _start_weighing(line, version, production, settings)
    next_step = f"{'It is being weighed' if started else 'Weigh it'} again: `{_command(line, version)}`"
    raise ApprovalRefused(
        f"{version.kind.capitalize()} {version.version} of {version.line} was weighed against "
        f"{weighed_against[:12] if weighed_against else 'nothing'}, "
        f"and production is version {production.version} ({production.scheme}, {production.short}) now.",
        f"{next_step}{' was started in Prefect' if started else ''}; then approve what passes.",
        where=version.url,
    )


def _start_weighing(line: Line, version: Version, production: Version, settings: Settings) -> bool:
    """Start the release of the same commit and scheme, once for each production.

    All but the weighing comes from the cache.
    """
    key = f"weigh-again/{line.name}/{version.digest}/{production.digest}"
    try:
        return bool(start(settings, f"release/{line.name}", _parameters(line, version), key))
    except (StackDown, StackFailed, ReleaseNotStarted):
        return False


def _parameters(line: Line, version: Version) -> dict[str, object]:
    """Parameters of the flow `release` that weighs a version again."""
    source, _, commit = version.tags.get(records.SOURCE, "").partition("@")
    parameters: dict[str, object] = {"line": line.name, "schemes": [version.scheme]}
    if commit:
        parameters["revision"] = commit
    if source not in ("", line.source):
        parameters["source"] = source
    return parameters


def _command(line: Line, version: Version) -> str:
    """Command line that weighs a version again."""
    parameters = _parameters(line, version)
    if "source" in parameters:
        options = f"-p source={parameters['source']} -p revision={parameters['revision']}"
        return f"prefect deployment run release/{line.name} {options}"
    revision = f" --revision {parameters['revision']}" if "revision" in parameters else ""
    return f"weighbridge release {line.name}{revision} --scheme {version.scheme}"
