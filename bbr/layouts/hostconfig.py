"""What a master's programs are configured with, rewritten for the new host: manifests, kubelet, load balancers. Pure.

The control plane's own static pods are known; any other on the host (kube-vip, haproxy, keepalived) belongs to it, and
so do the files that are mounted into it: old masters' addresses in them become those of the new ones. What a KMS plugin
has is never touched: with anything else in it, no secret can be read again. All else that flags name is kept too, and
where an old address stands in it, that is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath

import yaml

from bbr.errors import UsageError
from bbr.layouts.hosttree import Findings, HostTree
from bbr.layouts.kubeconfig import host_of
from bbr.layouts.leaves import LEAVES
from bbr.layouts.logins import KUBELET, LOGINS
from bbr.layouts.masterfiles import MANIFESTS
from bbr.layouts.renaming import MasterName, Move, Renaming
from bbr.layouts.rewrite import TEXT_LIMIT, difference, rewrite_flags, rewrite_manifest
from bbr.layouts.staticpod import StaticPod, parse_pod

CORE = frozenset({"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"})
KUBELET_FILES = (
    PurePosixPath("/var/lib/kubelet/kubeadm-flags.env"),
    PurePosixPath("/var/lib/kubelet/config.yaml"),
    PurePosixPath("/var/lib/kubelet/instance-config.yaml"),
    PurePosixPath("/etc/default/kubelet"),
    PurePosixPath("/etc/sysconfig/kubelet"),
    PurePosixPath("/etc/systemd/system/kubelet.service.d"),
    PurePosixPath("/usr/lib/systemd/system/kubelet.service.d"),
)
_SERVED_BY = {"kube-apiserver": ("tls-cert-file",), "etcd": ("cert-file", "peer-cert-file")}
_ENDPOINT = re.compile(r"endpoint[\"']?:\s*[\"']?unix://(/[^\s\"',}]+)")
_INTERFACE = re.compile(r"^\s*interface\s+([\w.-]+)|interface[\"']?\s*\n\s*value:\s*[\"']?([\w.-]+)", re.MULTILINE)
"""keepalived's, and kube-vip's ``vip_interface`` as kube-vip itself writes its manifest."""
_PROVIDER_ID = ("--provider-id", "providerID:")

Pods = Mapping[PurePosixPath, StaticPod]


def static_pods(tree: HostTree) -> Pods:
    """The static pods by their manifests. Raises `UsageError` for one that cannot be read, or where there are none."""
    pods = {}
    for path in tree.under(MANIFESTS):
        # The kubelet runs every file there whose name does not begin with a dot; and no folders.
        if path.parent == tree.resolve(MANIFESTS) and not path.name.startswith("."):
            pods[path] = parse_pod(_text(tree, path), path.stem, what=str(path))
    if not pods:
        raise UsageError(f"the backup has no static pods in {MANIFESTS}", hint="is this a master that kubeadm made?")
    return pods


def rewrite_host(
    tree: HostTree, move: Move, pods: Pods, found: Findings, *, etcd_cluster: Sequence[tuple[str, str]]
) -> None:
    """Rewrite them in ``tree``. ``etcd_cluster``: name and peer URL of each member of the new etcd.

    Raises `UsageError` where the new master is no member of it though it runs an etcd, and for what cannot be changed.
    """
    kept = {path for path, pod in pods.items() if pod.program not in CORE and _is_kms(tree, path, pods)}
    rewritten: set[PurePosixPath] = set()

    def rewrite(path: PurePosixPath, change: Callable[[str], str]) -> None:
        text = tree.text(path)
        if text is not None and path not in rewritten:
            rewritten.add(path)
            changed = change(text)
            if changed != text:
                tree.write(path, changed.encode())
                found.diffs.append(difference(path, text, changed))

    for path, pod in pods.items():
        if path not in kept:
            etcd = _etcd_flags(move.new, etcd_cluster) if pod.program == "etcd" else {}
            rewrite(path, partial(rewrite_manifest, renaming=move.renaming, etcd=etcd, what=str(path)))
    for path in (file for place in KUBELET_FILES for file in tree.under(place)):
        rewrite(path, partial(rewrite_flags, renaming=move.renaming))
    untouched = _untouched(tree, move, pods, kept)
    for path in (
        file for manifest, pod in pods.items() if pod.program not in CORE for file in _mounted(tree, manifest)
    ):
        if path not in untouched:
            rewrite(path, move.renaming.in_text)
    found.notes.extend(_old_addresses(tree, move.renaming, rewritten))


def host_notes(tree: HostTree, move: Move, pods: Pods) -> Iterator[str]:
    """What a person should know of this host's configuration, because bbr does not change it."""
    known = {tree.resolve(move.pki / f"{name}.crt") for name in LEAVES}
    for path, pod in pods.items():
        for flag in _SERVED_BY.get(pod.program, ()):
            served = pod.file(flag)
            if served is not None and tree.resolve(served) not in known and move.old != move.new:
                yield f"{pod.program} serves {served}, which is not kubeadm's: it must hold for {move.new.address}"
        if pod.program == "etcd" and pod.flags.get("force-new-cluster", "false") != "false":
            yield f"{path} has --force-new-cluster: this member would leave the others at every start"
    for manifest, pod in pods.items():
        if pod.program not in CORE:
            for path in (manifest, *_mounted(tree, manifest)):
                for found in _INTERFACE.finditer(tree.text(path) or ""):
                    yield f"{path} names the network interface {found[1] or found[2]}: the new host must have it"
    for place in KUBELET_FILES:
        for path in tree.under(place):
            if any(word in (tree.text(path) or "") for word in _PROVIDER_ID):
                yield f"{path} sets a provider id, which is the old machine's"


def _text(tree: HostTree, path: PurePosixPath) -> str:
    text = tree.text(path)
    if text is None:
        raise UsageError(f"{path} is not the manifest of a static pod: it is no text")
    if len(text) > TEXT_LIMIT:
        raise UsageError(f"{path} is not the manifest of a static pod: it has {len(text):,} characters")
    return text


def _etcd_flags(new: MasterName, cluster: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    here = Renaming({new: new})
    own = [name for name, url in cluster if here.is_host(host_of(url))]
    if not own:
        raise UsageError(f"the new etcd has no member at {new.address}, where {new.name} runs one")
    members = ",".join(f"{name}={url}" for name, url in cluster)
    return {"name": own[0], "initial-cluster": members, "initial-cluster-state": "new"}


def _host_paths(text: str) -> Iterator[PurePosixPath]:
    """The host's paths that any container of a pod sees."""
    volumes = yaml.safe_load(text)["spec"].get("volumes") or ()
    for volume in volumes:
        if isinstance(volume, dict) and isinstance(volume.get("hostPath"), dict):
            yield PurePosixPath(str(volume["hostPath"].get("path", "/")))


def _mounted(tree: HostTree, manifest: PurePosixPath) -> Iterator[PurePosixPath]:
    for path in _host_paths(_text(tree, manifest)):
        yield from tree.under(path)


def _is_kms(tree: HostTree, manifest: PurePosixPath, pods: Pods) -> bool:
    """Whether a pod makes a socket that the encryption configuration names."""
    api_server = next((pod for pod in pods.values() if pod.program == "kube-apiserver"), None)
    path = api_server.file("encryption-provider-config") if api_server else None
    if api_server is None or path is None:
        return False
    sockets = {api_server.on_host(socket) for socket in _sockets(tree.text(path) or "")}
    mounts = [mount for mount in _host_paths(_text(tree, manifest)) if mount != PurePosixPath("/")]
    return any(socket.is_relative_to(mount) for socket in sockets for mount in mounts)


def _sockets(encryption: str) -> Iterator[PurePosixPath]:
    """Source: EncryptionConfiguration, ``providers[].kms.endpoint``."""
    for found in _ENDPOINT.finditer(encryption):
        yield PurePosixPath(found[1])


def _untouched(tree: HostTree, move: Move, pods: Pods, kept: set[PurePosixPath]) -> set[PurePosixPath]:
    """Files that keep every byte, also where another pod sees them."""
    places = {move.pki, MANIFESTS, KUBELET, *LOGINS}
    for pod in pods.values():
        if pod.program in CORE:
            places |= set(pod.files().values())
    files = {file for place in places for file in tree.under(place)}
    return files | {file for manifest in kept for file in _mounted(tree, manifest)} | kept


def _old_addresses(tree: HostTree, renaming: Renaming, rewritten: set[PurePosixPath]) -> Iterator[str]:
    for file in tree.files:
        text = None if file.link or file.path in rewritten else tree.text(file.path)
        gone = sorted({old.address for old in renaming.masters if text and old.address in text})
        if text and renaming.in_text(text) != text:
            yield f"{file.path} names an old master ({', '.join(gone) or 'by name'}), and is kept as it is"
