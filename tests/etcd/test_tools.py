"""The real etcdutl of every version: found by version, its data directories booted, its failures in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from bbr.errors import EtcdCompacted, EtcdError, NoSpace, SnapshotDamaged, TargetNotEmpty, ToolMissing
from bbr.etcd import write
from bbr.etcd.tools import Etcdutl, find_etcdutl
from bbr.servers.etcd import boot_etcd, start_etcd
from tests.conftest import ETCD_VERSIONS, QUICK, program

BUMP = 1_000_000


@pytest.fixture(scope="module")
def snapshot(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A snapshot at revision 2, with one key."""
    folder = tmp_path_factory.mktemp("snapshot")
    with start_etcd(etcd_binary, folder / "etcd", flags=QUICK) as servers, servers.client() as client:
        write.put(client, b"key", b"value")
        (folder / "snapshot.db").write_bytes(b"".join(client.snapshot()))
    yield folder / "snapshot.db"


def restore(etcdutl: Etcdutl, snapshot: Path, data_dir: Path, *, bump: int = 0, mark_compacted: bool = True) -> None:
    etcdutl.restore(
        snapshot,
        data_dir,
        name="scratch",
        initial_cluster="scratch=http://127.0.0.1:2380",
        peer_urls="http://127.0.0.1:2380",
        token="test",
        bump=bump,
        mark_compacted=mark_compacted,
    )


@pytest.mark.parametrize("version", ETCD_VERSIONS)
def test_a_bumped_data_directory_boots_past_every_revision_that_was_seen(
    version: str, search: tuple[Path, ...], tmp_path: Path
) -> None:
    etcd = program("etcd", search, version)
    with start_etcd(etcd, tmp_path / "etcd", flags=QUICK) as servers, servers.client() as client:
        write.put(client, b"key", b"value")
        (tmp_path / "snapshot.db").write_bytes(b"".join(client.snapshot()))
    etcdutl = find_etcdutl([program("etcdutl", search, version)], server_version=version)
    assert etcdutl.version == version
    restore(etcdutl, tmp_path / "snapshot.db", tmp_path / "data", bump=BUMP)
    with boot_etcd(etcd, tmp_path / "data", flags=QUICK) as member, member.client() as client:
        assert client.status().revision >= 2 + BUMP
        assert [one.value for one in client.range(b"key").kvs] == [b"value"]
        with pytest.raises(EtcdCompacted):
            client.range(b"key", revision=2)


def test_without_a_bump_revisions_are_what_they_were(
    snapshot: Path, etcd_binary: Path, etcdutl_binary: Path, tmp_path: Path
) -> None:
    etcdutl = find_etcdutl([etcdutl_binary], server_version="3.6")
    restore(etcdutl, snapshot, tmp_path / "data", mark_compacted=False)
    with boot_etcd(etcd_binary, tmp_path / "data", flags=QUICK) as member, member.client() as client:
        assert client.range(b"key", revision=2).revision == 2


def test_a_data_directory_that_is_not_empty_is_left_as_it_is(
    snapshot: Path, etcdutl_binary: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("kept")
    with pytest.raises(TargetNotEmpty, match="not empty"):
        restore(Etcdutl(etcdutl_binary, "3.6.16"), snapshot, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["precious"]


@pytest.mark.parametrize("damage", ["flip", "cut", "no trailer"])
def test_a_damaged_snapshot_is_refused(damage: str, snapshot: Path, etcdutl_binary: Path, tmp_path: Path) -> None:
    body = bytearray(snapshot.read_bytes())
    if damage == "flip":
        body[len(body) // 2] ^= 1
    elif damage == "cut":
        del body[-4096:]
    else:
        del body[-32:]
    (tmp_path / "damaged.db").write_bytes(body)
    with pytest.raises(SnapshotDamaged):
        restore(Etcdutl(etcdutl_binary, "3.6.16"), tmp_path / "damaged.db", tmp_path / "data")


def test_a_full_disk_is_named(snapshot: Path, etcdutl_binary: Path, small_disk: Path) -> None:
    with pytest.raises(NoSpace, match="no space left"):
        restore(Etcdutl(etcdutl_binary, "3.6.16"), snapshot, small_disk / "data")


def test_a_wrong_flag_is_told_in_the_tools_own_words(snapshot: Path, etcdutl_binary: Path, tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match="mark-compacted"):
        restore(Etcdutl(etcdutl_binary, "3.6.16"), snapshot, tmp_path / "data", bump=5, mark_compacted=False)


def test_its_environment_variables_change_nothing(
    snapshot: Path, etcdutl_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCDUTL_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ETCDUTL_WAL_DIR", str(tmp_path / "elsewhere"))
    restore(Etcdutl(etcdutl_binary, "3.6.16"), snapshot, tmp_path / "data")
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "data/member/wal").is_dir()


def stand_in(folder: Path, version: str) -> Path:
    """A program that answers `version` as etcdutl does, and nothing else."""
    folder.mkdir()
    path = folder / "etcdutl"
    path.write_text(f"#!/bin/sh\necho 'etcdutl version: {version}'\necho 'API version: 3'\n")
    path.chmod(0o755)
    return path


def test_the_first_place_that_has_the_right_minor_version_wins(tmp_path: Path) -> None:
    versions = ("3.5.35", "3.6.9", "3.6.10", "3.7.0")
    folders = [stand_in(tmp_path / version, version).parent for version in versions]
    found = find_etcdutl([tmp_path / "nowhere", *folders], server_version="3.6.2")
    assert found == Etcdutl(tmp_path / "3.6.9" / "etcdutl", "3.6.9")
    assert find_etcdutl(folders, server_version="3.7").version == "3.7.0"


def test_one_too_old_to_bump_is_passed_over_for_a_later_place(tmp_path: Path) -> None:
    folders = [stand_in(tmp_path / version, version).parent for version in ("3.5.9", "3.5.10", "3.5.35")]
    assert find_etcdutl(folders, server_version="3.5.35").version == "3.5.10"


def test_a_folder_that_is_named_relatively_is_not_looked_up_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "bin", "3.6.16")
    monkeypatch.chdir(tmp_path / "bin")
    assert find_etcdutl([Path()], server_version="3.6.16").path == tmp_path / "bin" / "etcdutl"


def test_another_minor_version_does_not_do(tmp_path: Path) -> None:
    path = stand_in(tmp_path / "bin", "3.5.35")
    with pytest.raises(ToolMissing, match=r"etcdutl 3\.6 is needed .* is 3\.5\.35") as caught:
        find_etcdutl([path], server_version="3.6.16")
    assert "3.6" in caught.value.hint


def test_one_that_cannot_bump_does_not_do(tmp_path: Path) -> None:
    path = stand_in(tmp_path / "bin", "3.5.9")
    with pytest.raises(ToolMissing, match=r"is 3\.5\.9, which cannot bump revisions") as caught:
        find_etcdutl([path], server_version="3.5.9")
    assert "3.5.10" in caught.value.hint
    with pytest.raises(ToolMissing, match="cannot bump"):
        restore(Etcdutl(path, "3.5.9"), tmp_path / "snapshot.db", tmp_path / "data", bump=5)


def test_none_at_all_is_named_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="none was found") as caught:
        find_etcdutl([tmp_path], server_version="3.6.16")
    assert "--bin-dir" in caught.value.hint


def test_what_is_no_program_or_another_one_is_named_and_hides_no_good_one(tmp_path: Path) -> None:
    (tmp_path / "etcdutl").write_text("#!/bin/sh\necho something else\n")
    with pytest.raises(ToolMissing, match="cannot be run"):
        find_etcdutl([tmp_path], server_version="3.6.16")
    (tmp_path / "etcdutl").chmod(0o755)
    with pytest.raises(ToolMissing, match="does not answer as etcdutl"):
        find_etcdutl([tmp_path], server_version="3.6.16")
    good = stand_in(tmp_path / "good", "3.6.16")
    assert find_etcdutl([tmp_path, good], server_version="3.6.16").path == good


def test_a_tool_that_hangs_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "etcdutl"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    with pytest.raises(EtcdError, match="did not end within"):
        Etcdutl(path, "3.6.16").restore(
            tmp_path / "snapshot.db",
            tmp_path / "data",
            name="scratch",
            initial_cluster="scratch=http://127.0.0.1:2380",
            peer_urls="http://127.0.0.1:2380",
            token="test",
            bump=0,
            time_limit=timedelta(seconds=0.3),
        )
