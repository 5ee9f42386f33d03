"""A real MinIO, as tests and the demo get it."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.error import S3Error

from bbr.errors import ToolMissing
from bbr.servers.minio import MinioServer, start_minio
from tests.conftest import program


def client(server: MinioServer, secret_key: str | None = None) -> Minio:
    host = server.endpoint.removeprefix("http://")
    return Minio(host, access_key=server.access_key, secret_key=secret_key or server.secret_key, secure=False)


def test_bucket_is_made_and_takes_objects(minio_server: MinioServer, tmp_path: Path) -> None:
    minio_server.create_bucket("servers-plain")
    (tmp_path / "body").write_bytes(b"body")
    client(minio_server).fput_object("servers-plain", "name", str(tmp_path / "body"))
    assert [one.object_name for one in client(minio_server).list_objects("servers-plain")] == ["name"]


def test_bucket_with_lock_has_versions(minio_server: MinioServer) -> None:
    minio_server.create_bucket("servers-locked", lock=True)
    assert client(minio_server).get_bucket_versioning("servers-locked").status == "Enabled"


def test_wrong_secret_key_is_refused(minio_server: MinioServer) -> None:
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        list(client(minio_server, "wrong").list_buckets())


def test_secret_key_is_not_shown(minio_server: MinioServer) -> None:
    assert minio_server.secret_key not in repr(minio_server)


def test_nothing_listens_after_the_context_and_the_log_stays(
    search: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIO_ROOT_USER", "from-the-shell")
    with start_minio(program("minio", search), tmp_path / "new") as server:
        server.create_bucket("one")
    url = urlsplit(server.endpoint)
    with socket.socket() as ours:
        assert ours.connect_ex((url.hostname, url.port)) != 0
    assert (tmp_path / "new" / "minio.log").exists()


def test_missing_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="minio: there is no program"), start_minio(tmp_path / "minio", tmp_path):
        pytest.fail("it started")
