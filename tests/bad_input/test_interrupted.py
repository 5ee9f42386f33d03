"""Ctrl-C and kill -9 of real processes: nothing half-done is left that is in the way, and nothing is lost."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bbr.servers.etcd import EtcdServers
from bbr.servers.minio import MinioServer
from tests.bad_input.conftest import Bbr, Ended, Host, finished, snapshot_of, started
from tests.bad_input.stand_ins import Answer, Asked, Gate, etcd_between, store_between
from tests.bad_input.test_etcd import backups, check_nothing_stored, check_restores

SOON_S = 10.0
"""Whoever presses Ctrl-C does not wait for a server that hangs."""

INTERRUPTED = "\nbbr: interrupted\n"
"""After what the terminal shows of the key, on a line of its own."""


def scratch_in(folder: Path) -> list[str]:
    """What a run keeps only while it runs: spools, scratch folders, files that are being written."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.parent.name == "spool" or path.name.startswith(".bbr-scratch") or path.name.endswith(".writing")
    ]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_backup_is_exit_130_and_leaves_no_spool(
    bbr: Bbr, host: Host, etcd: EtcdServers, stop: signal.Signals
) -> None:
    """While the snapshot streams."""
    gate = Gate()
    before = snapshot_of(host.repository)
    with etcd_between(etcd.endpoints[0], meddle=gate.stream) as endpoint:
        with started(*host.backup([endpoint])) as process:
            assert gate.reached.wait(20)
            assert scratch_in(host.folder / "state")
            process.send_signal(stop)
            ended = finished(process, limit_s=SOON_S)
        gate.opened.set()
    assert ended.code == 130
    assert ended.err == INTERRUPTED
    assert ended.out == ""
    assert scratch_in(host.folder) == []
    check_nothing_stored(host, before)
    assert bbr(*host.backup(etcd.endpoints)).code == 0
    assert len(backups(bbr, host)) == 3
    check_restores(bbr, host)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix of a real bucket of its own, reached by way of a store that holds one request."""

    folder: Path
    address: str

    def where(self) -> list[str]:
        """The flags that lead to it."""
        return ["--repo", self.address, "--state-dir", str(self.folder / "state")]

    def init(self, keys: str = "keys") -> list[str]:
        """Make the repository."""
        return ["init", *self.where(), "--keys-dir", str(self.folder / keys), "--writer", "host"]

    def backup(self, etcd: EtcdServers, keys: str = "keys") -> list[str]:
        """Back up into it."""
        key = str(self.folder / keys / "writer-host.key")
        flags = ["--cluster", "prod", "--endpoints", ",".join(etcd.endpoints), "--writer-key", key]
        return ["backup", *self.where(), *flags]


@pytest.fixture
def held(minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Held]]:
    """The address of an empty bucket, and what holds requests to it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio_server.secret_key)
    bucket = f"b{secrets.token_hex(6)}"
    minio_server.create_bucket(bucket)
    holder = Held()
    with store_between(minio_server, holder.meddle) as host:
        yield f"minio+http://{host}/{bucket}/p?region=us-east-1", holder
        holder.gate.opened.set()


class Held:
    """Holds the first request that is ``meant``, once there is such."""

    def __init__(self) -> None:
        self.meant: Callable[[Asked], bool] = lambda _: False
        self.gate = Gate()
        self._lock = threading.Lock()

    def meddle(self, asked: Asked, forward: Callable[[], Answer]) -> Answer:
        with self._lock:
            hold = self.meant(asked) and not self.gate.reached.is_set()
            if hold:
                self.gate.reached.set()
        if hold:
            self.gate.opened.wait(60)
        return forward()

    def stop_at(self, meant: Callable[[Asked], bool], *command: str) -> Ended:
        """Run a command as a process, and press Ctrl-C once the store holds its request."""
        self.meant, self.gate = meant, Gate()
        with started(*command) as process:
            assert self.gate.reached.wait(20)
            process.send_signal(signal.SIGINT)
            ended = finished(process, limit_s=SOON_S)
        self.gate.opened.set()
        self.meant = lambda _: False
        return ended


@pytest.mark.parametrize("folder", ["clusters", "manifests"])
def test_ctrl_c_while_the_store_takes_an_object_is_exit_130(
    bbr: Bbr, etcd: EtcdServers, held: tuple[str, Held], tmp_path: Path, folder: str
) -> None:
    address, holder = held
    bucket = Bucket(tmp_path, address)
    assert bbr(*bucket.init()).code == 0
    assert bbr(*bucket.backup(etcd)).code == 0
    ended = holder.stop_at(lambda asked: asked.method == "PUT" and f"/{folder}/" in asked.key, *bucket.backup(etcd))
    assert ended.code == 130
    assert ended.err == INTERRUPTED
    assert scratch_in(tmp_path) == []
    again = bbr(*bucket.backup(etcd))
    assert again.code == 0, again.err
    assert bbr("verify", *bucket.where()).code == 0
    listed = json.loads(bbr("list", *bucket.where(), "-o", "json").out)["backups"]
    # The held manifest went on its way when the store was let go: it is whole, and the next follows it.
    assert len(listed) == (3 if folder == "manifests" else 2)


@pytest.mark.parametrize("place", ["probe/", "keys/", "root/1.json"])
def test_ctrl_c_during_init_is_exit_130_and_it_can_be_run_again(
    bbr: Bbr, etcd: EtcdServers, held: tuple[str, Held], tmp_path: Path, place: str
) -> None:
    address, holder = held
    bucket = Bucket(tmp_path, address)
    ended = holder.stop_at(lambda asked: asked.method == "PUT" and f"p/{place}" in asked.key, *bucket.init())
    assert ended.code == 130
    assert INTERRUPTED in ended.err
    assert scratch_in(tmp_path) == []
    if place == "root/1.json":
        # The store had the request: the repository is there, and the key files that belong to it.
        keys = "keys"
        refused = bbr(*bucket.init("more"))
        assert refused.code == 5
        assert "there is a repository at" in refused.err
    else:
        keys = "more"
        assert bbr("list", *bucket.where()).code == 10
        again = bbr(*bucket.init(keys))
        assert again.code == 0, again.err
    assert bbr(*bucket.backup(etcd, keys)).code == 0
    assert bbr("verify", *bucket.where()).code == 0


@pytest.mark.parametrize("level", ["stored", "readable"])
def test_ctrl_c_during_verify_is_exit_130_and_leaves_no_scratch(
    bbr: Bbr, etcd: EtcdServers, held: tuple[str, Held], tmp_path: Path, level: str
) -> None:
    address, holder = held
    bucket = Bucket(tmp_path, address)
    assert bbr(*bucket.init()).code == 0
    assert bbr(*bucket.backup(etcd)).code == 0
    command = ["verify", "latest", *bucket.where(), "--level", level]
    command += ["--identity", str(tmp_path / "keys" / "recovery-1.txt")] if level == "readable" else []
    reads: list[str] = []

    def a_part(asked: Asked) -> bool:
        """The first read of a part; at the level readable the one that is meant for the scratch folder."""
        if asked.method == "GET" and "/clusters/" in asked.key:
            reads.append(asked.key)
            return level == "stored" or bool(scratch_in(tmp_path))
        return False

    ended = holder.stop_at(a_part, *command)
    assert reads
    assert ended.code == 130
    assert ended.err == INTERRUPTED
    assert scratch_in(tmp_path) == []
    assert bbr(*command).code == 0


Kill = tuple[int, str, Sequence[str]]
"""At which call to its store, when of it, and the command line."""


def end_each(kills: Sequence[Kill]) -> list[list[int]]:
    """Run each command line and end it. Returns how each ended and how many calls it made, if it came to count them."""
    program = [sys.executable, "-W", "error", "-m", "tests.bad_input.killed_command"]
    done = subprocess.run(program, input=json.dumps(kills), capture_output=True, text=True, timeout=120, check=True)
    return list(json.loads(done.stdout))


def calls_of(command: Sequence[str]) -> int:
    """How many calls to its store a command makes when nobody ends it."""
    ((code, calls),) = end_each([(0, "before", command)])
    assert code == 0
    return calls


def killed_at_every_call(
    folder: Path, calls: int, command: Callable[[Path], Sequence[str]], prepared: Path | None = None
) -> list[Path]:
    """A folder for each call and moment, in which the command was killed then; a copy of ``prepared``, or new."""
    folders = {(call, when): folder / f"{call}-{when}" for call in range(1, calls + 1) for when in MOMENTS}
    if prepared is not None:
        for one in folders.values():
            shutil.copytree(prepared, one)
    ended = end_each([(call, when, command(one)) for (call, when), one in folders.items()])
    assert dict(zip(folders, [code for code, _ in ended], strict=True)) == dict.fromkeys(folders, -signal.SIGKILL)
    return list(folders.values())


MOMENTS = ("before", "during", "after")


def where_of(folder: Path) -> list[str]:
    """The flags that lead to a host's repository."""
    return ["--repo", str(folder / "repository"), "--state-dir", str(folder / "state")]


def init(folder: Path, keys: str = "keys") -> list[str]:
    """Make a repository."""
    return ["init", *where_of(folder), "--keys-dir", str(folder / keys), "--writer", "host"]


def test_init_killed_at_every_call_can_be_repeated(bbr: Bbr, tmp_path: Path) -> None:
    calls = calls_of(init(tmp_path / "whole"))
    assert calls >= 15
    made = 0
    for folder in killed_at_every_call(tmp_path, calls, init):
        keys = "keys"
        if (folder / "repository" / "root" / "1.json").exists():
            # It was made: it is whole, and its key files were there before it was.
            made += 1
            again = bbr(*init(folder, "more"))
            assert again.code == 5
            assert f"there is a repository at {folder / 'repository'}; it was left as it is" in again.err
        else:
            assert bbr("list", *where_of(folder)).code == 10
            exists = (folder / "keys").exists()
            again = bbr(*init(folder))
            assert again.code == (5 if exists else 0), again.err
            if exists:
                assert "recovery-1.txt exists; it was left as it is" in again.err
                assert "hint: name another folder with --keys-dir" in again.err
                again = bbr(*init(folder, "more"))
                assert again.code == 0, again.err
                keys = "more"
        key = ["--identity", str(folder / keys / "recovery-2.txt"), "--key-file", str(folder / "second.key")]
        added = bbr("writer", "add", "second", *where_of(folder), *key)
        assert added.code == 0, added.err
        assert bbr("verify", *where_of(folder)).code == 0
    assert made >= 3


def check_readable(bbr: Bbr, host: Host) -> list[dict[str, object]]:
    """Both backups are listed and verify, and no writer that should be believed is not. Returns the writers."""
    assert len(backups(bbr, host)) == 2
    assert bbr("verify", *host.where()).code == 0
    told = bbr("writer", "list", *host.where(), "-o", "json")
    assert told.code == 0
    return list(json.loads(told.out)["writers"])


def add(folder: Path, key_file: str = "second.key") -> list[str]:
    """Trust one more writer."""
    flags = ["--identity", str(Host(folder).identity), "--key-file", str(folder / key_file)]
    return ["writer", "add", "second", *where_of(folder), *flags]


def revoke(folder: Path) -> list[str]:
    """Trust the first writer no more."""
    return ["writer", "revoke", "host", *where_of(folder), "--identity", str(Host(folder).identity)]


def test_writer_add_killed_at_every_call_can_be_repeated(
    bbr: Bbr, host: Host, etcd: EtcdServers, tmp_path: Path
) -> None:
    whole = shutil.copytree(host.folder, tmp_path / "whole")
    calls = calls_of(add(whole))
    assert calls >= 5
    for folder in killed_at_every_call(tmp_path, calls, add, host.folder):
        trusted = [writer["label"] for writer in check_readable(bbr, Host(folder))]
        key = "second.key"
        again = bbr(*add(folder, "again.key"))
        if "second" in trusted:
            assert again.code == 2
            assert "there is a writer called second" in again.err
        else:
            assert again.code == 0, again.err
            key = "again.key"
        command = Host(folder).backup(etcd.endpoints)
        command[command.index("--writer-key") + 1] = str(folder / key)
        done = bbr(*command)
        assert done.code == 0, done.err


def test_writer_revoke_killed_at_every_call_can_be_repeated(
    bbr: Bbr, host: Host, etcd: EtcdServers, tmp_path: Path
) -> None:
    whole = shutil.copytree(host.folder, tmp_path / "whole")
    calls = calls_of(revoke(whole))
    assert calls >= 5
    for folder in killed_at_every_call(tmp_path, calls, revoke, host.folder):
        (writer,) = check_readable(bbr, Host(folder))
        again = bbr(*revoke(folder))
        if writer["revoked"]:
            assert again.code == 2
            assert "was revoked at " in again.err
            assert " UTC already" in again.err
        else:
            assert again.code == 0, again.err
        refused = bbr(*Host(folder).backup(etcd.endpoints))
        assert refused.code == 12
        assert "was revoked" in refused.err
        check_readable(bbr, Host(folder))
