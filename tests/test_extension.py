"""An engine and a scheme are one file each: both ways to add them, taken through check, plan, quantize and launch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.source.gguf.reader import GGUF_FILE, read_gguf
from tests.quantize.quantize_support import write_release
from tests.support.ports import free_port
from tests.support.tiny_gguf import write_release as write_gguf_release

# A real quantization proves its result by loading it, and imports transformers for that.
pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[1]
ENGINE = '''
"""echo: an engine that answers one sentence."""
import os
import sys

from tasks import engines
from tasks.engines import Activation, EngineProfile, LaunchSpec


class Engine(engines.Engine):
    """Echo."""

    memory = (
        EngineProfile(
            name="echo",
            kernels=("w8a16_grouped",),
            share=0.5,
            share_of="physical",
            inside=("weights", "activation", "non_torch"),
            activation=Activation(hidden_numbers=1, inner_numbers=1, logits_bytes=4),
            non_torch_gib={1: 0.125},
            band_gib=0.25,
            source="made up for a test",
        ),
    )

    def version(self):
        return "echo 1"

    def launch(self, plan, model_folder, host, port):
        return LaunchSpec(command=(sys.executable, os.environ["FAKE_ENGINE"], str(port), "--answer", "echo"),
                          environment={})
'''
SCHEME = '''
"""int8-g32: INT8 weights with a scale for 32 columns."""
from tasks.schemes import Scheme

SCHEME = Scheme(
    name="int8-g32",
    summary="W8A16 in groups of 32",
    weight_bits=8,
    activation_bits=16,
    format="pack-quantized",
    group_sizes=(32,),
    kernel="w8a16_grouped",
    capability="int8_tensor_cores",
)
'''
W8A8_SCHEME = '''
"""int8-plain: W8A8 for a kernel of the plug-in's own."""
from tasks.schemes import Scheme

SCHEME = Scheme(
    name="int8-plain",
    summary="W8A8",
    weight_bits=8,
    activation_bits=8,
    format="int-quantized",
    kernel="w8a8_plain",
    capability="int8_tensor_cores",
)
'''
GGUF_SCHEME = '''
"""q6-k: GGUF Q6_K, llama.cpp's file type 18."""
from tasks.schemes import GgufMixture, Scheme

SCHEME = Scheme(
    name="q6-k",
    summary="GGUF Q6_K",
    weight_bits=6,
    activation_bits=16,
    format="gguf",
    methods=("ggml",),
    gguf=GgufMixture(base="q6_K", file_type=18, nanoseconds_per_weight=40),
    kernel="gguf",
    capability="ggml",
)
'''
LINE: dict[str, Any] = {
    "source": "hf://acme/tiny",
    "admission": {"licences": ["apache-2.0"]},
    "schemes": ["int8-g32", "bf16"],
    "target": {"gpus": ["L4", "B200"], "context": 128, "concurrency": 2},
    "engine": {"name": "echo"},
    "suites": [{"name": "regression/tiny", "margin": 0.5}],
}


def drop_in_place(folder: Path) -> Path:
    """Add both as files of a checkout: a copy, so that no other test meets them."""
    for package in ("tasks", "registry", "weighbridge"):
        # With the compiled files, which stay valid because times are copied too.
        shutil.copytree(ROOT / package, folder / package)
    (folder / "tasks" / "engines" / "echo.py").write_text(ENGINE)
    (folder / "tasks" / "schemes" / "int8_g32.py").write_text(SCHEME)
    return folder


def install(folder: Path) -> Path:
    """Add both as an installed distribution: a module each, and their entry points."""
    info = folder / "somebodys_plugins-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-plugins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[weighbridge.engines]\necho = somebodys_engine:Engine\n"
        "[weighbridge.schemes]\nint8-g32 = somebodys_scheme:SCHEME\n"
    )
    (folder / "somebodys_engine.py").write_text(ENGINE)
    (folder / "somebodys_scheme.py").write_text(SCHEME)
    return folder


def install_schemes(folder: Path, **schemes: str) -> Path:
    """Add schemes as an installed distribution: `q6_k=…` becomes `q6-k`."""
    info = folder / "somebodys_schemes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-schemes\nVersion: 1.0\n")
    points = [f"{module.replace('_', '-')} = somebodys_{module}:SCHEME" for module in schemes]
    (info / "entry_points.txt").write_text("\n".join(["[weighbridge.schemes]", *points, ""]))
    for module, text in schemes.items():
        (folder / f"somebodys_{module}.py").write_text(text)
    return folder


def run(arguments: list[str], added: Path | None, home: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(path) for path in (added, ROOT) if path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "WEIGHBRIDGE_ROOT": str(home),
        "FAKE_ENGINE": str(ROOT / "tests" / "support" / "fake_engine.py"),
    }
    # A child process finds the packages of its working folder first.
    return subprocess.run(arguments, cwd=added or home, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the line `dummy` and its suite."""
    home = tmp_path / "project"
    for folder in ("lines", "eval_suites/regression"):
        (home / folder).mkdir(parents=True)
    (home / "lines" / "dummy.yaml").write_text(yaml.safe_dump(LINE))
    items = [
        {
            "id": f"n{n}",
            "messages": [{"role": "user", "content": f"Say {n}."}],
            "assert": [{"type": "contains", "value": str(n)}],
        }
        for n in range(9)
    ]
    lines = "".join(f"{json.dumps(item)}\n" for item in items)
    (home / "eval_suites" / "regression" / "tiny.jsonl").write_text(lines)
    return home


@pytest.mark.parametrize("add", [drop_in_place, install])
def test_a_dummy_engine_and_scheme_go_all_the_way(add: Any, project: Path, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", 64, 128)
    script = str(ROOT / "tests" / "support" / "extension_walk.py")
    arguments = [sys.executable, script, str(release), str(tmp_path / "out"), str(free_port())]
    walked = run(arguments, add(tmp_path / "added"), project)
    assert walked.returncode == 0, walked.stderr[-3000:]
    came_of = json.loads(walked.stdout.splitlines()[-1])

    assert came_of["problems"] == []

    rows = {(row["gpu"], row["scheme"]): row for row in came_of["rows"]}
    planned = rows["L4", "int8-g32"]
    assert (planned["verdict"], planned["non_torch_gib"]) == ("fits", 0.125)
    assert planned["capacity_gib"] == pytest.approx(22.03 / 2, abs=0.01)
    assert 0.25 <= planned["band_gib"] < 0.26
    assert planned["weights_gib"] < rows["L4", "bf16"]["weights_gib"]
    assert rows["B200", "int8-g32"]["reason"] == "B200 does not run int8-g32"
    missing = "vllm does not serve int8-g32: its memory profile lists no kernel w8a16_grouped"
    assert missing in came_of["vllm_reasons"]

    assert came_of["coverage"] == 1
    weights = came_of["config"]["config_groups"]["config_group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["strategy"]) == (8, 32, "group")

    assert came_of["answer"] == "echo"


def test_a_w8a8_scheme_computes_in_int8_by_its_own_file(project: Path, tmp_path: Path) -> None:
    added = install_schemes(tmp_path / "added", int8_plain=W8A8_SCHEME)
    code = (
        "from tasks.cost.throughput import peak_flops; from tasks.fit.hardware.gpus import gpu; "
        "print(*(peak_flops(gpu('L4'), name) == peak_flops(gpu('L4'), 'int8') for name in ('int8-plain', 'bf16')))"
    )
    found = run([sys.executable, "-c", code], added, project)
    assert found.stdout.split() == ["True", "False"], found.stderr[-3000:]


def test_a_gguf_scheme_is_planned_and_written_by_its_own_file(project: Path, tmp_path: Path) -> None:
    added = install_schemes(tmp_path / "added", q6_k=GGUF_SCHEME)
    release, out = write_gguf_release(tmp_path / "release"), tmp_path / "out"
    code = (
        "import json, sys; from pathlib import Path; "
        "from tasks.fit.memory.weights import Weights; from tasks.fit.model.shape import shape_of_folder; "
        "from tasks.quantize import quantize_folder; from tasks.schemes import scheme; "
        "from weighbridge.settings import load_settings; "
        "release, out = map(Path, sys.argv[1:]); quantize_folder(load_settings(), release, out, 'q6-k'); "
        "print(Weights(shape_of_folder(release)).total_bytes(scheme('q6-k')))"
    )
    done = run([sys.executable, "-c", code, str(release), str(out)], added, project)
    assert done.returncode == 0, done.stderr[-3000:]
    file = read_gguf(out / GGUF_FILE)
    kinds = {tensor.name: tensor.kind.name for tensor in file.tensors if len(tensor.shape) > 1}
    # Rows that are not a multiple of 256 fall back to Q8_0, as in llama.cpp.
    assert set(kinds.values()) <= {"q6_K", "q8_0"} and "q6_K" in kinds.values()
    assert file.reader.fields["general.file_type"].contents() == 18
    assert int(done.stdout.splitlines()[-1]) == sum(tensor.kind.size_bytes(tensor.shape) for tensor in file.tensors)


def test_a_new_version_of_a_plugin_quantizes_again(project: Path, tmp_path: Path) -> None:
    added = install_schemes(tmp_path / "added", int8_plain=W8A8_SCHEME)
    code = (
        "from registry.installation import Installation; from registry.store import Artifact; "
        "from tasks.quantize.step import quantize; from weighbridge.line import Quantize; "
        "weights = Artifact(line='l', scheme='bf16', repo='a/b', commit='c' * 40, digest='d' * 64, size_bytes=1); "
        "common = dict(installation=Installation.load(), weights=weights, method='rtn', how=Quantize()); "
        "print(*(quantize.cache_key_fn(None, {**common, 'scheme': name}) for name in ('int8-plain', 'int8')))"
    )

    def keys() -> list[str]:
        found = run([sys.executable, "-c", code], added, project)
        assert found.returncode == 0, found.stderr[-3000:]
        return found.stdout.split()

    first = keys()
    metadata = added / "somebodys_schemes-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    second = keys()
    assert first[0] != second[0] and first[1] == second[1]


def test_without_them_the_lines_names_are_problems(project: Path) -> None:
    code = (
        "from tasks.evaluate.check_line import check_line; from weighbridge.line import Line; "
        "from weighbridge.settings import load_settings; "
        "print(*(problem.what for problem in check_line(Line.load('dummy'), load_settings())), sep='\\n')"
    )
    found = run([sys.executable, "-c", code], None, project).stdout.splitlines()
    assert [problem.split(":")[0] for problem in found] == ["schemes.0", "engine.name"]


@pytest.mark.parametrize(
    ("engine", "problem"),
    [
        (ENGINE.replace("memory =", "figures ="), "'echo' states no memory profile"),
        (ENGINE.replace("def launch", "def start"), "'echo' lacks launch"),
        (ENGINE.replace("class Engine(engines.Engine)", "class Engine"), "not a subclass of `tasks.engines.Engine`"),
        (ENGINE.replace("def launch", "def start"), "somebodys_engine:Engine of somebodys-plugins 1.0"),
        ("import no_such_module", "of somebodys-plugins 1.0 cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_an_incomplete_engine_is_refused_and_never_planned_as_another(
    engine: str, problem: str, project: Path, tmp_path: Path
) -> None:
    added = install(tmp_path / "added")
    (added / "somebodys_engine.py").write_text(engine)
    code = "from tasks.engines import engine_profile; engine_profile('echo')"
    failed = run([sys.executable, "-c", code], added, project)
    assert failed.returncode == 1 and "PluginInvalid" in failed.stderr and problem in failed.stderr


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("tasks/engines/echo.py", "def (:", "cannot be loaded: SyntaxError"),
        ("tasks/engines/echo.py", "Engine = 1", "is not a subclass of `tasks.engines.Engine`"),
        ("tasks/schemes/int8_g32.py", "", "has no attribute 'SCHEME'"),
        ("tasks/schemes/int8_g32.py", SCHEME.replace('"int8-g32"', '"int8-g64"'), "calls itself 'int8-g64'"),
        ("tasks/schemes/int8_g32.py", SCHEME.replace('kernel="w8a16_grouped",', ""), "`kernel` is missing"),
    ],
)
def test_an_unfinished_file_is_named(file: str, text: str, problem: str, project: Path, tmp_path: Path) -> None:
    added = drop_in_place(tmp_path / "added")
    (added / file).write_text(text)
    code = "from tasks.engines import engine; from tasks.schemes import scheme; scheme('int8-g32'); engine('echo')"
    failed = run([sys.executable, "-c", code], added, project)
    last = failed.stderr.splitlines()[-1]
    assert "PluginInvalid" in last and problem in last and file in last and "docs/how-to/add-a" in last


def test_checking_a_line_finds_its_incomplete_engine(project: Path, tmp_path: Path) -> None:
    added = install(tmp_path / "added")
    (added / "somebodys_engine.py").write_text(ENGINE.replace("memory =", "figures ="))
    code = (
        "from tasks.evaluate.check_line import check_line; from weighbridge.line import Line; "
        "from weighbridge.settings import load_settings; "
        "print(*(problem.what for problem in check_line(Line.load('dummy'), load_settings())), sep='\\n')"
    )
    found = run([sys.executable, "-c", code], added, project).stdout
    assert "engine.name: The engine 'echo' states no memory profile" in found and "somebodys-plugins 1.0" in found
