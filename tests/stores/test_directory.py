"""The directory store, and all that publishes as it does, on file systems that know no hard links."""

from __future__ import annotations

import ctypes
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from bbr.durable import publish
from bbr.errors import AlreadyExists, PreconditionFailed, TargetNotEmpty
from bbr.servers.etcd import EtcdServers
from bbr.stores.directory import DirectoryStore
from tests.making import churn, make_site, source

NO_LINKS = [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK]


@pytest.fixture(params=NO_LINKS, ids=errno.errorcode.get)
def no_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hard links, as vfat, CIFS and some FUSE file systems say it. Renaming is this machine's own."""
    refuse_links(monkeypatch, request.param)


def refuse_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "link", refused)


def refuse_renames(monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    """A libc whose renameat2 answers with this error, or that has none."""

    class Libc:
        """What `ctypes.CDLL` gives."""

    def refused(*_: object) -> int:
        ctypes.set_errno(number or 0)
        return -1

    libc = Libc()
    if number is not None:
        monkeypatch.setattr(libc, "renameat2", refused, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: libc)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_publish_gives_the_file_its_name(tmp_path: Path) -> None:
    publish(written(tmp_path / "temporary", "new"), tmp_path / "target")
    assert (tmp_path / "target").read_text() == "new"


def test_publish_leaves_what_has_the_name(tmp_path: Path) -> None:
    temporary, target = written(tmp_path / "temporary", "new"), written(tmp_path / "target", "old")
    with pytest.raises(FileExistsError):
        publish(temporary, target)
    assert (temporary.read_text(), target.read_text()) == ("new", "old")


@pytest.mark.usefixtures("no_links")
def test_without_links_publish_renames(tmp_path: Path) -> None:
    publish(written(tmp_path / "temporary", "new"), tmp_path / "target")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("target", "new")]


@pytest.mark.parametrize("there", ["file", "folder", "link to nothing"])
def test_without_links_publish_leaves_what_has_the_name(
    tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(monkeypatch, errno.EPERM)
    temporary, target = written(tmp_path / "temporary", "new"), tmp_path / "target"
    if there == "file":
        target.write_text("old")
    elif there == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "nowhere")
    before = target.lstat()
    with pytest.raises(FileExistsError):
        publish(temporary, target)
    assert target.lstat() == before
    assert temporary.read_text() == "new"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, None])
def test_a_file_system_that_can_do_neither_is_named_with_what_to_do(
    tmp_path: Path, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(monkeypatch, errno.EPERM)
    refuse_renames(monkeypatch, number)
    with pytest.raises(PreconditionFailed, match="no hard links and cannot rename without overwriting") as raised:
        publish(written(tmp_path / "temporary", "new"), tmp_path / "target")
    assert str(tmp_path / "target") in str(raised.value)
    assert "another file system" in raised.value.hint
    with pytest.raises(PreconditionFailed, match="no hard links"):
        DirectoryStore(tmp_path).put("a/b", b"x")
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EROFS, errno.ENOSPC])
def test_another_error_of_the_rename_is_itself(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch, errno.EPERM)
    refuse_renames(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        publish(written(tmp_path / "temporary", "new"), tmp_path / "target")
    assert raised.value.errno == number


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EROFS, errno.ENOSPC])
def test_another_error_of_the_link_is_itself(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        publish(written(tmp_path / "temporary", "new"), tmp_path / "target")
    assert raised.value.errno == number
    assert not (tmp_path / "target").exists()


@pytest.mark.usefixtures("no_links")
def test_without_links_objects_are_put_once(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a/b", b"first")
    with pytest.raises(AlreadyExists):
        store.put("a/b", b"second")
    assert store.get("a/b", limit_bytes=10) == b"first"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_without_links_one_of_eight_writers_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch, errno.EPERM)
    store, barrier = DirectoryStore(tmp_path), Barrier(8)

    def put(number: int) -> bytes | None:
        body = b"writer %d" % number
        barrier.wait(30)
        try:
            store.put("a/b", body)
        except AlreadyExists:
            return None
        return body

    with ThreadPoolExecutor(8) as pool:
        won = [body for body in pool.map(put, range(8)) if body is not None]
    assert won == [store.get("a/b", limit_bytes=100)]


def test_without_links_a_repository_takes_a_backup_and_gives_it_back(
    tmp_path: Path, small_etcd: EtcdServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(monkeypatch, errno.EPERM)
    (tmp_path / "repository").mkdir()
    site = make_site(DirectoryStore(tmp_path / "repository"), tmp_path)
    with small_etcd.client() as client:
        churn(client, 1)
    site.backup(source(small_etcd.endpoints))
    (backup,) = site.archive().catalog.backups
    to = tmp_path / "to"
    to.mkdir()
    assert site.rebuild(backup, to / "etcd.db").hash_kv == backup.manifest.etcd("main").hash_kv
    assert [path.name for path in to.iterdir()] == ["etcd.db"]
    assert (to / "etcd.db").stat().st_mode & 0o777 == 0o600
    body = (to / "etcd.db").read_bytes()
    with pytest.raises(TargetNotEmpty):
        site.rebuild(backup, to / "etcd.db")
    assert (to / "etcd.db").read_bytes() == body
    refuse_renames(monkeypatch, errno.EINVAL)
    with pytest.raises(PreconditionFailed, match="no hard links"):
        site.rebuild(backup, to / "other.db")
    assert [path.name for path in to.iterdir()] == ["etcd.db"]
