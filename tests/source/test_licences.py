"""What a release is taken for: its licence by the card at the commit, and which of its files are adopted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from tasks.source.admission import admit
from tasks.source.licences import licence_flaws, licence_of
from tasks.source.provider import pin
from tasks.source.published import read_card
from tasks.source.small_files import names_code
from weighbridge.errors import SourceRefused


def card(fields: str) -> Any:
    return read_card(f"---\n{fields}\n---\n# A model\n")


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ("license: apache-2.0", "apache-2.0"),
        ("license: Apache-2.0\nlicense_link: LICENSE", "Apache-2.0"),
        ("license: other\nlicense_name: acme-1.0", "acme-1.0"),
        ("license: other", "other"),
        ("license: [mit, apache-2.0]", "mit and apache-2.0"),
        ("tags: [a]", None),
    ],
)
def test_a_plain_card_has_its_licence_and_no_flaw(fields: str, licence: str | None) -> None:
    assert licence_of(card(fields)) == licence
    assert list(licence_flaws(card(fields), None, None)) == []


@pytest.mark.parametrize(
    "name",
    ["apache-2.0", "Apache 2.0", "APACHE-2.0", "mit", "MIT License", "llama3", "gemma", "apache-2.0 and apache-2.0"],
)
def test_a_publishers_own_terms_may_not_take_a_known_licences_name(name: str) -> None:
    found = card(f"license: other\nlicense_name: {name}\nlicense_link: https://example.org/terms")
    assert licence_of(found) == "other"
    assert list(licence_flaws(found, None, None))


@pytest.mark.parametrize(
    "fields",
    [
        "license: apache-2.0\nlicense_name: acme-terms",
        'license: "\\u0430pache-2.0"',
        'license: "apache-2.0\\nx"',
    ],
)
def test_a_card_that_contradicts_itself_has_a_flaw(fields: str) -> None:
    assert list(licence_flaws(card(fields), None, None))


def test_a_card_and_the_hub_that_differ_are_a_flaw() -> None:
    assert list(licence_flaws(card("license: apache-2.0"), {"license": "cc-by-nc-4.0"}, None))
    assert list(licence_flaws(card("license: apache-2.0"), None, "cc-by-nc-4.0"))
    assert not list(licence_flaws(card("license: apache-2.0"), {"license": "apache-2.0"}, "apache-2.0"))


def test_every_licence_of_a_list_must_be_allowed(hub: Any, line: Any, tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "two")
    (folder / "README.md").write_text("---\nlicense: [apache-2.0, cc-by-nc-4.0]\n---\n")
    hub.publish(folder)
    with pytest.raises(SourceRefused, match=r"licence apache-2\.0 and cc-by-nc-4\.0 is not allowed"):
        admit(pin(hub.installation, line), line)


UNASKED = (
    "tokenizer.pickle", "tokenizer.joblib", "vocab.npy", "chat_template.sh", "tokenizer_config.json.pkl", "vocab.bin",
    "LICENSE.joblib", "LICENSE.sh", "tokenizer.so", "merges.txt.exe", ".gitattributes", ".env", "model.pt",
    "config.json.py", "tokenizer.py", "run.sh", "weights.h5", "model.onnx", "model.msgpack", "model.ckpt",
    "Config.json", "tokenizer_config.JSON", "MODEL.SAFETENSORS.INDEX.JSON", "Chat_Template.jinja",
)  # fmt: skip


def test_files_that_nobody_asked_for_are_listed_and_not_adopted(hub: Any, line: Any, tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "crowded")
    for name in UNASKED:
        (folder / name).write_bytes(b"x")
    wanted = {"LICENSE", "LICENSE.txt", "LICENSE-MODEL", "NOTICE", "tokenizer.model", "vocab.json", "merges.txt"}
    for name in wanted:
        (folder / name).write_bytes(b"{}")
    hub.publish(folder)
    source = pin(hub.installation, line)
    adopted = {file.path for file in source.files}
    assert not adopted & set(UNASKED)
    assert set(UNASKED) <= set(source.ignored)
    assert wanted <= adopted


@pytest.mark.parametrize(
    "found",
    [
        {"auto_map": {"AutoModel": "m.M"}},
        {"a": [{"b": [{"auto_map": {"AutoModel": "m.M"}}]}]},
        {"text_config": {"auto_map": ["m.M"]}},
        {"custom_pipelines": {"p": {"impl": "m.P"}}},
        {"trust_remote_code": True},
    ],
)
def test_code_is_found_at_any_depth(found: Any) -> None:
    assert names_code(found)
    assert not names_code({"auto_map": {}, "a": [{"b": None}], "trust_remote_code": False})


def test_code_in_the_tokenizers_config_is_refused(hub: Any, line: Any, tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "coded")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tok.Tok", null]}}')
    hub.publish(folder)
    with pytest.raises(SourceRefused, match=r"`auto_map` in tokenizer_config\.json"):
        admit(pin(hub.installation, line), line)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('{"num_hidden_layers": 1000000000}', "`num_hidden_layers` is 1000000000"),
        ('{"hidden_size": "64"}', "`hidden_size` is '64'"),
        ('{"vocab_size": 1000000000000000000000000000000}', "`vocab_size` is an integer of 31 digits"),
        ('{"text_config": {"layer_types": 5}}', "`text_config.layer_types` is 5"),
        ('{"architectures": "Llama"}', "`architectures` is 'Llama'"),
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested more than 64"),
    ],
)
def test_a_config_out_of_bounds_is_refused_with_field_and_value(
    hub: Any, line: Any, tmp_path: Path, config: str, says: str
) -> None:
    folder = tiny.build(tmp_path / "odd")
    (folder / "config.json").write_text(config)
    hub.publish(folder)
    with pytest.raises(SourceRefused, match=r"config\.json") as refused:
        admit(pin(hub.installation, line), line)
    assert says in refused.value.what
