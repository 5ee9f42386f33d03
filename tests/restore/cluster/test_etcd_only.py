"""etcd goes back to a backup and nothing else is touched: on masters that have it, and on hosts of its own.

The second has its own authority and folders, and runs etcd as a unit: on a host without systemd by a stand-in of
systemctl, see tests/layouts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bbr.lab.host import HostSpec
from tests.layouts import systemctl
from tests.restore.cluster.site import Site, object_names, opened_site, settled
from tests.restore.cluster.test_kinds import MEANT, check, fill

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(900),
]

FILES = "find {} -type f -exec sha256sum {{}} + | sort -k2"

AUTHORITY = """\
set -eu
mkdir -p /etc/etcd/pki && cd /etc/etcd/pki && umask 077
new() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
new ca-key.pem
openssl req -x509 -new -key ca-key.pem -days 100 -subj "/CN=etcd's own" -out ca.pem
issue() {
  new "$1-key.pem"
  printf 'subjectAltName=%s\\nextendedKeyUsage=serverAuth,clientAuth\\n' "$2" > ext
  openssl req -new -key "$1-key.pem" -subj "/CN=$1" |
    openssl x509 -req -days 100 -CA ca.pem -CAkey ca-key.pem -CAcreateserial -extfile ext -out "$1.pem" 2>/dev/null
  rm ext
}
issue member "DNS:e1,IP:ADDRESS,IP:127.0.0.1"
issue kubernetes "DNS:kubernetes"
"""

UNIT = """\
[Unit]
Description=etcd

[Service]
ExecStart=PROGRAM --name e1 --data-dir /var/lib/etcd \\
  --cert-file /etc/etcd/pki/member.pem --key-file /etc/etcd/pki/member-key.pem \\
  --client-cert-auth --trusted-ca-file /etc/etcd/pki/ca.pem \\
  --peer-cert-file /etc/etcd/pki/member.pem --peer-key-file /etc/etcd/pki/member-key.pem \\
  --peer-client-cert-auth --peer-trusted-ca-file /etc/etcd/pki/ca.pem \\
  --listen-client-urls https://127.0.0.1:2379,https://ADDRESS:2379 --advertise-client-urls https://ADDRESS:2379 \\
  --listen-peer-urls https://ADDRESS:2380 --initial-advertise-peer-urls https://ADDRESS:2380 \\
  --initial-cluster e1=https://ADDRESS:2380

[Install]
WantedBy=multi-user.target
"""

LEAVE = """\
set -eu
pki=/etc/kubernetes/pki/etcd
flags="--cacert $pki/ca.crt --cert $pki/healthcheck-client.crt --key $pki/healthcheck-client.key"
mkdir -p /root/kept && mv /etc/kubernetes/manifests/kube-*.yaml /root/kept
etcdctl --endpoints https://127.0.0.1:2379 $flags snapshot save /root/kept/snapshot.db >/dev/null 2>&1
mv /etc/kubernetes/manifests/etcd.yaml /root/kept
"""
"""On the master: it has no etcd any more, and no API server for now."""

JOIN = """\
set -eu
cd /root/kept
sed -i -e 's|--etcd-servers=.*|--etcd-servers=https://ADDRESS:2379|' \\
  -e 's|--etcd-cafile=.*|--etcd-cafile=/etc/kubernetes/pki/outside/ca.pem|' \\
  -e 's|--etcd-certfile=.*|--etcd-certfile=/etc/kubernetes/pki/outside/kubernetes.pem|' \\
  -e 's|--etcd-keyfile=.*|--etcd-keyfile=/etc/kubernetes/pki/outside/kubernetes-key.pem|' kube-apiserver.yaml
while pgrep -x etcd >/dev/null; do sleep 0.1; done
rm -rf /etc/kubernetes/pki/etcd /etc/kubernetes/pki/apiserver-etcd-client.* /var/lib/etcd
mv kube-*.yaml /etc/kubernetes/manifests/
timeout 200 sh -c 'until kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /readyz; do sleep 0.2; done' \
  >/dev/null 2>&1
"""


def move_etcd_out(site: Site) -> None:
    """The master's etcd goes to a host of its own, with its own authority, as a unit; the API server is told."""
    site.lab.add(HostSpec("e1", programs=site.lab.host("m1").spec.programs))
    address = site.lab.host("e1").address
    site.on("e1", AUTHORITY.replace("ADDRESS", address))
    site.on("e1", "cat > /usr/local/bin/systemctl && chmod 755 /usr/local/bin/systemctl", stdin=systemctl.standin())
    unit = UNIT.replace("ADDRESS", address).replace("PROGRAM", site.on("e1", "command -v etcd").strip())
    site.on("e1", "cat > /etc/systemd/system/etcd.service", stdin=unit)

    site.on("m1", LEAVE)
    snapshot = site.on("m1", "base64 -w0 /root/kept/snapshot.db")
    there = (
        f"--name e1 --initial-cluster e1=https://{address}:2380 --initial-advertise-peer-urls https://{address}:2380"
    )
    site.on(
        "e1",
        f"base64 -d > /root/snapshot.db && etcdutl snapshot restore /root/snapshot.db --data-dir /var/lib/etcd {there} "
        "2>/dev/null && systemctl enable etcd.service && systemctl start etcd.service",
        stdin=snapshot,
    )
    files = site.on("e1", "tar -C /etc/etcd/pki -c ca.pem kubernetes.pem kubernetes-key.pem | base64 -w0")
    outside = "/etc/kubernetes/pki/outside"
    site.on("m1", f"mkdir -p {outside} && base64 -d | tar -C {outside} -x", stdin=files)
    site.on("m1", JOIN.replace("ADDRESS", address))

    (site.folder / "etcd").mkdir()
    for name in ("ca.pem", "kubernetes.pem", "kubernetes-key.pem"):
        path = site.folder / "etcd" / name
        path.write_text(site.on("e1", f"cat /etc/etcd/pki/{name}"))
        path.chmod(0o600)
    configuration = json.loads((site.folder / "bbr.yaml").read_text())
    configuration["etcd"]["main"] = {
        "endpoints": [f"https://{address}:2379"],
        "ca_file": "etcd/ca.pem",
        "cert_file": "etcd/kubernetes.pem",
        "key_file": "etcd/kubernetes-key.pem",
    }
    configuration["masters"]["e1"] = {
        "address": address,
        "identity_file": str(site.lab.host("e1").identity),
        "known_hosts": str(site.lab.known_hosts),
    }
    (site.folder / "bbr.yaml").write_text(json.dumps(configuration))


def test_a_masters_own_etcd_goes_back_and_its_files_stay(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        files = site.on("m1", FILES.format("/etc/kubernetes"))
        site.kubectl("m1", "create", "namespace", "after")
        site.kubectl("m1", "delete", "namespace", "before")
        plan = site.plan("etcd-only")
        told = json.loads(plan.read_text())["plan"]
        assert any(one.startswith("made since, the newest first: /registry/") for one in told["loses"])
        site.apply(plan)
        check(site, "m1", before)
        assert site.on("m1", FILES.format("/etc/kubernetes")) == files


def test_an_etcd_on_its_own_host_goes_back_while_the_api_server_elsewhere_waits(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",)) as site:
        fill(site, "m1")
        move_etcd_out(site)
        before = settled(site, "m1", *MEANT)
        site.back_up()
        files = {host: site.on(host, FILES.format("/etc/kubernetes /etc/etcd 2>/dev/null")) for host in ("m1", "e1")}
        process = site.on("m1", "pgrep -x kube-apiserver")
        site.kubectl("m1", "create", "namespace", "after")
        plan = site.plan("etcd-only")
        hosts = json.loads(plan.read_text())["plan"]["hosts"]
        assert [(one["name"], one["role"], one["layout"]) for one in hosts] == [
            ("e1", "member", "systemd"),
            ("m1", "client", "kubeadm"),
        ]
        site.apply(plan)
        assert site.on("m1", "pgrep -x kube-apiserver") != process
        assert "Namespace//after" not in object_names(site, "m1", "namespaces")
        check(site, "m1", before)
        assert site.on("e1", "systemctl is-active etcd.service; systemctl is-enabled etcd.service").split() == [
            "active",
            "enabled",
        ]
        for host, listed in files.items():
            assert site.on(host, FILES.format("/etc/kubernetes /etc/etcd 2>/dev/null")) == listed
