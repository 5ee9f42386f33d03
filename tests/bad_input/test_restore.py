"""A restore that cannot be done: refused with a message and an exit code, and what is there stays as it is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bbr.etcd import write
from bbr.servers.etcd import boot_etcd, start_etcd
from tests.bad_input.conftest import Bbr, Host, snapshot_of
from tests.bad_input.test_etcd import small_disk  # noqa: F401 - a fixture
from tests.conftest import QUICK, program

MEMBER = ("--name", "m0", "--initial-cluster", "m0=http://127.0.0.1:2380")
PEERS = ("--initial-advertise-peer-urls", "http://127.0.0.1:2380")


def test_existing_snapshot_file_is_exit_5_and_stays(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    target = tmp_path / "etcd.db"
    target.write_text("precious")
    ended = bbr(*host.restore("latest", "--to-snapshot", target))
    assert ended.code == 5
    assert f"{target} exists" in ended.err
    assert target.read_text() == "precious"


def test_directory_that_is_not_empty_is_exit_5_and_stays(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    target = tmp_path / "member"
    target.mkdir()
    (target / "old").write_text("precious")
    ended = bbr(*host.restore("latest", "--to-data-dir", target, *MEMBER, *PEERS))
    assert ended.code == 5
    assert "is not empty" in ended.err
    assert snapshot_of(target) == {"old": b"precious"}


@pytest.mark.parametrize("form", ["on the disk", "the disk itself"])
def test_disk_without_space_is_exit_5_and_left_clean(
    bbr: Bbr,
    host: Host,
    small_disk: Path,  # noqa: F811 - the fixture
    form: str,
) -> None:
    for part in host.objects("clusters/*/*/*"):
        part.unlink()  # whoever fetches before it looks at the disk ends otherwise
    target = small_disk / "member" if form == "on the disk" else small_disk
    ended = bbr(*host.restore("latest", "--to-data-dir", target, *MEMBER, *PEERS))
    assert ended.code == 5
    found = re.search(r"bbr: (\S+): ([\d,]+) bytes are needed, ([\d,]+) are free\n  hint: free space", ended.err)
    assert found, ended.err
    needed, free = (int(number.replace(",", "")) for number in found.groups()[1:])
    assert (found[1], needed > 64 << 20, 20 << 20 < free <= 24 << 20) == (str(small_disk), True, True)
    assert list(small_disk.iterdir()) == []


def test_disk_that_fills_up_on_the_way_is_exit_5_and_left_clean(
    bbr: Bbr,
    host: Host,
    small_disk: Path,  # noqa: F811 - the fixture
) -> None:
    (small_disk / "filler").write_bytes(bytes((24 << 20) - 8192))
    ended = bbr(*host.restore("latest", "--to-snapshot", small_disk / "etcd.db"))
    assert ended.code == 5
    assert "free space" in ended.err
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


@pytest.fixture(params=["tmpfs", "bind"])
def mount_point(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of etcd's own, and a folder that a container has from its host: neither can be renamed over."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    folder = tmp_path / "own-disk"
    folder.mkdir()
    (tmp_path / "host-folder").mkdir(mode=0o700)
    how = {"tmpfs": "-t tmpfs -o size=256m,mode=0700 tmpfs", "bind": f"--bind {tmp_path}/host-folder"}[request.param]
    command = ["/bin/mount", *how.split(), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", folder], check=True, timeout=20)


def test_mount_point_is_filled_and_boots(bbr: Bbr, host: Host, mount_point: Path, etcd_binary: Path) -> None:
    if mount_point.is_mount():  # not so for a bind mount of the same disk
        (mount_point / "lost+found").mkdir(mode=0o700)
    there = {path.name for path in mount_point.iterdir()}
    ended = bbr(*host.restore("latest", "--to-data-dir", mount_point, *MEMBER, *PEERS))
    assert ended.code == 0, ended.err
    assert {path.name for path in mount_point.iterdir()} == there | {"member"}
    assert [path for path in mount_point.parent.iterdir() if path.name.startswith(".")] == []
    with boot_etcd(etcd_binary, mount_point, name="m0") as member, member.client() as client:
        assert client.range(b"/registry/pods/default/p").kvs[0].value == b"1"


def test_mount_point_that_holds_something_is_exit_5_before_fetching(bbr: Bbr, host: Host, mount_point: Path) -> None:
    for part in host.objects("clusters/*/*/*"):
        part.unlink()
    (mount_point / "old").write_text("precious")
    ended = bbr(*host.restore("latest", "--to-data-dir", mount_point, *MEMBER, *PEERS))
    assert ended.code == 5
    assert f"{mount_point} is not empty" in ended.err
    assert snapshot_of(mount_point) == {"old": b"precious"}


def test_missing_etcdutl_is_exit_5(bbr: Bbr, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    ended = bbr(*host.restore("latest", "--to-data-dir", tmp_path / "member", *MEMBER, *PEERS))
    assert ended.code == 5
    assert "etcdutl" in ended.err
    assert "--bin-dir" in ended.err
    assert not (tmp_path / "member").exists()


@pytest.mark.parametrize(("version", "code"), [("3.5.9", 5), ("3.5.10", 0)])
def test_etcdutl_too_old_for_the_bump_is_exit_5(
    bbr: Bbr,
    host: Host,
    tmp_path: Path,
    search: tuple[Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    code: int,
) -> None:
    """A backup of a real 3.5, and a real etcdutl 3.5 that says it is older: nothing but its number is wrong."""
    with start_etcd(program("etcd", search, "3.5.35"), tmp_path / "etcd", flags=QUICK) as servers:
        with servers.client() as client:
            write.put(client, b"/registry/pods/default/p", b"x")
        assert bbr(*host.backup(servers.endpoints, cluster="old")).code == 0
    stand_in(tmp_path / "old", version, otherwise=f'exec {program("etcdutl", search, "3.5.35")} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}/old:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    target = tmp_path / "member"
    ended = bbr(*host.restore("latest", "--cluster", "old", "--to-data-dir", target, *MEMBER, *PEERS))
    assert ended.code == code, ended.err
    assert target.exists() == (code == 0)
    if code:
        assert f"{tmp_path}/old/etcdutl is 3.5.9, which cannot bump revisions" in ended.err
        assert "hint: install etcdutl 3.5 (3.5.10 or later)" in ended.err


def stand_in(folder: Path, version: str, *, otherwise: str) -> Path:
    """A folder with an etcdutl that says it is of that version, and for all else runs a line of shell."""
    folder.mkdir()
    path = folder / "etcdutl"
    script = f"""#!/bin/sh
if [ "$1" = version ]; then echo 'etcdutl version: {version}'; exit; fi
{otherwise}
"""
    path.write_text(script)
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize("text", ["prod-2019", "nonsense", "2019-01-01T00:00:00Z"])
def test_unknown_backup_is_exit_2_and_names_what_is_near(bbr: Bbr, host: Host, tmp_path: Path, text: str) -> None:
    ended = bbr(*host.restore(text, "--to-snapshot", tmp_path / "x.db"))
    assert ended.code == 2
    assert "prod-20" in ended.err
    assert not (tmp_path / "x.db").exists()


def test_ambiguous_backup_is_exit_2_and_lists_them(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    ended = bbr(*host.restore("prod-", "--to-snapshot", tmp_path / "x.db"))
    assert ended.code == 2
    assert "means 2 backups" in ended.err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_restore_is_exit_130_and_leaves_nothing(host: Host, tmp_path: Path, stop: signal.Signals) -> None:
    target = tmp_path / "to" / "x.db"
    target.parent.mkdir()
    command = [sys.executable, "-c", SLOW_STORE, *host.restore("latest", "--to-snapshot", target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fetching\n"
        process.send_signal(stop)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert list(target.parent.iterdir()) == []


def test_killed_restore_starts_again_and_sweeps(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    target = tmp_path / "to" / "x.db"
    target.parent.mkdir()
    command = [sys.executable, "-c", SLOW_STORE, *host.restore("latest", "--to-snapshot", target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fetching\n"
        os.kill(process.pid, signal.SIGKILL)
    assert len(list(target.parent.iterdir())) == 1
    assert bbr(*host.restore("latest", "--to-snapshot", target)).code == 0
    assert [path.name for path in target.parent.iterdir()] == ["x.db"]


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize("moment", ["fetching", "etcdutl"])
def test_data_dir_restore_that_was_killed_starts_again_and_sweeps(
    bbr: Bbr, host: Host, tmp_path: Path, moment: str, *, exists: bool
) -> None:
    target = tmp_path / "to" / "data"
    (target if exists else target.parent).mkdir(parents=True)
    child = tmp_path / "child"
    # Half of its work, and then a disk that hangs.
    half = f'mkdir -p "$5/member/snap"; cp "$3" "$5/member/snap/db"; echo $$ > {child}.new; mv {child}.new {child}'
    slow = stand_in(tmp_path / "slow", "3.6.16", otherwise=f"{half}; exec /bin/sleep 300")
    restore = host.restore("latest", "--to-data-dir", target, *MEMBER, *PEERS)
    command = [sys.executable, "-c", SLOW_STORE if moment == "fetching" else AS_IT_IS, *restore, "--bin-dir", str(slow)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if moment == "fetching":
            assert process.stdout is not None
            assert process.stdout.readline() == "fetching\n"
        else:
            wait_for(child.exists)
        os.kill(process.pid, signal.SIGKILL)
    workplace = target if exists else target.parent
    assert [path.name.startswith(".bbr-scratch-") for path in workplace.iterdir()] == [True]
    if moment == "etcdutl":
        assert list(workplace.glob(".bbr-scratch-*/data/member/snap/db"))
        pid = int(child.read_text())
        wait_for(lambda: not is_running(pid))
    ended = bbr(*restore)
    assert ended.code == 0, ended.err
    assert [path.name for path in target.parent.iterdir()] == ["data"]
    assert [path.name for path in target.iterdir()] == ["member"]


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process still does anything; a dead one that nobody has waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


AS_IT_IS = """
import sys
from bbr.cli.main import main
sys.argv[0] = "bbr"
main()
"""

SLOW_STORE = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup hands on that it is ignored
from bbr.stores.directory import DirectoryStore
from bbr.cli.main import main
get = DirectoryStore.get
def slow(self, name, *, limit_bytes):
    if name.startswith("clusters/"):
        print("fetching", flush=True)
        time.sleep(60)
    return get(self, name, limit_bytes=limit_bytes)
DirectoryStore.get = slow
sys.argv[0] = "bbr"
main()
"""
"""The command line on a store that is slow with parts, so that there is time to end it."""
