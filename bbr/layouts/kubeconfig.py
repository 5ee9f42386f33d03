"""Kubeconfigs of a master: read, pointed at another server, given another certificate, or made for a new node. Pure.

kubeadm's kubeconfigs hold their keys as base64 in the file. The kubelet's own does so only at first: once the kubelet
rotates its certificate, the file names one in /var/lib/kubelet/pki, which is the old node's and is never handed on.
So a new node's kubelet gets one that is made here, and makes its rotating certificate from that. Source: kubeadm's
app/phases/kubeconfig and kubelet-finalize.

No error shows anything of a kubeconfig's text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from bbr.errors import UsageError
from bbr.layouts.reissue import Issued
from bbr.layouts.renaming import url_host
from bbr.layouts.rewrite import TEXT_LIMIT, Place, Scalars, edit_scalars, masked

_CLIENT = ("user", "client-certificate-data")
_KEY = ("user", "client-key-data")


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """What a kubeconfig says. ``clients``: the embedded certificate (PEM) of each user, by its place in the list."""

    servers: tuple[str, ...]
    cluster: str
    """The name of the first cluster."""
    authority: bytes
    """The first cluster's CA in PEM; empty where it is not embedded."""
    clients: Mapping[int, bytes]
    names_files: bool
    """Whether a user's certificate or key is in a file of its own."""


def read_kubeconfig(text: str, *, what: str) -> Kubeconfig:
    """Read it. Raises `UsageError` for what is no kubeconfig; ``what`` names it there."""
    if len(text) > TEXT_LIMIT:
        raise UsageError(f"{what} is not a kubeconfig: it has {len(text):,} characters")
    try:
        document = yaml.safe_load(text)
        clusters, users = document["clusters"], document.get("users") or []
        settings = [one["cluster"] for one in clusters]
        people = [one["user"] or {} for one in users]
        certificates = {number: one.get(_CLIENT[1]) for number, one in enumerate(people)}
        return Kubeconfig(
            servers=tuple(str(one.get("server", "")) for one in settings),
            cluster=str(clusters[0]["name"]),
            authority=_decode(settings[0].get("certificate-authority-data") or ""),
            clients={number: _decode(data) for number, data in certificates.items() if data},
            names_files=any(one.get("client-certificate") or one.get("client-key") for one in people),
        )
    except (yaml.YAMLError, RecursionError, AttributeError, KeyError, IndexError, TypeError, ValueError) as err:
        raise UsageError(f"{what} is not a kubeconfig ({type(err).__name__})") from err


def change_kubeconfig(text: str, *, server: Callable[[str], str], clients: Mapping[int, Issued], what: str) -> str:
    """The same file with other servers, and other certificates of users (by their place). Nothing else changes.

    Raises `UsageError` for what is no YAML.
    """

    def change(place: Place, value: str, scalars: Scalars) -> str:
        del scalars
        if place[:1] == ("clusters",) and place[2:] == ("cluster", "server"):
            return server(value)
        if len(place) == 4 and place[0] == "users" and isinstance(place[1], int) and place[1] in clients:
            issued = clients[place[1]]
            data = {_CLIENT: issued.certificate, _KEY: issued.key}.get((str(place[2]), str(place[3])))
            return value if data is None else base64.b64encode(data).decode()
        return value

    return edit_scalars(text, change, what=what)


def node_kubeconfig(node: str, *, cluster: str, server: str, authority: bytes, client: Issued) -> str:
    """A kubelet's kubeconfig as kubeadm writes it, with everything embedded. A secret: it holds ``client``'s key."""
    user = f"system:node:{node}"
    context = f"{user}@{cluster}"
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "clusters": [
            {
                "cluster": {"certificate-authority-data": base64.b64encode(authority).decode(), "server": server},
                "name": cluster,
            }
        ],
        "contexts": [{"context": {"cluster": cluster, "user": user}, "name": context}],
        "current-context": context,
        "kind": "Config",
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": base64.b64encode(client.certificate).decode(),
                    "client-key-data": base64.b64encode(client.key).decode(),
                },
            }
        ],
    }
    return yaml.safe_dump(document, width=2**31)


def host_of(server: str) -> str:
    """The host of a server's URL, without brackets; empty for what is no URL."""
    try:
        return urlsplit(server).hostname or ""
    except ValueError:
        return ""


def with_host(server: str, host: str) -> str:
    """The URL with another host and the same port. Raises `UsageError` for what is no URL."""
    try:
        parts = urlsplit(server)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as err:
        raise UsageError(f"{masked(server)[:200]!r} is no address of a server") from err
    return parts._replace(netloc=f"{url_host(host)}{port}").geturl()


def _decode(data: object) -> bytes:
    try:
        return base64.b64decode(str(data), validate=True)
    except binascii.Error as err:
        raise ValueError("no base64") from err
