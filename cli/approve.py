"""`approve`: a person's word that a candidate may serve, with the reason for it."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, LineArgument, say, show_json
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from registry.installation import Installation
    from registry.models.records import Approved
    from weighbridge.settings import Settings

SHORT_DIGEST = 12


def approve(
    line: LineArgument,
    candidate: Annotated[str, typer.Argument(help="Number of a candidate of LINE, or the first digits of a digest.")],
    reason: Annotated[
        str, typer.Option(help="Why; kept with the version and in the audit log. Asked for at a terminal.")
    ] = "",
    override: Annotated[
        bool,
        typer.Option("--override", help="CANDIDATE is the digest of one that failed; the line names who may."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Approve a candidate, with a reason: the same call as MLflow's *Promote model*. `promote` then makes it serve.

    A reason for a candidate that is approved already is kept too, as a second entry of the audit log.
    """
    from registry.installation import Installation
    from tasks.serve.approval import check_production
    from weighbridge.line import Line
    from weighbridge.promotion_start import promotion_starts

    configured, installation = Line.load(line), Installation.load()
    _require_mlflow(installation.settings)
    reason = reason.strip()
    if not reason and (as_json or not _can_ask()):
        raise _no_reason(line, candidate, override)
    who, registry = _signed_in(installation.settings), installation.registry
    if override:
        failed = registry.failed_candidate(line, candidate)
        approves = f"{failed.scheme} {failed.digest[:SHORT_DIGEST]}, which failed,"
        # Who may not override is refused before anything is asked.
        if not reason and who in configured.approval.overriders:
            reason = _ask_reason(approves, failed.sentence)
        approved = registry.override(line, candidate, reason, who, configured.approval)
    else:
        proposed = registry.candidate(line, candidate)
        check_production(configured, proposed, registry)
        approves = f"Candidate {proposed.version} of {line}"
        reason = reason or _ask_reason(f"{approves} ({proposed.scheme}, {proposed.short})", proposed.sentence)
        approved = registry.approve(line, proposed.version, reason, who)
    if as_json:
        show_json(approved.model_dump())
        return
    say(_what_happened(approved, approves, installation))
    say(promotion_starts(installation.settings, [line])[line].sentence)
    say(approved.url)


def waiting_candidates(installation: Installation, line: str) -> list[str]:
    """Say of each candidate that nobody has approved how to approve it, the newest first; a sentence each."""
    command = f'weighbridge approve {line} {{}} --reason "…"'
    return [
        f"{candidate.kind.capitalize()} {candidate.version} ({candidate.scheme}, {candidate.short}) awaits approval: "
        f"{styled(command.format(candidate.version), 'bold')}"
        for candidate in reversed(installation.registry.awaiting(line))
    ]


def _require_mlflow(settings: Settings) -> None:
    from weighbridge.errors import StackDown
    from weighbridge.health import answers

    if not answers(f"{settings.mlflow_url}/health"):
        raise StackDown(
            "MLflow does not answer, so nothing was approved.",
            "Run `weighbridge up`, then the same command again; `weighbridge logs mlflow` shows why it is down.",
            where=settings.mlflow_url,
        )


def _signed_in(settings: Settings) -> str:
    """Sign in, and name who approves: with accounts in MLflow the signed-in account, and no other."""
    from registry import accounts
    from registry.audit import this_user

    accounts.sign_in(settings)
    return (accounts.signed_in_as() if settings.mlflow_auth else "") or this_user()


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask_reason(subject: str, sentence: str) -> str:
    """Ask at the terminal until there is a reason; Ctrl-C approves nothing."""
    say(f"{subject}: {sentence}", error=True)
    reason = ""
    while not reason:
        reason = str(typer.prompt("Why may it serve? (kept with the version)", err=True)).strip()
    return reason


def _no_reason(line: str, candidate: str, override: bool) -> Exception:
    from weighbridge.errors import ReasonMissing

    option = " --override" if override else ""
    return ReasonMissing(
        "An approval needs a reason, and there is no terminal here to ask for one. Nothing was approved.",
        f'`weighbridge approve {line} {shlex.quote(candidate)}{option} --reason "…"`: the audit log keeps it.',
    )


def _what_happened(approved: Approved, subject: str, installation: Installation) -> str:
    artifact = f"({approved.scheme}, {approved.digest[:SHORT_DIGEST]})"
    if not approved.earlier:
        return f"{subject} is approved: it is {approved.name} {artifact}."
    # A click in MLflow leaves no name in the tag; the server's entry in the log has the account.
    who = approved.approved_by or installation.audit_log.approver(approved.line, approved.version)
    then = "the new reason is kept in the audit log" if approved.reason_added else "nothing changes"
    return f"{subject} was approved before{f' by {who}' if who else ''}: it is {approved.name} {artifact}; {then}."


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(approve)
