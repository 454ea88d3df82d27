"""supervisord reads a program's file back as it was meant, or the program is refused by name."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisor.options import ServerOptions

from tasks.serve.fleet.program import Program, program_section
from weighbridge.errors import SettingsInvalid

EXAMPLES = int(os.environ.get("WEIGHBRIDGE_FUZZ_EXAMPLES", "200"))
TEXT = st.text(st.sampled_from("ab=,;#%()s'\"\\ $\t\n[]:é") | st.characters(codec="utf-8"), max_size=12)


def read_back(folder: Path, text: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the program, by supervisord's own reader."""
    (folder / "supervisord.conf").write_text(f"[supervisord]\n[include]\nfiles={folder}/p.conf\n")
    (folder / "p.conf").write_text(text)
    options = ServerOptions()
    options.realize(["-c", str(folder / "supervisord.conf")])
    [group] = options.process_group_configs
    [process] = group.process_configs
    return shlex.split(process.command), process.environment


@given(arguments=st.lists(TEXT, max_size=3), value=TEXT)
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_program_is_read_as_written_or_refused(
    tmp_path_factory: pytest.TempPathFactory, arguments: list[str], value: str
) -> None:
    folder = tmp_path_factory.mktemp("program")
    program = Program(
        name="p", command=("/bin/true", *arguments), environment={"VALUE": value}, folder=folder, log=folder / "log"
    )
    try:
        text = program_section(program)
    except SettingsInvalid as error:
        assert error.where in ("p", "VALUE")
        return
    command, environment = read_back(folder, text)
    assert command == ["/bin/true", *arguments] and environment["VALUE"] == value


@pytest.mark.parametrize("flag", ["a\n[program:other]\ncommand=/bin/sh", "a ;b", "a #b"])
def test_a_flag_that_would_change_the_file_is_refused(tmp_path: Path, flag: str) -> None:
    program = Program(name="engine-toy", command=("/bin/true", flag), folder=tmp_path, log=tmp_path / "log")
    with pytest.raises(SettingsInvalid, match="engine-toy"):
        program_section(program)
