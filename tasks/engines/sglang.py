"""SGLang's OpenAI-compatible server, from its documentation and source (0.5); not run here.

It runs in the environment whose Python WEIGHBRIDGE_SGLANG_PYTHON names, else in `.sglang` of the checkout,
else in this one.
"""

from __future__ import annotations

from pathlib import Path

from tasks import engines
from tasks.engines import EnginePlan, LaunchSpec
from tasks.engines._environment import python_of, version_of

WITH_KEY = (
    "import os, runpy, sys; sys.argv += ['--api-key', os.environ['WEIGHBRIDGE_ENGINE_KEY']]; "
    "runpy.run_module('sglang.launch_server', run_name='__main__', alter_sys=True)"
)
"""`python -m sglang.launch_server` with its `--api-key` from the environment: every user sees a command line."""


class Engine(engines.Engine):
    """SGLang."""

    memory = engines.read_profiles("sglang", Path(__file__).with_suffix(".yaml"))
    endpoints = engines.read_endpoints(Path(__file__).with_name("sglang_endpoints.yaml"))
    ready_seconds = 1800.0
    prompt_log_probabilities = True
    """`echo` with `logprobs` on /v1/completions (serving_completions.py); before 0.4 it ignored them together."""
    top_log_probabilities = 0
    """Not tested here; the pipeline asks every engine for one greedy token a prompt only."""
    takes_key = True

    def health_path(self, plan: EnginePlan) -> str:
        """See `tasks.engines.Engine`; /health_generate would generate a token at every check of the gateway."""
        return "/health"

    def version(self) -> str:
        """Version of the SGLang that would be started.

        Raises:
            EngineFailed: its environment has no SGLang.
        """
        return f"sglang {version_of('sglang', 'sglang', 'SGLang')}"

    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        """See `tasks.engines.Engine`."""
        command = [python_of("sglang"), "-m", "sglang.launch_server", "--model-path", str(model_folder)]
        command += ["--served-model-name", plan.model_name, "--host", host, "--port", str(port)]
        # Prompt plus answer of one request; the cache's size follows from `mem-fraction-static`, a flag of the line.
        command += ["--context-length", str(plan.context), "--max-running-requests", str(plan.concurrency)]
        return LaunchSpec(command=(*command, *plan.flag_arguments), environment={"HF_HUB_OFFLINE": "1"})

    def with_key_check(self, spec: LaunchSpec) -> LaunchSpec:
        """See `tasks.engines.Engine`."""
        python, _, _, *options = spec.command
        return LaunchSpec(command=(python, "-c", WITH_KEY, *options), environment=spec.environment)
