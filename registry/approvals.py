"""What makes a version of `<line>` an approval: a faithful copy of a candidate that passed."""

from __future__ import annotations

import re
from collections.abc import Callable

from registry.records import Version, candidates_model
from weighbridge.errors import ApprovalRefused, VersionUnknown

REFUSED_NEXT = "Nothing serves it. Approve a version of {model} with *Promote model* or `weighbridge approve {line}`."


def check_approval(version: Version, candidate_lookup: Callable[[int], Version]) -> None:
    """Make sure that an approved version is what the pipeline weighed and passed.

    Whoever may edit `<line>` can make any version there and tag it as he likes, so nothing is believed that
    the candidate, which only the pipeline may write, does not say too. Whether the store's files still are
    those of the digest is for the caller to check.

    Args:
        version: a version of `<line>`.
        candidate_lookup: gives a version of `<line>-candidates` by number.

    Raises:
        ApprovalRefused: the reason is named.
    """
    model = candidates_model(version.line)
    if problem := _problem(version, model, candidate_lookup):
        raise ApprovalRefused(
            f"Version {version.version} of {version.line} {problem}.",
            REFUSED_NEXT.format(model=model, line=version.line),
            where=version.url,
        )


def _problem(version: Version, model: str, candidate_lookup: Callable[[int], Version]) -> str:
    copied = re.fullmatch(rf"models:/{re.escape(model)}/(\d+)", version.source_uri)
    if not copied:
        return f"was not copied from {model}; its source is {version.source_uri or 'empty'}"
    try:
        candidate = candidate_lookup(int(copied[1]))
    except VersionUnknown:
        return f"says that it was copied from version {copied[1]} of {model}, which is not there"
    where = f"version {candidate.version} of {model}"
    if candidate.source_uri != candidate.artifact_uri:
        return f"was copied from {where}, whose source {candidate.source_uri} is not the artifact that was weighed"
    if version.digest != candidate.digest:
        return f"names the artifact {version.short or '(none)'}, but {where} is {candidate.short}"
    if not (version.passes and candidate.passes):
        return f"carries no passing verdict: {candidate.sentence or 'none at all'}"
    return ""
