"""The files of a master as the real kubeadm writes them, in a folder instead of /, and a machine that sees it as /."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path, PurePosixPath

from bbr.machines.local import local_machine
from bbr.machines.machine import RUN_TIME, TRANSFER_TIME, Digest, Output, Stat

PHASES = ("certs all", "kubeconfig all", "control-plane all", "etcd local")

CONFIGURATION = """
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 10.77.0.11, bindPort: 6443}
nodeRegistration: {name: m1, criSocket: "unix:///run/containerd/containerd.sock"}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.37.2
controlPlaneEndpoint: "api.lab:6443"
etcd: {local: {imageTag: 3.6.16-0, dataDir: /var/lib/etcd}}
networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12}
apiServer:
  extraArgs:
    - {name: encryption-provider-config, value: /etc/kubernetes/enc/config.yaml}
    - {name: admission-control-config-file, value: /etc/adm/admission.yaml}
    - {name: audit-log-path, value: /var/log/audit/audit.log}
  extraVolumes:
    - {name: enc, hostPath: /opt/enc, mountPath: /etc/kubernetes/enc, readOnly: true, pathType: Directory}
    - {name: adm, hostPath: /opt/adm, mountPath: /etc/adm, readOnly: true, pathType: Directory}
    - {name: audit, hostPath: /var/log/audit, mountPath: /var/log/audit, pathType: DirectoryOrCreate}
"""
"""Files under /opt that only flags name, one of which names another by the path that its container sees."""

EXTRA = {
    "opt/enc/config.yaml": "kind: EncryptionConfiguration\nresources: []\n",
    "opt/adm/admission.yaml": "kind: AdmissionConfiguration\nplugins: [{name: X, path: /etc/oidc/plugin.yaml}]\n",
    "etc/oidc/plugin.yaml": "ca: /etc/oidc/ca.pem\n",
    "etc/oidc/ca.pem": "-----BEGIN CERTIFICATE-----\n",
    "etc/cni/net.d/10-lab.conflist": "{}\n",
    "var/lib/kubelet/config.yaml": "kind: KubeletConfiguration\nclusterDNS: [10.96.0.10]\n",
    "var/lib/kubelet/kubeadm-flags.env": 'KUBELET_KUBEADM_ARGS="--node-ip=10.77.0.11"\n',
    "var/lib/kubelet/pki/kubelet-client-current.pem": "never another node's\n",
    "var/lib/etcd/member/snap/db": "data\n",
    "var/log/audit/audit.log": "who did what\n",
}


def make_tree(kubeadm: Path, root: Path) -> None:
    """Let kubeadm write a master's files into ``root``, and add what kubelet, CNI and people add."""
    for name, body in EXTRA.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    (root / "kubeadm.yaml").write_text(CONFIGURATION)
    for phase in PHASES:
        words = [str(kubeadm), "--rootfs", str(root), "init", "phase", *phase.split(), "--config", "/kubeadm.yaml"]
        subprocess.run(words, check=True, capture_output=True, timeout=60)
    (root / "kubeadm.yaml").unlink()


class Rooted:
    """This machine, with a folder for its /: absolute paths of commands lie in it, and so do those of their answers."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._machine = local_machine()

    @property
    def name(self) -> str:
        """See `Machine.name`."""
        return "m1"

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta = RUN_TIME,
        expect: Collection[int] = (0,),
    ) -> Output:
        """See `Machine.run`."""
        words = [f"{self._root}{word}" if word.startswith("/") else word for word in command]
        output = self._machine.run(words, stdin=stdin, timeout=timeout, expect=expect)
        return Output(output.exit_code, output.stdout.replace(self._root.encode(), b""), output.stderr)

    def put(
        self,
        path: PurePosixPath,
        body: Iterable[bytes],
        *,
        mode: int,
        owner: str | None = None,
        sha256: Digest | None = None,
        timeout: timedelta = TRANSFER_TIME,
    ) -> Digest:
        """See `Machine.put`."""
        return self._machine.put(self._inside(path), body, mode=mode, owner=owner, sha256=sha256, timeout=timeout)

    def get(self, path: PurePosixPath, *, limit_bytes: int, timeout: timedelta = TRANSFER_TIME) -> Iterator[bytes]:
        """See `Machine.get`."""
        return self._machine.get(self._inside(path), limit_bytes=limit_bytes, timeout=timeout)

    def stat(self, path: PurePosixPath) -> Stat | None:
        """See `Machine.stat`."""
        return self._machine.stat(self._inside(path))

    def _inside(self, path: PurePosixPath) -> PurePosixPath:
        return PurePosixPath(f"{self._root}{path}")
