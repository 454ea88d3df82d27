"""llama.cpp's server, from the package xllamacpp: GGUF on any processor, log-probabilities of generated tokens.

xllamacpp ships the server as a library without a program, so this file is also the program:
`python -m tasks.engines.llama_cpp --model FILE …` serves until a signal ends it. It takes the llama-server options
that `_options` lists, under llama-server's names.

Automatic decisions of llama.cpp that no plan accounts for are switched off: shrinking a model that does not fit
(`fit_params`), 8 GiB of host memory for old prompts (`cache_ram_mib`), snapshots of the cache (`n_ctx_checkpoints`).
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks import engines
from tasks.engines import EnginePlan, LaunchSpec
from tasks.engines._guard.weighbridge_guard import KEY_VARIABLE
from tasks.source.gguf.reader import GGUF_FILE
from weighbridge.errors import EngineFailed

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")


class Engine(engines.Engine):
    """llama.cpp."""

    memory = engines.read_profiles("llama-cpp", Path(__file__).with_suffix(".yaml"))
    endpoints = engines.read_endpoints(Path(__file__).with_name("llama_cpp_endpoints.yaml"))
    ready_seconds = 900.0
    reads = "GGUF"
    prompt_log_probabilities = False
    """It ignores `echo`; `logprobs` covers generated tokens only."""
    top_log_probabilities = 20
    """Any number; 20 are enough here."""
    takes_key = True

    def version(self) -> str:
        """Version of the package; its last number is llama.cpp's build."""
        return f"xllamacpp {version('xllamacpp')}"

    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        """See `tasks.engines.Engine`.

        Raises:
            EngineFailed: the line has a flag that is not passed on.
        """
        file = model_folder / GGUF_FILE
        _, unknown = _options().parse_known_args(["--model", "x", *plan.flag_arguments])
        if unknown:
            raise EngineFailed(
                f"llama.cpp is not given {' '.join(unknown)} here.",
                f"Use these under `engine: flags:`: {', '.join(sorted(_flags()))}.",
                where=plan.model_name,
            )
        command = [sys.executable, "-m", __name__, "--model", str(file), "--alias", plan.model_name]
        command += ["--host", host, "--port", str(port)]
        # The slots share the context equally (llama.cpp, server README, October 2026).
        command += ["--ctx-size", str(plan.context * plan.concurrency), "--parallel", str(plan.concurrency)]
        return LaunchSpec(command=(*command, *plan.flag_arguments), environment={})


_PLANNED = {"model", "alias", "host", "port", "ctx-size", "parallel"}


def _options() -> argparse.ArgumentParser:
    """The llama-server options that are passed on (llama.cpp, tools/server/README.md)."""
    options = argparse.ArgumentParser(prog="python -m tasks.engines.llama_cpp", allow_abbrev=False)
    options.add_argument("--model", required=True)
    options.add_argument("--alias", default="model", help="the name in /v1/models")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8080)
    options.add_argument("--ctx-size", type=int, default=4096, help="tokens of all slots together")
    options.add_argument("--parallel", type=int, default=1, help="slots: concurrent requests")
    options.add_argument("--batch-size", type=int, help="tokens of a prompt in one batch")
    options.add_argument("--ubatch-size", type=int, help="tokens of these that are computed at once")
    options.add_argument("--threads", type=int, default=len(_cores()), help="the processor's cores by default")
    options.add_argument("--n-gpu-layers", type=int, help="all that fit by default")
    options.add_argument("--main-gpu", type=int)
    options.add_argument("--cache-type-k", choices=KV_TYPES)
    options.add_argument("--cache-type-v", choices=KV_TYPES)
    options.add_argument("--swa-full", action="store_true", help="full cache for layers with a window")
    return options


def _flags() -> set[str]:
    """Flags that a line may use; the other options come from the plan."""
    names = {name.removeprefix("--") for option in _options()._actions for name in option.option_strings}
    return names - _PLANNED - {"help", "h", "-h"}


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _parameters(options: argparse.Namespace) -> Any:
    """The options as xllamacpp's parameters."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = options.model
    parameters.model_alias = {options.alias}
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.n_ctx, parameters.n_parallel = options.ctx_size, options.parallel
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    for name, field in (
        ("batch_size", "n_batch"),
        ("ubatch_size", "n_ubatch"),
        ("n_gpu_layers", "n_gpu_layers"),
        ("main_gpu", "main_gpu"),
    ):
        if getattr(options, name) is not None:
            setattr(parameters, field, getattr(options, name))
    for side in ("cache_type_k", "cache_type_v"):
        if getattr(options, side):
            kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{getattr(options, side).upper()}")
            setattr(parameters, side, kind)
    parameters.swa_full = options.swa_full
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = parameters.ui = parameters.fit_params = False
    parameters.cache_ram_mib = parameters.n_ctx_checkpoints = 0
    # Without an origin, pages of any site in a browser on this machine could use the server.
    if key := os.environ.get(KEY_VARIABLE):
        parameters.api_keys = [key]
    parameters.cors_origins = "http://127.0.0.1"
    return parameters


def main(arguments: list[str]) -> None:
    """Serve until a signal ends the process."""
    import xllamacpp

    server = xllamacpp.Server(_parameters(_options().parse_args(arguments)))
    print(f"listening at {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
