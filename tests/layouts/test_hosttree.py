"""Files of a host in memory: links lead where the host would be led, and circles end."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from bbr.errors import UsageError
from bbr.layouts.hosttree import HostTree
from bbr.layouts.kubeconfig import read_kubeconfig
from bbr.layouts.rewrite import TEXT_LIMIT, edit_scalars
from bbr.repository.hostfiles import HostFile


def tree(**files: str) -> HostTree:
    """Files by name below /a; a body that begins with > is a link."""
    return HostTree(
        HostFile(
            PurePosixPath("/a", name),
            0o644,
            1,
            2,
            b"" if text[:1] == ">" else text.encode(),
            text[1:] * (text[:1] == ">"),
        )
        for name, text in files.items()
    )


def test_a_file_is_found_and_written_through_links_of_folders_and_its_own() -> None:
    one = tree(pki=">../a/ssl", **{"ssl/ca.crt": ">/a/real", "real": "x"})
    assert one.body(PurePosixPath("/a/pki/ca.crt")) == b"x"
    one.write(PurePosixPath("/a/pki/ca.crt"), b"y")
    one.write(PurePosixPath("/a/pki/new"), b"z")
    written = {str(file.path): (file.body, file.mode, file.uid) for file in one.files if not file.link}
    assert written == {"/a/real": (b"y", 0o644, 1), "/a/ssl/new": (b"z", 0o600, 0)}
    assert one.under(PurePosixPath("/a/pki")) == (PurePosixPath("/a/ssl/new"),)
    one.remove(PurePosixPath("/a/pki/ca.crt"))
    assert one.body(PurePosixPath("/a/real")) is None


def test_links_in_circles_and_out_of_the_tree_lead_to_nothing() -> None:
    one = tree(x=">y", y=">x", out=">../../../../etc/shadow")
    assert one.body(PurePosixPath("/a/x")) is None
    assert one.body(PurePosixPath("/a/out")) is None
    assert one.resolve(PurePosixPath("/a/out")) == PurePosixPath("/etc/shadow")


def test_keys_and_what_is_no_text_are_not_given_as_text() -> None:
    one = tree(key="x\n-----BEGIN KEY-----\n", zero="\0", text="ä")
    assert [one.text(PurePosixPath("/a", name)) for name in ("key", "zero", "text", "none")] == [None, None, "ä", None]


def test_texts_that_would_take_minutes_are_refused() -> None:
    text = "a: " + "b" * TEXT_LIMIT
    with pytest.raises(UsageError, match="x is larger than any of its kind"):
        edit_scalars(text, lambda _place, value, _scalars: value, what="x")
    with pytest.raises(UsageError, match="x is not a kubeconfig"):
        read_kubeconfig(text, what="x")
