"""A snapshot that comes cut, changed or not to its end, met by `bbr backup`: refused, and nothing is stored."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bbr.etcd import write
from bbr.servers.etcd import EtcdServers, start_etcd
from tests.bad_input.conftest import Bbr, Ended, Host, snapshot_of
from tests.bad_input.stand_ins import Blobs, etcd_between, joined, pieces_of
from tests.bad_input.test_etcd import check_nothing_stored, check_restores, failed
from tests.conftest import QUICK

TRAILER_BYTES = 32


def backed_up(bbr: Bbr, host: Host, etcd: EtcdServers, meddle: Callable[[Blobs], Blobs]) -> tuple[Ended, str]:
    """A backup of a stream that is meddled with: refused, nothing stored, and earlier backups are what they were."""
    before = snapshot_of(host.repository)
    with etcd_between(etcd.endpoints[0], meddle=meddle) as endpoint:
        ended = bbr(*host.backup([endpoint]))
    check_nothing_stored(host, before)
    check_restores(bbr, host)
    return ended, endpoint


def cut_in_half(blobs: Blobs) -> Blobs:
    """The stream ends in order after half of it; what it said was still to come does not."""
    listed = list(blobs)
    yield from listed[: len(listed) // 2]


def test_stream_that_ends_early_is_exit_1(bbr: Bbr, host: Host, etcd: EtcdServers) -> None:
    ended, endpoint = backed_up(bbr, host, etcd, cut_in_half)
    assert ended.code == 1
    said = re.escape(f"bbr: {endpoint}: the snapshot stream ended ")
    assert re.search(rf"^{said}\d+ bytes before its end$", ended.err, re.MULTILINE)


def half_as_if_whole(whole: bytes) -> bytes:
    return whole[: len(whole) // 2 // 512 * 512]


def without_trailer(whole: bytes) -> bytes:
    return whole[:-TRAILER_BYTES]


def with_a_flipped_byte(whole: bytes) -> bytes:
    at = whole.rindex(b"/registry/configmaps/default/7")
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


def with_a_flipped_trailer(whole: bytes) -> bytes:
    return whole[:-1] + bytes([whole[-1] ^ 1])


@pytest.mark.parametrize(
    "change",
    [half_as_if_whole, without_trailer, with_a_flipped_byte, with_a_flipped_trailer],
    ids=lambda one: one.__name__,
)
def test_damaged_snapshot_is_exit_4(bbr: Bbr, host: Host, etcd: EtcdServers, change: Callable[[bytes], bytes]) -> None:
    """The stream ends as if all had come: only the trailing hash tells."""
    ended, _ = backed_up(bbr, host, etcd, lambda blobs: pieces_of(change(joined(blobs))))
    assert ended.code == 4
    said = r"bbr: member m0 \(http://\S+\): the snapshot does not match its trailing hash\n"
    assert re.search(said + r"  hint: run the backup again\n$", ended.err)


@pytest.mark.parametrize("size_bytes", [0, TRAILER_BYTES])
def test_snapshot_of_nothing_is_exit_4(bbr: Bbr, host: Host, etcd: EtcdServers, size_bytes: int) -> None:
    ended, _ = backed_up(bbr, host, etcd, lambda blobs: iter([(0, joined(blobs)[:size_bytes])]))
    assert ended.code == 4
    assert f": the snapshot stream had {size_bytes} bytes only\n" in ended.err


def test_snapshot_changed_together_with_its_hash_is_exit_4(bbr: Bbr, host: Host, etcd: EtcdServers) -> None:
    """Whole in itself, and not what the server holds: its HashKV tells."""

    def lie(blobs: Blobs) -> Blobs:
        body = joined(blobs)[:-TRAILER_BYTES].replace(b"x" * 200, b"x" * 199 + b"y")
        return pieces_of(body + hashlib.sha256(body).digest())

    ended, endpoint = backed_up(bbr, host, etcd, lie)
    assert ended.code == 4
    assert f"bbr: the snapshot that {endpoint} sent has HashKV " in ended.err
    assert "the server itself answers " in ended.err


def test_etcd_that_dies_in_mid_stream_is_exit_1(bbr: Bbr, host: Host, etcd_binary: Path, tmp_path: Path) -> None:
    with start_etcd(etcd_binary, tmp_path / "etcd", flags=QUICK) as servers:
        with servers.client() as client:
            for number in range(60):
                write.put(client, b"/big/%d" % number, os.urandom(1_000_000))
        over = threading.Event()
        spooled: list[int] = []

        def kill_once_it_streams() -> None:
            while not over.wait(0.0005):
                sizes = [path.stat().st_size for path in (host.folder / "state").glob("*/spool/*/*.db")]
                if sizes and max(sizes) > 1_000_000:
                    servers.members[0].kill()
                    spooled.extend(sizes)
                    return

        killer = threading.Thread(target=kill_once_it_streams)
        killer.start()
        try:
            ended = failed(bbr, host, *host.backup(servers.endpoints, cluster="dying"))
        finally:
            over.set()
            killer.join()
    # It was killed while bytes came, and not all had come.
    assert spooled
    assert 1_000_000 < spooled[0] < 60_000_000
    assert ended.code == 1
    assert f"bbr: {servers.endpoints[0]}: Snapshot: " in ended.err
    assert "refused" not in ended.err
    check_restores(bbr, host)
