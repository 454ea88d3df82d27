"""Write docs/reference/ from the code: `python docs/generate.py`, or `make docs`.

Every page states where it comes from. `tests/test_docs.py` writes them again and compares, so a field, a setting, an
error, a command, an engine, a scheme, an assertion or a GPU cannot be added without its line here.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOTICE = "<!-- Written by docs/generate.py; run `make docs` instead of editing it. -->\n\n"


def cell(value: object) -> str:
    """Text for one cell of a Markdown table."""
    text = re.sub(r"\s+", " ", str(value)).strip().replace("|", "\\|")
    # Outside code type, a word in angle brackets would be HTML.
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(text.split("`")))


def code(value: object) -> str:
    """A cell in code type; empty stays empty."""
    text = re.sub(r"\s+", " ", str(value)).strip().replace("|", "\\|")
    return f"`{text}`" if text else ""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def first_paragraph(docstring: str | None) -> str:
    """The part of a docstring before its first empty line, on one line."""
    return re.sub(r"\s+", " ", (docstring or "").strip().split("\n\n")[0])


def module_docstring(path: Path) -> str:
    """The first paragraph of a file's docstring, read without importing the file."""
    return first_paragraph(ast.get_docstring(ast.parse(path.read_text())))


# --- a line's fields ------------------------------------------------------------------------


def line_page() -> str:
    """Every field of `lines/NAME.yaml`."""
    from weighbridge.line import Line

    text = [
        "# A line's fields\n",
        "One file `lines/NAME.yaml` a line; its name is the line's name. "
        "[Write a line](../how-to/write-a-line.md) shows a whole file. "
        "`weighbridge lines` checks all files and names every wrong field at once.\n",
    ]
    plain = [(name, field) for name, field in Line.model_fields.items() if name != "name" and not _parts(field)]
    text += ["## Top level\n", table(["field", "meaning", "type", "default"], [_field_row(n, f) for n, f in plain])]
    for name, field in Line.model_fields.items():
        for part in _parts(field):
            is_list = str(field.annotation).startswith("list[")
            text += list(_part_sections(f"{name}[]" if is_list else name, part))
    return "\n".join(text)


def _part_sections(path: str, part: type[BaseModel]) -> Iterator[str]:
    yield f"## `{path}`\n"
    yield first_paragraph(part.__doc__) + "\n"
    rows, nested = [], []
    for name, field in part.model_fields.items():
        inner = _parts(field)
        rows.append(_field_row(name, field))
        is_dict = str(field.annotation).startswith("dict[")
        nested += [(f"{path}.{name}{'.<name>' if is_dict else ''}", model) for model in inner]
    yield table(["field", "meaning", "type", "default"], rows)
    for below, model in nested:
        yield from _part_sections(below, model)


def _parts(field: FieldInfo) -> list[type[BaseModel]]:
    """Models that a field holds, whether alone, optional, in a list or in a dict."""
    found, todo = [], [field.annotation]
    while todo:
        kind = todo.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
        todo += [argument for argument in get_args(kind) if not isinstance(argument, str)]
    return found


def _field_row(name: str, field: FieldInfo) -> list[str]:
    return [code(name), cell(field.description or ""), code(_type_name(field)), _default(field)]


def _type_name(field: FieldInfo) -> str:
    kind = field.annotation
    text = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    text = re.sub(r"typing\.(Literal|Annotated)", r"\1", text)
    text = re.sub(r"Annotated\[(\w+), FieldInfo\(.*?\]\)\]", r"\1", text)
    text = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " or "), text)
    text = re.sub(r"(?:weighbridge|pathlib)\.(?:\w+\.)?", "", text)
    bounds = []
    for rule in field.metadata:
        for sign, word in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            if (value := getattr(rule, sign, None)) is not None:
                bounds.append(f"{word} {value}")
    return f"{text} {', '.join(bounds)}".strip()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    if value is PydanticUndefined:
        return "see the meaning"
    if isinstance(value, BaseModel):
        return "the defaults below"
    if isinstance(value, bool) or value is None:
        return code({True: "true", False: "false", None: "null"}[value])
    return code(value) if value not in ("", [], {}) else "empty"


# --- settings -------------------------------------------------------------------------------


def settings_page() -> str:
    """Every `WEIGHBRIDGE_*` variable that `Settings` reads."""
    from weighbridge.settings import PREFIX, Settings

    rows = []
    for name, field in Settings.model_fields.items():
        default = "see the meaning" if field.default_factory else _default(field)
        rows.append([code(PREFIX + name.upper()), cell(field.description or ""), code(_type_name(field)), default])
    return (
        "# Settings\n\n"
        "Each is an environment variable. The strongest source wins: the environment, then what `weighbridge up` "
        "recorded of the running stack in `<home>/stack.json`, then the default.\n\n"
        + table(["variable", "meaning", "type", "default"], rows)
        + "\n## Variables that no setting holds\n\n"
        + table(
            ["variable", "meaning"],
            [
                ["`WEIGHBRIDGE_USER`", "who approves, where MLflow has no accounts; else the operating system's user"],
                ["`WEIGHBRIDGE_PASSWORD_<NAME>`", "a user's password for `weighbridge roles apply`"],
                ["`WEIGHBRIDGE_VLLM_PYTHON`", "the Python that has vLLM; likewise `_SGLANG_` and `_TENSORRT_LLM_`"],
                ["`WEIGHBRIDGE_GGUF_CONVERTER`", "the folder of llama.cpp's converter"],
                ["`VLLM_CPU_KVCACHE_SPACE`", "GiB of cache for vLLM on a processor; set it before `weighbridge up`"],
                ["`HF_TOKEN`", "access to gated repositories of the Hub, for the worker"],
                [
                    "`PREFECT_PROFILES_PATH`",
                    "another installation's `prefect/profiles.toml`, for a `prefect` typed by hand",
                ],
                ["`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`", "who a command signs in as, with accounts"],
            ],
        )
    )


# --- errors ---------------------------------------------------------------------------------


def errors_page() -> str:
    """Every error with its exit status."""
    from weighbridge.errors import ExitStatus, WeighbridgeError, all_errors

    by_status: dict[ExitStatus, list[type[WeighbridgeError]]] = {}
    for error in all_errors():
        by_status.setdefault(error.exit_status, []).append(error)
    rows = [
        [
            str(int(status)),
            f"[`{error.__name__}`](../troubleshooting.md#{error.__name__.lower()})",
            cell(first_paragraph(error.__doc__)),
        ]
        for status in sorted(by_status)
        for error in by_status[status]
    ]
    return (
        "# Errors and exit statuses\n\n"
        "Every failure is one message: its name, what is wrong, where, and what to do next. The command prints it, "
        "Prefect shows it in the run's state, and MLflow keeps it in the version's tag `weighbridge.state_reason`. "
        "With `--json` it is an object with the keys `error`, `what`, `where` and `next`. Each name leads to its entry "
        "in [troubleshooting](../troubleshooting.md).\n\n"
        "## Exit statuses\n\n"
        + table(["exit status", "meaning"], [[str(int(status)), cell(status.meaning)] for status in ExitStatus])
        + "\n## Errors\n\n"
        + table(["exit status", "name", "meaning"], rows)
    )


# --- the command line -----------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Every command by what is typed, `weighbridge store ls`, groups that run by themselves included."""
    from cli.app import app

    found: dict[str, Any] = {}

    def walk(command: Any, typed: str) -> None:
        below = getattr(command, "commands", {})
        if not below or getattr(command, "invoke_without_command", False):
            found[typed] = command
        for name, subcommand in below.items():
            walk(subcommand, f"{typed} {name}")

    walk(typer.main.get_command(app), "weighbridge")
    return found


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# The command line\n",
        "Commands are in `.venv/bin`. `--json` prints JSON on standard output and nothing else. "
        "`-h` shows a command's help. Exit statuses: [errors](errors.md).\n",
    ]
    found = commands()
    summary = [[f"[`{t}`](#{t.replace(' ', '-')})", cell(first_paragraph(c.help))] for t, c in found.items()]
    parts.append(table(["command", "what it does"], summary))
    for typed, command in found.items():
        words = [typed, *(_usage(option) for option in command.params)]
        parts += [f"## {typed}\n", f"```\n{' '.join(words)}\n```\n", _paragraphs(command.help)]
        rows = [
            [_spelling(option), cell(getattr(option, "help", "") or ""), _cli_default(option)]
            for option in command.params
        ]
        if rows:
            parts.append(table(["argument or option", "meaning", "default"], rows))
    return "\n".join(parts)


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(re.sub(r"\s+", " ", part) for part in (text or "").strip().split("\n\n")) + "\n"


def _usage(option: Any) -> str:
    if option.param_type_name == "argument":
        word = (option.metavar or option.name).upper() + ("…" if option.nargs == -1 else "")
        return word if option.required else f"[{word}]"
    shown = option.opts[0] if option.is_flag else f"{option.opts[0]} {_metavar(option)}"
    return shown if option.required else f"[{shown}]"


def _metavar(option: Any) -> str:
    kind = option.type_descriptor.annotation
    inner = next(iter(get_args(kind)), kind)
    names = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}
    return str(option.metavar or names.get(inner, option.name.upper()))


def _spelling(option: Any) -> str:
    if option.param_type_name == "argument":
        return code((option.metavar or option.name).upper())
    names = [*option.opts, *option.secondary_opts]
    return ", ".join(code(name if option.is_flag else f"{name} {_metavar(option)}") for name in names)


def _cli_default(option: Any) -> str:
    if option.required:
        return "**required**"
    value = option.default
    if callable(value) or value in (None, False, (), [], "") or "UNSET" in repr(value).upper():
        return ""
    return code(value)


# --- lists ----------------------------------------------------------------------------------


def engines_page() -> str:
    """Every engine that a line may name."""
    from tasks.engines import engine, engine_names

    rows = []
    for name in engine_names():
        found: Any = engine(name)
        tokens = found.top_log_probabilities
        rows.append(
            [
                code(name),
                cell(module_docstring(Path(sys.modules[type(found).__module__].__file__ or ""))),
                found.reads,
                "yes" if found.prompt_log_probabilities else "no",
                str(tokens) if tokens else "no",
                f"{found.ready_seconds:g}",
            ]
        )
    header = ["name", "what it is", "reads", "log-probabilities of a prompt", "of likeliest tokens", "longest start, s"]
    return (
        "# Engines\n\nA line names one under `engine: name:`. One file each in `tasks/engines/`; "
        "[add an engine](../how-to/add-an-engine.md). What was run and what was not: "
        "[evidence](../evidence/engines.md).\n\n" + table(header, rows)
    )


def endpoints_page() -> str:
    """Every endpoint of every engine: whether clients may use it, and how it is counted."""
    from tasks.engines import engine, engine_names

    text = (
        "# Endpoints\n\nWhat clients may use of each engine through the gateway, and how a token limit counts it "
        "([how](../explanation/gateway.md#tokens)). A request always counts as one request. Whatever no engine's list "
        "passes is answered 404, and a method other than GET and POST 405; the refused ones below are examples.\n\n"
        "- `usage`: the tokens that the answer reports; without a report, an estimate of prompt and answer\n"
        "- `prompt`: the tokens that the answer reports; without a report, an estimate of the prompt\n"
        "- `audio`: the tokens that the answer reports; without a report, an estimate of recording and answer\n"
        "- `request`: no tokens\n"
    )
    for name in engine_names():
        endpoints = engine(name).endpoints
        passed = [[code(operation), code(how), ""] for operation, how in endpoints.passes.items()]
        refused = [[code(operation), "refused", cell(why)] for operation, why in endpoints.refused.items()]
        text += f"\n## {name}\n\nFrom {endpoints.source}.\n\n"
        text += table(["endpoint", "counted by", "why not"], [*passed, *refused])
    return text


def schemes_page() -> str:
    """Every scheme, and the methods that make them."""
    from tasks.schemes import all_schemes

    rows = []
    for found in all_schemes():
        shared = f"{found.block[0]} × {found.block[1]}" if found.block else ", ".join(map(str, found.group_sizes))
        rows.append(
            [
                code(found.name) + ("" if found.written else " (only read)"),
                cell(found.summary),
                str(found.weight_bits),
                str(found.activation_bits),
                shared,
                found.format,
                code(found.kernel),
                code(found.capability or ""),
                ", ".join(map(code, found.methods)),
                ", ".join(map(code, found.by_name)),
            ]
        )
    header = [
        "name",
        "what it does",
        "weight bits",
        "activation bits",
        "group or block",
        "format",
        "kernel of the engine",
        "capability of the GPU",
        "methods",
    ]
    files = sorted((ROOT / "tasks" / "quantize" / "methods").glob("[!_]*.py"))
    methods = [[code(path.stem), cell(module_docstring(path))] for path in files]
    return (
        "# Schemes and methods\n\nA line lists schemes under `schemes:`. One file each in `tasks/schemes/`; "
        "[add a scheme](../how-to/add-a-scheme.md). How the numbers are found, and the proof: "
        "[quantization](../explanation/quantization.md).\n\n"
        + table([*header, "methods by name only"], rows)
        + "\n## Methods\n\n"
        + table(["name", "what it does"], methods)
    )


def assertions_page() -> str:
    """Every assertion of a regression suite."""
    from tasks.evaluate.suites.assertions import assertion_kinds

    families: dict[str, list[str]] = {}
    for name, kind in assertion_kinds().items():
        families.setdefault(kind.holds.__module__, []).append(name)
    rows = [
        [code(f"{family.rsplit('.', 1)[-1]}.py"), ", ".join(map(code, sorted(names)))]
        for family, names in sorted(families.items())
    ]
    return (
        "# Assertions\n\nIn a regression suite, each also with `not-` in front, and `assert-set` for a set of them. "
        "[Add a suite](../how-to/add-a-suite.md#assertions) says when each one holds; "
        "[add an assertion](../how-to/add-an-assertion.md) adds one.\n\n"
        + table(["file in tasks/evaluate/suites/assertions/kinds/", "assertions"], rows)
    )


def gpus_page() -> str:
    """Every GPU that a line may name."""
    entries: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "tasks/fit/hardware/gpus.yaml").read_text())
    columns = [name for name in next(iter(entries.values())) if name not in ("source",)]
    rows = [
        [
            code(name),
            *(
                cell(", ".join(map(str, value)) if isinstance(value := entry.get(key, ""), list) else value)
                for key in columns
            ),
            cell(entry.get("source", "")),
        ]
        for name, entry in entries.items()
    ]
    return (
        "# GPUs\n\nA line names them under `target: gpus:`; `host` is this machine's own memory. "
        "`WEIGHBRIDGE_GPUS_FILE` adds your own. The head of `tasks/fit/hardware/gpus.yaml` explains the columns.\n\n"
        + table(["name", *columns, "source"], rows)
    )


def suites_page() -> str:
    """Every suite that comes with the project."""
    rows = []
    for path in sorted((ROOT / "eval_suites").glob("*/*.jsonl")):
        items = sum(1 for line in path.read_text().splitlines() if line.strip())
        task = path.with_suffix(".yaml")
        first = task.read_text().splitlines()[0].lstrip("# ") if task.exists() else "prompts with assertions"
        rows.append([code(f"{path.parent.name}/{path.stem}"), cell(first), str(items)])
    return (
        "# Suites\n\nA line names them under `suites:`, each with its margin. A general suite has two files in "
        "`eval_suites/`, a regression suite one; [add a suite](../how-to/add-a-suite.md).\n\n"
        + table(["name", "what it asks", "items"], rows)
    )


def mistakes_page() -> str:
    """What comes of each mistake, from docs/mistakes.yaml."""
    groups: dict[str, list[list[str]]] = {}
    for row in yaml.safe_load((ROOT / "docs" / "mistakes.yaml").read_text()):
        typed = code(f"weighbridge {row['command']}") if "command" in row else ""
        error = f"[`{row['error']}`](../troubleshooting.md#{row['error'].lower()})" if row["error"] else "–"
        held = "" if "command" in row else f" ({code(row['test'].rpartition('/')[2].partition('::')[0])})"
        said = f"{cell(row['mistake'])}: {typed}" if typed else cell(row["mistake"]) + held
        groups.setdefault(row["group"], []).append([said, error, str(row["status"]), cell(row["left"])])
    text = [
        "# Mistakes, and what comes of them\n",
        "Every row is held by a test: those with a command by `tests/cli/test_mistakes.py`, which runs it in an "
        "installation with one line and no stack, the others by the file that they name. An error's name leads to what "
        "to do about it. A dash: nothing fails, or a signal ended the process. `MODEL` is a model's folder, `HERE` the "
        "checkout.\n",
    ]
    for group, rows in groups.items():
        title = group[0].upper() + group[1:]
        text += [f"## {title}\n", table(["mistake", "error", "exit status", "left behind"], rows)]
    return "\n".join(text)


PAGES: dict[str, Callable[[], str]] = {
    "line.md": line_page,
    "settings.md": settings_page,
    "errors.md": errors_page,
    "cli.md": cli_page,
    "engines.md": engines_page,
    "endpoints.md": endpoints_page,
    "schemes.md": schemes_page,
    "assertions.md": assertions_page,
    "suites.md": suites_page,
    "gpus.md": gpus_page,
    "mistakes.md": mistakes_page,
}


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    return {REFERENCE / name: NOTICE + make().rstrip() + "\n" for name, make in PAGES.items()}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for page, text in pages().items():
        page.write_text(text)
        print(page.relative_to(ROOT))
