"""What a plan is made of, for tests of the rules: a cluster of masters as a backup and a survey have it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from bbr.layouts.staticpod import StaticPod
from bbr.repository.backups import Backup
from restore.facts import Facts, Live, LiveMember, Request
from restore.iaas.iaas import Known
from restore.oldcluster import OldCluster, OldHost
from restore.plan import Kind
from restore.survey import Survey
from tests.repository.test_manifest import EXAMPLE

NOW = EXAMPLE.time + timedelta(hours=2, minutes=5)
CA = "e" * 64
AMPLE_BYTES = 10**12
ETCD_IMAGE, API_IMAGE = "registry.k8s.io/etcd:3.6.16-0", "registry.k8s.io/kube-apiserver:v1.37.2"


def address(name: str) -> str:
    """Every machine has its own: m1 is 10.0.1.1, n2 is 10.0.2.2."""
    return f"10.0.{'mne'.index(name[0]) + 1}.{name[1:]}"


def peer_url(name: str) -> str:
    """A member's."""
    return f"https://{address(name)}:2380"


def programs(name: str, *, servers: str = "https://127.0.0.1:2379") -> dict[str, StaticPod]:
    """A master's etcd and API server."""
    etcd = {
        "name": name,
        "initial-advertise-peer-urls": peer_url(name),
        "advertise-client-urls": f"https://{address(name)}:2379",
        "cert-file": "/etc/kubernetes/pki/etcd/server.crt",
        "trusted-ca-file": "/etc/kubernetes/pki/etcd/ca.crt",
        "data-dir": "/var/lib/etcd",
    }
    return {
        "etcd": StaticPod("etcd", ETCD_IMAGE, etcd, ()),
        "kube-apiserver": StaticPod("kube-apiserver", API_IMAGE, {"etcd-servers": servers}, ()),
    }


def master(name: str, *, layout: str = "kubeadm", running: Iterable[str] = ("etcd", "kube-apiserver")) -> Survey:
    """A master as it is seen."""
    return Survey(
        name=f"{name} ({address(name)})",
        hostname=name,
        is_root=True,
        free_bytes=AMPLE_BYTES,
        clock_s=0.0,
        agent_version="v1.37.2",
        running=frozenset(running),
        layout=layout,
        programs=programs(name),
        versions={"etcd": "3.6.16", "kube-apiserver": "1.37.2"},
        ca_sha256=CA,
        has_member=True,
        data_free_bytes=AMPLE_BYTES,
    )


def empty(name: str) -> Survey:
    """A machine with a kubelet and nothing on it."""
    return Survey(
        name=f"{name} ({address(name)})",
        hostname=name,
        is_root=True,
        free_bytes=AMPLE_BYTES,
        clock_s=0.0,
        agent_version="v1.37.2",
        running=frozenset(),
        layout="",
        programs={},
        versions={},
        ca_sha256="",
        has_member=False,
        data_free_bytes=AMPLE_BYTES,
    )


def old_cluster(names: Sequence[str], *, layout: str = "kubeadm") -> OldCluster:
    """The masters as a backup has them, without files."""
    hosts = {
        name: OldHost(
            name=name,
            node_name=name,
            address=address(name),
            member_name=name,
            peer_url=peer_url(name),
            client_url=f"https://{address(name)}:2379",
            data_dir="/var/lib/etcd",
            wal_dir="",
            etcd_ca_file="/etc/kubernetes/pki/etcd/ca.crt",
            endpoint="api.prod:6443",
            layout=layout,
            programs=programs(name),
            files={},
        )
        for name in names
    }
    return OldCluster(hosts, CA)


def living(names: Sequence[str], *, has_leader: bool = True, revision: int = 12) -> Live:
    """An etcd that still answers."""
    members = tuple(LiveMember(name, (peer_url(name),), False) for name in names)
    return Live(revision=revision, members=members, has_leader=has_leader, is_api_answering=has_leader)


def facts(
    surveys: Sequence[Survey],
    *,
    old: OldCluster | None,
    live: Live | None = None,
    also_known: Sequence[str] = (),
    can_fence: bool = False,
    counts: dict[str, int] | None = None,
) -> Facts:
    """What was gathered. Machines of ``also_known`` are in the inventory and were not looked at."""
    by_name = {one.hostname: one for one in surveys}
    names = [*by_name, *also_known]
    found = live or Live()
    return Facts(
        repository="/mnt/backups",
        inventory="/etc/bbr/prod.yaml",
        inventory_sha256="b" * 64,
        backup=Backup(EXAMPLE, "the manifest", "d" * 64, 1000),
        etcd="main",
        old=old,
        known={name: Known(name, "master", address(name), name, address(name)) for name in names},
        surveys=by_name,
        unreachable={},
        can_fence=can_fence,
        highest_revision=max(found.revision, EXAMPLE.etcds[0].revision),
        live=found,
        lives={name: found if "etcd" in one.running else Live() for name, one in by_name.items()},
        inventory_counts=counts or {},
        now=NOW,
    )


def request(kind: Kind, *, to: Sequence[str] = (), lost: Sequence[str] = (), attested: Iterable[str] = ()) -> Request:
    """What a person decided."""
    return Request(
        run="prod-20260102t050500-a1b2",
        kind=kind,
        target="prod",
        to=tuple(to),
        lost=tuple(lost),
        attested=frozenset(attested),
        new_endpoint="",
        is_stale_removed=True,
        is_webhook_quarantined=True,
        is_rehearsed=True,
        is_backed_up=True,
    )
