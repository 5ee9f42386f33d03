"""What a backup says of the cluster that it is of: its masters, their names and addresses, its endpoint. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from bbr.errors import PreconditionFailed
from bbr.layouts.hosttree import HostTree
from bbr.layouts.layout import STOP_ORDER
from bbr.layouts.masterfiles import MANIFESTS
from bbr.layouts.pki import PKI, PkiReport, check_pki
from bbr.layouts.staticpod import StaticPod, parse_pod
from bbr.objects.encryption import why_sealed
from bbr.repository.hostfiles import HostFile, HostFiles
from restore.readkeys import API_SERVER, Keys, read_keys
from restore.survey import fingerprint_of, version_of_image

KUBEADM, SYSTEMD = "kubeadm", "systemd"
_CA = PKI / "ca.crt"


@dataclass(frozen=True, slots=True)
class OldHost:
    """A master in the backup. ``name`` is what the backup calls it; files are by path, secrets among them.

    ``layout`` is how its programs were run.
    """

    name: str
    node_name: str
    address: str
    member_name: str
    peer_url: str
    client_url: str
    data_dir: str
    wal_dir: str
    etcd_ca_file: str
    endpoint: str
    layout: str
    programs: Mapping[str, StaticPod]
    files: Mapping[PurePosixPath, HostFile] = field(repr=False)


@dataclass(frozen=True, slots=True)
class OldCluster:
    """All masters by their names in the backup, in order."""

    hosts: Mapping[str, OldHost]
    ca_sha256: str

    @property
    def endpoint(self) -> str:
        """Where clients find the API server: what the administrators' kubeconfig says."""
        return next((host.endpoint for host in self.hosts.values() if host.endpoint), "")

    def image_version(self, program: str) -> str:
        """The version in the tag of a program's image, as in "1.37.2"; "" where it has none."""
        for host in self.hosts.values():
            if program in host.programs and (found := version_of_image(host.programs[program].image)):
                return found
        return ""

    def pki(self, now: datetime) -> PkiReport:
        """Whether its keys and certificates belong together and hold."""
        bodies = {name: {path: file.body for path, file in host.files.items()} for name, host in self.hosts.items()}
        return check_pki(bodies, now=now)

    @property
    def keys(self) -> Keys | None:
        """What its API servers read with, by the first that is a static pod; None where none is."""
        for name, host in self.hosts.items():
            tree = HostTree(host.files.values())
            for path, file in host.files.items() if host.layout == KUBEADM else ():
                if path.parent == MANIFESTS and not path.name.startswith(".") and not file.link:
                    text, what = file.body.decode(errors="replace"), f"the backup's {path} of {name}"
                    if parse_pod(text, path.stem, what=what).program == API_SERVER:
                        return read_keys(path, text, tree.body, what=what)
        return None

    def why_unreadable(self, key: bytes, value: bytes) -> str:
        """Why a stored value cannot be read with the backup's own encryption configuration; "" when it can."""
        for host in self.hosts.values():
            api_server = host.programs.get("kube-apiserver")
            if api_server is not None:
                path = api_server.file("encryption-provider-config")
                file = host.files.get(path) if path else None
                return why_sealed(file.body if file else None, key, value)
        return ""


def read_old_cluster(archive: HostFiles) -> OldCluster:
    """Take a backup's control-plane files apart. Raises `PreconditionFailed` when there is no master in them."""
    hosts = {}
    for name, files in sorted(archive.hosts.items()):
        by_path = {file.path: file for file in files}
        programs, layout = _programs(name, by_path), KUBEADM
        if not programs:
            # Units are not taken apart again: the index says what they run. It is only believed for a plan's words.
            programs, layout = _told_programs(archive.index, name), SYSTEMD
        if programs:
            hosts[name] = _old_host(name, by_path, programs, layout)
    if not hosts:
        raise PreconditionFailed(
            "the backup holds no control-plane files", hint="it can give back etcd only: `bbr restore etcd`"
        )
    authority = next((host.files[_CA] for host in hosts.values() if _CA in host.files), None)
    return OldCluster(hosts, fingerprint_of(authority.body) if authority else "")


def same_minor(one: str, other: str) -> bool:
    """Whether two versions are of one minor version; an unknown one fits all."""
    return not one or not other or one.lstrip("v").split(".")[:2] == other.lstrip("v").split(".")[:2]


def _programs(host: str, files: Mapping[PurePosixPath, HostFile]) -> dict[str, StaticPod]:
    programs = {}
    for path, file in files.items():
        if path.parent == MANIFESTS and not path.name.startswith(".") and not file.link:
            pod = parse_pod(file.body.decode(errors="replace"), path.stem, what=f"the backup's {path} of {host}")
            programs[pod.program] = pod
    return programs


def _told_programs(index: Mapping[str, Any], host: str) -> dict[str, StaticPod]:
    """What an archive's index says of a host whose programs are no static pods. Nothing where it says nonsense."""
    programs = {}
    try:
        for program, about in index["hosts"][host]["programs"].items():
            if program in STOP_ORDER:
                flags = {str(flag): str(value) for flag, value in about["flags"].items()}
                programs[program] = StaticPod(program, str(about["image"]), flags, ())
    except (KeyError, TypeError, AttributeError):
        return {}
    return programs


def _old_host(
    name: str, files: Mapping[PurePosixPath, HostFile], programs: Mapping[str, StaticPod], layout: str
) -> OldHost:
    etcd, api_server = programs.get("etcd"), programs.get("kube-apiserver")
    flags = etcd.flags if etcd else {}
    peer_url = flags.get("initial-advertise-peer-urls", "")
    address = (api_server.flags.get("advertise-address", "") if api_server else "") or urlsplit(peer_url).hostname or ""
    return OldHost(
        name=name,
        node_name=_node_name(files) or flags.get("name", "") or name,
        address=address,
        member_name=flags.get("name", "") or name,
        peer_url=peer_url,
        client_url=flags.get("advertise-client-urls", ""),
        data_dir=str((etcd.file("data-dir") if etcd else None) or "/var/lib/etcd"),
        wal_dir=str((etcd.file("wal-dir") if etcd else None) or ""),
        etcd_ca_file=str((etcd.file("trusted-ca-file") if etcd else None) or ""),
        endpoint=_endpoint(files),
        layout=layout,
        programs=programs,
        files=files,
    )


def _node_name(files: Mapping[PurePosixPath, HostFile]) -> str:
    """The node that kubelet.conf is of: its context's user is ``default-auth`` or ``system:node:<name>``."""
    for path in ("/etc/kubernetes/kubelet.conf", "/etc/kubernetes/super-admin.conf"):
        file = files.get(PurePosixPath(path))
        for user in _items(file, "users"):
            name = str(user.get("name", ""))
            if name.startswith("system:node:"):
                return name.removeprefix("system:node:")
    return ""


def _endpoint(files: Mapping[PurePosixPath, HostFile]) -> str:
    file = files.get(PurePosixPath("/etc/kubernetes/admin.conf"))
    for cluster in _items(file, "clusters"):
        server = str((cluster.get("cluster") or {}).get("server", ""))
        parts = urlsplit(server)
        if parts.hostname:
            return f"{parts.hostname}:{parts.port or 443}"
    return ""


def _items(file: HostFile | None, key: str) -> list[dict[str, Any]]:
    if file is None:
        return []
    try:
        body = yaml.safe_load(file.body)
        return [item for item in body.get(key) or () if isinstance(item, dict)]
    except (yaml.YAMLError, AttributeError, RecursionError, TypeError):
        return []
