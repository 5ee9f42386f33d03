"""Old masters' names and addresses in texts: found in every spelling, and never inside of others."""

from __future__ import annotations

import pytest

from bbr.errors import UsageError
from bbr.layouts.renaming import MasterName, Renaming

M1, M2, M9, V1, V9 = (
    MasterName("m1", "10.0.0.1"),
    MasterName("m2", "10.0.0.2"),
    MasterName("m9", "10.0.0.9"),
    MasterName("m1", "FD00:77:0::1"),
    MasterName("m9", "fd00:77::9"),
)


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("10.0.0.1", "10.0.0.9"),
        ("https://10.0.0.1:2379,https://10.0.0.1:2380", "https://10.0.0.9:2379,https://10.0.0.9:2380"),
        ("m1=https://10.0.0.1:2380", "m1=https://10.0.0.9:2380"),
        ("--node-ip=10.0.0.1,10.0.0.11", "--node-ip=10.0.0.9,10.0.0.11"),
        ("10.0.0.1/32 (10.0.0.1).", "10.0.0.9/32 (10.0.0.9)."),
        ("server m1 10.0.0.1:6443 check", "server m9 10.0.0.9:6443 check"),
        ("https://m1:2380 m1:6443 //m1", "https://m9:2380 m9:6443 //m1"),
        *(
            (same, same)
            for same in ("10.0.0.11", "110.0.0.1", "10.0.0.1.nip.io", "1.10.0.0.1", "v10.0.0.1", "10.0.0.1-rc")
        ),
        *(
            (same, same)
            for same in ("m1", "m1.lab:6443", "https://m1.lab", "a.m1:80", "cm1:80", "x/m1x", "ip-10-0-0-1")
        ),
    ],
)
def test_an_address_is_replaced_where_it_stands_as_one(text: str, new: str) -> None:
    assert Renaming({M1: M9}).in_text(text) == new


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("https://[fd00:77::1]:2379", "https://[fd00:77::9]:2379"),
        ("[FD00:0077:0:0::0001]", "[fd00:77::9]"),
        ("host: fd00:77::1", "host: fd00:77::9"),
        ("--node-ip=10.0.0.1,fd00:77::1/64", "--node-ip=10.0.0.1,fd00:77::9/64"),
        *((same, same) for same in ("fd00:77::11", "::1", "12:34:56", "1fd00:77::1", "fd00:77::1:2", "a::b::c")),
    ],
)
def test_an_ipv6_address_is_found_in_every_spelling(text: str, new: str) -> None:
    assert Renaming({V1: V9}).in_text(text) == new


def test_another_family_gets_or_loses_its_brackets() -> None:
    assert Renaming({M1: V9}).in_text("https://10.0.0.1:6443 10.0.0.1:1 10.0.0.1") == (
        "https://[fd00:77::9]:6443 [fd00:77::9]:1 fd00:77::9"
    )
    assert Renaming({V1: M9}).in_text("https://[fd00:77::1]:6443 fd00:77::1") == "https://10.0.0.9:6443 10.0.0.9"


def test_two_that_swap_do_not_become_one() -> None:
    swap = Renaming({M1: MasterName("m1", "10.0.0.2"), M2: MasterName("m2", "10.0.0.1")})
    assert swap.changes
    assert swap.in_text("m1=https://10.0.0.1:1,m2=https://10.0.0.2:1") == "m1=https://10.0.0.2:1,m2=https://10.0.0.1:1"


def test_names_and_addresses_that_are_none_are_refused() -> None:
    for name, address in (("m1", "10.0.0"), ("m1", "m1"), ("M 1", "10.0.0.1"), ("", "10.0.0.1"), ("a\nb", "::1")):
        with pytest.raises(UsageError):
            MasterName(name, address)
    with pytest.raises(UsageError, match="two old masters are called"):
        Renaming({M1: M9, MasterName("m1", "10.0.0.2"): M9})


def test_one_may_follow_several() -> None:
    assert Renaming({M1: M9, M2: M9}).in_text("10.0.0.1,10.0.0.2") == "10.0.0.9,10.0.0.9"


def test_a_long_text_takes_no_time() -> None:
    text = "a-" * 200_000 + "1:" * 200_000 + "1." * 200_000
    assert Renaming({M1: M9}).in_text(text) == text
