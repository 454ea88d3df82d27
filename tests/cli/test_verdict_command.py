"""`weighbridge verdict` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from weighbridge.errors import OptionInvalid


def pairs_file(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scored_rows(items: int, lost: Collection[int] = (), **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"q{number}", "production": 1, "candidate": int(number not in lost), **more} for number in range(items)
    ]


def verdict(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["verdict", *arguments])


def test_one_json_line_a_file_in_the_order_asked(tmp_path: Path) -> None:
    same = pairs_file(tmp_path, "same.jsonl", scored_rows(1000))
    worse = pairs_file(tmp_path, "worse.jsonl", scored_rows(1000, lost=set(range(0, 1000, 3))))
    few = pairs_file(tmp_path, "few.jsonl", scored_rows(50))
    done = verdict("--pairs", same, "--pairs", worse, "--pairs", few, "--margin", "0.02", "--json")
    assert done.exit_code == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == [same, worse, few]
    assert [row["verdict"] for row in rows] == ["non_inferior", "regression", "inconclusive"]
    first = rows[0]
    assert first["items_used"] < first["items"] == 1000
    assert first["interval"][0] <= first["estimate"] <= first["interval"][1]
    assert (first["margin"], first["confidence"]) == (0.02, 0.95)
    assert rows[1]["items_used"] < 100
    assert rows[2]["items_used"] == 50


def test_people_get_a_table_and_a_sentence(tmp_path: Path) -> None:
    done = verdict("--pairs", pairs_file(tmp_path, "same.jsonl", scored_rows(1000)))
    assert done.exit_code == 0
    assert "non_inferior" in done.stdout
    assert "no worse" in done.stdout
    assert "margin 0.02" in done.stdout


def test_lost_scores_are_an_invalid_verdict_not_a_crash(tmp_path: Path) -> None:
    lost = [{**row, "candidate": None} if number < 20 else row for number, row in enumerate(scored_rows(200))]
    done = verdict("--pairs", pairs_file(tmp_path, "lost.jsonl", lost), "--json")
    answer = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (answer["verdict"], answer["items_used"], answer["interval"]) == ("invalid", 0, None)
    assert "20 of 200" in answer["reason"]


def test_a_bad_file_is_told_and_the_others_still_judged(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "production": 1, "candidate": 1}\n{"id": "b", "production": 1, "candidate": NaN}\n')
    good = pairs_file(tmp_path, "good.jsonl", scored_rows(1000))
    done = verdict("--pairs", str(bad), "--pairs", good, "--json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 2
    assert (first["error"], first["verdict"], first["where"]) == ("PairsInvalid", "invalid", f"{bad}:2")
    assert second["verdict"] == "non_inferior"


@pytest.mark.parametrize("content", ["", "{", '{"id": "a", "production": 1}'])
def test_files_without_pairs_end_with_status_2(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    assert verdict("--pairs", str(path)).exit_code == 2


@pytest.mark.parametrize("option", [("--margin", "0"), ("--margin", "1.5"), ("--confidence", "0.2")])
def test_impossible_options_have_a_name(tmp_path: Path, option: tuple[str, str]) -> None:
    done = verdict("--pairs", pairs_file(tmp_path, "same.jsonl", scored_rows(10)), *option)
    assert isinstance(done.exception, OptionInvalid)


def test_margins_and_clusters_are_taken_from_the_file(tmp_path: Path) -> None:
    sure = [{**row, "margin": number - 500} for number, row in enumerate(scored_rows(1000))]
    grouped = [{**row, "cluster": number // 100} for number, row in enumerate(scored_rows(1000))]
    by_margin, in_groups = pairs_file(tmp_path, "m.jsonl", sure), pairs_file(tmp_path, "c.jsonl", grouped)
    done = verdict("--pairs", by_margin, "--pairs", in_groups, "--json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["verdict"] == "non_inferior"
    assert second["verdict"] == "inconclusive"


def test_a_sorted_file_can_be_shuffled(tmp_path: Path) -> None:
    late = pairs_file(tmp_path, "late.jsonl", scored_rows(2000, lost=set(range(1800, 2000))))
    assert json.loads(verdict("--pairs", late, "--json").stdout)["verdict"] == "non_inferior"
    assert json.loads(verdict("--pairs", late, "--shuffle", "--json").stdout)["verdict"] == "regression"


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    path = pairs_file(tmp_path, "same.jsonl", scored_rows(100))
    code = (
        "import sys; from typer.testing import CliRunner; from cli.app import app\n"
        f"CliRunner().invoke(app, ['verdict', '--pairs', {path!r}, '--json'])\n"
        "heavy = {'prefect', 'mlflow', 'torch', 'transformers', 'huggingface_hub', 'scipy', 'matplotlib', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
