"""Finding programs: order of folders, versions, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.errors import ToolMissing
from bbr.servers.binaries import find, search_path, version_of


def program(folder: Path, name: str, says: str, *, argument: str = "--version") -> Path:
    """A program that answers to one argument with its version, as etcd's do."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\n[ "$1" = "{argument}" ] && echo "{says}"\n')
    path.chmod(0o755)
    return path


def test_first_fitting_program_is_found(tmp_path: Path) -> None:
    program(tmp_path / "a", "etcd", "etcd Version: 3.5.35")
    wanted = program(tmp_path / "b", "etcd", "etcd Version: 3.6.16")
    program(tmp_path / "c", "etcd", "etcd Version: 3.6.4")
    folders = [tmp_path / name for name in ("missing", "a", "b", "c")]
    assert find("etcd", search=folders, version="3.6").path == wanted
    assert find("etcd", search=folders, version="3.6.16").version == "3.6.16"
    assert find("etcd", search=folders).version == "3.5.35"


def test_a_version_is_not_a_prefix_of_digits(tmp_path: Path) -> None:
    program(tmp_path, "etcd", "etcd Version: 3.60.1")
    with pytest.raises(ToolMissing, match=r"etcd 3\.6 is not on this machine; found .*etcd \(3\.60\.1\)"):
        find("etcd", search=[tmp_path], version="3.6")


def test_missing_program_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match=r"^etcdutl is not on this machine$") as caught:
        find("etcdutl", search=[tmp_path])
    assert "--bin-dir" in caught.value.hint
    assert "make testbed" in caught.value.hint


def test_folder_and_plain_file_are_no_programs(tmp_path: Path) -> None:
    (tmp_path / "a" / "etcd").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "etcd").write_text("notes")
    with pytest.raises(ToolMissing, match=r"^etcd is not on this machine$"):
        find("etcd", search=[tmp_path / "a", tmp_path / "b"])


def test_program_that_does_not_run_is_passed_over_and_named(tmp_path: Path) -> None:
    broken = program(tmp_path / "a", "etcd", "")
    broken.write_bytes(b"\x7fELF of another processor")
    with pytest.raises(ToolMissing, match=r"found .*a/etcd \(does not run\)"):
        find("etcd", search=[tmp_path / "a"])
    good = program(tmp_path / "b", "etcd", "etcd Version: 3.6.16")
    assert find("etcd", search=[tmp_path / "a", tmp_path / "b"]).path == good


def test_etcdutl_is_asked_with_its_own_word(tmp_path: Path) -> None:
    path = program(tmp_path, "etcdutl", "etcdutl version: 3.7.3", argument="version")
    assert version_of(path) == "3.7.3"


def test_folders_are_searched_from_the_nearest_to_the_farthest(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "bbr" / "testbed"
    for name in ("age-1.3.2", "etcd-3.5.35", "etcd-3.6.16"):
        (cache / name / "bin").mkdir(parents=True)
    environ = {"KUBEBUILDER_ASSETS": "/assets", "PATH": "/one::/two", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    default, *others = (cache / name / "bin" for name in ("etcd-3.6.16", "age-1.3.2", "etcd-3.5.35"))
    near = (Path("/given"), Path("/assets"), Path("/one"), Path("/two"))
    assert search_path(bin_dir=Path("/given"), environ=environ) == (*near, default, *others)


def test_cache_is_below_home_when_nothing_else_is_said(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "bbr" / "testbed" / "etcd-3.6.16" / "bin"
    folder.mkdir(parents=True)
    assert search_path(bin_dir=None, environ={"HOME": str(tmp_path)}) == (folder,)
