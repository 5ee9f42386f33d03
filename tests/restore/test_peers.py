"""The bootstrap flags as etcdutl would judge them, without a backup or etcdutl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bbr.errors import UsageError
from restore.peers import check_peers

A, B = "http://127.0.0.1:2380", "http://127.0.0.2:2380"
REFUSED = {
    "another member": ("m9", f"m0={A}", A, "has no member 'm9'; it has: m0"),
    "no name": ("m0", A, A, "is not NAME=URL"),
    "no URL": ("m0", "m0=", A, "'m0=' is not NAME=URL"),
    "no scheme": ("m0", "m0=127.0.0.1:2380", A, "--initial-cluster: '127.0.0.1:2380' is not http"),
    "no port": ("m0", f"m0={A}", "http://127.0.0.1", "--initial-advertise-peer-urls: 'http://127.0.0.1' is not http"),
    "port 99999": ("m0", f"m0={A}", "http://127.0.0.1:99999", "is not http"),
    "port in words": ("m0", f"m0={A}", "http://127.0.0.1:peer", "is not http"),
    "no host": ("m0", "m0=http://:2380", A, "is not http"),
    "half an IPv6": ("m0", "m0=http://[::1:2380", A, "is not http"),
    "a path": ("m0", f"m0={A}/", A, "is not http"),
    "a user": ("m0", "m0=http://me@127.0.0.1:2380", A, "is not http"),
    "an empty one": ("m0", f"m0={A}", f"{A},", "--initial-advertise-peer-urls: '' is not http"),
    "another scheme": ("m0", "m0=ftp://127.0.0.1:2380", A, "is not http"),
    "another URL": ("m0", f"m0={A}", B, f"gives m0 {A}, and --initial-advertise-peer-urls says {B}"),
    "another's URL": ("m0", f"m0={A},m1={B}", B, f"gives m0 {A}"),
    "one of two URLs": ("m0", f"m0={A},m0={B}", A, f"gives m0 {A}, {B}"),
    "the same URL twice": ("m0", f"m0={A},m1={A}", A, f"has {A} twice"),
    "nothing": ("m0", "", A, "it has: none"),
}
OURS = {"no host", "a user", "port 99999"}
"""etcdutl takes these, and the etcds of such a cluster would not find one another."""

LATE = {"another URL", "another's URL"}
"""etcdutl refuses these when it has tried for 30 seconds to resolve their names to the same address."""

FINE = {
    "alone": ("m0", f"m0={A}", A),
    "of two": ("m1", f"m0={A},m1={B}", B),
    "two URLs in any order": ("m0", f"m0={A},m0={B}", f"{B}, {A}"),
    "IPv6": ("m0", "m0=https://[::1]:2380", "https://[::1]:2380"),
    "large letters": ("m0", "m0=HTTP://127.0.0.1:2380", A),
    "a comma at the end": ("m0", f"m0={A},", A),
}


def refused_by_etcdutl(etcdutl: Path, folder: Path, name: str, cluster: str, peers: str) -> bool:
    """Whether the real one stops at the flags; fine ones lead it on to the file, which is not there."""
    command = [str(etcdutl), "snapshot", "restore", f"{folder}/none", "--data-dir", f"{folder}/data", "--name", name]
    command += ["--initial-cluster", cluster, "--initial-advertise-peer-urls", peers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    return "no such file" not in done.stderr


@pytest.mark.parametrize("case", REFUSED)
def test_what_etcdutl_refuses_is_refused_and_named(case: str, etcdutl_binary: Path, tmp_path: Path) -> None:
    *flags, message = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        check_peers(*flags)
    assert message in str(caught.value)
    assert caught.value.hint
    if case not in OURS | LATE:
        assert refused_by_etcdutl(etcdutl_binary, tmp_path, *flags)


@pytest.mark.parametrize("case", FINE)
def test_what_etcdutl_takes_is_taken(case: str, etcdutl_binary: Path, tmp_path: Path) -> None:
    check_peers(*FINE[case])
    assert not refused_by_etcdutl(etcdutl_binary, tmp_path, *FINE[case])


def test_a_blank_before_a_name_is_no_part_of_it() -> None:
    """etcdutl would make a member of the name " m1", which no other host's flags have."""
    with pytest.raises(UsageError, match=r"' m1=http://127\.0\.0\.2:2380' is not NAME=URL"):
        check_peers("m0", f"m0={A}, m1={B}", A)
