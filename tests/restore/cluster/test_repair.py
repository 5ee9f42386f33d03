"""One master of three lost and replaced while the others serve: on the fast tier, by the command line over SSH."""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from tests.restore.cluster.site import Site, object_names, opened_site

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(900),
]

PKI = "/etc/kubernetes/pki"
ETCDCTL = (
    f"etcdctl --endpoints https://127.0.0.1:2379 --cacert {PKI}/etcd/ca.crt "
    f"--cert {PKI}/etcd/healthcheck-client.crt --key {PKI}/etcd/healthcheck-client.key -w json "
)
PAUSE_S = 0.1
"""Between two questions of the watcher."""


@dataclass
class Watched:
    """What came of asking again and again whether the API servers are ready; their etcd is part of that answer."""

    well: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def watched(site: Site, masters: Sequence[str]) -> Iterator[Watched]:
    """Ask the API servers of these masters in turn, until the end of the block."""
    tls = ssl.create_default_context(cadata=site.on(masters[0], f"cat {PKI}/ca.crt"))
    seen, ended = Watched(), threading.Event()

    def ask() -> None:
        while not ended.wait(PAUSE_S):
            for master in masters:
                try:
                    with site.lab.connect(master, 6443) as plain:
                        plain.settimeout(10)
                        with tls.wrap_socket(plain, server_hostname=site.lab.host(master).address) as connection:
                            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
                            answer = connection.recv(64)
                except OSError as err:
                    answer = str(err).encode()
                if answer.startswith(b"HTTP/1.1 200"):
                    seen.well += 1
                else:
                    seen.failures.append(f"{master}: {answer[:60]!r}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def reopened(site: Site) -> Site:
    """The same, with the lab as it is now: bbr has made hosts in it."""
    return replace(site, lab=Lab.open(site.lab.name, base=site.lab.folder.parent))


def members(site: Site, master: str) -> dict[str, bool]:
    """The members of etcd by name, and whether each is a learner."""
    listed = json.loads(site.on(master, ETCDCTL + "member list"))
    return {one.get("name", ""): bool(one.get("isLearner")) for one in listed["members"]}


def hashes(site: Site, master: str) -> set[int]:
    """HashKV of every member at one revision."""
    revision = json.loads(site.on(master, ETCDCTL + "endpoint status"))[0]["Status"]["header"]["revision"]
    answers = json.loads(site.on(master, ETCDCTL + f"endpoint hashkv --cluster --rev {revision}"))
    return {one["HashKV"]["hash"] for one in answers}


def test_a_lost_master_is_replaced_twice_while_the_others_serve(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1", "m2", "m3")) as site:
        site.kubectl("m1", "create", "namespace", "before")
        site.back_up()
        site.kubectl("m1", "create", "namespace", "since")

        # On a machine of another name.
        site.lab.power_off("m2")
        with watched(site, ("m1", "m3")) as seen:
            site.apply(site.plan("repair", "--lost", "m2", "--make", "n1"))
        assert not seen.failures
        assert seen.well > 10
        assert members(site, "m1") == {"m1": False, "m3": False, "n1": False}
        assert len(hashes(site, "m1")) == 1
        names = object_names(site, "n1", "nodes", "namespaces")
        assert {"Node//m1", "Node//m3", "Node//n1", "Namespace//since", "Namespace//before"} <= names
        assert "Node//m2" not in names

        # The same name again, at another address: what is at the name now cannot be fenced, so a person's word counts.
        site = reopened(site).configure(("m1", "n1", "m3"))
        site.back_up()
        old_address = site.lab.host("m3").address
        site.lab.remove("m3")
        site.lab.add(HostSpec("spare"))  # takes the free address
        words = ("--lost", "m3", "--make", "m3")
        refused = site.bbr(
            *("restore", "plan", "latest", "--kind", "repair", "--inventory", "inventory.yaml"),
            *("--identity", "bbr-keys/recovery-1.txt", "--out", "refused.json", *words),
            check=False,
        )
        assert refused.returncode == 5
        assert "--attest m3" in refused.stderr
        with watched(site, ("m1", "n1")) as seen:
            site.apply(site.plan("repair", *words, "--attest", "m3"))
        assert not seen.failures
        assert reopened(site).lab.host("m3").address != old_address
        assert members(site, "m1") == {"m1": False, "m3": False, "n1": False}
        assert len(hashes(site, "m1")) == 1
        assert "Node//m3" in object_names(site, "m3", "nodes")
