"""The certificates of a kubeadm master below its authorities: which there are, and which of them must be new. Pure.

Those that servers show (apiserver, etcd/server, etcd/peer) hold the master's name and address, and are issued again
when these change. Clients' certificates hold neither: they are kept, unless they end soon or their key is not theirs.
Source: kubeadm's app/phases/certs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePosixPath

from bbr.errors import PreconditionFailed
from bbr.layouts.authority import Authority, read_authority
from bbr.layouts.hosttree import Findings, HostTree
from bbr.layouts.pki import AUTHORITIES, EXPIRES_SOON, PKI
from bbr.layouts.reissue import Leaf, Outline, is_pair, issue, outline, read_leaf, request
from bbr.layouts.renaming import Move
from bbr.layouts.signed import signed_for
from bbr.repository.hostfiles import HostFile

CLUSTER_CA, ETCD_CA, FRONT_PROXY_CA = AUTHORITIES

LEAVES = {
    "apiserver": CLUSTER_CA,
    "apiserver-kubelet-client": CLUSTER_CA,
    "apiserver-etcd-client": ETCD_CA,
    "etcd/server": ETCD_CA,
    "etcd/peer": ETCD_CA,
    "etcd/healthcheck-client": ETCD_CA,
    "front-proxy-client": FRONT_PROXY_CA,
}
"""By name below the PKI folder: the authority that issues it."""

SERVING = frozenset({"apiserver", "etcd/server", "etcd/peer"})


def renew_leaves(tree: HostTree, move: Move, found: Findings, *, now: datetime) -> None:
    """Issue again, in ``tree``, what must be new.

    Where an authority's key is missing, certificate and key of its leaves that must be new are taken out, and requests
    stand for them. Raises `PreconditionFailed` for what cannot be read, and an authority that does not hold.
    """
    for name, signer in LEAVES.items():
        path = move.pki / f"{name}.crt"
        body, key = tree.body(path), tree.body(path.with_suffix(".key"))
        if body is None:
            continue
        leaf = read_leaf(body, what=str(path))
        wanted = outline(leaf, move.renaming, hosts=_hosts(name, move))
        reason = _why(wanted, key, now)
        if not reason:
            continue
        authority = authority_in(tree, move.pki, signer, now=now)
        if authority is None:
            asked = request(wanted, path)
            given = signed_for(asked, found.signed, tree.body(move.pki / f"{signer}.crt"), now=now)
            if given is not None:
                tree.write(path, given.certificate)
                tree.write(path.with_suffix(".key"), given.key)
                found.diffs.append(f"{path}: signed by the owner of {signer}, {reason}")
                continue
            found.requests.append(asked)
            tree.remove(path)
            tree.remove(path.with_suffix(".key"))
            found.diffs.append(f"{path}: to be signed by the owner of {signer}, {reason}")
            continue
        if authority.certificate.subject != leaf.certificate.issuer:
            found.notes.append(f"{path} was not issued by {signer}, and is now")
        issued = issue(wanted, authority, now=now, new_key=move.new_key)
        tree.write(path, issued.certificate)
        tree.write(path.with_suffix(".key"), issued.key)
        found.diffs.append(f"{path}: re-issued, {reason}")


def authority_in(tree: HostTree, pki: PurePosixPath, name: str, *, now: datetime) -> Authority | None:
    """One of the authorities; None where its key is not there. Raises as `read_authority`, and where it is missing."""
    certificate, key = tree.body(pki / f"{name}.crt"), tree.body(pki / f"{name}.key")
    if certificate is None:
        raise PreconditionFailed(f"{pki / name}.crt is not among the files of the backup")
    return None if key is None else read_authority(certificate, key, what=f"{pki / name}.crt", now=now)


def authority_problems(files: Sequence[HostFile], now: datetime, *, pki: PurePosixPath = PKI) -> tuple[str, ...]:
    """What keeps a master's authorities from issuing: expired, not a pair, unreadable, or without a key (external).

    An etcd that has its own hosts has its authority there: without etcd's certificates here it is not missed.
    """
    tree = HostTree(files)
    problems = []
    for name in AUTHORITIES:
        needed = [leaf for leaf, signer in LEAVES.items() if signer == name and tree.body(pki / f"{leaf}.crt")]
        if name == ETCD_CA and not any(leaf.startswith("etcd/") for leaf in needed):
            continue
        try:
            if authority_in(tree, pki, name, now=now) is None:
                problems.append(f"{pki / name}.key is not there: an external authority, which alone can issue")
        except PreconditionFailed as err:
            problems.append(str(err))
    return tuple(problems)


def ends_soon(leaf: Leaf, now: datetime) -> bool:
    """Whether it has ended, or does so within a month."""
    return leaf.certificate.not_valid_after_utc < now + EXPIRES_SOON


def _hosts(name: str, move: Move) -> Sequence[str]:
    """What a leaf must hold for besides what it held for: nothing new where the master stays what it is."""
    if name not in SERVING:
        return ()
    here = (move.new.name, move.new.address) if move.old != move.new else ()
    return (*here, move.endpoint_host) if name == "apiserver" and move.endpoint_host else here


def _why(wanted: Outline, key: bytes | None, now: datetime) -> str:
    """Why a leaf must be new; empty where it can stay."""
    old = wanted.old
    if wanted.is_new:
        gone = [host for host in old.hosts if host not in wanted.hosts]
        new = [host for host in wanted.hosts if host not in old.hosts]
        return f"SANs {', '.join(gone) or 'as they were'} -> {', '.join(new) or 'as they were'}"
    if ends_soon(old, now):
        return f"the old one ends on {old.certificate.not_valid_after_utc:%Y-%m-%d}"
    return "" if key is not None and is_pair(old, key) else "its key is missing, or another's"
