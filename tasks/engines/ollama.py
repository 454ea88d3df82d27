"""Ollama, from its documentation (docs.ollama.com: FAQ, Modelfile, OpenAI compatibility; version 0.40); not run here.

Ollama has its own model store: the server is started, the artifact's GGUF is imported under the line's name, and
then it answers. So this file is also a program, `python -m tasks.engines.ollama FOLDER NAME …`, which does both and
ends with the server.

Two limitations. It runs no Jinja: it selects the built-in Go template nearest to the GGUF's chat template, and without
a near one it sends the bare prompt; the first real requests show that, /v1/models does not. And its store holds a
second copy of the weights.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tasks import engines
from tasks.engines import EnginePlan, LaunchSpec
from tasks.source.gguf.reader import GGUF_FILE
from weighbridge.errors import EngineFailed

STORE = "ollama"
MODELFILE = "Modelfile"
START_SECONDS = 60.0
# Environment variables that a line may set under `engine: flags:` (FAQ, "How do I configure Ollama server?").
FLAGS = {
    "OLLAMA_KV_CACHE_TYPE": "f16, q8_0 or q4_0",
    "OLLAMA_FLASH_ATTENTION": "1 or 0",
    "OLLAMA_MAX_QUEUE": "requests that wait before the next gets 503",
}


class Engine(engines.Engine):
    """Ollama."""

    memory = engines.read_profiles("ollama", Path(__file__).with_suffix(".yaml"))
    endpoints = engines.read_endpoints(Path(__file__).with_name("ollama_endpoints.yaml"))
    ready_seconds = 900.0
    reads = "GGUF"
    prompt_log_probabilities = False
    """Its /v1/completions has no `echo`."""
    top_log_probabilities = 0
    """Its OpenAI compatibility page documents none."""

    def version(self) -> str:
        """Version of the installed program.

        Raises:
            EngineFailed: it is not installed.
        """
        program = shutil.which("ollama")
        if program is None:
            raise EngineFailed(
                "Ollama is not installed.",
                "Install it from ollama.com and put `ollama` on the PATH of `weighbridge up`, or name llama-cpp.",
                where="PATH",
            )
        # "ollama version is 0.40.12", after a warning where no server runs.
        words = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
        return f"ollama {words[-1] if words else 'of unknown version'}"

    def health_path(self, plan: EnginePlan) -> str:
        """The model's page: there is no /health, and `/` answers before the model is imported."""
        return f"/v1/models/{plan.model_name}"

    def launch(self, plan: EnginePlan, model_folder: Path, host: str, port: int) -> LaunchSpec:
        """See `tasks.engines.Engine`.

        Raises:
            EngineFailed: the line has a flag that is not passed on.
        """
        unknown = sorted(set(plan.flags) - set(FLAGS))
        if unknown:
            raise EngineFailed(
                f"Ollama is not given {', '.join(unknown)} here.",
                f"Use these under `engine: flags:`: {', '.join(FLAGS)}.",
                where=plan.model_name,
            )
        environment = {
            "OLLAMA_HOST": f"{host}:{port}",
            "OLLAMA_MODELS": str(model_folder.parent / STORE),
            # Memory grows with both: each request has its own context.
            "OLLAMA_CONTEXT_LENGTH": str(plan.context),
            "OLLAMA_NUM_PARALLEL": str(plan.concurrency),
            "OLLAMA_MAX_LOADED_MODELS": "1",
            # By default it unloads the model after five minutes.
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_NO_CLOUD": "1",
            **{name: str(value) for name, value in plan.flags.items()},
        }
        url = f"http://{host}:{port}"
        command = (sys.executable, "-m", __name__, str(model_folder), plan.model_name, str(plan.context), url)
        return LaunchSpec(command=command, environment=environment)


def modelfile(gguf: Path, context: int) -> str:
    """Write the Modelfile for `ollama create`.

    Args:
        gguf: the weights; absolute, because Ollama resolves paths beside the Modelfile.
        context: longest prompt plus answer, tokens.
    """
    return f"FROM {gguf}\nPARAMETER num_ctx {context}\n"


def main(arguments: list[str]) -> int:
    """Start the server, import the model, wait until the server ends, and return its exit status."""
    folder, name, context, url = Path(arguments[0]), arguments[1], int(arguments[2]), arguments[3]
    server = subprocess.Popen(["ollama", "serve"])
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        _wait(server, url)
        definition = folder.parent / MODELFILE
        definition.write_text(modelfile((folder / GGUF_FILE).resolve(), context))
        subprocess.run(["ollama", "create", name, "-f", str(definition)], check=True)
        return server.wait()
    finally:
        server.terminate()


def _wait(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/api/version", timeout=2).is_success:
                return
        time.sleep(0.2)
    raise SystemExit(f"ollama serve did not answer at {url} within {START_SECONDS:.0f} s.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
