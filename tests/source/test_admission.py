"""Admission: what is admitted, and that a refusal names every reason."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.source.admission import admit, escapes
from tasks.source.pinned import Source
from tasks.source.source_file import SourceFile
from weighbridge.errors import SourceRefused

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def source(**changes: Any) -> Source:
    weights = SourceFile(path="model.safetensors", size_bytes=2**30, sha256="0" * 64)
    fields = {
        "repo": "acme/tiny",
        "commit": "0" * 40,
        "licence": "apache-2.0",
        "gated": False,
        "config": LLAMA,
        "files": (weights,),
        "ignored": (),
    }
    return Source.model_validate({**fields, **changes})


def test_a_release_that_satisfies_the_rules_is_admitted(make_line: Any) -> None:
    admit(source(), make_line())
    admit(source(licence="Apache-2.0", ignored=("pytorch_model.bin", "original/params.json")), make_line())


def test_all_reasons_are_reported_together(make_line: Any) -> None:
    bad = source(
        licence="cc-by-nc-4.0",
        config={"architectures": ["TinyForCausalLM"], "auto_map": {"AutoModel": "modeling_tiny.TinyModel"}},
        files=(),
        ignored=("pytorch_model.bin", "../../.bashrc"),
    )
    with pytest.raises(SourceRefused) as refused:
        admit(bad, make_line())
    for reason in (
        "licence cc-by-nc-4.0 is not allowed (allowed: apache-2.0)",
        "architecture TinyForCausalLM is not allowed",
        "running its own code",
        "no safetensors",
        "'../../.bashrc' leads out of its folder",
    ):
        assert reason in refused.value.what
    assert "lines/tiny.yaml" in refused.value.next_step


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"licence": None}, "names no licence"),
        ({"config": {}}, "no config.json"),
        ({"config": {"model_type": "llama"}}, "names no architecture"),
        ({"config": {**LLAMA, "text_config": {"auto_map": {"AutoModel": "x.Y"}}}}, "running its own code"),
        ({"files": (SourceFile(path="model.safetensors", size_bytes=2**34, sha256="0"),)}, "16.00 GiB to download"),
        ({"files": (SourceFile(path="model.safetensors", size_bytes=8),)}, "no hash"),
    ],
)
def test_one_reason_is_enough_to_refuse(make_line: Any, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SourceRefused) as refused:
        admit(source(**changes), make_line(max_download_gib=8))
    assert reason in refused.value.what and ";" not in refused.value.what


def test_without_a_list_any_causal_model_of_transformers_may_pass(make_line: Any) -> None:
    admit(source(), make_line(architectures=[]))
    with pytest.raises(SourceRefused, match="not a causal language model"):
        admit(source(config={"architectures": ["ViTForImageClassification"]}), make_line(architectures=[]))


@pytest.mark.parametrize("path", ["../x", "a/../x", "/etc/x", "a\\x", "C:x", "a//x", "./x", "", "a/.", "C:/x"])
def test_names_that_lead_out_of_a_folder(path: str) -> None:
    assert escapes(path)


@pytest.mark.parametrize("path", ["model.safetensors", "a/b.json", "..model", "a..b/c"])
def test_names_that_stay_inside(path: str) -> None:
    assert not escapes(path)
