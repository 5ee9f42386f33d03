"""Addresses of stores: what each one means, and what is refused before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.errors import UsageError
from bbr.stores.url import folder_of, open_store

SERVERS = ("s3://{}/prefix", "minio://store.example:9000/{}/prefix", "minio+http://127.0.0.1:1/{}/prefix")


@pytest.mark.parametrize("url", SERVERS)
@pytest.mark.parametrize(
    "bucket", ["b", "ab", "a" * 64, "Backups", "my_backups", "-backups", "backups.", "a..b", "a.-b"]
)
def test_bucket_that_cannot_be_is_a_usage_error(url: str, bucket: str) -> None:
    with pytest.raises(UsageError, match="cannot be a bucket's name") as caught:
        open_store(url.format(bucket))
    assert "3 to 63 of a-z 0-9 . -" in caught.value.hint


@pytest.mark.parametrize("url", SERVERS)
@pytest.mark.parametrize("bucket", ["abc", "a" * 63, "3.backups-of.2026"])
def test_bucket_of_the_known_form_is_taken(url: str, bucket: str) -> None:
    open_store(url.format(bucket))


def test_folder_is_the_same_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("my backups", "./my backups", f"{tmp_path}/my backups", f"file://{tmp_path}/my%20backups"):
        assert folder_of(url) == tmp_path / "my backups"


@pytest.mark.parametrize("url", SERVERS)
def test_server_is_no_folder(url: str) -> None:
    assert folder_of(url.format("backups")) is None


@pytest.mark.parametrize("url", ["", "file://host/path", "file://"])
def test_what_is_no_path_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not the path of a directory"):
        folder_of(url)
