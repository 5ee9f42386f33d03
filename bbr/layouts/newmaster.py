"""A new master's files, made from an old one's in a backup: what is changed, what is kept byte for byte. Pure.

    kept          authorities, the service-account key, how secrets are encrypted (and the KMS plugin with all that it
                  has), everything else that flags of the control plane name
    issued again  certificates that hold the master's name or address, or end soon (`bbr.layouts.leaves`)
    pointed       kubeconfigs; the kubelet's is made anew, for the new node (`bbr.layouts.logins`)
    rewritten     manifests, the kubelet's flags, and what other static pods on the host (kube-vip, haproxy, keepalived)
                  are configured with (`bbr.layouts.hostconfig`)
    left out      what is the old node's own, above all /var/lib/kubelet/pki

A master that keeps its name and address gets its files as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from bbr.layouts.authority import KeyMaker, key_like
from bbr.layouts.hostconfig import Pods, host_notes, rewrite_host, static_pods
from bbr.layouts.hosttree import Findings, HostTree
from bbr.layouts.leaves import renew_leaves
from bbr.layouts.logins import point_logins
from bbr.layouts.masterfiles import NEVER
from bbr.layouts.pki import PKI
from bbr.layouts.reissue import Csr
from bbr.layouts.renaming import MasterName, Move, Renaming
from bbr.layouts.signed import Signed
from bbr.repository.hostfiles import HostFile

_DEFAULT_PORT = "6443"


@dataclass(frozen=True, slots=True)
class NewMaster:
    """What is put on the new host. Where there are ``requests``, ``files`` lack what they ask for: stop there."""

    files: tuple[HostFile, ...]
    diffs: tuple[str, ...]
    """What is not as it was: unified diffs of texts, a line for each certificate and kubeconfig. No keys."""
    requests: tuple[Csr, ...]
    notes: tuple[str, ...]


def make_master(
    source: Sequence[HostFile],
    *,
    old: MasterName,
    new: MasterName,
    others: Mapping[MasterName, MasterName],
    etcd_cluster: Sequence[tuple[str, str]],
    endpoint: str | None,
    now: datetime,
    signed: Signed | None = None,
    new_key: KeyMaker = key_like,
) -> NewMaster:
    """The files of ``new``, from the files ``source`` of ``old``.

    ``others``: every old master that gets a successor, ``old`` among them or not. ``etcd_cluster``: name and peer URL
    of each member of the new etcd; the one at the address of ``new`` is its own. ``endpoint``: the control plane's
    ``host:port`` when it changes. ``signed``: what authorities whose keys are elsewhere have given already.
    Raises `UsageError` for files that are not those of a master, and `PreconditionFailed` for authorities that cannot
    issue.
    """
    tree, found = HostTree(file for file in source if not _is_own(file.path)), Findings(signed or {})
    found.notes.extend(f"{file.path} is left out: it is the old host's own" for file in source if _is_own(file.path))
    pods = static_pods(tree)
    move = Move(old, new, Renaming({**others, old: new}), _pki_folder(pods), endpoint or "", new_key)
    renew_leaves(tree, move, found, now=now)
    point_logins(tree, move, found, port=_port(pods), now=now)
    if move.renaming.changes:
        rewrite_host(tree, move, pods, found, etcd_cluster=etcd_cluster)
    found.notes.extend(host_notes(tree, move, pods))
    return NewMaster(tree.files, tuple(found.diffs), tuple(found.requests), tuple(found.notes))


def _is_own(path: PurePosixPath) -> bool:
    """Whether it is the old node's own, or no configuration, whatever the backup has."""
    return any(path.is_relative_to(place) for place in NEVER)


def _pki_folder(pods: Pods) -> PurePosixPath:
    """kubeadm's certificatesDir, as it lies on the host."""
    authority = next((pod.file("client-ca-file") for pod in pods.values() if pod.program == "kube-apiserver"), None)
    return authority.parent if authority is not None and authority.name == "ca.crt" else PKI


def _port(pods: Pods) -> int:
    ports = [pod.flags.get("secure-port", _DEFAULT_PORT) for pod in pods.values() if pod.program == "kube-apiserver"]
    return int(ports[0]) if ports and ports[0].isdecimal() else int(_DEFAULT_PORT)
