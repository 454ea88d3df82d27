"""A folder as a source: pinned by its content, admitted and copied as a release of the Hub is."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from examples import tiny
from registry.store import Store
from tasks.evaluate.compare_inputs import resolve_model
from tasks.fit.model.shape import shape_of
from tasks.fit.report import fit_release
from tasks.source.admission import admit
from tasks.source.download import download
from tasks.source.local_folder import folder_at
from tasks.source.pinned import Source
from tasks.source.provider import Provider, provider_of, with_source
from weighbridge.errors import DiskFull, SourceChanged, SourceInvalid, SourceRefused, SourceUnknown, WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import load_settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A fine-tune as a trainer leaves it: with pickles, checkpoints and a log beside it."""
    folder = tiny.build(tmp_path / "my model", shards=2)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "checkpoint-500").mkdir()
    (folder / ".cache").mkdir()
    return folder


def provider(folder: Path) -> Provider:
    return provider_of(load_settings(), folder.as_uri())


def line(folder: Path, **admission: Any) -> Line:
    return Line.model_validate(
        {
            "name": "mine",
            "source": folder.as_uri(),
            "admission": {"licences": ["apache-2.0"], **admission},
            "schemes": ["bf16"],
            "target": {"gpus": ["host"], "context": 512, "concurrency": 1},
            "suites": [{"name": "general/agreement"}],
        }
    )


def refused(folder: Path, **admission: Any) -> str:
    configured = line(folder, **admission)
    with pytest.raises(SourceRefused) as caught:
        admit(provider(folder).pin("main", configured.admission.max_download_gib), configured)
    return caught.value.what


def test_a_folder_is_pinned_admitted_fitted_and_copied_whole(model: Path, tmp_path: Path) -> None:
    store, calls = Store(tmp_path / "store"), list[tuple[int, int]]()
    source = provider(model).pin()
    admit(source, line(model))
    artifact = download(provider(model), source, "mine", store, lambda done, total: calls.append((done, total)))
    assert artifact.commit == source.commit == artifact.digest, "the commit is the digest of what the store then holds"
    assert (artifact.repo, artifact.scheme) == (model.as_uri(), "bf16")
    held = {path.name: path.read_bytes() for path in store.path(artifact).iterdir()}
    assert held == {file.path: (model / file.path).read_bytes() for file in source.files}
    assert {".cache", "checkpoint-500", "training_args.bin"} <= set(source.ignored)
    provenance = store.manifest("mine", artifact.digest).provenance
    assert provenance is not None
    (origin,) = provenance.build_definition.resolved_dependencies
    assert (origin.uri, origin.digest) == (f"{model.as_uri()}@{source.commit}", {"sha256": source.commit})
    assert calls[-1] == (source.size_bytes, source.size_bytes)


def test_fit_reads_the_headers_and_no_weights(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of(load_settings(), model.as_uri())
    assert shape.origin == "headers" and shape.name == model.as_uri()
    from registry.installation import Installation

    report = fit_release(Installation.load(), provider(model).pin(), line(model))
    assert report.schemes == ("bf16",)


def test_one_content_is_one_commit_whatever_its_place_times_and_order(model: Path, tmp_path: Path) -> None:
    first = provider(model).pin()
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in sorted((path for path in model.iterdir() if path.is_file()), reverse=True):
        shutil.copyfile(path, copy / path.name)
        os.utime(copy / path.name, (1, 1))
    (copy / "optimizer.pt").write_bytes(b"not adopted, so it does not count")
    assert provider(copy).pin().commit == first.commit
    with (copy / "tokenizer_config.json").open("a") as file:
        file.write(" ")
    assert provider(copy).pin().commit != first.commit


def test_an_unchanged_folder_is_not_read_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.source.providers._hashes.SETTLED_SECONDS", -60.0)
    first = provider(model).pin()
    read = list[str]()
    again: Any = provider(model)
    blocks = type(again).blocks

    def counted(self: Any, path: str, *rest: int) -> Any:
        read.append(path)
        return blocks(self, path, *rest)

    monkeypatch.setattr(type(again), "blocks", counted)
    assert again.pin().commit == first.commit
    assert not [path for path in read if path.endswith(".safetensors")]
    weights = model / "model-00001-of-00002.safetensors"
    os.utime(weights, (1, 1))
    assert again.pin().commit == first.commit and weights.name in read


def test_a_folder_has_only_its_present_content_as_a_revision(model: Path) -> None:
    commit = provider(model).pin().commit
    assert provider(model).pin(commit).commit == provider(model).pin(commit[:12]).commit == commit
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    with pytest.raises(SourceUnknown, match=rf"no revision '{commit[:12]}'.*holds"):
        provider(model).pin(commit[:12])


def link_out(folder: Path) -> None:
    (folder / "tokenizer.json").symlink_to("/etc/hostname")


def link_out_in_two_steps(folder: Path) -> None:
    (folder / "inside").symlink_to("/etc")
    (folder / "vocab.txt").symlink_to("inside/hostname")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "chat_template.jinja")


def listening(folder: Path) -> None:
    # Its path may be longer than a socket's may be.
    here = Path.cwd()
    os.chdir(folder)
    try:
        socket.socket(socket.AF_UNIX).bind("merges.txt")
    finally:
        os.chdir(here)


def control_characters(folder: Path) -> None:
    (folder / "model\x1b[2J.safetensors").write_bytes(b"x")


def no_text(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.safetensors"))).write_bytes(b"x")


def equal_but_for_case(folder: Path) -> None:
    (folder / "ReadMe.md").write_text("another card")


def only_pickles(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".bin")))


def remote_code(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (link_out, "tokenizer.json is a link that leads out"),
        (link_out_in_two_steps, "vocab.txt is a link that leads out"),
        (pipe, "chat_template.jinja is a pipe"),
        (listening, "merges.txt is a socket"),
        (control_characters, r"'model\x1b[2J.safetensors' has characters"),
        (no_text, "has characters that no file of a model has"),
        (equal_but_for_case, "are one on some disks"),
        (only_pickles, "no safetensors weights"),
        (remote_code, "requires running its own code"),
    ],
)
def test_a_hostile_folder_is_refused_by_name(model: Path, harm: Callable[[Path], None], says: str) -> None:
    harm(model)
    assert says in refused(model)


def test_a_hidden_file_is_never_read(model: Path) -> None:
    (model / ".model.safetensors").symlink_to("/etc/hostname")
    source = provider(model).pin()
    admit(source, line(model))
    assert ".model.safetensors" in source.ignored


def test_a_link_inside_the_folder_is_the_file_that_it_leads_to(model: Path, tmp_path: Path) -> None:
    before = provider(model).pin()
    (model / "blobs").mkdir()
    for path in model.glob("*.safetensors"):
        path.rename(model / "blobs" / path.name)
        path.symlink_to(f"blobs/{path.name}")
    source = provider(model).pin()
    assert source.commit == before.commit
    store = Store(tmp_path / "store")
    artifact = download(provider(model), source, "mine", store)
    assert not any(path.is_symlink() for path in store.path(artifact).iterdir())


def test_a_folder_that_is_too_large_is_refused_before_it_is_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(provider(model)), "blocks", None)
    assert "GiB to copy exceed the allowed 1e-06 GiB" in refused(model, max_download_gib=1e-6)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def flip(path: Path) -> None:
    """Changes a byte, and sets the time back as a careless copy does."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("harm", [append, flip, lambda path: path.unlink(), lambda path: os.truncate(path, 100)])
def test_a_file_that_changes_before_its_copy_is_refused_by_name(
    model: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    store, source = Store(tmp_path / "store"), provider(model).pin()
    harm(model / "model-00002-of-00002.safetensors")
    with pytest.raises(SourceChanged, match=r"model-00002-of-00002\.safetensors of file://"):
        download(provider(model), source, "mine", store)
    assert store.artifacts() == []


def test_a_file_that_changes_while_it_is_hashed_is_refused_by_name(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = type(provider(model))
    blocks = kind.blocks

    def written_meanwhile(self: Any, path: str, *rest: int) -> Any:
        yield from blocks(self, path, *rest)
        if path == "model-00001-of-00002.safetensors":
            flip(model / path)

    monkeypatch.setattr(kind, "blocks", written_meanwhile)
    with pytest.raises(SourceChanged, match=r"model-00001-of-00002\.safetensors"):
        provider(model).pin()


def test_a_killed_copy_is_resumed(tmp_path: Path) -> None:
    model = tiny.build(tmp_path / "big", vocab_size=65536)
    store, source = Store(tmp_path / "store"), provider(model).pin()

    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done > total / 2:
            raise Killed

    with pytest.raises(Killed):
        download(provider(model), source, "mine", store, kill)
    assert store.artifacts() == []
    calls = list[int]()
    store.verify(download(provider(model), source, "mine", store, lambda done, total: calls.append(done)))
    assert calls[0] > source.size_bytes / 3


def test_too_small_a_disk_is_reported_before_the_copy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.source.download.SPARE_BYTES", 2**60)
    with pytest.raises(DiskFull):
        download(provider(model), provider(model).pin(), "mine", Store(tmp_path / "store"))


def test_a_folder_without_a_model_names_the_one_below_it(model: Path) -> None:
    with pytest.raises(SourceUnknown, match=r"holds no model: it has no config\.json") as caught:
        provider(model.parent).pin()
    assert model.as_uri() in caught.value.next_step


@pytest.mark.parametrize("place", ["missing", "a file"])
def test_no_folder_is_a_named_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").write_text("x")
    with pytest.raises(SourceUnknown, match="no folder"):
        provider(tmp_path / place).pin()


def without_card(model: Path, licence: str | None) -> Source:
    (model / "README.md").unlink()
    if licence is not None:
        (model / "LICENSE").write_text(licence)
    return provider(model).pin()


def test_without_a_card_the_licence_is_that_of_the_licence_file(model: Path) -> None:
    apache = (Path(__file__).parents[2] / "LICENSE").read_text()
    admit(without_card(model, apache), line(model))
    (model / "LICENSE").write_text(apache + "\nNot for use by competitors.")
    assert "names no licence" in refused(model)
    (model / "LICENSE").write_text("SPDX-License-Identifier: MIT\n")
    assert "licence mit is not allowed" in refused(model)


def test_a_card_that_contradicts_the_licence_file_is_refused(model: Path) -> None:
    (model / "LICENSE").write_text("SPDX-License-Identifier: MIT\n")
    assert "its card says licence 'apache-2.0', and its licence file is that of mit" in refused(model)


def test_a_model_without_any_licence_is_refused(model: Path) -> None:
    without_card(model, None)
    assert "names no licence" in refused(model)


def test_a_damaged_record_of_hashes_is_made_anew(model: Path) -> None:
    commit = provider(model).pin().commit
    (record,) = (load_settings().home / "sources").iterdir()
    for content in ("", "{", '{"repo": 1}', "[]", "\0" * 9):
        record.write_text(content)
        assert provider(model).pin().commit == commit


def test_whatever_lies_in_a_folder_is_a_value_or_a_named_error(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, content in {"config.json": b"[" * 10**5, "README.md": b"\xff\xfe", "model.safetensors": b""}.items():
        (folder / name).write_bytes(content)
    try:
        admit(provider(folder).pin(), line(folder))
    except WeighbridgeError as error:
        assert error.next_step


def test_successors_are_searched_on_the_hub_only(model: Path) -> None:
    with pytest.raises(ValidationError, match="only the Hub lists"):
        Line.model_validate({**line(model).model_dump(), "watch": {"successors": ["mine-*"]}})


def test_a_run_may_not_name_a_folder_or_bucket(model: Path) -> None:
    own = line(model)
    assert with_source(own, "hf://org/successor").repo == "org/successor"
    assert with_source(own, model.as_uri()) == own
    for url in ("file:///etc", "s3://bucket/prefix", "file://relative", "gs://x/y"):
        with pytest.raises(SourceInvalid):
            with_source(own, url)


def test_commands_that_read_folders_take_an_address_of_one(model: Path, tmp_path: Path) -> None:
    assert folder_at(str(model)) == folder_at(model.as_uri()) == model
    assert resolve_model(model.as_uri(), load_settings()).folder == model
    for url in ("s3://bucket/prefix", "hf://org/model", "file://relative"):
        with pytest.raises(SourceInvalid):
            folder_at(url)


def test_a_kind_of_source_is_one_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount under a name: a line takes it, it is pinned, planned and copied, and its records name it."""
    import tasks.source.providers

    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds/mount.py").write_text(
        "from tasks.source.providers import file\n"
        "def canonical(url): return url\n"
        "class Provider(file.Provider):\n"
        "    def __init__(self, settings, repo):\n"
        "        super().__init__(settings, repo)\n"
        f"        self._folder = file.Path({str(model.parent)!r}, repo.removeprefix('mount://'))\n"
    )
    places = [*tasks.source.providers.__path__, str(tmp_path / "kinds")]
    monkeypatch.setattr(tasks.source.providers, "__path__", places)
    monkeypatch.setattr("weighbridge.source_urls.kinds", lambda: ("file", "hf", "mount", "s3"))
    configured = Line.model_validate({**line(model).model_dump(), "source": f"mount://{model.name}"})
    mounted = provider_of(load_settings(), configured.repo)
    source = mounted.pin()
    admit(source, configured)
    artifact = download(mounted, source, "mine", Store(tmp_path / "store"))
    assert source.uri == f"mount://{model.name}@{artifact.digest}"
    assert shape_of(load_settings(), configured.source).origin == "headers"
