"""Plug-ins of other distributions: found by their entry points, never in place of a built-in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from weighbridge import plugins
from weighbridge.errors import PluginInvalid

GROUP = plugins.SCHEMES


def add_distribution(folder: Path, name: str, entry_points: str, modules: dict[str, str]) -> Path:
    """Lay out an installed distribution: its metadata and its modules, in one folder."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    return folder


def test_a_plug_in_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_distribution(
        tmp_path, "somebodys", f"[{GROUP}]\nint6 = plugin_found:SCHEME\n", {"plugin_found": "SCHEME = 'six bits'"}
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins.names(GROUP) == ["int6"]
    assert plugins.load(GROUP) == {"int6": "six bits"}
    assert plugins.load(plugins.ENGINES) == {}


def test_a_broken_plug_in_is_an_error_that_names_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_distribution(
        tmp_path, "somebodys", f"[{GROUP}]\nint6 = plugin_broken:SCHEME\n", {"plugin_broken": "import no_such_module"}
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginInvalid, match=r"'int6'.*of somebodys 1\.2 cannot be loaded.*no_such_module"):
        plugins.load(GROUP)
    assert plugins.names(GROUP) == ["int6"]  # Without an import.


def test_a_built_in_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_distribution(tmp_path, "somebodys", f"[{GROUP}]\nint8 = plugin_taken:SCHEME\n", {"plugin_taken": "SCHEME = 8"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginInvalid, match=r"'int8'.*of somebodys 1\.2 has the name of a built-in one"):
        plugins.load(GROUP, builtin=["int8"])


def test_two_distributions_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        folder = add_distribution(tmp_path / name, name, f"[{GROUP}]\nint6 = plugin_twice:SCHEME\n", {})
        monkeypatch.syspath_prepend(folder)
    with pytest.raises(PluginInvalid, match=r"Two distributions.*'int6'.*second 1\.2, first 1\.2"):
        plugins.load(GROUP)
