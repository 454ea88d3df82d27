"""`lines retire`: end a line; its records stay."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.output import JsonOption, documents, note, say, show_json


def retire(
    name: Annotated[str, typer.Argument(help="The line, also one whose file is gone and that still serves.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the audit log.")] = "retired by hand",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """End a line: drain it, take its route, engines and deployments away, and free its artifacts for `store gc`.

    MLflow's runs and versions, the audit log and the suite stay. After a kill the same command goes on.
    """
    note(name, "looks at what there is of it")
    from stack.lifecycle import require_up
    from stack.retire_line import plan_retirement, retire_line
    from tasks.serve.installation import ServingInstallation
    from weighbridge.errors import OptionInvalid
    from weighbridge.settings import use_libraries

    installation = ServingInstallation.load()
    use_libraries(installation.settings)
    plan = plan_retirement(installation, name)
    if dry_run and as_json:
        show_json({**plan.model_dump(), "retired": False})
        return
    for sentence in plan.sentences:
        if not as_json:
            say(sentence)
    if dry_run:
        say("Nothing was changed.")
        return
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()) or documents.stream is not None:
            raise OptionInvalid(
                f"Nobody can be asked whether {name} is to be retired. Nothing was changed.",
                f"`weighbridge lines retire {name} --yes` retires it without a question.",
                where="--yes",
            )
        if not typer.confirm(f"Retire {name}?", err=True):
            say("Nothing was changed.")
            return
    require_up(installation.settings)
    retire_line(installation, name, reason, note)
    if as_json:
        show_json({**plan.model_dump(), "retired": True})
        return
    say(f"{name} is retired. `weighbridge store gc` frees its artifacts once they are a day old.")
