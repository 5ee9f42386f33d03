from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bbr.errors import KeyRefused, TargetNotEmpty
from bbr.repository.keyfiles import read_identities, read_writer_key, write_identity, write_writer_key
from bbr.repository.keys import Identity, SigningKey
from bbr.repository.root import Pin

PIN = Pin("ab" * 32, 7)


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_writer_key_file_holds_the_key_and_the_pin(tmp_path: Path) -> None:
    key = SigningKey.generate()
    write_writer_key(tmp_path / "writer.key", key, PIN, "master-1")
    read = read_writer_key(tmp_path / "writer.key")
    assert (read.key.key_id, read.pin) == (key.key_id, PIN)
    assert "# bbr writer key\n# label: master-1\n" in (tmp_path / "writer.key").read_text()


def test_identity_file_holds_the_identity_and_the_pin(tmp_path: Path) -> None:
    identity = Identity.generate()
    write_identity(tmp_path / "safe.key", identity, PIN, "safe")
    read = read_identities(tmp_path / "safe.key")
    assert [one.secret() for one in read.identities] == [identity.secret()]
    assert read.pin == PIN
    assert f"# public key: {identity.recipient}\n" in (tmp_path / "safe.key").read_text()


def test_key_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    write_writer_key(tmp_path / "writer.key", SigningKey.generate(), PIN, "w")
    write_identity(tmp_path / "safe.key", Identity.generate(), PIN, "s")
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    path = private(tmp_path / "there", "kept")
    with pytest.raises(TargetNotEmpty, match="exists; it was left as it is") as caught:
        write_identity(path, Identity.generate(), PIN, "safe")
    assert caught.value.exit_code == 5
    assert path.read_text() == "kept"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666])
def test_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "writer.key"
    write_writer_key(path, SigningKey.generate(), PIN, "w")
    path.chmod(mode)
    with pytest.raises(KeyRefused, match=f"read or changed by other users .mode {mode:04o}") as caught:
        read_writer_key(path)
    assert caught.value.exit_code == 12
    assert caught.value.hint == f"chmod 600 {path}"


def test_identity_file_open_to_others_is_refused(tmp_path: Path) -> None:
    path = private(tmp_path / "age.key", Identity.generate().secret())
    path.chmod(0o644)
    with pytest.raises(KeyRefused, match="other users"):
        read_identities(path)


def test_link_to_a_private_file_is_followed(tmp_path: Path) -> None:
    write_identity(tmp_path / "safe.key", Identity.generate(), PIN, "safe")
    (tmp_path / "link").symlink_to("safe.key")
    assert read_identities(tmp_path / "link").pin == PIN


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused, match=r"nowhere\.key does not exist"):
        read_writer_key(tmp_path / "nowhere.key")


def test_pipe_and_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("pipe", "folder"):
        with pytest.raises(KeyRefused, match="is not a file"):
            read_identities(tmp_path / name)


def test_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused, match="larger than any key file"):
        read_identities(private(tmp_path / "huge", "#" * 100_000))


def test_file_that_age_keygen_made_has_no_pin(tmp_path: Path) -> None:
    identity = Identity.generate()
    path = private(
        tmp_path / "age.key", f"# created: 2026-01-02\n# public key: {identity.recipient}\n{identity.secret()}\n"
    )
    read = read_identities(path)
    assert read.identities[0].recipient == identity.recipient
    assert read.pin is None


def test_identities_of_one_repository_may_share_a_file(tmp_path: Path) -> None:
    one, two = Identity.generate(), Identity.generate()
    pin = f"# repository: {PIN.repository_id}\n"
    path = private(tmp_path / "both", f"{pin}# root: 2\n{one.secret()}\n\n{pin}# root: 5\n{two.secret()}\n")
    read = read_identities(path)
    assert len(read.identities) == 2
    assert read.pin == Pin(PIN.repository_id, 5)


def test_identities_of_two_repositories_in_one_file_are_refused(tmp_path: Path) -> None:
    secret = Identity.generate().secret()
    path = private(tmp_path / "both", f"# repository: {'ab' * 32}\n# repository: {'cd' * 32}\n{secret}\n")
    with pytest.raises(KeyRefused, match="names 2 repositories"):
        read_identities(path)


@pytest.mark.parametrize("comment", ["# repository: abc", "# root: 0", "# root: x"])
def test_comment_that_pins_nothing_is_refused(tmp_path: Path, comment: str) -> None:
    with pytest.raises(KeyRefused, match="the comment"):
        read_identities(private(tmp_path / "key", f"{comment}\n{Identity.generate().secret()}\n"))


def test_line_that_is_no_identity_is_named_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused, match="line 2: not an age") as caught:
        read_identities(private(tmp_path / "key", "# comment\nAGE-SECRET-KEY-1WRONG\n"))
    assert "WRONG" not in str(caught.value)


def test_file_without_identity_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused, match="holds no identity"):
        read_identities(private(tmp_path / "key", "# only a comment\n"))


def test_file_that_is_no_writer_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused, match="not an unencrypted PEM private key"):
        read_writer_key(private(tmp_path / "key", Identity.generate().secret()))


def test_label_cannot_add_a_line_of_its_own(tmp_path: Path) -> None:
    write_identity(tmp_path / "key", Identity.generate(), PIN, f"x\n# repository: {'cd' * 32}")
    assert read_identities(tmp_path / "key").pin == PIN
