"""One contract, every machine: this one, a real sshd, the same through a jump host, and as a user who has sudo."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest

from bbr.errors import (
    CommandFailed,
    CommandTimedOut,
    FileMissing,
    OutputTooLarge,
    TransferDamaged,
    UsageError,
)
from bbr.machines import scripts
from bbr.machines.machine import OUTPUT_LIMIT_BYTES, STDERR_LIMIT_BYTES, Digest, Machine
from tests.machines.conftest import every_machine, needs_root
from tests.machines.sshd import wait_until, wait_until_gone

LIMIT = 1 << 30
NAMES = ("plain", "with space", "it's", 'say "$HOME"', "a;b|c&d", "-n", "*", "new\nline", "ümläut", "x" * 255)


def pure(path: Path) -> PurePosixPath:
    return PurePosixPath(path)


@every_machine
def test_command_gets_its_words_and_input_as_they_are_and_gives_both_outputs(machine: Machine) -> None:
    output = machine.run(["sh", "-c", 'printf "%s|" "$@"; cat; echo oops >&2', "sh", *NAMES], stdin=b"in\0put")
    assert output.stdout == "".join(f"{name}|" for name in NAMES).encode() + b"in\0put"
    assert output.stderr == b"oops\n"
    assert output.exit_code == 0


@every_machine
def test_command_without_input_reads_none(machine: Machine) -> None:
    assert machine.run(["cat"]).stdout == b""


@every_machine
def test_large_input_and_output_pass_each_other(machine: Machine) -> None:
    body = os.urandom(OUTPUT_LIMIT_BYTES)
    assert machine.run(["sh", "-c", "cat; head -c 3000000 /dev/zero >&2"], stdin=body).stdout == body


@every_machine
def test_command_that_reads_no_input_is_no_error(machine: Machine) -> None:
    assert machine.run(["true"], stdin=bytes(5_000_000)).exit_code == 0


@every_machine
def test_code_that_is_not_expected_is_an_error_with_the_last_words(machine: Machine) -> None:
    with pytest.raises(CommandFailed) as caught:
        machine.run(["sh", "-c", "seq 100 >&2; echo no such member >&2; exit 3"])
    assert str(caught.value).startswith(f"{machine.name}: `sh -c ")
    assert str(caught.value).endswith("ended with code 3: 97\n98\n99\n100\nno such member")
    assert (caught.value.code, caught.value.exit_code) == (3, 1)
    assert machine.run(["sh", "-c", "exit 3"], expect=(0, 3)).exit_code == 3


@every_machine
def test_command_that_a_signal_ended_says_which(machine: Machine) -> None:
    with pytest.raises(CommandFailed, match="ended with code 139"):
        machine.run(["sh", "-c", "kill -SEGV $$"])


@every_machine
def test_missing_program_is_an_error_with_a_hint(machine: Machine) -> None:
    with pytest.raises(CommandFailed, match=r"code 127: .*etcdutl-of-another-world") as caught:
        machine.run(["etcdutl-of-another-world"])
    assert "install" in caught.value.hint


@every_machine
def test_output_past_the_limit_is_an_error_and_of_stderr_the_end_is_kept(machine: Machine) -> None:
    with pytest.raises(OutputTooLarge, match=str(OUTPUT_LIMIT_BYTES)):
        machine.run(["cat", "/dev/zero"])
    stderr = machine.run(["sh", "-c", "head -c 1000000 /dev/zero >&2; echo end >&2"]).stderr
    assert len(stderr) == STDERR_LIMIT_BYTES
    assert stderr.endswith(b"end\n")


@every_machine
def test_command_that_is_given_up_is_asked_to_end(machine: Machine, folder: Path) -> None:
    stays = f"trap '' PIPE; echo $$ > {folder}/pid; cat /dev/zero 2>/dev/null; sleep 315"
    with pytest.raises(OutputTooLarge):
        machine.run(["sh", "-c", stays])
    wait_until_gone(folder / "pid")


@every_machine
def test_command_over_its_limit_is_ended_with_its_process_group(machine: Machine, folder: Path) -> None:
    began = time.monotonic()
    with pytest.raises(CommandTimedOut, match=r"`sh -c .*` took longer than 0:00:01 and was ended$") as caught:
        machine.run(
            ["sh", "-c", f"sleep 301 & echo $! > {folder}/child; echo $$ > {folder}/parent; sleep 302"],
            timeout=timedelta(seconds=1),
        )
    assert time.monotonic() - began < 5
    assert caught.value.exit_code == 1
    assert not caught.value.retry_may_help
    for name in ("child", "parent"):
        wait_until_gone(folder / name)


@every_machine
def test_command_that_ignores_the_request_to_end_is_killed(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "KILL_AFTER", timedelta(seconds=0.5))
    stubborn = f"trap '' TERM; echo $$ > {folder}/pid; while :; do sleep 0.1; done"
    with pytest.raises(CommandTimedOut, match="was ended"):
        machine.run(["sh", "-c", stubborn], timeout=timedelta(seconds=1))
    wait_until_gone(folder / "pid")


@every_machine
def test_what_a_command_leaves_in_its_group_ends_with_it(machine: Machine, folder: Path) -> None:
    machine.run(["sh", "-c", f"sleep 303 & echo $! > {folder}/pid"])
    wait_until_gone(folder / "pid")


@every_machine
def test_own_code_of_a_command_is_not_taken_for_a_limit(machine: Machine) -> None:
    for code in (124, 137):
        with pytest.raises(CommandFailed, match=rf"code {code}\b"):
            machine.run(["sh", "-c", f"exit {code}"])


@every_machine
def test_20_commands_at_once_all_get_their_own_answer(machine: Machine) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: machine.run(["sh", "-c", f"sleep 0.1; echo {n}"]).stdout, range(20)))
    assert answers == [b"%d\n" % number for number in range(20)]


@every_machine
def test_secret_input_is_in_no_command_line_and_no_environment(machine: Machine, folder: Path) -> None:
    secret = b"hush-" + os.urandom(8).hex().encode()
    shows: list[str] = []

    def body() -> Iterator[bytes]:
        yield secret
        look()

    def look() -> None:
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    shows.extend([process.name] * (secret in (process / name).read_bytes()))
                except OSError:
                    continue

    machine.put(pure(folder / "secret"), body(), mode=0o600)
    waiting = ["sh", "-c", f"cat > /dev/null; : > {folder}/read; until [ -e {folder}/looked ]; do sleep 0.05; done"]
    running = threading.Thread(target=machine.run, args=(waiting,), kwargs={"stdin": secret})
    running.start()
    wait_until((folder / "read").exists, "the command to read its input")
    look()
    (folder / "looked").touch()
    running.join()
    assert shows == []
    with pytest.raises(CommandFailed) as caught:
        machine.run(["false"], stdin=secret)
    assert secret.decode() not in str(caught.value)


@every_machine
@pytest.mark.parametrize("name", NAMES)
def test_file_of_any_name_comes_back_as_it_was_put(machine: Machine, folder: Path, name: str) -> None:
    body, path = os.urandom(100_000), pure(folder / name)
    digest = machine.put(path, [body[:5], b"", body[5:]], mode=0o640)
    assert digest == hashlib.sha256(body).hexdigest()
    assert b"".join(machine.get(path, limit_bytes=len(body))) == body
    found = machine.stat(path)
    assert found is not None
    assert (found.kind, found.mode, found.size_bytes) == ("file", 0o640, len(body))
    assert abs(found.modified - datetime.now(UTC)) < timedelta(minutes=1)
    assert [one.name for one in folder.iterdir()] == [name]


@every_machine
@pytest.mark.parametrize("announced", [False, True])
def test_64_mb_go_up_and_come_down_equal_in_bounded_memory(machine: Machine, folder: Path, announced: bool) -> None:
    chunk, path = os.urandom(1 << 20), pure(folder / "large")
    expected = Digest(hashlib.sha256(chunk * 64).hexdigest())
    tracemalloc.start()
    try:
        body = (bytes(chunk) for _ in range(64))
        assert machine.put(path, body, mode=0o600, sha256=expected if announced else None) == expected
        down = hashlib.sha256()
        for piece in machine.get(path, limit_bytes=64 << 20):
            down.update(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert down.hexdigest() == expected
    assert peak < 32 << 20


@every_machine
def test_put_replaces_a_file_and_a_link_and_refuses_a_folder(machine: Machine, folder: Path) -> None:
    (folder / "old").write_text("old")
    (folder / "link").symlink_to("old")
    (folder / "inner").mkdir()
    machine.put(pure(folder / "link"), [b"new"], mode=0o600)
    assert ((folder / "old").read_text(), (folder / "link").read_text()) == ("old", "new")
    machine.put(pure(folder / "old"), [b"new"], mode=0o600)
    assert (folder / "old").read_text() == "new"
    with pytest.raises(CommandFailed, match=r"writing /.*inner ended with code 1: mv: "):
        machine.put(pure(folder / "inner"), [b"new"], mode=0o600)
    assert sorted(one.name for one in folder.iterdir()) == ["inner", "link", "old"]


@every_machine
def test_put_of_nothing_makes_an_empty_file(machine: Machine, folder: Path) -> None:
    assert machine.put(pure(folder / "empty"), [], mode=0o600) == hashlib.sha256().hexdigest()
    assert list(machine.get(pure(folder / "empty"), limit_bytes=0)) == []


@every_machine
def test_put_into_a_missing_folder_is_an_error(machine: Machine, folder: Path) -> None:
    with pytest.raises(CommandFailed, match=f"there is no folder {folder}/missing/"):
        machine.put(pure(folder / "missing/file"), [bytes(1 << 20)] * 20, mode=0o600)


@every_machine
def test_body_that_breaks_off_changes_nothing_and_leaves_nothing(machine: Machine, folder: Path) -> None:
    def body() -> Iterator[bytes]:
        yield bytes(10 << 20)
        raise ZeroDivisionError

    (folder / "file").write_text("old")
    with pytest.raises(ZeroDivisionError):
        machine.put(pure(folder / "file"), body(), mode=0o600)
    assert (folder / "file").read_text() == "old"
    assert [one.name for one in folder.iterdir()] == ["file"]


@every_machine
def test_body_that_is_not_what_was_announced_does_not_appear(machine: Machine, folder: Path) -> None:
    with pytest.raises(TransferDamaged, match="not 0000") as caught:
        machine.put(pure(folder / "file"), [b"other"], mode=0o600, sha256=Digest("0" * 64))
    assert caught.value.exit_code == 4
    assert list(folder.iterdir()) == []


@every_machine
def test_put_goes_on_where_an_earlier_one_broke_off(machine: Machine, folder: Path) -> None:
    content = os.urandom(20 << 20)
    expected = Digest(hashlib.sha256(content).hexdigest())

    def broken() -> Iterator[bytes]:
        yield content[: 13 << 20]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        machine.put(pure(folder / "file"), broken(), mode=0o600, sha256=expected)
    (partial,) = folder.iterdir()
    assert partial.name.startswith(f".bbr-{expected}")
    assert partial.stat().st_mode & 0o777 == 0o600
    before = partial.stat().st_ino
    machine.put(pure(folder / "file"), [content], mode=0o644, sha256=expected)
    assert (folder / "file").read_bytes() == content
    assert (folder / "file").stat().st_ino == before
    assert [one.name for one in folder.iterdir()] == ["file"]


@every_machine
def test_partial_file_that_was_changed_is_sent_again_from_there(machine: Machine, folder: Path) -> None:
    content = os.urandom(20 << 20)
    expected = Digest(hashlib.sha256(content).hexdigest())
    with pytest.raises(ZeroDivisionError):
        machine.put(
            pure(folder / "file"), (content if n == 0 else bytes(1 // 0) for n in range(2)), mode=0o600, sha256=expected
        )
    (partial,) = folder.iterdir()
    with partial.open("r+b") as file:
        file.seek(9 << 20)
        file.write(bytes(100))
    machine.put(pure(folder / "file"), [content], mode=0o644, sha256=expected)
    assert (folder / "file").read_bytes() == content


@every_machine
def test_link_in_place_of_the_partial_file_is_not_followed(machine: Machine, folder: Path) -> None:
    expected = Digest(hashlib.sha256(b"content").hexdigest())
    (folder / "victim").write_text("precious")
    target = hashlib.sha256(b"file").hexdigest()[:8]
    (folder / f".bbr-{expected}-{target}").symlink_to("victim")
    machine.put(pure(folder / "file"), [b"content"], mode=0o600, sha256=expected)
    assert (folder / "victim").read_text() == "precious"
    assert not (folder / "file").is_symlink()


@needs_root
@pytest.mark.parametrize("machine", ["local", "ssh"], indirect=True)
def test_owner_is_given_by_name_or_number_and_told(machine: Machine, folder: Path) -> None:
    machine.put(pure(folder / "file"), [b"x"], mode=0o4750, owner="daemon:mail")
    found = machine.stat(pure(folder / "file"))
    assert found is not None
    assert (found.owner, found.mode) == ("daemon:mail", 0o4750)
    machine.put(pure(folder / "file"), [b"x"], mode=0o600, owner="54321:54322")
    found = machine.stat(pure(folder / "file"))
    assert found is not None
    assert found.owner == "54321:54322"
    with pytest.raises(CommandFailed, match="invalid user"):
        machine.put(pure(folder / "file"), [b"x"], mode=0o600, owner="nobody-of-this-name")


@every_machine
def test_stat_tells_kinds_and_none_for_nothing(machine: Machine, folder: Path) -> None:
    (folder / "link").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    kinds = {}
    for name in ("link", "pipe", ".", "missing", "missing/below", "pipe/below"):
        found = machine.stat(PurePosixPath(f"{folder}/{name}") if name != "." else pure(folder))
        kinds[name] = found and found.kind
    expected = {"link": "link", "pipe": "other", ".": "folder", "missing": None}
    assert kinds == expected | {"missing/below": None, "pipe/below": None}


@every_machine
def test_get_of_what_is_no_file_is_an_error(machine: Machine, folder: Path) -> None:
    with pytest.raises(FileMissing, match=f"{folder}/missing"):
        list(machine.get(pure(folder / "missing"), limit_bytes=LIMIT))
    with pytest.raises(CommandFailed, match="Is a directory"):
        list(machine.get(pure(folder), limit_bytes=LIMIT))


@every_machine
def test_get_reads_no_more_than_its_limit(machine: Machine, folder: Path) -> None:
    (folder / "file").write_bytes(bytes(5 << 20))
    (folder / "file").chmod(0o644)
    with pytest.raises(OutputTooLarge, match=f"larger than {(5 << 20) - 1} bytes"):
        list(machine.get(pure(folder / "file"), limit_bytes=(5 << 20) - 1))


@every_machine
def test_get_that_is_left_early_frees_the_machine(machine: Machine, folder: Path) -> None:
    (folder / "file").write_bytes(bytes(50 << 20))
    (folder / "file").chmod(0o644)
    for _ in range(20):
        chunks = machine.get(pure(folder / "file"), limit_bytes=LIMIT)
        assert next(chunks)
        chunks.close()  # type: ignore[attr-defined]  # a generator
    assert machine.run(["echo", "well"]).stdout == b"well\n"


@every_machine
@pytest.mark.parametrize("path", ["relative", "/", "/nul\0", "/half\udc80"])
def test_path_that_no_machine_can_take_is_refused(machine: Machine, path: str) -> None:
    with pytest.raises(UsageError) as caught:
        machine.put(PurePosixPath(path), [b""], mode=0o600)
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError):
        machine.get(PurePosixPath(path), limit_bytes=1)
    with pytest.raises(UsageError):
        machine.stat(PurePosixPath(path))


@every_machine
@pytest.mark.parametrize("command", [[], ["echo", "nul\0"]])
def test_command_that_no_machine_can_take_is_refused(machine: Machine, command: list[str]) -> None:
    with pytest.raises(UsageError):
        machine.run(command)
