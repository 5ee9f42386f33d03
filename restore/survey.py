"""What is seen on a machine before anything is planned, and again before a plan is applied. Reads only.

What stays the same unless somebody works on the machine makes the fingerprint: another one at `apply` is drift. Free
space, clocks and what runs are facts of the moment, and are looked at each time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from bbr.errors import FileMissing, UsageError
from bbr.layouts.pki import PKI
from bbr.layouts.staticpod import StaticPod, parse_pod
from bbr.machines.machine import Machine

MANIFESTS = PurePosixPath("/etc/kubernetes/manifests")
DEFAULT_DATA_DIR = PurePosixPath("/var/lib/etcd")
FILE_LIMIT_BYTES = 1024 * 1024
_LOOK_TIME = timedelta(seconds=30)

_LOOK = """\
echo "now=$(date +%s.%N)"
echo "hostname=$(hostname)"
echo "uid=$(id -u)"
echo "free=$(df -B1 --output=avail -- /var/lib 2>/dev/null | tail -1 | tr -d ' ')"
echo "agent=$(kubelet --version 2>/dev/null)"
for program in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet; do
  for comm in /proc/[0-9]*/comm; do
    read -r name < "$comm" 2>/dev/null || continue
    case $program in "$name"*) [ ${#name} -ge 15 ] || [ "$name" = "$program" ] && echo "runs=$program" && break;; esac
  done
done
for manifest in /etc/kubernetes/manifests/*; do
  [ -f "$manifest" ] && echo "manifest=$manifest"
done
for directory in "$@"; do
  [ -d "$directory/member" ] && echo "member=$directory"
  echo "free:$directory=$(df -B1 --output=avail -- "$directory" 2>/dev/null | tail -1 | tr -d ' ')"
done
exit 0
"""
# A name in /proc/*/comm has at most 15 bytes: kube-controller-manager is told by its beginning.


@dataclass(frozen=True, slots=True)
class Survey:
    """One machine. ``programs`` are its static pods by program; ``clock_s`` its clock minus ours, in seconds."""

    name: str
    hostname: str
    is_root: bool
    free_bytes: int
    clock_s: float
    agent_version: str
    running: frozenset[str]
    programs: Mapping[str, StaticPod]
    ca_sha256: str
    has_member: bool
    data_free_bytes: int

    @property
    def etcd(self) -> StaticPod | None:
        """The etcd that is to run here."""
        return self.programs.get("etcd")

    @property
    def data_dir(self) -> PurePosixPath:
        """etcd's, on the host."""
        return (self.etcd.file("data-dir") if self.etcd else None) or DEFAULT_DATA_DIR

    @property
    def wal_dir(self) -> PurePosixPath | None:
        """A separate folder for etcd's write-ahead log, on the host."""
        return self.etcd.file("wal-dir") if self.etcd else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what only changes when somebody works on this machine."""
        lasting = {
            "hostname": self.hostname,
            "agent": self.agent_version,
            "ca": self.ca_sha256,
            "programs": {name: [pod.image, dict(pod.flags)] for name, pod in self.programs.items()},
            "member": self.has_member,
        }
        return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def survey(machine: Machine) -> Survey:
    """Look at one machine. Raises what the machine raises."""
    before = time.time()
    found = _look(machine, DEFAULT_DATA_DIR)
    middle = (before + time.time()) / 2
    programs = _programs(machine, found.get("manifest", []))
    etcd = programs.get("etcd")
    data_dir = (etcd.file("data-dir") if etcd else None) or DEFAULT_DATA_DIR
    if data_dir != DEFAULT_DATA_DIR:
        found = {**_look(machine, data_dir), "now": found["now"]}
    return Survey(
        name=machine.name,
        hostname=_one(found, "hostname"),
        is_root=_one(found, "uid") == "0",
        free_bytes=_number(found, "free"),
        clock_s=float(_one(found, "now") or middle) - middle,
        agent_version=_one(found, "agent").removeprefix("Kubernetes "),
        running=frozenset(found.get("runs", [])),
        programs=programs,
        ca_sha256=_ca_fingerprint(machine),
        has_member=str(data_dir) in found.get("member", []),
        data_free_bytes=_number(found, f"free:{data_dir}") or _number(found, "free"),
    )


def fingerprint_of(certificate_pem: bytes) -> str:
    """SHA-256 of a certificate's DER form, as ``openssl x509 -fingerprint -sha256`` has it, in small letters."""
    try:
        return x509.load_pem_x509_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()
    except ValueError:
        return ""


def read_file(machine: Machine, path: PurePosixPath) -> bytes | None:
    """A small file; None when it is not there."""
    try:
        return b"".join(machine.get(path, limit_bytes=FILE_LIMIT_BYTES))
    except FileMissing:
        return None


def _look(machine: Machine, data_dir: PurePosixPath) -> dict[str, list[str]]:
    output = machine.run(["sh", "-c", _LOOK, "bbr", str(data_dir)], timeout=_LOOK_TIME)
    found: dict[str, list[str]] = {}
    for line in output.stdout.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value)
    return found


def _programs(machine: Machine, manifests: list[str]) -> dict[str, StaticPod]:
    pods = {}
    for manifest in manifests:
        path = PurePosixPath(manifest)
        body = None if path.name.startswith(".") else read_file(machine, path)
        if body is None:
            continue
        try:
            pod = parse_pod(body.decode(errors="replace"), path.stem, what=f"{machine.name}: {path}")
        except UsageError:
            continue  # the kubelet does not run it either
        pods[pod.program] = pod
    return pods


def _ca_fingerprint(machine: Machine) -> str:
    body = read_file(machine, PKI / "ca.crt")
    return fingerprint_of(body) if body else ""


def _one(found: Mapping[str, list[str]], key: str) -> str:
    return found.get(key, [""])[0].strip()


def _number(found: Mapping[str, list[str]], key: str) -> int:
    value = _one(found, key)
    return int(value) if value.isdecimal() else 0
