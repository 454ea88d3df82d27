"""Addresses of sources: one form each, and the nearest right one for a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.mutation import examples
from weighbridge.errors import SourceInvalid
from weighbridge.source_urls import canonical, checked, repo_of, split_revision, uri_of, url_of


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("hf://org/model", "hf://org/model"),
        ("file:///models/mine/", "file:///models/mine"),
        ("file://localhost/models/mine", "file:///models/mine"),
        ("file:///models/../models/my model", "file:///models/my%20model"),
        ("file:///models/my%20model", "file:///models/my%20model"),
        ("file:///models/a@b", "file:///models/a%40b"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://bucket", "s3://bucket"),
    ],
)
def test_an_address_has_one_form(written: str, form: str) -> None:
    assert canonical(written) == canonical(form) == form
    assert url_of(repo_of(form)) == form
    assert split_revision(uri_of(repo_of(form), "a" * 64)) == (form, "a" * 64)


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("file://models/mine", f"file://{Path('models/mine').absolute()}"),
        ("file://usr/bin", "file:///usr/bin"),
        ("file:/models/mine", "file:///models/mine"),
        ("file:models", f"file://{Path('models').absolute()}"),
        ("file:///~/mine", f"file://{Path.home()}/mine"),
        ("file://~/mine", f"file://{Path.home()}/mine"),
        ("file://", "file:///"),
        ("file:///", "not the root of the disk"),
        ("FILE:///models", "file:///models"),
        ("~/mine", f"file://{Path.home()}/mine"),
        ("/models/mine", "file:///models/mine"),
        ("./mine", f"file://{Path('mine').absolute()}"),
        ("s3:/bucket/prefix", "s3://bucket/prefix"),
        ("s3:bucket/prefix", "s3://bucket/prefix"),
        ("S3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://", "s3://bucket/prefix"),
        ("s3://Bucket/prefix", "s3://bucket/prefix"),
        ("s3:///prefix", "s3://bucket/prefix"),
        ("hf:/org/model", "hf://org/model"),
        ("hf://model", "hf://org/model"),
        ("hf://org/model@v2", "`revision: v2`"),
        ("org/model", "hf://org/model"),
        ("https://huggingface.co/org/model", "hf://org/model"),
        ("https://huggingface.co/org/model/tree/v2", "`revision: v2`"),
        ("gs://bucket/prefix", "no kind of source called 'gs'"),
        ("flie:///models", "did you mean file"),
        ("", "hf://org/model, file:///folder or s3://bucket/prefix"),
        ("file:///a\nb", "control characters"),
    ],
)
def test_a_wrong_address_names_the_nearest_right_one(written: str, nearest: str) -> None:
    with pytest.raises(SourceInvalid) as caught:
        checked(written)
    assert nearest in caught.value.what


@examples()
@given(
    st.one_of(st.text(), st.builds("{}{}".format, st.sampled_from(["hf:", "file://", "s3://", "file:///"]), st.text()))
)
def test_any_text_is_an_address_or_a_named_error(text: str) -> None:
    try:
        form = checked(text)
    except SourceInvalid:
        return
    assert checked(form) == form and url_of(repo_of(form)) == form
