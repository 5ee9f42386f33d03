"""Programs that are units: what is seen of them, what a backup holds of them, and what a plan then has. The restore of
such an etcd is in test_etcd_only.py. systemd itself is a stand-in's, etcd is the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

from bbr.capture.control_plane import take_control_plane
from bbr.capture.etcd import Canaries
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from bbr.machines.machine import Machine
from bbr.machines.ssh import ssh_machine
from bbr.progress import Silent
from bbr.repository.hostfiles import decode_host_files, encode_host_files
from restore.draft import draft
from restore.iaas.lab import ssh_host
from restore.obstacles import obstacles
from restore.oldcluster import read_old_cluster
from restore.survey import Survey, survey
from tests.layouts import systemctl
from tests.restore.seen import facts, request

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")

UNIT = """\
[Service]
EnvironmentFile=/etc/etcd.env
ExecStart=/usr/local/bin/etcd --name e1 --data-dir ${DATA} --listen-client-urls=${URL} --advertise-client-urls=${URL}
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def machine(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A host on which etcd runs as a unit."""
    spec = HostSpec("e1", programs=(etcd_binary.parent,))
    with (
        Lab.up([spec], base=tmp_path_factory.mktemp("systemd") / "labs") as lab,
        ssh_machine(ssh_host(lab.host("e1"))) as one,
    ):
        one.put(PurePosixPath("/usr/bin/systemctl"), [systemctl.standin().encode()], mode=0o755)
        one.run(["sh", "-c", 'ln -s "$(command -v etcd)" /usr/local/bin/etcd; mkdir -p /srv/etcd /etc/etcd/pki'])
        one.put(PurePosixPath("/etc/etcd/pki/ca.key"), [b"key\n"], mode=0o600)
        one.put(PurePosixPath("/etc/etcd.env"), [b"DATA=/srv/etcd\nURL=http://127.0.0.1:2379\n"], mode=0o600)
        one.put(PurePosixPath("/etc/systemd/system/etcd.service"), [UNIT.encode()], mode=0o644)
        one.run(["systemctl", "enable", "etcd.service"])
        one.run(["systemctl", "start", "etcd.service"])
        yield one


@pytest.fixture(scope="module")
def seen(machine: Machine) -> Survey:
    return survey(machine)


def test_a_unit_is_seen_with_its_flags_and_its_version(seen: Survey) -> None:
    assert seen.layout == "systemd"
    assert seen.programs.keys() == {"etcd"}
    assert seen.data_dir == PurePosixPath("/srv/etcd")
    assert seen.versions["etcd"].startswith("3.")


def test_what_is_seen_is_the_same_until_somebody_works_there(machine: Machine, seen: Survey) -> None:
    assert survey(machine).fingerprint == seen.fingerprint
    path = PurePosixPath("/etc/etcd.env")
    machine.put(path, [b"DATA=/srv/other\nURL=http://127.0.0.1:2379\n"], mode=0o600)
    assert survey(machine).fingerprint != seen.fingerprint
    machine.put(path, [b"DATA=/srv/etcd\nURL=http://127.0.0.1:2379\n"], mode=0o600)
    assert survey(machine).fingerprint == seen.fingerprint


def test_a_backup_holds_units_and_says_what_it_did_not_look_at(machine: Machine) -> None:
    taken = take_control_plane({"e1": machine}, Canaries(None, None), now=datetime.now(UTC), progress=Silent())
    assert taken.problems == ()
    assert ["was not looked at" in one for one in taken.warnings] == [True]
    assert taken.archive.index["layout"] == "systemd"
    archive = decode_host_files(encode_host_files(taken.archive))
    paths = {str(file.path) for file in archive.hosts["e1"]}
    assert {"/etc/systemd/system/etcd.service", "/etc/etcd.env", "/etc/etcd/pki/ca.key"} <= paths
    old = read_old_cluster(archive)
    assert old.hosts["e1"].layout == "systemd"
    assert old.hosts["e1"].data_dir == "/srv/etcd"
    assert old.hosts["e1"].member_name == "e1"


def test_a_plan_knows_how_its_etcd_is_run(seen: Survey) -> None:
    found = facts([seen], old=None)
    assert obstacles(request("etcd-only"), found) == ()
    (host,) = draft(request("etcd-only"), found).hosts
    assert (host.layout, host.etcd_image, host.data_dir) == ("systemd", "", "/srv/etcd")
