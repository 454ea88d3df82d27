"""The docs are current: generated pages match the code, links and anchors lead somewhere, named files exist."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from weighbridge.errors import all_errors

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob(".github/**/*.md")])
FOLDERS = "tasks|registry|weighbridge|cli|stack|flows|lines|eval_suites|tests|docs|examples|benchmarks"
NAMED_PATH = re.compile(rf"(?<![\w/.~-])(?:{FOLDERS})/[\w./*-]*[\w/*]")
NAMED_PAGE = re.compile(r"(?<![\w/])docs/[\w./-]+\.(?:md|png|svg)(?:#[\w-]+)?")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDER = re.compile(r"NAME|\*|LINE|my_|qwen|\bmine\b")
CODE_FILES = ("*.py", "*.yaml", "*.toml", "*.txt", "*.j2", "Makefile")


@cache
def generator() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def commands() -> dict[str, Any]:
    """Every command by what is typed."""
    found: dict[str, Any] = generator().commands()
    return found


@cache
def anchors(page: Path) -> frozenset[str]:
    """Anchors of a page's headings, as Python-Markdown and GitHub both make them."""
    headings = re.findall(r"^#+ (.+)$", without_code_blocks(page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in headings)
    return frozenset(re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()) for text in plain)


def without_code_blocks(text: str) -> str:
    """Markdown without its fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.MULTILINE | re.DOTALL)


def page_id(page: Path) -> str:
    """A page's path from the root, for test ids."""
    return str(page.relative_to(ROOT))


def test_generated_pages_are_current() -> None:
    for page, text in generator().pages().items():
        assert page.exists() and page.read_text() == text, f"{page_id(page)} is out of date: run `make docs`"


def test_every_generated_page_is_written_by_the_generator() -> None:
    assert set(generator().pages()) == set((DOCS / "reference").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(without_code_blocks(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and to.suffix == ".md" and anchor not in anchors(to)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=page_id)
def test_named_files_exist(page: Path) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", page.read_text())
    named = {path.rstrip(".") for path in NAMED_PATH.findall(text)}
    assert not [path for path in sorted(named) if not PLACEHOLDER.search(path) and not _exists(path)]


def _exists(path: str) -> bool:
    # `tasks/evaluate/drift` names a package, `docs/evidence/` a folder; outputs of commands are not kept.
    return (ROOT / path).exists()


def test_code_names_pages_that_exist() -> None:
    missing = []
    folders = [ROOT / name for name in FOLDERS.split("|") if name != "docs"]
    files = [file for pattern in CODE_FILES for folder in folders for file in folder.rglob(pattern)]
    files += [file for pattern in CODE_FILES for file in ROOT.glob(pattern)]
    for file in files:
        for named in NAMED_PAGE.findall(file.read_text(errors="replace")):
            path, _, anchor = named.partition("#")
            page = ROOT / path
            if not page.exists() or (anchor and anchor not in anchors(page)):
                missing.append(f"{page_id(file)}: {named}")
    assert not missing


def test_every_error_has_its_entry_in_troubleshooting() -> None:
    entries = anchors(DOCS / "troubleshooting.md")
    assert not [error.__name__ for error in all_errors() if error.__name__.lower() not in entries]


def test_troubleshooting_names_no_error_that_is_gone() -> None:
    named = set(re.findall(r"^### (\w+)$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE))
    assert named <= {error.__name__ for error in all_errors()}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_options_exist(page: Path) -> None:
    known = commands()
    wrong = []
    for block in re.findall(r"```[^\n]*\n(.*?)```", page.read_text(), re.DOTALL):
        joined = block.replace("\\\n", " ")
        for typed in re.findall(r"^\s*(?:\$ )?(weighbridge(?= |$)[^\n|&;#]*)", joined, re.MULTILINE):
            words = typed.split()
            name = " ".join(words[: 3 if " ".join(words[:3]) in known else 2])
            if name not in known:
                wrong.append(typed)
                continue
            options = {option for param in known[name].params for option in (*param.opts, *param.secondary_opts)}
            used = {re.sub(r"[\]=…].*", "", word.lstrip("[")) for word in words if word.lstrip("[").startswith("--")}
            wrong += [f"{name} {option}" for option in sorted(used - options - {"--help"})]
    assert not wrong


def test_every_field_and_setting_says_what_it_means() -> None:
    empty = [
        f"{page.name}: {row}"
        for page in (DOCS / "reference" / "line.md", DOCS / "reference" / "settings.md")
        for row in re.findall(r"^\| (`[^|]+`) \|  \|", page.read_text(), re.MULTILINE)
    ]
    assert not empty


def run_example(page: str) -> dict[str, Any]:
    """Run the first Python block of a how-to page, and return its names."""
    found = re.search(r"```python\n(.*?)```", (DOCS / "how-to" / page).read_text(), re.DOTALL)
    assert found
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(found[1], page, "exec"), names)
    return names


def test_the_assertion_of_its_page_decides() -> None:
    from tasks.evaluate.suites.assertions import Answer, AssertionSpec

    kind = run_example("add-an-assertion.md")["KINDS"]["ends-with"]
    spec = AssertionSpec(type="ends-with", value="Paris")
    assert kind.holds(spec, Answer(text="It is Paris")) and not kind.holds(spec, Answer(text="Paris it is"))
    assert not kind.problem(spec) and kind.problem(AssertionSpec(type="ends-with"))


def test_the_engine_of_its_page_can_be_planned_and_launched() -> None:
    from tasks.engines import EnginePlan
    from tasks.schemes import scheme

    engine = run_example("add-an-engine.md")["Engine"]()
    plan = EnginePlan(
        engine="my-engine",
        engine_version=engine.version(),
        model_name="toy",
        context=64,
        concurrency=2,
        flags={"eager": True},
    )
    spec = engine.launch(plan, Path("/models/toy"), "127.0.0.1", 8200)
    assert spec.command[:3] == ("my-engine", "serve", "/models/toy") and spec.command[-1] == "--eager"
    assert engine.health_path(plan) == "/health"
    profile = engine.memory[-1]
    assert profile.serves(scheme("int8")) and not profile.serves(scheme("int4"))


def test_the_scheme_of_its_page_is_one() -> None:
    from tasks.schemes import Scheme

    found = run_example("add-a-scheme.md")["SCHEME"]
    assert isinstance(found, Scheme) and found.name == "int4-g32" and found.changes_weights
