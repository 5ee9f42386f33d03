"""Requests for an authority outside, and what it gave: keys are never lost, never shown, and never taken unseen."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath

import pytest

from bbr.errors import KeyRefused, PreconditionFailed, TargetNotEmpty, UsageError
from bbr.layouts.reissue import Csr, request_client
from restore.authority import read_signed, write_requests

PATH = PurePosixPath("/etc/kubernetes/kubelet.conf")


def asked(user: str = "system:node:n1") -> tuple[str, Csr]:
    return "n1", request_client(PATH, common_name=user, organization="system:nodes")


def test_a_request_that_was_written_stays_with_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "asked"
    (path,) = write_requests(folder, [asked()])
    key = path.with_suffix(".key")
    assert path == folder / "n1" / "kubelet.conf.csr"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = path.read_bytes(), key.read_bytes()
    assert write_requests(folder, [asked()]) == [path]  # the same, with another key
    assert (path.read_bytes(), key.read_bytes()) == before


def test_another_request_in_its_place_is_refused(tmp_path: Path) -> None:
    (path,) = write_requests(tmp_path, [asked()])
    with pytest.raises(TargetNotEmpty, match="asks for something else"):
        write_requests(tmp_path, [asked("system:node:n2")])
    path.with_suffix(".key").unlink()
    with pytest.raises(TargetNotEmpty):  # nothing that is signed for it could be used
        write_requests(tmp_path, [asked()])


def test_a_certificate_needs_its_key_and_a_key_that_is_private(tmp_path: Path) -> None:
    (path,) = write_requests(tmp_path, [asked()])
    assert read_signed(tmp_path) == {"n1": {}}
    path.with_suffix(".crt").write_text("a certificate")
    assert read_signed(tmp_path)["n1"]["kubelet.conf"].certificate == b"a certificate"
    path.with_suffix(".key").chmod(0o644)
    with pytest.raises(KeyRefused):
        read_signed(tmp_path)
    path.with_suffix(".key").unlink()
    with pytest.raises(PreconditionFailed, match="has no key beside it"):
        read_signed(tmp_path)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a folder"):
        read_signed(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be written"):
        write_requests(tmp_path / "file", [asked()])
