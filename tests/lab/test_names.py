"""The hosts' names in /etc/hosts: our block is made anew, and what others wrote stays."""

from __future__ import annotations

from pathlib import Path

from bbr.lab.host import Host, HostSpec
from bbr.lab.names import hosts_file, updated


def host(name: str, address: str) -> Host:
    return Host(name, address, 22, "ssh-ed25519 AAAA", Path("/k"), Path("/n"), HostSpec(name))


def test_new_file_has_loopback_and_every_host() -> None:
    assert hosts_file([host("m1", "10.20.30.11")]) == (
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n# bbr lab\n10.20.30.11 m1\n# end of bbr lab\n"
    )


def test_lines_around_the_block_stay() -> None:
    text = hosts_file([host("m1", "10.20.30.11")]) + "10.20.30.99 api\n"
    fresh = updated(text, [host("m2", "10.20.30.12")])
    assert fresh == hosts_file([host("m2", "10.20.30.12")]) + "10.20.30.99 api\n"


def test_lost_block_is_put_at_the_end() -> None:
    assert updated("1.2.3.4 own\n", []) == "1.2.3.4 own\n# bbr lab\n# end of bbr lab\n"


def test_second_update_changes_nothing() -> None:
    text = hosts_file([host("m1", "10.20.30.11")])
    assert updated(text, [host("m1", "10.20.30.11")]) == text
