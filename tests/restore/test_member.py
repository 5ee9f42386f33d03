"""An etcd member on a machine: moved aside, made, undone, each also after being cut short, with the real etcdutl."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path, PurePosixPath

import pytest

from bbr.errors import (
    CommandTimedOut,
    EtcdError,
    FileMissing,
    NoSpace,
    PreconditionFailed,
    SnapshotDamaged,
    TargetNotEmpty,
    UsageError,
)
from bbr.etcd.client import EtcdClient
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.write import put
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from bbr.machines.local import local_machine
from bbr.machines.shell import ShellMachine
from bbr.machines.ssh import ssh_machine
from bbr.servers.etcd import PLAIN, QUICK_FLAGS, EtcdServers, boot_etcd
from bbr.servers.ports import free_ports
from bbr.servers.process import Process
from restore import member
from restore.etcd import DEFAULT_BUMP, bumped_hash_kv
from restore.iaas.lab import ssh_host
from restore.member import MemberSpec, MemberState
from restore.program import Program
from tests.restore.members import RUN, Taken, old_member, real, script, spec_of, take, tree

BUMP = DEFAULT_BUMP
NOTHING = MemberState("none", "none", is_begun=False, has_wal=False, undone=0)


@pytest.fixture(scope="module")
def machine() -> Iterator[ShellMachine]:
    with local_machine() as here:
        yield here


@pytest.fixture(scope="module")
def taken(module_etcd: EtcdServers, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    return take(module_etcd, tmp_path_factory.mktemp("taken"))


@pytest.fixture
def etcdutl(etcdutl_binary: Path) -> Program:
    return real("etcdutl", etcdutl_binary)


@pytest.fixture(params=[False, True], ids=["one folder", "separate wal"])
def wal(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def bumped(taken: Taken) -> int:
    with Snapshot.open(taken.path) as snapshot:
        return bumped_hash_kv(snapshot, taken.revision + BUMP)


def made(machine: ShellMachine, spec: MemberSpec, taken: Taken, etcdutl: Program) -> None:
    member.move_aside(machine, spec, RUN)
    member.make(machine, spec, RUN, taken.there, etcdutl, bump=BUMP)


def test_a_member_is_made_serves_and_all_is_undone(
    machine: ShellMachine, taken: Taken, etcdutl: Program, etcd_binary: Path, tmp_path: Path, wal: bool
) -> None:
    old_member(tmp_path, wal=wal)
    before, spec = tree(tmp_path), spec_of(tmp_path, wal=wal)
    if os.getuid() == 0:
        os.chown(tmp_path / "data/member", 12345, 12346)
    assert member.look(machine, spec, RUN) == MemberState("before", "none", is_begun=False, has_wal=wal, undone=0)
    for _ in range(2):  # each call again is harmless
        member.move_aside(machine, spec, RUN)
        assert member.look(machine, spec, RUN) == MemberState("none", "whole", is_begun=False, has_wal=False, undone=0)
    for _ in range(2):
        member.make(machine, spec, RUN, taken.there, etcdutl, bump=BUMP)
    member.move_aside(machine, spec, RUN)
    assert member.look(machine, spec, RUN) == MemberState("ours", "whole", is_begun=False, has_wal=wal, undone=0)
    stat = (tmp_path / "data/member").stat()
    assert stat.st_mode & 0o777 == 0o700
    if os.getuid() == 0:
        assert (stat.st_uid, stat.st_gid) == (12345, 12346)
    with pytest.raises(TargetNotEmpty):
        member.undo_move_aside(machine, spec, RUN)

    flags = ["--wal-dir", str(spec.wal_dir)] if wal else []
    with boot_etcd(etcd_binary, tmp_path / "data", name="m1", flags=flags) as served, served.client() as client:
        assert client.hash_kv(taken.revision + BUMP).hash == bumped(taken)
        put(client, b"a real write", b"taken")
        with pytest.raises(PreconditionFailed, match="process"):
            member.undo_make(machine, spec, RUN)

    for _ in range(2):
        member.undo_make(machine, spec, RUN)
    assert member.look(machine, spec, RUN) == MemberState("none", "whole", is_begun=False, has_wal=False, undone=1)
    for _ in range(2):
        member.undo_move_aside(machine, spec, RUN)
    assert member.look(machine, spec, RUN) == MemberState("before", "none", is_begun=False, has_wal=wal, undone=1)
    member.clean(machine, spec.data_dir, RUN)
    if spec.wal_dir is not None:
        member.clean(machine, spec.wal_dir, RUN)
    (tmp_path / "data.log").unlink()
    assert tree(tmp_path) == before


def test_a_machine_without_a_data_directory_gets_one(
    machine: ShellMachine, taken: Taken, etcdutl: Program, tmp_path: Path, wal: bool
) -> None:
    spec = spec_of(tmp_path, wal=wal)
    assert member.look(machine, spec, RUN) == NOTHING
    assert not member.safety_copy(machine, spec, RUN, PurePosixPath(tmp_path / "copy"))
    with pytest.raises(PreconditionFailed, match="not moved aside"):
        member.make(machine, spec, RUN, taken.there, etcdutl, bump=BUMP)
    made(machine, spec, taken, etcdutl)
    assert member.look(machine, spec, RUN).is_ours
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    member.undo_make(machine, spec, RUN)
    member.undo_move_aside(machine, spec, RUN)
    assert member.look(machine, spec, RUN).member == "none"


@pytest.mark.parametrize(
    ("leaves", "told"),
    [
        ("snap/db", r"the disk broke"),
        ("snap/db", r"db-0.*missing or empty|\.snap is missing or empty"),
        ("snap/db snap/1.snap", r"\.wal is missing or empty"),
        ("snap/1.snap wal/0.wal", r"snap/db is missing or empty"),
    ],
    ids=["fails", "no snap", "no wal", "empty db"],
)
def test_what_a_failed_etcdutl_left_never_gets_the_members_place(
    machine: ShellMachine, taken: Taken, etcdutl: Program, tmp_path: Path, leaves: str, told: str
) -> None:
    old_member(tmp_path)
    spec, fails = spec_of(tmp_path), "broke" in told
    lines = ['mkdir -p "$5/member/snap" "$5/member/wal"; : > "$5/member/snap/db"']
    lines += [f'echo data > "$5/member/{name}"' for name in leaves.split()]
    lines += ["echo 'Error: the disk broke' >&2; exit 1"] if fails else []
    bad = real("etcdutl", script(tmp_path / "etcdutl", "\n".join(lines)))
    member.move_aside(machine, spec, RUN)
    with pytest.raises(EtcdError, match=told):
        member.make(machine, spec, RUN, taken.there, bad, bump=BUMP)
    assert member.look(machine, spec, RUN) == MemberState("none", "whole", is_begun=False, has_wal=False, undone=0)
    member.make(machine, spec, RUN, taken.there, etcdutl, bump=BUMP)
    assert member.look(machine, spec, RUN).is_ours


def test_a_make_that_is_ended_in_the_middle_is_made_again(
    machine: ShellMachine, taken: Taken, etcdutl: Program, tmp_path: Path, wal: bool
) -> None:
    spec = spec_of(tmp_path, wal=wal)
    body = 'mkdir -p "$5/member/snap"; echo half > "$5/member/snap/db"; exec sleep 300'
    slow = real("etcdutl", script(tmp_path / "etcdutl", body))
    member.move_aside(machine, spec, RUN)
    with pytest.raises(CommandTimedOut):
        member.make(machine, spec, RUN, taken.there, slow, bump=BUMP, limit=timedelta(seconds=1))
    assert member.look(machine, spec, RUN).member == "none"
    member.make(machine, spec, RUN, taken.there, etcdutl, bump=BUMP)
    assert member.look(machine, spec, RUN).is_ours


def test_a_make_whose_command_is_killed_leaves_its_half_and_the_next_removes_it(
    machine: ShellMachine, taken: Taken, etcdutl: Program, tmp_path: Path
) -> None:
    """As by kill -9 of bbr and a restart of the machine: what lies there is all that is known."""
    spec = spec_of(tmp_path)
    member.move_aside(machine, spec, RUN)
    half = tmp_path / f"data/.bbr-{RUN}-new/member/snap"
    half.mkdir(parents=True)
    (half / "db").write_bytes(b"half")
    assert member.look(machine, spec, RUN).is_begun
    member.make(machine, spec, RUN, taken.there, etcdutl, bump=BUMP)
    assert member.look(machine, spec, RUN) == MemberState("ours", "whole", is_begun=False, has_wal=False, undone=0)


def test_what_a_make_left_in_the_wal_directory_is_kept_beside_and_made_again(
    machine: ShellMachine, taken: Taken, etcdutl: Program, etcd_binary: Path, tmp_path: Path
) -> None:
    """The power failed after the WAL got its place, before the member did."""
    old_member(tmp_path, wal=True)
    before, spec = tree(tmp_path), spec_of(tmp_path, wal=True)
    made(machine, spec, taken, etcdutl)
    shutil.rmtree(tmp_path / "data/member")
    assert member.look(machine, spec, RUN) == MemberState("none", "whole", is_begun=False, has_wal=True, undone=0)
    with pytest.raises(TargetNotEmpty):
        member.undo_move_aside(machine, spec, RUN)
    member.make(machine, spec, RUN, taken.there, etcdutl, bump=BUMP)
    assert member.look(machine, spec, RUN) == MemberState("ours", "whole", is_begun=False, has_wal=True, undone=1)
    flags = ["--wal-dir", str(spec.wal_dir)]
    with boot_etcd(etcd_binary, tmp_path / "data", name="m1", flags=flags) as served, served.client() as client:
        assert client.hash_kv(taken.revision + BUMP).hash == bumped(taken)
    member.undo_make(machine, spec, RUN)
    member.undo_move_aside(machine, spec, RUN)
    assert {name: body for name, body in tree(tmp_path).items() if "undone" not in name and "log" not in name} == before


@pytest.mark.parametrize("cut", ["mv", "sync"])
def test_a_move_that_is_cut_anywhere_is_finished_or_taken_back(
    machine: ShellMachine, tmp_path: Path, wal: bool, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that the script calls fails at its first, second, ... call; each time both ways out are tried."""
    real_program, count = shutil.which(cut), tmp_path / "count"
    programs = tmp_path / "programs"
    programs.mkdir()
    body = f'n=$(cat {count}); echo $((n - 1)) > {count}; [ "$n" -ne 0 ] || exit 9; exec {real_program} "$@"'
    script(programs / cut, body)
    path = os.environ["PATH"]
    for at in range(12):
        for way_out in ("finish", "undo"):
            folder = tmp_path / f"{at}-{way_out}"
            old_member(folder, wal=wal)
            before, spec = tree(folder), spec_of(folder, wal=wal)
            count.write_text(str(at))
            monkeypatch.setenv("PATH", f"{programs}:{path}")
            whole = True
            try:
                member.move_aside(machine, spec, RUN)
            except Exception:
                whole = False
            monkeypatch.setenv("PATH", path)
            if way_out == "finish":
                member.move_aside(machine, spec, RUN)
                state = member.look(machine, spec, RUN)
                assert state == MemberState("none", "whole", is_begun=False, has_wal=False, undone=0)
                # The same for the way back.
                count.write_text(str(at))
                monkeypatch.setenv("PATH", f"{programs}:{path}")
                try:
                    member.undo_move_aside(machine, spec, RUN)
                except Exception:
                    whole = False
                monkeypatch.setenv("PATH", path)
            member.undo_move_aside(machine, spec, RUN)
            assert tree(folder) == before
        if whole:
            return
    pytest.fail(f"{cut} is called more often than was tried")


def test_a_member_that_came_after_the_move_is_not_touched(
    machine: ShellMachine, taken: Taken, etcdutl: Program, tmp_path: Path
) -> None:
    old_member(tmp_path)
    spec = spec_of(tmp_path)
    member.move_aside(machine, spec, RUN)
    (tmp_path / "data/member").mkdir()
    (tmp_path / "data/member/new").write_text("somebody's")
    now = tree(tmp_path)
    for call in (member.move_aside, member.undo_move_aside):
        with pytest.raises(TargetNotEmpty):
            call(machine, spec, RUN)
    with pytest.raises(TargetNotEmpty):
        member.make(machine, spec, RUN, taken.there, etcdutl, bump=BUMP)
    member.undo_make(machine, spec, RUN)
    assert tree(tmp_path) == now


def test_nothing_is_moved_or_copied_while_etcd_runs(machine: ShellMachine, small_etcd: EtcdServers) -> None:
    data = small_etcd.members[0].data_dir
    spec = MemberSpec("m0", "", "", "", PurePosixPath(data))
    for found_by in ("its open files", "its flag alone"):
        with pytest.raises(PreconditionFailed, match=f"process {small_etcd.members[0].pid} "):
            member.move_aside(machine, spec, RUN)
        with pytest.raises(PreconditionFailed):
            member.safety_copy(machine, spec, RUN, PurePosixPath(data.parent / "copy"))
        if found_by == "its open files":
            data.rename(data.with_name("elsewhere"))
            (data / "member").mkdir(parents=True)
    assert not (data.parent / "copy").exists()


def test_a_safety_copy_boots(machine: ShellMachine, small_etcd: EtcdServers, etcd_binary: Path, tmp_path: Path) -> None:
    taken = take(small_etcd, tmp_path)
    small_etcd.members[0].stop()
    spec = MemberSpec("m0", "", "", "", PurePosixPath(small_etcd.members[0].data_dir))
    for at, name in enumerate(("in place", "aside")):
        target = tmp_path / "copies" / name.replace(" ", "-")
        for _ in range(2):
            assert member.safety_copy(machine, spec, RUN, PurePosixPath(target))
        assert target.stat().st_mode & 0o777 == 0o700
        with boot_etcd(etcd_binary, target, name="m0", flags=["--force-new-cluster"]) as one, one.client() as client:
            assert client.hash_kv(taken.revision).hash == taken.hash_kv
        if at == 0:
            member.move_aside(machine, spec, RUN)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "missing"])
def test_a_damaged_snapshot_is_refused(
    machine: ShellMachine, taken: Taken, etcdutl: Program, tmp_path: Path, damage: str
) -> None:
    spec, bad, body = spec_of(tmp_path), tmp_path / "bad.db", bytearray(taken.path.read_bytes())
    body[len(body) // 2] ^= 1
    bodies = {"cut": body[: len(body) // 2], "changed": body, "empty": b""}
    if damage in bodies:
        bad.write_bytes(bytes(bodies[damage]))
    member.move_aside(machine, spec, RUN)
    expected = FileMissing if damage == "missing" else (SnapshotDamaged, EtcdError)
    with pytest.raises(expected):
        member.make(machine, spec, RUN, PurePosixPath(bad), etcdutl, bump=BUMP)
    assert member.look(machine, spec, RUN) == MemberState("none", "whole", is_begun=False, has_wal=False, undone=0)


def test_leftovers_are_told_and_only_one_runs_are_removed(machine: ShellMachine, tmp_path: Path) -> None:
    data, there = tmp_path / "data", PurePosixPath(tmp_path / "data")
    names = [".bbr-a-before", ".bbr-a-new", ".bbr-a-new.tmp", ".bbr-a-undone-2"]
    others = [".bbr-a-b-before", ".bbr-a-undone-x", ".bbr-b-new", ".bbr-a\n\x1b[2J-before", "lost+found"]
    for name in [*names, *others]:
        (data / name).mkdir(parents=True)
        (data / name / "file").write_text("x")
    assert member.leftovers(machine, PurePosixPath(tmp_path / "none")) == ()
    found = {(one.run, one.kind) for one in member.leftovers(machine, there)}
    assert {("a", "before"), ("a", "undone-2"), ("a-b", "before"), ("b", "new")} <= found
    with pytest.raises(TargetNotEmpty, match="nothing is in the place"):
        member.clean(machine, there, "a")
    (data / "member").mkdir()
    member.clean(machine, there, "a")
    assert {path.name for path in data.iterdir()} == {*others, "member"}
    for name in ("../x", "a/b", "", "-a", "a b", "x" * 101):
        with pytest.raises(UsageError):
            member.clean(machine, there, name)


def test_three_members_of_one_token_are_one_cluster(
    machine: ShellMachine, taken: Taken, etcdutl: Program, etcd_binary: Path, tmp_path: Path
) -> None:
    ports = free_ports(6)
    peers = {f"m{at}": f"http://127.0.0.1:{ports[at]}" for at in range(3)}
    cluster = ",".join(f"{name}={url}" for name, url in peers.items())
    with ExitStack() as running:
        clients = []
        for at, (name, peer) in enumerate(peers.items()):
            spec = MemberSpec(name, peer, cluster, "token", PurePosixPath(tmp_path / name))
            made(machine, spec, taken, etcdutl)
            endpoint = f"http://127.0.0.1:{ports[3 + at]}"
            command = [str(etcd_binary), "--name", name, "--data-dir", str(spec.data_dir), *QUICK_FLAGS]
            command += ["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", cluster, "--initial-cluster-state", "existing"]
            process = running.enter_context(Process(f"etcd {name}", command, log=tmp_path / f"{name}.log"))
            clients.append((process, running.enter_context(EtcdClient(endpoint, PLAIN))))
        for process, client in clients:
            process.wait_ready(lambda client=client: _leads(client), what="a leader")  # type: ignore[misc]
        assert {client.hash_kv(taken.revision + BUMP).hash for _, client in clients} == {bumped(taken)}
        put(clients[0][1], b"written", b"by all")


def _leads(client: EtcdClient) -> bool:
    try:
        return client.status().leader_id != 0
    except EtcdError:
        return False


@pytest.mark.skipif(os.getuid() != 0, reason="a lab needs root")
def test_on_a_lab_host_over_ssh_also_when_its_disk_is_full(
    taken: Taken, etcdutl_binary: Path, etcd_binary: Path, tmp_path: Path
) -> None:
    programs = etcdutl_binary.parent
    spec = MemberSpec("m1", "http://10.0.0.1:2380", "m1=http://10.0.0.1:2380", "t", PurePosixPath("/var/lib/etcd"))
    snapshot = PurePosixPath("/var/lib/bbr/runs/r1/snapshot.db")
    etcdutl = Program("etcdutl", "3.6.16", "PATH", PurePosixPath("/usr/local/bin/etcdutl"))
    full = 'dd if=/dev/zero of=/var/lib/etcd/filler bs=64k 2>/dev/null; exec /usr/local/bin/etcdutl "$@"'
    with (
        Lab.up([HostSpec("m1", programs=(programs,))], base=tmp_path / "labs") as lab,
        ssh_machine(ssh_host(lab.host("m1"))) as machine,
    ):
        machine.run(["mkdir", "-p", str(snapshot.parent), "/var/lib/etcd"])
        machine.put(snapshot, [taken.path.read_bytes()], mode=0o600)
        machine.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=700", "tmpfs", "/var/lib/etcd"])
        assert 30 << 20 < member.free_bytes(machine, spec.data_dir / "not/there") <= 32 << 20
        member.move_aside(machine, spec, RUN)
        with pytest.raises(NoSpace, match="needed"):
            member.make(machine, spec, RUN, snapshot, etcdutl, bump=BUMP)
        machine.run(["mount", "-o", "remount,size=96m", "/var/lib/etcd"])
        machine.put(PurePosixPath("/root/full"), [f"#!/bin/sh\n{full}\n".encode()], mode=0o700)
        filling = Program("etcdutl", "3.6.16", "", PurePosixPath("/root/full"))
        with pytest.raises(NoSpace):
            member.make(machine, spec, RUN, snapshot, filling, bump=BUMP)
        assert member.look(machine, spec, RUN).member == "none"
        machine.run(["rm", "/var/lib/etcd/filler"])
        assert member.free_bytes(machine, spec.data_dir) > 90 << 20  # nothing of ours is left on it
        member.make(machine, spec, RUN, snapshot, etcdutl, bump=BUMP)
        assert member.look(machine, spec, RUN).is_ours
        stat = machine.stat(spec.data_dir / "member")
        assert stat is not None
        assert (stat.mode, stat.owner) == (0o700, "root:root")
