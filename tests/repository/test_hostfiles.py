"""The control-plane archive: what goes in comes out, the same bytes for the same files, and nothing hostile."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import PartDamaged
from bbr.repository.hostfiles import HostFile, HostFiles, decode_host_files, encode_host_files, merged, split_owner

part = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=120).filter(
    lambda text: text not in (".", "..")
)
paths = st.lists(part, min_size=1, max_size=5).map(lambda parts: PurePosixPath("/", *parts))
files = st.builds(
    HostFile,
    path=paths,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**31),
    gid=st.integers(0, 2**31),
    body=st.binary(max_size=2000),
)
FILE = HostFile(PurePosixPath("/etc/kubernetes/pki/ca.key"), 0o600, 0, 0, b"secret")
LINK = HostFile(PurePosixPath("/etc/kubernetes/now"), 0o777, 0, 0, b"", link="pki/ca.key")
ARCHIVE = HostFiles({"version": "v1.37.2"}, {"m1": (FILE, LINK)})


@given(
    hosts=st.dictionaries(
        st.from_regex(r"[a-z0-9][a-z0-9.-]{0,62}", fullmatch=True).filter(lambda name: name not in (".", "..")),
        st.lists(files, max_size=6, unique_by=lambda file: file.path),
        max_size=3,
    )
)
def test_what_goes_in_comes_out_whatever_the_order(hosts: dict[str, list[HostFile]]) -> None:
    archive = HostFiles({"a": 1}, {host: tuple(own) for host, own in hosts.items()})
    data = encode_host_files(archive)
    shuffled = {host: tuple(random.sample(own, len(own))) for host, own in reversed(hosts.items())}
    assert encode_host_files(HostFiles({"a": 1}, shuffled)) == data
    expected = {host: tuple(sorted(own, key=lambda file: file.path)) for host, own in hosts.items() if own}
    decoded = decode_host_files(data)
    assert (decoded.index, dict(decoded.hosts)) == ({"a": 1}, expected)


def test_links_come_back_as_links() -> None:
    assert decode_host_files(encode_host_files(ARCHIVE)).hosts["m1"] == (LINK, FILE)


def test_the_stock_tar_lists_it(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(encode_host_files(ARCHIVE))
    listed = subprocess.run(
        ["/bin/tar", "-tvf", str(tmp_path / "a.tar")], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    assert "hosts/m1/etc/kubernetes/pki/ca.key" in listed
    assert "-rw------- 0/0" in listed


def tar_of(*members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"{}" if member.size else b""))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, 2 if kind == tarfile.REGTYPE else 0
    return made


INDEX = member("index.json")


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/passwd"),
        member("hosts/m1"),
        member("hosts//etc/x"),
        member("hosts/../etc/x"),
        member("hosts/m1/../../etc/x"),
        member("hosts/m1/./x"),
        member("other/m1/x"),
        member("hosts/m1/x", tarfile.DIRTYPE),
        member("hosts/m1/x", tarfile.CHRTYPE),
        member("hosts/m1/x", tarfile.FIFOTYPE),
        member("hosts/m1/x", tarfile.LNKTYPE, link="index.json"),
        member("hosts/m1/x", tarfile.SYMTYPE),
        member("index.json"),
    ],
    ids=lambda one: f"{one.name} {one.type!r}",
)
def test_what_bbr_would_not_write_is_refused(bad: tarfile.TarInfo) -> None:
    assert decode_host_files(tar_of(INDEX, member("hosts/m1/x"))).hosts
    with pytest.raises(PartDamaged):
        decode_host_files(tar_of(INDEX, bad))


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(PartDamaged, match="twice"):
        decode_host_files(tar_of(INDEX, member("hosts/m1/x"), member("hosts/m1/x")))


@pytest.mark.parametrize("data", [b"", b"no tar at all", encode_host_files(ARCHIVE)[:700], tar_of()])
def test_what_is_cut_or_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(PartDamaged):
        decode_host_files(data)


@pytest.mark.parametrize("seed", range(200))
def test_a_flipped_bit_is_refused_or_changes_a_content_and_nothing_else(seed: int) -> None:
    """A part's own hash finds it; here it must only not crash."""
    data = bytearray(encode_host_files(ARCHIVE))
    chosen = random.Random(seed)
    data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    try:
        decoded = decode_host_files(bytes(data))
    except PartDamaged:
        return
    assert set(decoded.hosts) <= {"m1"} or len(decoded.hosts) == 1


def test_two_masters_become_one_archive_unless_they_have_one_name() -> None:
    other = HostFiles({}, {"m2": (FILE,)})
    assert merged([ARCHIVE, other], {"b": 2}) == HostFiles({"b": 2}, {"m1": (FILE, LINK), "m2": (FILE,)})
    with pytest.raises(ValueError, match="one name"):
        merged([ARCHIVE, ARCHIVE], {})


def test_owner_is_split() -> None:
    assert split_owner("0:107") == (0, 107)
