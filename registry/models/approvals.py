"""What makes a version of `<line>` an approval: a candidate that passed, or an override by a person who may override.

Everybody with EDIT on `<line>` can create a version there and tag it freely. So nothing is trusted without a second
source: for the verdict it is the candidate, which only the pipeline writes; for an override, and for whether a version
began to serve, it is the audit log. The caller checks whether the store's files still match the digest, and whether
production has changed since.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from registry.audit import ADMIT, AuditLog, Entry, about_version
from registry.models import records, verdicts
from registry.models.reader import Reader
from registry.models.records import FailedCandidate, Version, candidates_model
from weighbridge.errors import ApprovalRefused, VersionUnknown
from weighbridge.line import Approval

REFUSED_NEXT = (
    "It does not serve. Approve a candidate of {line} with *Promote model*, or by `weighbridge approve {line} NUMBER "
    '--reason "…"`; `weighbridge candidates {line}` lists them.'
)
EXPIRED_NEXT = (
    "It does not serve. Approve it again, if it is still wanted: `weighbridge approve {line} {short}{option} "
    '--reason "…"`.'
)
BEGUN = ("rolling", "serving")
"""States that are set after an approval was checked."""
DAY_SECONDS = 86400


def check_approval(version: Version, rules: Approval, reader: Reader, log: AuditLog) -> None:
    """Check that an approved version is what the pipeline weighed, may serve, and is not too old.

    Args:
        version: Version of `<line>`.
        rules: The line's rules.
        reader: Reads the line's models.
        log: Audit log with the overrides, and with what has served.

    Raises:
        ApprovalRefused: A check failed; the reason is named.
        VerdictUnsigned: The pipeline did not sign the candidate's verdict.
        VerdictForged: The candidate, or its copy, says something else than was signed.
        AuditBroken: The log cannot be read.
    """
    names = {"line": version.line, "short": version.short}
    overridden = records.OVERRIDE in version.tags
    problem = _override_problem(version, rules, reader, log) if overridden else _copy_problem(version, reader, log)
    if problem:
        raise _refused(version, problem, REFUSED_NEXT.format(**names))
    age_days = (time.time() - version.created_at_ms / 1000) / DAY_SECONDS
    if age_days > rules.max_age_days and not has_begun(version, log):
        approved_at = datetime.fromtimestamp(version.created_at_ms / 1000, UTC)
        limit = f"more than {rules.max_age_days:g} days ago (approval.max_age_days)"
        next_step = EXPIRED_NEXT.format(**names, option=" --override" if overridden else "")
        raise _refused(version, f"was approved on {approved_at:%d %B %Y}, {limit}", next_step)


def has_begun(version: Version, log: AuditLog) -> bool:
    """Return whether a version's rollout ever began. Its approval then does not expire, so a rollback to it works."""
    # Anybody may write the tag.
    if version.state not in (*BEGUN, "previous", "retired", "rolled_back"):
        return False
    about = about_version(log.entries(version.line), version.version, version.created_at_ms)
    return any(entry.action == "state" and entry.what in BEGUN for entry in about)


def moved_production(version: Version, reader: Reader, log: AuditLog) -> Version | None:
    """Find the version that serves now, if it is not the one that `version` was weighed against.

    Args:
        version: An approved version or a candidate.
        reader: Reads the line's models.
        log: Audit log.

    Returns:
        None if production has not changed, if nothing serves, or if the version's rollout began earlier, since a
        rollback to it is allowed.
    """
    serving, approved = reader.production(version.line), version.model == version.line
    if approved and serving is not None and serving.version == version.version:
        # The alias was moved to it by hand. What serves is the newest other version whose state is `serving`.
        others = [other for other in reader.versions(version.line) if other.version != version.version]
        serving = next((other for other in reversed(others) if other.state == "serving"), None)
    if serving is None or approved_digest(serving, log) in (version.digest, version.production_digest):
        return None
    return None if approved and has_begun(version, log) else serving


def approved_digest(version: Version, log: AuditLog) -> str:
    """Return the digest of the artifact that a version was approved with, whatever its tag says by now.

    The log has it from the check of the approval, or from `approve`. After a click that an older Weighbridge checked
    it has none, and the tag has to do until the next promotion checks it again.
    """
    about = about_version(log.entries(version.line), version.version, version.created_at_ms)
    approved = [entry.what for entry in about if entry.action in (ADMIT, "approve")]
    return approved[-1] if approved else version.digest


def check_overrider(line: str, rules: Approval, reason: str, who: str) -> None:
    """Check that a person may approve a candidate that did not pass, and gives a reason.

    Raises:
        ApprovalRefused: They are not among the line's overriders, or give no reason.
    """
    field = f"approval.overriders of lines/{line}.yaml"
    if who not in rules.overriders:
        raise ApprovalRefused(
            f"{who} may not override a verdict of {line}: {field} names {', '.join(rules.overriders) or 'nobody'}.",
            f"Ask one of these, or add a name to {field}.",
        )
    if not reason.strip():
        raise ApprovalRefused("An override needs a reason.", 'Give one: `--reason "…"`; it is kept in the audit log.')


def check_weighed(failed: FailedCandidate, reader: Reader) -> None:
    """Check that a candidate has a verdict that can be overridden, and that the pipeline signed it.

    Raises:
        ApprovalRefused: Its scores could not be compared.
        VerdictUnsigned, VerdictForged: The pipeline did not say this of it.
    """
    verdicts.check_failed(failed, reader.keys, reader.signed_verdict(failed.run_id))
    if failed.outcome == "invalid":
        raise ApprovalRefused(
            f"{failed.scheme} {failed.digest[:12]} was not weighed: {failed.sentence}",
            "There is no verdict to override. Mend the cause and release the line again.",
            where=failed.run_url,
        )


def check_signed(version: Version, reader: Reader) -> None:
    """Check that a candidate is what the pipeline signed, its card included.

    Raises:
        VerdictUnsigned, VerdictForged: It is not.
    """
    verdicts.check(version, reader.keys, reader.description(version))


def _copy_problem(version: Version, reader: Reader, log: AuditLog) -> str:
    model = candidates_model(version.line)
    copied = re.fullmatch(rf"models:/{re.escape(model)}/(\d+)", version.source_uri)
    if not copied:
        return f"was not copied from {model}; its source is {version.source_uri or 'empty'}"
    try:
        candidate = reader.candidate_version(version.line, int(copied[1]))
    except VersionUnknown:
        return f"claims to be a copy of candidate {copied[1]}, which is not there"
    where = f"candidate {candidate.version}"
    if candidate.source_uri != candidate.artifact_uri:
        return f"was copied from {where}, whose source {candidate.source_uri} is not the artifact that was weighed"
    if version.digest != candidate.digest:
        return f"names the artifact {version.short or '(none)'}, but {where} is {candidate.short}"
    if version.production_digest != candidate.production_digest:
        return f"claims to have been weighed against another artifact than {where}"
    if not (version.passes and candidate.passes):
        return f"carries no passing verdict: {candidate.sentence or 'none at all'}"
    # What began to serve before verdicts were signed goes on serving, and can be rolled back to.
    if records.SIGNED_VERDICT in candidate.tags or not has_begun(version, log):
        check_signed(candidate, reader)
        verdicts.check_copy(version, candidate)
    elif (approved := approved_digest(version, log)) != version.digest:
        return f"was approved with the artifact {approved[:12]}, and names {version.short} now"
    return ""


def _override_problem(version: Version, rules: Approval, reader: Reader, log: AuditLog) -> str:
    key = version.tags[records.OVERRIDE]
    overrides = (entry for entry in log.entries(version.line) if entry.hash == key)
    entry = next((entry for entry in overrides if _is_override_of(entry, version)), None)
    if entry is None:
        return "claims an override that does not stand in the audit log"
    if entry.who not in rules.overriders:
        return f"was overridden by {entry.who}, whom approval.overriders of lines/{version.line}.yaml does not name"
    versions = reader.versions(version.line)
    first = min(other.version for other in versions if other.tags.get(records.OVERRIDE) == key)
    if first != version.version:
        return f"repeats the override of version {first}; one override approves once"
    if version.source_uri != version.artifact_uri:
        return f"was overridden as {version.artifact_uri}, and its source is {version.source_uri or 'empty'}"
    weighed = [failed for failed in reader.failed(version.line, version.digest) if failed.outcome != "invalid"]
    against = [failed for failed in weighed if failed.production_digest == version.production_digest]
    if not against:
        return f"names the artifact {version.short}, which was not weighed against the artifact that it claims"
    if not has_begun(version, log):
        check_weighed(against[-1], reader)
    return ""


def _is_override_of(entry: Entry, version: Version) -> bool:
    return (entry.action, entry.what, entry.hash) == ("override", version.digest, entry.expected_hash)


def _refused(version: Version, problem: str, next_step: str) -> ApprovalRefused:
    return ApprovalRefused(f"Version {version.version} of {version.line} {problem}.", next_step, where=version.url)
