"""What must be so before a plan is worth making: rules over what was seen and what the backup says. Pure.

``problems`` stand in the way; ``warnings`` are for the person who decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from bbr.layouts.pki import AUTHORITIES, PKI
from restore.etcd import WAL_BYTES
from restore.guard import HOME
from restore.oldcluster import KUBEADM, OldCluster, same_minor
from restore.plan import Kind
from restore.survey import Survey

ROOM_TIMES = 3
ROOM_EXTRA_BYTES = WAL_BYTES + 32 * 1024 * 1024
"""Free space: the old data, the upload and the new data, the write-ahead log that etcdutl allocates, and some."""

CLOCK_LIMIT = timedelta(seconds=60)
"""Certificates are issued five minutes back; tokens and leases do not bear more than this."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found. A plan is only made without problems."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check(
    kind: Kind,
    surveys: Mapping[str, Survey],
    old: OldCluster | None,
    *,
    etcd_version: str,
    snapshot_bytes: int,
    now: datetime,
) -> Preflight:
    """Hold every machine that gets a member against the backup."""
    problems: list[str] = []
    warnings: list[str] = []
    for name, seen in surveys.items():
        problems += (f"{name}: {problem}" for problem in _machine_problems(seen, snapshot_bytes))
        if kind in ("fresh", "repair"):
            problems += (f"{name}: {problem}" for problem in _new_machine_problems(seen, old))
            if seen.has_member:
                warnings.append(f"{name}: {seen.data_dir} holds an etcd member; it goes aside")
        else:
            problems += (f"{name}: {problem}" for problem in _standing_machine_problems(kind, seen, old, etcd_version))
    if old is not None:
        report = old.pki(now)
        fatal = kind in ("fresh", "repair")
        (problems if fatal else warnings).extend(f"the backup: {one}" for one in report.problems)
        warnings += [f"the backup: {note}" for note in report.notes]
        if fatal:
            warnings += _missing_authorities(old)
    return Preflight(tuple(problems), tuple(warnings))


def _machine_problems(seen: Survey, snapshot_bytes: int) -> Iterator[str]:
    needed = ROOM_TIMES * snapshot_bytes + ROOM_EXTRA_BYTES
    for folder, free in ((seen.data_dir, seen.data_free_bytes), (HOME, seen.free_bytes)):
        if free < needed:
            yield f"{free / 1e6:,.0f} MB are free for {folder}, {needed / 1e6:,.0f} MB are needed: make room there"
    if abs(seen.clock_s) > CLOCK_LIMIT.total_seconds():
        yield (
            f"its clock is {abs(seen.clock_s):,.0f} s {'ahead of' if seen.clock_s > 0 else 'behind'} this host's; "
            f"set the one that is wrong"
        )
    if not seen.is_root:
        yield "commands do not run as root there: set sudo: true for it in the inventory, or log in as root"


def _new_machine_problems(seen: Survey, old: OldCluster | None) -> Iterator[str]:
    alive = sorted(seen.running & {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"})
    if alive:
        yield f"{', '.join(alive)} runs there: it serves a living cluster; choose another machine, or stop it first"
    if not seen.agent_version:
        yield "there is no kubelet: install kubelet and a container runtime of the cluster's version first"
    wanted = old.image_version("kube-apiserver") if old else ""
    if not same_minor(seen.agent_version, wanted):
        yield f"its kubelet is {seen.agent_version}, the control plane is {wanted}: install that minor version"


def _standing_machine_problems(kind: Kind, seen: Survey, old: OldCluster | None, etcd_version: str) -> Iterator[str]:
    if seen.etcd is None:
        yield "no etcd is set up there; is it a master of this cluster? For a new machine: --kind fresh"
        return
    if kind == "in-place" and seen.layout != KUBEADM:
        yield (
            "its programs are units, and a restore in place looks into the data through a static pod before anybody "
            "else sees it: restore etcd alone, --kind etcd-only"
        )
    there = seen.versions.get("etcd", "")
    if not same_minor(there, etcd_version):
        yield f"its etcd is {there}, the backup was taken of {etcd_version}: install that minor version first"
    if old is None or kind == "etcd-only":
        return
    if seen.ca_sha256 and seen.ca_sha256 != old.ca_sha256:
        yield (
            f"its CA is {seen.ca_sha256[:16]}..., the backup's {old.ca_sha256[:16]}...: this is another cluster; "
            "for new machines: --kind fresh"
        )
    here = seen.versions.get("kube-apiserver", "")
    wanted = old.image_version("kube-apiserver")
    if not same_minor(here, wanted):
        yield (
            f"its Kubernetes is {here}, the backup is of {wanted}: objects may be stored in versions that it does not "
            "read; install that minor version, or choose a backup of this one"
        )


def _missing_authorities(old: OldCluster) -> Iterator[str]:
    for name in AUTHORITIES:
        key = PKI / f"{name}.key"
        if not any(key in host.files for host in old.hosts.values()):
            yield f"{key} is not in the backup: certificates must be issued by your own authority"
