"""Objects that hold the address of a master or of the endpoint, which kubeadm wrote there once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from bbr.apiserver.client import ApiServer, Object
from bbr.apiserver.objects import Saved, at, read_all

HOLDERS = (
    "/api/v1/namespaces/kube-system/configmaps/kubeadm-config",
    "/api/v1/namespaces/kube-public/configmaps/cluster-info",
    "/api/v1/namespaces/kube-system/configmaps/kube-proxy",
)
"""ClusterConfiguration; what a joining node trusts (its token signatures are made anew by the controller-manager);
kube-proxy's kubeconfig (its pods read it when they start)."""


@dataclass(frozen=True, slots=True)
class Change:
    """An object that holds old addresses: as it is, as it shall be, and what differs, for a person to read."""

    before: Saved
    after: Object = field(repr=False)
    diff: str


def changes(api: ApiServer, addresses: Mapping[str, str]) -> tuple[Change, ...]:
    """What `change` has to do so that old addresses (keys: IPs, names, with or without a port) become new ones.

    Empty when nothing holds an old one. Holders that do not exist are left out.
    """
    found = []
    for saved in read_all(api, HOLDERS):
        before = at(saved.object, "data") or {}
        after = {key: replaced(text, addresses) for key, text in before.items()}
        if after != before:
            diff = "".join(_diff(saved.path, key, before[key], after[key]) for key in sorted(before))
            found.append(Change(saved, {**saved.object, "data": after}, diff))
    return tuple(found)


def change(api: ApiServer, wanted: Change) -> None:
    """Write the object. Raises `Conflict` when it is not any more as it was read."""
    api.replace(wanted.before.path, wanted.after)


def replaced(text: str, addresses: Mapping[str, str]) -> str:
    """A text with all addresses replaced at once, only where they stand alone: 10.0.0.1 is not in 10.0.0.11."""
    if not addresses:
        return text
    longest_first = sorted(addresses, key=len, reverse=True)
    pattern = "|".join(_alone(address) for address in longest_first)
    return re.sub(pattern, lambda match: addresses[match.group()], text)


def _alone(address: str) -> str:
    colon = ""
    with suppress(ValueError):
        IPv6Address(address)
        colon = ":"
    # A dot may end a sentence; before a letter or a digit it goes on with the name.
    return rf"(?<![\w.{colon}-]){re.escape(address)}(?![\w{colon}-]|\.\w)"


def _diff(path: str, key: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"{path} {key}", f"{path} {key}", n=0
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
