"""The variables that each process of an installation gets: an allow-list for each kind, and nothing else of the shell.

A shell holds tokens and passwords of all kinds. A process that does not need one must not have it: whoever reads its
memory, its crash report or its page of settings reads them too. Settings of the installation itself
(`WEIGHBRIDGE_…`, the addresses of its servers) are added by whoever starts the process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Literal

PASS_VARIABLE = "WEIGHBRIDGE_PASS_ENVIRONMENT"
"""Names of further variables, separated by commas: `NAME` for every process, `worker:NAME` for one kind only."""

BASE = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
    *("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONUTF8", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "WEIGHBRIDGE_*", "NO_COLOR"),
)
"""What any process needs: where programs, libraries and temporary files are, and how text is written."""

MODELS = (
    *("CUDA_*", "NVIDIA_*", "NCCL_*", "CUBLAS_*", "CUDNN_*", "ROCR_*", "ROCM_*", "HIP_*", "HSA_*", "GPU_*"),
    *("OMP_*", "KMP_*", "GOMP_*", "MKL_*", "OPENBLAS_*", "BLIS_*", "NUMEXPR_*", "MALLOC_*", "ONEDNN_*"),
    *("TORCH_*", "TORCHINDUCTOR_*", "PYTORCH_*", "TRITON_*", "GGML_*", "LLAMA_*", "VLLM_*", "SGLANG_*", "TRTLLM_*"),
    *("TLLM_*", "OLLAMA_*", "TRANSFORMERS_*", "TOKENIZERS_*", "HF_HOME", "HF_HUB_*", "HF_DATASETS_*"),
)
"""What a process that runs a model needs besides: the GPUs, threads, and its libraries' own switches."""

Group = Literal[
    "network", "hub", "object store", "database", "key service", "cluster", "prefect server", "prefect worker"
]

GROUPS: dict[Group, tuple[str, ...]] = {
    # The way out of the machine. A proxy's address may contain a password, so only processes that reach out get it.
    "network": (
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    ),
    "hub": ("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"),
    "object store": ("AWS_*", "MLFLOW_S3_*", "FSSPEC_S3_*", "BOTO_CONFIG"),
    "database": ("PG*",),
    # It signs with a key that this machine never sees.
    "key service": ("AWS_*", "GOOGLE_*", "CLOUDSDK_*", "AZURE_*"),
    "cluster": ("KUBECONFIG", "KUBERNETES_*", "RAY_*", "DASK_*"),
    "prefect server": ("PREFECT_SERVER_*", "PREFECT_LOGGING_*"),
    "prefect worker": ("PREFECT_LOGGING_*", "PREFECT_RUNNER_*", "PREFECT_WORKER_*"),
}
"""Names of variables by what they are for; `*` stands for any ending."""

SERVICES: dict[str, tuple[Group, ...]] = {
    # supervisord's own, and so that of every program below it; engines get nothing else.
    "supervisor": (),
    "mlflow": ("network", "object store", "database"),
    "prefect": ("prefect server",),
    # The only one that downloads and signs; it also copies artifacts to the remote store and works in a cluster.
    "worker": ("network", "hub", "object store", "key service", "cluster", "prefect worker"),
    "gateway": (),
    "webhook": (),
    # A child that runs a model: it quantizes, scores or makes a reference.
    "model": (),
}
"""For each kind of process, the groups that it may have besides `BASE` and `MODELS`."""

_SECRET = re.compile(r"TOKENS?(_|$)|SECRET|PASSW|CREDENTIAL|AUTH|(^|_)KEYS?(_|$)", re.IGNORECASE)


def allowed_environment(kind: str, shell: Mapping[str, str] | None = None) -> dict[str, str]:
    """Pick what a process may have of a shell's environment.

    Args:
        kind: One of `SERVICES`.
        shell: The environment to pick from; by default this process's.

    Returns:
        Names and values. Of `BASE` and `MODELS` no name that speaks of a secret, such as `VLLM_API_KEY`.
    """
    shell = os.environ if shell is None else shell
    open_to_all = {name: value for name, value in shell.items() if is_open(name)}
    return {**open_to_all, **private_environment(kind, shell)}


def private_environment(
    kind: str, shell: Mapping[str, str] | None = None, without: Collection[Group] = ()
) -> dict[str, str]:
    """Pick what one kind of process may have of a shell's environment, and others may not.

    Args:
        kind: One of `SERVICES`.
        shell: The environment to pick from; by default this process's.
        without: Groups that this installation has no use for.
    """
    shell = os.environ if shell is None else shell
    passed = _passed(shell.get(PASS_VARIABLE, ""), kind)
    patterns = tuple(name for group in SERVICES[kind] if group not in without for name in GROUPS[group])
    return {name: value for name, value in shell.items() if name in passed or _matches(name, patterns)}


def is_open(name: str) -> bool:
    """Return whether any process may have a variable of this name."""
    return _matches(name, (*BASE, *MODELS)) and not _SECRET.search(name)


def unknown_kinds(names: str) -> set[str]:
    """Find the kinds in `PASS_VARIABLE` that are none of `SERVICES`."""
    return {entry.strip().rpartition(":")[0] for entry in names.split(",")} - {"", *SERVICES}


def _passed(names: str, kind: str) -> set[str]:
    """Names that the user passes to a kind of process: `NAME` to all, `KIND:NAME` to one."""
    named = [entry.strip().rpartition(":") for entry in names.split(",")]
    return {name for only, _, name in named if name and only in ("", kind)}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return name.isidentifier() and any(fnmatchcase(name, pattern) for pattern in patterns)
