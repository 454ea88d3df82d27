"""Take the line `dummy` through check, plan, quantize and launch, in another process; prints each result.

Run `python tests/support/extension_walk.py RELEASE OUT PORT`; `tests/test_extension.py` adds the engine and the scheme.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tasks.engines import EnginePlan, engine, launch_spec
from tasks.evaluate.check_line import check_line
from tasks.fit.model.shape import shape_of_folder
from tasks.fit.report import fit
from tasks.quantize import quantize_folder
from tests.support.waiting import wait_for
from weighbridge.line import Line
from weighbridge.settings import load_settings


def walk(release: Path, out: Path, port: int) -> dict[str, Any]:
    line = Line.load("dummy")
    problems = [problem.what for problem in check_line(line, load_settings())]
    shape = shape_of_folder(release)
    report = fit(shape, line)
    elsewhere = fit(shape, line.model_copy(update={"engine": line.engine.model_copy(update={"name": "vllm"})}))
    record = quantize_folder(load_settings(), release, out, line.schemes[0])
    chosen = engine(line.engine.name)
    plan = EnginePlan(
        engine=line.engine.name,
        engine_version=chosen.version(),
        model_name="dummy",
        context=line.target.context,
        concurrency=line.target.concurrency,
    )
    spec = launch_spec(chosen, plan, out, "127.0.0.1", port)
    return {
        "problems": problems,
        "rows": [row.model_dump() for row in report.rows],
        "vllm_reasons": [row.reason for row in elsewhere.rows],
        "coverage": record.coverage.share_of_linear_bytes,
        "config": json.loads((out / "config.json").read_text())["quantization_config"],
        "answer": _request(spec.command, spec.environment, f"http://127.0.0.1:{port}", chosen.health_path(plan)),
    }


def _request(command: tuple[str, ...], environment: dict[str, str], url: str, health_path: str) -> str:
    server = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        wait_for(lambda: _healthy(url + health_path), "the engine is healthy", seconds=30)
        answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "dummy", "messages": []})
        return str(answer.json()["choices"][0]["message"]["content"])
    finally:
        server.terminate()
        server.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    print(json.dumps(walk(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
