"""The kubeconfigs of a master's own programs and people, pointed at the new control plane. Pure.

admin.conf and super-admin.conf ask the endpoint; the controller-manager, the scheduler and the kubelet ask the API
server of their own host. Clients' certificates are kept unless they end soon. The kubelet's is made anew: it is the
node's identity, and the old one names key files that no other node may have. Source: kubeadm's app/phases/kubeconfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from bbr.layouts.hosttree import Findings, HostTree
from bbr.layouts.kubeconfig import Kubeconfig, change_kubeconfig, host_of, node_kubeconfig, read_kubeconfig, with_host
from bbr.layouts.leaves import CLUSTER_CA, authority_in, ends_soon
from bbr.layouts.reissue import Issued, issue, issue_client, outline, read_leaf, request, request_client
from bbr.layouts.renaming import Move, url_host
from bbr.layouts.rewrite import masked
from bbr.layouts.signed import signed_for

KUBERNETES = PurePosixPath("/etc/kubernetes")
ADMINS = (KUBERNETES / "admin.conf", KUBERNETES / "super-admin.conf")
LOGINS = (*ADMINS, KUBERNETES / "controller-manager.conf", KUBERNETES / "scheduler.conf")
KUBELET = KUBERNETES / "kubelet.conf"

NODE_LIFETIME = timedelta(days=365)
"""Of the kubelet's first certificate, as kubeadm issues it; from it the kubelet soon makes another."""

_NODES = "system:nodes"
_DEFAULT_CLUSTER = "kubernetes"
_DEFAULT_PORT = 6443


@dataclass(frozen=True, slots=True)
class _Servers:
    """Which server becomes which."""

    move: Move
    old_endpoint: str

    def of_admin(self, server: str) -> str:
        return f"https://{self.move.endpoint}" if self.move.endpoint else self.of_host(server)

    def of_host(self, server: str) -> str:
        host = host_of(server)
        new = self.move.renaming.host(host)
        if new != host:
            return with_host(server, new)
        return f"https://{self.move.endpoint}" if self.move.endpoint and server == self.old_endpoint else server


def point_logins(tree: HostTree, move: Move, found: Findings, *, port: int = _DEFAULT_PORT, now: datetime) -> None:
    """Change them in ``tree``. ``port``: the API server's, for a kubelet that has no kubeconfig yet.

    Where the CA's key is missing, those that need a new certificate are taken out, and requests stand for them. Raises
    `UsageError` for what is no kubeconfig, and `PreconditionFailed` for an authority that does not hold.
    """
    configs = {path: config for path in (*LOGINS, KUBELET) if (config := _read(tree, path))}
    admin = next((configs[path] for path in ADMINS if path in configs), None)
    servers = _Servers(move, admin.servers[0] if admin and admin.servers else "")
    for path in LOGINS:
        if path in configs:
            _point(tree, path, configs[path], servers, found, now=now)
    old = configs.get(KUBELET)
    here = f"https://{url_host(move.new.address)}:{port}"
    server = servers.of_host(old.servers[0]) if old else here
    if old is None or server != old.servers[0] or move.old.name != move.new.name or _must_be_new(old, now):
        cluster = admin.cluster if admin else _DEFAULT_CLUSTER
        _make_kubelet(tree, move, found, cluster=cluster, server=server, now=now)


def _read(tree: HostTree, path: PurePosixPath) -> Kubeconfig | None:
    body = tree.body(path)
    return None if body is None else read_kubeconfig(body.decode(errors="replace"), what=str(path))


def _must_be_new(kubelet: Kubeconfig, now: datetime) -> bool:
    leaves = [read_leaf(body, what=str(KUBELET)) for body in kubelet.clients.values()]
    return kubelet.names_files or not leaves or any(ends_soon(leaf, now) for leaf in leaves)


def _point(
    tree: HostTree, path: PurePosixPath, config: Kubeconfig, servers: _Servers, found: Findings, *, now: datetime
) -> None:
    clients = _renewed(tree, servers.move, path, config, found, now=now)
    if clients is None:
        tree.remove(path)
        return
    if config.names_files:
        found.notes.append(f"{path} names a key's file, which is kept as it is")
    server = servers.of_admin if path in ADMINS else servers.of_host
    text = (tree.body(path) or b"").decode(errors="replace")
    changed = change_kubeconfig(text, server=server, clients=clients, what=str(path))
    if changed != text:
        tree.write(path, changed.encode())
    found.diffs.extend(
        f"{path}: server {masked(one)} -> {masked(server(one))}" for one in config.servers if server(one) != one
    )


def _renewed(
    tree: HostTree, move: Move, path: PurePosixPath, config: Kubeconfig, found: Findings, *, now: datetime
) -> Mapping[int, Issued] | None:
    """New certificates for the users whose own end soon; None where the authority's key is elsewhere."""
    leaves = {number: read_leaf(body, what=str(path)) for number, body in config.clients.items()}
    ending = {number: leaf for number, leaf in leaves.items() if ends_soon(leaf, now)}
    if not ending:
        return {}
    authority = authority_in(tree, move.pki, CLUSTER_CA, now=now)
    if authority is None:
        asked = {number: request(outline(leaf, move.renaming), path) for number, leaf in ending.items()}
        trusted = tree.body(move.pki / f"{CLUSTER_CA}.crt")
        given = {number: signed_for(one, found.signed, trusted, now=now) for number, one in asked.items()}
        found.requests.extend(one for number, one in asked.items() if given[number] is None)
        return None if None in given.values() else {number: one for number, one in given.items() if one is not None}
    for leaf in ending.values():
        ends = leaf.certificate.not_valid_after_utc
        found.diffs.append(f"{path}: client certificate re-issued, the old one ends on {ends:%Y-%m-%d}")
    return {
        number: issue(outline(leaf, move.renaming), authority, now=now, new_key=move.new_key)
        for number, leaf in ending.items()
    }


def _make_kubelet(tree: HostTree, move: Move, found: Findings, *, cluster: str, server: str, now: datetime) -> None:
    user = f"system:node:{move.new.name}"
    authority = authority_in(tree, move.pki, CLUSTER_CA, now=now)
    # The whole file: while one authority replaces another, both are to be trusted.
    trusted = tree.body(move.pki / f"{CLUSTER_CA}.crt") or b""
    if authority is None:
        asked = request_client(KUBELET, common_name=user, organization=_NODES)
        given = signed_for(asked, found.signed, trusted, now=now)
        if given is None:
            found.requests.append(asked)
            tree.remove(KUBELET)
            return
        client = given
    else:
        like = tree.body(move.pki / "apiserver-kubelet-client.crt")
        client = issue_client(
            authority,
            common_name=user,
            organization=_NODES,
            lifetime=NODE_LIFETIME,
            now=now,
            like=read_leaf(like, what="apiserver-kubelet-client.crt").certificate if like else None,
            new_key=move.new_key,
        )
    text = node_kubeconfig(move.new.name, cluster=cluster, server=server, authority=trusted, client=client)
    tree.write(KUBELET, text.encode())
    found.diffs.append(f"{KUBELET}: made anew for {user}, server {masked(server)}")
