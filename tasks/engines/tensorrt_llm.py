"""TensorRT-LLM's OpenAI-compatible server with its PyTorch backend, from documentation and source (1.x); not run here.

It runs in the environment whose Python WEIGHBRIDGE_TENSORRT_LLM_PYTHON names, else in `.tensorrt_llm` of the
checkout, else in this one.
"""

from __future__ import annotations

from pathlib import Path

from tasks import engines
from tasks.engines import EnginePlan, LaunchSpec
from tasks.engines._environment import python_of, version_of


class Engine(engines.Engine):
    """TensorRT-LLM."""

    memory = engines.read_profiles("tensorrt-llm", Path(__file__).with_suffix(".yaml"))
    endpoints = engines.read_endpoints(Path(__file__).with_name("tensorrt_llm_endpoints.yaml"))
    # Weights are laid out and a step is profiled before the first answer.
    ready_seconds = 3600.0
    prompt_log_probabilities = False
    """`echo` gives the prompt's text back and not its log-probabilities."""
    top_log_probabilities = 0
    """Not tested here; the pipeline asks every engine for one greedy token a prompt only."""

    def version(self) -> str:
        """Version of the TensorRT-LLM that would be started.

        Raises:
            EngineFailed: its environment has no TensorRT-LLM.
        """
        return f"tensorrt-llm {version_of('tensorrt_llm', 'tensorrt_llm', 'TensorRT-LLM')}"

    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        """See `tasks.engines.Engine`; flags are written as its options are, with underscores: `max_num_tokens`."""
        # Its server names the model after its folder, which has the line's name.
        command = [python_of("tensorrt_llm"), "-m", "tensorrt_llm.commands.serve", "serve", str(model_folder)]
        command += ["--backend", "pytorch", "--host", host, "--port", str(port)]
        command += ["--max_seq_len", str(plan.context), "--max_batch_size", str(plan.concurrency)]
        return LaunchSpec(command=(*command, *plan.flag_arguments), environment={"HF_HUB_OFFLINE": "1"})
