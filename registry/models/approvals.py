"""What makes a version of `<line>` an approval: a candidate that passed, or an override by somebody who may.

Whoever may edit `<line>` can make any version there and tag it as he likes, so nothing is believed that does not
stand somewhere else too: the verdict in the candidate, which only the pipeline writes; an override, and that a
version has begun to serve, in the audit log. Whether the store's files still are those of the digest, and whether
production has moved, is for the caller to check.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from registry.audit import AuditLog, Entry
from registry.models import records
from registry.models.reader import Reader
from registry.models.records import FailedCandidate, Version, candidates_model
from weighbridge.errors import ApprovalRefused, VersionUnknown
from weighbridge.line import Approval

REFUSED_NEXT = "Nothing serves it. Approve a version of {model} with *Promote model* or `weighbridge approve {line}`."
EXPIRED_NEXT = (
    "Nothing serves it. Approve it again, if it is still wanted: `weighbridge approve {line} {short}{option}`."
)
BEGUN = ("rolling", "serving")
"""States that are written when an approval has been checked."""
DAY_SECONDS = 86400


def check_approval(version: Version, rules: Approval, reader: Reader, log: AuditLog) -> None:
    """Make sure that an approved version is what the pipeline weighed, that it may serve, and is not too old.

    Args:
        version: a version of `<line>`.
        rules: the line's.
        reader: of the line.
        log: where overrides and what has served are written down.

    Raises:
        ApprovalRefused: the reason is named.
        AuditBroken: the log cannot be read.
    """
    names = {"model": candidates_model(version.line), "line": version.line, "short": version.short}
    overridden = records.OVERRIDE in version.tags
    problem = _override_problem(version, rules, reader, log) if overridden else _copy_problem(version, reader)
    if problem:
        raise _refused(version, problem, REFUSED_NEXT.format(**names))
    age_days = (time.time() - version.created_at_ms / 1000) / DAY_SECONDS
    if age_days > rules.max_age_days and not has_begun(version, log):
        made = datetime.fromtimestamp(version.created_at_ms / 1000, UTC)
        problem = f"was approved on {made:%d %B %Y}, more than {rules.max_age_days:g} days ago (approval.max_age_days)"
        raise _refused(version, problem, EXPIRED_NEXT.format(**names, option=" --override" if overridden else ""))


def has_begun(version: Version, log: AuditLog) -> bool:
    """Whether an approval was acted upon already; then it does not age, and one may always go back to it."""
    # The tag may be anybody's; the log is not, but an emptied registry counts its versions from 1 again.
    if version.state not in (*BEGUN, "previous", "retired"):
        return False
    done = (one for one in log.entries(version.line) if one.action == "state" and one.version == version.version)
    return any(one.what in BEGUN for one in done)


def moved_production(version: Version, reader: Reader, log: AuditLog) -> Version | None:
    """What serves, where that is not what an approval or a candidate was weighed against; else None.

    An approval that was acted upon already is not asked: one may go back to it. Nor is there anything to compare with
    while nothing serves.
    """
    serving, approved = reader.by_alias(records.PRODUCTION), version.model == version.line
    if approved and serving is not None and serving.version == version.version:
        # The alias was moved to it by hand: what serves is what was told to serve before.
        others = [one for one in reader.versions(version.line) if one.version != version.version]
        serving = next((one for one in reversed(others) if one.state == "serving"), None)
    if serving is None or serving.digest in (version.digest, version.production_digest):
        return None
    return None if approved and has_begun(version, log) else serving


def check_overrider(line: str, rules: Approval, reason: str, who: str) -> None:
    """Make sure that somebody may approve what did not pass, and says why.

    Raises:
        ApprovalRefused: he is not among the line's overriders, or gives no reason.
    """
    field = f"approval.overriders of lines/{line}.yaml"
    if who not in rules.overriders:
        raise ApprovalRefused(
            f"{who} may not override a verdict of {line}: {field} names {', '.join(rules.overriders) or 'nobody'}.",
            f"Ask one of these, or add a name to {field}.",
        )
    if not reason.strip():
        raise ApprovalRefused("An override needs a reason.", 'Give one: `--reason "…"`; it is kept in the audit log.')


def check_weighed(failed: FailedCandidate) -> None:
    """Make sure that there is a verdict to override.

    Raises:
        ApprovalRefused: its scores could not be compared.
    """
    if failed.outcome == "invalid":
        raise ApprovalRefused(
            f"{failed.scheme} {failed.digest[:12]} was not weighed: {failed.sentence}",
            "There is no verdict to override; release the line again after what caused it is mended.",
            where=failed.run_url,
        )


def _copy_problem(version: Version, reader: Reader) -> str:
    model = candidates_model(version.line)
    copied = re.fullmatch(rf"models:/{re.escape(model)}/(\d+)", version.source_uri)
    if not copied:
        return f"was not copied from {model}; its source is {version.source_uri or 'empty'}"
    try:
        candidate = reader.pick(model, int(copied[1]))
    except VersionUnknown:
        return f"says that it was copied from version {copied[1]} of {model}, which is not there"
    where = f"version {candidate.version} of {model}"
    if candidate.source_uri != candidate.artifact_uri:
        return f"was copied from {where}, whose source {candidate.source_uri} is not the artifact that was weighed"
    if version.digest != candidate.digest:
        return f"names the artifact {version.short or '(none)'}, but {where} is {candidate.short}"
    if version.production_digest != candidate.production_digest:
        return f"says that it was weighed against something else than {where}"
    if not (version.passes and candidate.passes):
        return f"carries no passing verdict: {candidate.sentence or 'none at all'}"
    return ""


def _override_problem(version: Version, rules: Approval, reader: Reader, log: AuditLog) -> str:
    key = version.tags[records.OVERRIDE]
    entry = next((one for one in log.entries(version.line) if one.hash == key and _says(one, version)), None)
    if entry is None:
        return "claims an override that does not stand in the audit log"
    if entry.who not in rules.overriders:
        return f"was overridden by {entry.who}, whom approval.overriders of lines/{version.line}.yaml does not name"
    first = min(one.version for one in reader.versions(version.line) if one.tags.get(records.OVERRIDE) == key)
    if first != version.version:
        return f"repeats the override of version {first}; one override approves once"
    if version.source_uri != version.artifact_uri:
        return f"was overridden as {version.artifact_uri}, and its source is {version.source_uri or 'empty'}"
    weighed = [one for one in reader.failed(version.digest) if one.outcome != "invalid"]
    if version.production_digest not in [one.production_digest for one in weighed]:
        return f"names the artifact {version.short}, which was not weighed against what it says"
    return ""


def _says(entry: Entry, version: Version) -> bool:
    return (entry.action, entry.what, entry.hash) == ("override", version.digest, entry.expected_hash)


def _refused(version: Version, problem: str, next_step: str) -> ApprovalRefused:
    return ApprovalRefused(f"Version {version.version} of {version.line} {problem}.", next_step, where=version.url)
