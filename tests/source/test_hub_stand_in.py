"""The Hub stand-in, queried by the real client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from registry.store import sha256_of
from tasks.source.small_files import git_oid


def test_a_model_is_described_as_the_hub_does(hub: Any, release: Path) -> None:
    commit = hub.publish(release)
    info = HfApi(endpoint=hub.endpoint).model_info("acme/tiny", files_metadata=True)
    files = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert info.sha == commit and info.gated is False
    assert info.card_data is not None and info.card_data["license"] == "apache-2.0"
    weights = release / "model-00001-of-00002.safetensors"
    lfs = files[weights.name].lfs
    assert lfs is not None and lfs.sha256 == sha256_of(weights)
    assert files["config.json"].lfs is None
    assert files["config.json"].blob_id == git_oid((release / "config.json").read_bytes())


def test_publishing_the_same_again_is_the_same_commit(hub: Any, release: Path) -> None:
    first = hub.publish(release)
    assert hub.publish(release) == first
    (release / "README.md").write_text("another card")
    second = hub.publish(release)
    api = HfApi(endpoint=hub.endpoint)
    assert second != first
    assert api.list_repo_refs("acme/tiny").branches[0].target_commit == second
    assert api.model_info("acme/tiny", revision=first).sha == first


def test_files_arrive_unchanged_through_the_client(hub: Any, release: Path, tmp_path: Path) -> None:
    commit = hub.publish(release)
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        got = hf_hub_download("acme/tiny", name, local_dir=tmp_path / "got", endpoint=hub.endpoint)
        assert Path(got).read_bytes() == (release / name).read_bytes()
    weights = release / "model-00001-of-00002.safetensors"
    about = get_hf_file_metadata(hf_hub_url("acme/tiny", weights.name, revision=commit, endpoint=hub.endpoint))
    assert (about.commit_hash, about.etag, about.size) == (commit, sha256_of(weights), weights.stat().st_size)


def test_a_snapshot_is_the_whole_repository(hub: Any, release: Path, tmp_path: Path) -> None:
    hub.publish(release)
    got = Path(snapshot_download("acme/tiny", local_dir=tmp_path / "got", endpoint=hub.endpoint))
    names = {path.relative_to(release) for path in release.rglob("*") if path.is_file()}
    assert all((got / name).read_bytes() == (release / name).read_bytes() for name in names)


def test_missing_repositories_revisions_and_files_are_distinct_errors(hub: Any, release: Path) -> None:
    hub.publish(release)
    api = HfApi(endpoint=hub.endpoint)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/nothing")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/tiny", revision="v9")
    with pytest.raises(RemoteEntryNotFoundError):
        get_hf_file_metadata(hf_hub_url("acme/tiny", "no.json", endpoint=hub.endpoint))


def test_a_gated_repository_opens_to_a_granted_token(hub: Any, release: Path) -> None:
    hub.publish(release)
    (hub.root / "acme/tiny/gated.txt").write_text("hf_granted\n")
    url = hf_hub_url("acme/tiny", "config.json", endpoint=hub.endpoint)
    for token in (False, "hf_other"):
        with pytest.raises(GatedRepoError):
            get_hf_file_metadata(url, token=token)
    assert get_hf_file_metadata(url, token="hf_granted").size
    assert HfApi(endpoint=hub.endpoint).model_info("acme/tiny").gated == "manual"


def test_the_command_line_publishes(release: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.hub", "publish", str(tmp_path / "root"), "acme/tiny", str(release)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
    assert (tmp_path / "root/acme/tiny/refs/main").read_text() == done.stdout.strip()
