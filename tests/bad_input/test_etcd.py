"""An etcd that is not as it should be, met by `bbr backup`: message, exit code, and a repository that lost nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bbr.etcd import write
from bbr.servers.certificates import Authority, Pair
from bbr.servers.etcd import EtcdServers, start_etcd
from bbr.servers.ports import free_ports
from bbr.servers.process import Process
from tests.bad_input.conftest import Bbr, Ended, Host, finished, snapshot_of, started
from tests.bad_input.stand_ins import Gate, etcd_between
from tests.conftest import QUICK


def check_nothing_stored(host: Host, before: dict[str, bytes]) -> None:
    """A failed backup leaves at most the empty record that its run began, and no spool."""
    added = {name: body for name, body in snapshot_of(host.repository).items() if name not in before}
    assert all(name.startswith("runs/") and body == b"" for name, body in added.items())
    assert [path for path in (host.folder / "state").rglob("*.db") if "spool" in path.parts] == []


def backups(bbr: Bbr, host: Host) -> list[dict[str, object]]:
    listed = bbr("list", *host.where(), "-o", "json")
    assert listed.code == 0
    return list(json.loads(listed.out)["backups"])


def failed(bbr: Bbr, host: Host, *command: str | Path) -> Ended:
    before = snapshot_of(host.repository)
    ended = bbr(*command)
    check_nothing_stored(host, before)
    assert "hint:" in ended.err
    return ended


def test_unreachable_etcd_is_exit_1_and_named(bbr: Bbr, host: Host) -> None:
    (port,) = free_ports(1)
    ended = failed(bbr, host, *host.backup([f"http://127.0.0.1:{port}"]))
    assert ended.code == 1
    assert f"127.0.0.1:{port}" in ended.err


@contextmanager
def tls_etcd(binary: Path, base: Path, pair: Pair, authority: Authority, *, client_auth: bool = False) -> Iterator[str]:
    """An etcd with that server certificate; yields its endpoint. It is not asked whether it is ready by TLS."""
    base.mkdir()
    for name, body in {"ca": authority.certificate, "crt": pair.certificate, "key": pair.key}.items():
        (base / name).write_bytes(body)
    client, peer = free_ports(2)
    endpoint, peer_url = f"https://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    flags = ["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint, "--listen-peer-urls", peer_url]
    flags += ["--initial-advertise-peer-urls", peer_url, "--initial-cluster", f"default={peer_url}", *QUICK]
    flags += ["--trusted-ca-file", str(base / "ca"), "--cert-file", str(base / "crt"), "--key-file", str(base / "key")]
    flags += ["--client-cert-auth"] if client_auth else []
    with Process("etcd", [str(binary), "--data-dir", str(base / "data"), *flags], log=base / "log") as process:
        process.wait_ready(lambda: "serving client traffic securely" in process.log.read_text(), what=endpoint)
        yield endpoint


def test_wrong_authority_is_exit_1_and_named(bbr: Bbr, host: Host, etcd_binary: Path, tmp_path: Path) -> None:
    right, wrong = Authority("right"), Authority("wrong")
    (tmp_path / "wrong.crt").write_bytes(wrong.certificate)
    with tls_etcd(etcd_binary, tmp_path / "tls", right.issue("etcd"), right) as endpoint:
        ended = failed(bbr, host, *host.backup([endpoint]), "--cacert", tmp_path / "wrong.crt")
    assert ended.code == 1
    assert endpoint.removeprefix("https://") in ended.err
    assert "authority" in ended.err or "CA" in ended.err


def test_expired_certificate_is_exit_1_and_named(bbr: Bbr, host: Host, etcd_binary: Path, tmp_path: Path) -> None:
    authority = Authority("right")
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    expired = authority.issue("etcd", not_after=datetime.now(UTC) - timedelta(hours=1))
    with tls_etcd(etcd_binary, tmp_path / "tls", expired, authority) as endpoint:
        ended = failed(bbr, host, *host.backup([endpoint]), "--cacert", tmp_path / "ca.crt")
    assert ended.code == 1
    assert "expired" in ended.err


def test_expired_client_certificate_is_exit_1_and_named(
    bbr: Bbr, host: Host, etcd_binary: Path, tmp_path: Path
) -> None:
    authority = Authority("right")
    ended_at = datetime.now(UTC) - timedelta(hours=1)
    flags: list[str | Path] = []
    expired = authority.issue("root", not_after=ended_at)
    for flag, body in (("cacert", authority.certificate), ("cert", expired.certificate), ("key", expired.key)):
        (tmp_path / flag).write_bytes(body)
        (tmp_path / flag).chmod(0o600)
        flags += [f"--{flag}", tmp_path / flag]
    with tls_etcd(etcd_binary, tmp_path / "tls", authority.issue("etcd"), authority, client_auth=True) as endpoint:
        ended = failed(bbr, host, *host.backup([endpoint]), *flags)
    assert ended.code == 1
    assert f"bbr: {endpoint}: the client certificate has expired, on {ended_at:%Y-%m-%d %H:%M} UTC\n" in ended.err


def test_unauthorized_etcd_is_exit_1_and_the_root_role_works(
    bbr: Bbr, host: Host, etcd_binary: Path, etcdctl_binary: Path, tmp_path: Path
) -> None:
    with start_etcd(etcd_binary, tmp_path / "etcd", flags=QUICK) as servers:
        base = [str(etcdctl_binary), "--endpoints", servers.endpoints[0]]
        for words in (["user", "add", "root:secret-word"], ["user", "grant-role", "root", "root"], ["auth", "enable"]):
            subprocess.run([*base, *words], check=True, capture_output=True, timeout=20)
        wrong_password = tmp_path / "wrong-password"
        wrong_password.write_text("another-word\n")
        wrong_password.chmod(0o600)
        command = host.backup(servers.endpoints, cluster="guarded")
        ended = failed(bbr, host, *command)
        assert ended.code == 1
        hint = (
            "bbr needs a user with etcd's root role: a client certificate with its name as CN, or a user and password"
        )
        said = f"bbr: {servers.endpoints[0]}: Status: etcdserver: "
        assert ended.err == f"{said}user name is empty\n  hint: {hint}\n"
        wrong = failed(bbr, host, *command, "--user", "root", "--password-file", wrong_password)
        assert wrong.code == 1
        assert wrong.err == f"{said}authentication failed, invalid user ID or password\n  hint: {hint}\n"
        password = tmp_path / "password"
        password.write_text("secret-word\n")
        password.chmod(0o600)
        done = bbr(*command, "--user", "root", "--password-file", password)
        assert done.code == 0, done.err
        assert "secret-word" not in done.out + done.err


@pytest.fixture
def own_etcd(etcd_binary: Path, tmp_path: Path) -> Iterator[EtcdServers]:
    """An etcd of a test's own, with a few revisions."""
    with start_etcd(etcd_binary, tmp_path / "own", flags=QUICK) as servers:
        with servers.client() as client:
            for number in range(10):
                write.put(client, b"/registry/pods/default/p", b"%d" % number)
        yield servers


def revert(servers: EtcdServers, saved: Path) -> None:
    """Put a member's data back as it was saved, as a machine does that returns to an older image."""
    member = servers.members[0]
    member.stop()
    shutil.rmtree(member.data_dir)
    shutil.copytree(saved, member.data_dir)
    member.restart()


def save(servers: EtcdServers, to: Path) -> Path:
    """A copy of a member's data, taken while it stands still."""
    member = servers.members[0]
    member.stop()
    shutil.copytree(member.data_dir, to)
    member.restart()
    return to


def check_restores(bbr: Bbr, host: Host) -> None:
    """Every listed backup restores, and verify has nothing to say."""
    for backup in backups(bbr, host):
        target = host.folder / f"{backup['id']}.db"
        assert bbr(*host.restore(str(backup["id"]), "--to-snapshot", target)).code == 0
    assert bbr("verify", *host.where()).code == 0


def test_reverted_machine_with_another_history_starts_a_new_generation(
    bbr: Bbr, host: Host, own_etcd: EtcdServers, tmp_path: Path
) -> None:
    command = host.backup(own_etcd.endpoints, cluster="reverted")
    saved = save(own_etcd, tmp_path / "saved")
    with own_etcd.client() as client:
        write.put(client, b"/registry/pods/default/q", b"before")
    assert bbr(*command).code == 0
    revert(own_etcd, saved)
    with own_etcd.client() as client:
        for number in range(3):
            write.put(client, b"/registry/pods/default/q", b"another history %d" % number)
    ended = bbr(*command)
    assert ended.code == 0
    assert "another history" in ended.out
    assert [one["sequence"] for one in backups(bbr, host) if one["cluster"] == "reverted"] == [0, 0]
    check_restores(bbr, host)


def test_members_behind_the_last_backup_start_a_new_generation(
    bbr: Bbr, host: Host, own_etcd: EtcdServers, tmp_path: Path
) -> None:
    command = host.backup(own_etcd.endpoints, cluster="behind")
    saved = save(own_etcd, tmp_path / "saved")
    with own_etcd.client() as client:
        write.put(client, b"/registry/pods/default/q", b"lost")
    assert bbr(*command).code == 0
    revert(own_etcd, saved)
    ended = bbr(*command)
    assert ended.code == 0
    assert "behind" in ended.out
    assert [one["sequence"] for one in backups(bbr, host) if one["cluster"] == "behind"] == [0, 0]
    check_restores(bbr, host)


def test_name_of_another_cluster_is_exit_5_unless_told(bbr: Bbr, host: Host, own_etcd: EtcdServers) -> None:
    command = host.backup(own_etcd.endpoints)
    ended = failed(bbr, host, *command)
    assert ended.code == 5
    assert "the name prod belongs to cluster" in ended.err
    assert "--accept-identity" in ended.err
    assert bbr(*command, "--accept-identity").code == 0
    check_restores(bbr, host)


def test_second_run_on_one_host_is_exit_11_and_the_first_succeeds(bbr: Bbr, host: Host, etcd: EtcdServers) -> None:
    gate = Gate()
    with (
        etcd_between(etcd.endpoints[0], meddle=gate.stream) as endpoint,
        started(*host.backup([endpoint])) as first,
    ):
        assert gate.reached.wait(20)
        before = snapshot_of(host.repository)
        with started(*host.backup(etcd.endpoints)) as second:
            refused = finished(second)
        assert snapshot_of(host.repository) == before
        gate.opened.set()
        done = finished(first)
    assert refused.code == 11
    assert refused.err == (
        f"bbr: another run of this host works on cluster prod (process {first.pid})\n"
        "  hint: wait for it to end; nothing needs to be unlocked\n"
    )
    assert done.code == 0, done.err
    assert [one["sequence"] for one in backups(bbr, host)] == [0, 1, 2]
    check_restores(bbr, host)


def test_nospace_alarm_is_backed_up_and_said(bbr: Bbr, host: Host, own_etcd: EtcdServers) -> None:
    with own_etcd.client() as client:
        write.raise_alarm(client, client.status().member_id, "NOSPACE")
    ended = bbr(*host.backup(own_etcd.endpoints, cluster="full"))
    assert ended.code == 0
    assert "NOSPACE" in ended.err
    restored = bbr(*host.restore(str(backups(bbr, host)[-1]["id"]), "--to-snapshot", host.folder / "full.db"))
    assert restored.code == 0
    assert "NOSPACE" in restored.out + restored.err
    assert "disarm" in restored.out + restored.err


def test_corrupt_alarm_is_exit_5_and_accepted_it_is_partial(bbr: Bbr, host: Host, own_etcd: EtcdServers) -> None:
    with own_etcd.client() as client:
        write.raise_alarm(client, client.status().member_id, "CORRUPT")
    command = host.backup(own_etcd.endpoints, cluster="corrupt")
    ended = failed(bbr, host, *command)
    assert ended.code == 5
    assert "CORRUPT" in ended.err
    accepted = bbr(*command, "--accept-disagreement")
    assert accepted.code == 3
    assert "partial" in accepted.err
    newest = backups(bbr, host)[-1]
    assert newest["status"] == "partial"
    assert "CORRUPT" in str(newest["doubt"])
    nothing = bbr(*host.restore("latest", "--cluster", "corrupt", "--to-snapshot", host.folder / "x.db"))
    assert nothing.code == 2


def test_damaged_member_is_exit_5_and_accepted_it_is_partial(
    bbr: Bbr, host: Host, etcd_binary: Path, tmp_path: Path
) -> None:
    with start_etcd(etcd_binary, tmp_path / "three", members=3, flags=QUICK) as servers:
        with servers.client() as client:
            write.put(client, b"/registry/pods/default/p", b"the truth, the whole truth" * 100)
        bad = servers.members[2]
        bad.stop()
        db = bad.data_dir / "member" / "snap" / "db"
        db.write_bytes(db.read_bytes().replace(b"the truth, the whole truth", b"the truth, the whole tooth"))
        bad.restart()
        command = host.backup(servers.endpoints, cluster="three")
        ended = failed(bbr, host, *command)
        assert ended.code == 5
        assert "members hold different data" in ended.err
        accepted = bbr(*command, "--accept-disagreement")
        assert accepted.code == 3
        assert "partial" in accepted.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 24 MiB."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(folder)], check=True, timeout=20
    )
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", str(folder)], check=True, timeout=20)


def test_full_spool_disk_is_exit_5(bbr: Bbr, host: Host, etcd: EtcdServers, small_disk: Path) -> None:
    command = host.backup(etcd.endpoints)
    command[command.index("--state-dir") + 1] = str(small_disk)
    ended = failed(bbr, host, *command)
    assert ended.code == 5
    assert str(small_disk) in ended.err
    assert "free space" in ended.err
    assert list(small_disk.glob("*/spool/*")) == []
