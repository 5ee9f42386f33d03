"""What is seen on a machine before anything is planned, and again before a plan is applied. Reads only.

What the machine is to run is asked of its layout (`bbr.layouts.detect`). What stays the same unless somebody works on
the machine makes the fingerprint: another one at `apply` is drift. Free space, clocks and what runs are facts of the
moment, and are looked at each time.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import PurePosixPath

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from bbr.errors import CommandFailed, FileMissing
from bbr.layouts.detect import look
from bbr.layouts.layout import OURS, Definition
from bbr.layouts.pki import PKI
from bbr.layouts.staticpod import StaticPod
from bbr.machines.machine import Machine
from restore.readkeys import API_SERVER, Keys, read_keys

DEFAULT_DATA_DIR = PurePosixPath("/var/lib/etcd")
FILE_LIMIT_BYTES = 1024 * 1024
_LOOK_TIME = timedelta(seconds=30)
_TAG = re.compile(r":v?([0-9]+(?:\.[0-9]+){1,2})[^/:]*$")
_VERSION = re.compile(r"\bv?([0-9]+\.[0-9]+\.[0-9]+)")

_LOOK = """\
echo "now=$(date +%s.%N)"
echo "hostname=$(hostname)"
echo "uid=$(id -u)"
home=/var/lib/bbr
[ -d "$home" ] || home=/var/lib
echo "free=$(df -B1 --output=avail -- "$home" 2>/dev/null | tail -1 | tr -d ' ')"
echo "agent=$(kubelet --version 2>/dev/null)"
for program in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet; do
  for comm in /proc/[0-9]*/comm; do
    read -r name < "$comm" 2>/dev/null || continue
    case $program in "$name"*) [ ${#name} -ge 15 ] || [ "$name" = "$program" ] && echo "runs=$program" && break;; esac
  done
done
for directory in "$@"; do
  [ -d "$directory/member" ] && echo "member=$directory" && echo "place=$(stat -c %i -- "$directory/member")"
  echo "free:$directory=$(df -B1 --output=avail -- "$directory" 2>/dev/null | tail -1 | tr -d ' ')"
done
echo "files=$(find /etc/kubernetes -type f -exec sha256sum -- {} + 2>/dev/null | sort | sha256sum)"
exit 0
"""
# A name in /proc/*/comm has at most 15 bytes: kube-controller-manager is told by its beginning.


@dataclass(frozen=True, slots=True)
class Survey:
    """One machine. ``clock_s`` is its clock minus ours, in seconds.

    ``programs`` is what it is to run, by program, in the way of ``layout`` ("" where that is nothing);
    ``versions`` what they are, "" where that cannot be told. ``files_sha256`` is of all files in /etc/kubernetes,
    ``member_place`` the inode of etcd's data: a copy that took its place is other data.
    """

    name: str
    hostname: str
    is_root: bool
    free_bytes: int
    clock_s: float
    agent_version: str
    running: frozenset[str]
    layout: str
    programs: Mapping[str, StaticPod]
    versions: Mapping[str, str]
    ca_sha256: str
    has_member: bool
    data_free_bytes: int
    keys: Keys | None = None
    files_sha256: str = ""
    member_place: str = ""

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
            "keys": self.keys.sha256 if self.keys else "",
            "files": self.files_sha256,
            "place": self.member_place,
        }
        return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def survey(machine: Machine) -> Survey:
    """Look at one machine. Raises what the machine raises."""
    before = time.time()
    found = _ask(machine, DEFAULT_DATA_DIR)
    middle = (before + time.time()) / 2
    layout, programs, versions, keys = _programs(machine)
    etcd = programs.get("etcd")
    data_dir = (etcd.file("data-dir") if etcd else None) or DEFAULT_DATA_DIR
    if data_dir != DEFAULT_DATA_DIR:
        found = {**_ask(machine, data_dir), "now": found["now"]}
    return Survey(
        name=machine.name,
        hostname=_one(found, "hostname"),
        is_root=_one(found, "uid") == "0",
        free_bytes=_number(found, "free"),
        clock_s=float(_one(found, "now") or middle) - middle,
        agent_version=_one(found, "agent").removeprefix("Kubernetes "),
        running=frozenset(found.get("runs", [])),
        layout=layout,
        programs=programs,
        versions=versions,
        ca_sha256=_ca_fingerprint(machine),
        has_member=str(data_dir) in found.get("member", []),
        data_free_bytes=_number(found, f"free:{data_dir}") or _number(found, "free"),
        keys=keys,
        files_sha256=_one(found, "files"),
        member_place=_one(found, "place"),
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


def _ask(machine: Machine, data_dir: PurePosixPath) -> dict[str, list[str]]:
    output = machine.run(["sh", "-c", _LOOK, "bbr", str(data_dir)], timeout=_LOOK_TIME)
    found: dict[str, list[str]] = {}
    for line in output.stdout.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value)
    return found


def _programs(machine: Machine) -> tuple[str, dict[str, StaticPod], dict[str, str], Keys | None]:
    """The layout's name, what is to run, the versions, and what its API server reads with. What a restore put there
    itself is not counted."""
    found = look(machine)
    if found is None:
        return "", {}, {}, None
    layout, definitions = found
    own = {name: one for name, one in definitions.items() if not name.startswith(OURS)}
    versions = {name: _version(machine, one) for name, one in own.items()}
    keys = _keys(machine, own[API_SERVER]) if API_SERVER in own else None
    return layout.name, {name: one.pod for name, one in own.items()}, versions, keys


def _keys(machine: Machine, api_server: Definition) -> Keys | None:
    """What the API server reads with; None where it is no static pod, which is not looked into."""
    manifest = None if api_server.pod.image.startswith("/") else read_file(machine, api_server.path)
    if manifest is None:
        return None
    what = f"{machine.name}: {api_server.path}"
    return read_keys(api_server.path, manifest.decode(errors="replace"), partial(read_file, machine), what=what)


def _version(machine: Machine, definition: Definition) -> str:
    """The version in an image's tag; of a program without a container, what it says itself."""
    if not definition.pod.image.startswith("/"):
        return version_of_image(definition.pod.image)
    try:
        said = machine.run([definition.pod.image, "--version"], timeout=_LOOK_TIME).stdout.decode(errors="replace")
    except CommandFailed:
        return ""
    match = _VERSION.search(said)
    return match[1] if match else ""


def version_of_image(image: str) -> str:
    """``registry/etcd:3.6.16-0`` is "3.6.16"; "" for one without a tag."""
    match = _TAG.search(image)
    return match[1] if match else ""


def _ca_fingerprint(machine: Machine) -> str:
    body = read_file(machine, PKI / "ca.crt")
    return fingerprint_of(body) if body else ""


def _one(found: Mapping[str, list[str]], key: str) -> str:
    return found.get(key, [""])[0].strip()


def _number(found: Mapping[str, list[str]], key: str) -> int:
    value = _one(found, key)
    return int(value) if value.isdecimal() else 0
