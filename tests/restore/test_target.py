"""Where a data directory appears: what is refused, what is swept, and that nothing there is written over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bbr.errors import PreconditionFailed, TargetNotEmpty, UsageError
from bbr.scratch import PREFIX, scratch_folder
from restore.target import check_parent, find_workplace, put_in_place


def made(workplace: Path) -> Path:
    """What etcdutl makes, in small."""
    folder = workplace / "made"
    (folder / "member" / "snap").mkdir(parents=True)
    (folder / "member" / "snap" / "db").write_text("new")
    return folder


def warned(text: str) -> None:
    pytest.fail(f"a warning: {text}")


def test_an_existing_folder_is_worked_in_and_a_new_one_beside(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    assert find_workplace(tmp_path / "old") == tmp_path / "old"
    assert find_workplace(tmp_path / "new") == tmp_path


def test_a_missing_parent_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="my dir does not exist") as caught:
        check_parent(tmp_path / "my dir" / "etcd.db")
    assert f"mkdir -p '{tmp_path}/my dir'" in caught.value.hint
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is not a directory"):
        find_workplace(tmp_path / "file" / "data")


def test_what_is_no_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TargetNotEmpty, match="is not a directory"):
        find_workplace(tmp_path / "file")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with pytest.raises(TargetNotEmpty, match="is a symbolic link") as caught:
        find_workplace(tmp_path / "link")
    assert caught.value.hint == f"name {tmp_path / 'disk'}"


def test_lost_and_found_counts_where_no_disk_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "data" / "lost+found").mkdir(parents=True)
    with pytest.raises(TargetNotEmpty, match="is not empty"):
        find_workplace(tmp_path / "data")


def test_scratch_of_a_killed_run_is_swept_inside_and_beside(tmp_path: Path) -> None:
    (tmp_path / "data" / f"{PREFIX}dead").mkdir(parents=True)
    (tmp_path / f"{PREFIX}dead").mkdir()
    assert find_workplace(tmp_path / "data") == tmp_path / "data"
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


def test_a_restore_that_is_under_way_is_not_disturbed(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as scratch:
        with pytest.raises(TargetNotEmpty, match="another restore works in") as caught:
            find_workplace(tmp_path)
        assert "wait for it" in caught.value.hint
        assert scratch.exists()


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_what_appeared_meanwhile_is_left_as_it_is(tmp_path: Path, *, exists: bool) -> None:
    target = tmp_path / "data"
    if exists:
        target.mkdir()
    workplace = find_workplace(target)
    with scratch_folder(workplace) as scratch:
        folder = made(scratch)
        (target / "member").mkdir(parents=True)
        (target / "member" / "theirs").write_text("theirs")
        with pytest.raises(TargetNotEmpty, match="meanwhile"):
            put_in_place(folder, target, workplace=workplace, warn=warned)
    assert [path.name for path in (target / "member").iterdir()] == ["theirs"]


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_all_of_it_is_synced_before_and_its_name_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exists: bool
) -> None:
    target = tmp_path / "data"
    if exists:
        target.mkdir()
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), (target / "member").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    workplace = find_workplace(target)
    with scratch_folder(workplace) as scratch:
        folder = made(scratch)
        put_in_place(folder, target, workplace=workplace, warn=warned)
    before = {path for path, renamed in synced if not renamed}
    assert {str(folder / name) for name in ("member", "member/snap", "member/snap/db")} <= before
    assert synced[-1] == (str(target if exists else tmp_path), True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_the_folder_gets_nothing_else_by_a_link(tmp_path: Path) -> None:
    """Whom the target belongs to can rename our scratch folder in it, and put something else in its place."""
    target, secret = tmp_path / "data", tmp_path / "secret"
    target.mkdir()
    os.chown(target, 12345, 23456)
    made(secret)
    (target / ".bbr-scratch-x").symlink_to(secret)
    with pytest.raises(PreconditionFailed, match="was exchanged"):
        put_in_place(target / ".bbr-scratch-x" / "made", target, workplace=target, warn=warned)
    (target / ".bbr-scratch-x").unlink()
    (target / ".bbr-scratch-x").mkdir()
    (target / ".bbr-scratch-x" / "made").symlink_to(secret / "made")
    os.chown(target / ".bbr-scratch-x", 12345, 23456)
    with pytest.raises(PreconditionFailed, match="was exchanged"):
        put_in_place(target / ".bbr-scratch-x" / "made", target, workplace=target, warn=warned)
    assert {path.stat().st_uid for path in secret.rglob("*")} == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_link_in_the_tree_is_given_away_itself_and_not_what_it_leads_to(tmp_path: Path) -> None:
    target, secret = tmp_path / "data", tmp_path / "secret"
    target.mkdir()
    secret.touch()
    os.chown(target, 12345, 23456)
    with scratch_folder(target) as scratch:
        folder = made(scratch)
        (folder / "member" / "link").symlink_to(secret)
        put_in_place(folder, target, workplace=target, warn=warned)
    assert secret.stat().st_uid == 0
    assert (target / "member" / "snap" / "db").stat().st_uid == 12345
