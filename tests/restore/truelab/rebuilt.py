"""A restore in the true lab and all that must hold at its end: the same for every kind."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bbr.apiserver.client import ApiServer
from bbr.apiserver.leases import node_leases
from bbr.apiserver.nodes import nodes
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.snapshot import Snapshot
from restore.etcd import bumped_hash_kv
from tests.restore.cluster.site import IDENTITY, TARGET, Site, opened_site
from tests.restore.truelab.filling import (
    ENCRYPTED_SECRETS,
    LIMIT_S,
    NAMESPACE,
    OBJECTS,
    PODS,
    WORD,
    WORKER,
    Watch,
    api,
    as_robot,
    etcd,
    fill,
    running_pods,
    soon,
    start_another,
    watching,
)
from tests.restore.truelab.objects import LARGE, differences, every_object, every_settled
from tests.restore.truelab.stopping import Point, killed_at

BUCKETS = (b"lease", b"auth", b"authUsers", b"authRoles", b"alarm")
_CONTAINERS = "for one in $(ctr -n k8s.io containers ls -q); do ctr -n k8s.io containers info $one; done"
_POD, _SECRET = "io.kubernetes.pod.uid", ("-n", NAMESPACE, "get", "secret", "known", "-o", "jsonpath={.data.word}")


@dataclass(frozen=True, slots=True)
class Before:
    """The cluster as it was when it was backed up. ``snapshot`` is the backup's etcd, written out by bbr.

    ``watch`` is None where nothing happened since, so that nothing is lost.
    """

    site: Site
    master: str
    objects: dict[str, str]
    backup: str
    snapshot: Path
    watch: Watch | None


@contextmanager
def backed_up(
    folder: Path, masters: Sequence[str], *, objects: int = OBJECTS, is_changed: bool = True
) -> Iterator[Before]:
    """A filled cluster that was backed up, and ``is_changed`` since, while a client watched."""
    with opened_site(folder, masters=masters, workers=(WORKER,), tier="true") as site:
        first = masters[0]
        fill(site, first, objects=objects)
        with api(site, first) as client:
            meant = every_settled(client)
        assert len(meant) > objects
        backup = site.back_up()
        site.bbr("restore", "etcd", "latest", *IDENTITY, "--to-snapshot", "backup.db")
        with watching(site, first) if is_changed else nullcontext() as watch:
            yield Before(site, first, meant, backup, site.folder / "backup.db", watch)


def restore(before: Before, plan: Path) -> None:
    """Apply a plan: killed once, when the members are made and none has started, to look at what they hold then."""
    site = before.site
    killed_at(site, Point("done", "make-members"), *apply_words(plan))
    members_hold_what_was_backed_up(before, plan)
    site.apply(plan)


def apply_words(plan: Path) -> tuple[str, ...]:
    """The words that apply a plan."""
    return ("restore", "apply", str(plan), *IDENTITY, "--confirm", TARGET)


def members_hold_what_was_backed_up(before: Before, plan: Path) -> None:
    """The members' files, before any etcd or API server ran on them: HashKV, leases, users and roles."""
    planned = json.loads(plan.read_text())["plan"]
    bumped = planned["source"]["etcd"]["revision"] + planned["choices"]["bump"]
    with Snapshot.open(before.snapshot) as backup:
        promised = bumped_hash_kv(backup, bumped)
        kept = {name: _bucket(backup, name) for name in BUCKETS}
    assert kept[b"lease"]
    for host in planned["hosts"]:
        file = before.site.folder / f"member-{host['name']}.db"
        file.write_bytes(_fetched(before.site, host["name"], f"{host['data_dir']}/member/snap/db"))
        with Snapshot.open(file) as member:
            assert member.revision == bumped
            assert hash_kv(member.reader, bumped, bumped) == promised, host["name"]
            assert {name: _bucket(member, name) for name in BUCKETS} == kept, host["name"]


def check(before: Before, plan: Path, masters: Sequence[str]) -> None:
    """What must hold at the end. ``masters`` are those that there are now."""
    site, master = before.site.configure(masters), masters[0]
    planned = json.loads(plan.read_text())["plan"]
    if planned["kind"] != "repair":
        _check_journal(site, plan)
        _check_members(site, before.snapshot, planned, masters)
    later = datetime.now(UTC)
    with api(site, master) as client:
        soon(lambda: _is_back(before, client), why="objects differ")
        assert differences(before.objects, every_object(client)) == []
        # Kubelets report, and not only as the backup remembers it.
        soon(lambda: _all_report([*masters, WORKER], client, later), why="a kubelet does not report")
    _check_access(site, master)
    if before.watch is not None:
        told = before.watch.goes_on()
        assert '"code":410' in told.replace(" ", "") or "Expired" in told, told
    check_pods(site, master)


def check_pods(site: Site, master: str) -> None:
    """The pods of the backup run, a new one starts, and of those that came later nothing is left on the worker."""
    soon(lambda: len(running_pods(site, master, "app")) == PODS, why="the Deployment's pods do not run")
    start_another(site, master)

    def strangers() -> set[str]:
        listed = json.loads(site.kubectl(master, "get", "pods", "-A", "-o", "json"))["items"]
        return _pods_on(site, WORKER) - {pod["metadata"]["uid"] for pod in listed}

    soon(lambda: not strangers(), why="pods run that the cluster does not know")
    assert running_pods(site, master, "app") <= _pods_on(site, WORKER)


def _check_journal(site: Site, plan: Path) -> None:
    """The rehearsal's HashKV was the manifest's, and the members' the offline value, before any API server ran."""
    journal = site.journal(plan)
    ends = {entry["step"]: str(entry["time"]) for entry in journal if entry["event"] in ("done", "found")}
    begins = {entry["step"]: str(entry["time"]) for entry in reversed(journal) if entry["event"] == "begun"}
    assert journal[-1]["event"] == "finished"
    assert ends["rehearse"] < begins["make-members"]
    assert ends["start-etcd"] < begins["start-recovery"] < begins["start-api-servers"]


def _check_members(site: Site, snapshot: Path, planned: dict[str, Any], masters: Sequence[str]) -> None:
    """Every member answers the offline value still, asked by us."""
    bumped = planned["source"]["etcd"]["revision"] + planned["choices"]["bump"]
    with Snapshot.open(snapshot) as backup:
        assert hash_kv(backup.reader, backup.revision, backup.compact_revision) == planned["source"]["etcd"]["hash_kv"]
        promised = bumped_hash_kv(backup, bumped)
    for name in masters:
        with etcd(site, name) as client:
            assert client.hash_kv(bumped).hash == promised, name


def _is_back(before: Before, client: ApiServer) -> bool:
    small = {name: digest for name, digest in before.objects.items() if not name.startswith(f"{LARGE} ")}
    found = differences(small, every_object(client, but=LARGE))
    assert not found, found
    return True


def _all_report(names: Sequence[str], client: ApiServer, later: datetime) -> bool:
    ready = {node.name for node in nodes(client) if node.is_ready}
    renewed = {name for name, one in node_leases(client).items() if one.renewed is not None and one.renewed > later}
    assert {node.name for node in nodes(client)} == set(names), "Nodes that are none"
    return set(names) <= ready & renewed


def _check_access(site: Site, master: str) -> None:
    """By the endpoint: kubectl, the old token with the rights it had, and every Secret; the webhook blocks nothing."""
    assert "system:serviceaccount:before:robot" in as_robot(site, "auth", "whoami")
    word = base64.b64encode(WORD.encode()).decode()
    assert as_robot(site, *_SECRET) == word == site.kubectl(master, *_SECRET)
    assert "Forbidden" in as_robot(site, "get", "nodes", check=False)
    secrets = json.loads(site.kubectl(master, "-n", NAMESPACE, "get", "secrets", "-o", "json"))["items"]
    words = {base64.b64decode(one["data"]["word"]).decode() for one in secrets}
    assert words == {WORD, *(f"{number}-{WORD}" for number in range(ENCRYPTED_SECRETS))}


def _pods_on(site: Site, host: str) -> set[str]:
    """The uids of the pods of which containers, running or ended, are on a host."""
    text, found, decoder = site.on(host, _CONTAINERS), set(), json.JSONDecoder()
    while text := text.strip():
        container, end = decoder.raw_decode(text)
        text = text[end:]
        if _POD in container["Labels"]:
            found.add(container["Labels"][_POD])
    return found


def _fetched(site: Site, host: str, path: str) -> bytes:
    line = ["ssh", "-F", str(site.lab.ssh_config), host, f"cat {path}"]
    return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=LIMIT_S).stdout


def _bucket(snapshot: Snapshot, name: bytes) -> list[tuple[bytes, bytes]]:
    if name not in snapshot.reader.bucket_names():
        return []
    return [(bytes(key), bytes(value)) for key, value in snapshot.reader.items(name)]
