"""The recovery API server: one more static pod, which nobody but the restore can reach. Pure.

Before a restored cluster may act, somebody must look into it: remove webhooks whose backends are gone, nodes that are
no more. But an API server that can be reached wakes everything: controllers, operators and kubelets act on what they
find as soon as one answers. So this one listens on the loopback, does not enter itself into the ``kubernetes``
service, and calls nothing outside of its host: what could keep it from answering (webhooks of admission, authorization
and authentication, a proxy for egress) may be pods of the cluster that does not run yet.

All else is as in the manifest that it is made from, above all how secrets are encrypted. Admission policies are kept:
they are in the API server itself. The group system:masters is allowed everything by any authorizer. Source:
kube-apiserver's flags, pkg/kubeapiserver/authorizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from bbr.errors import UsageError

RECOVERY_POD = "bbr-recovery-apiserver"
RECOVERY_PORT = 16443
SERVER_NAME = "kubernetes"
"""A name that every API server's certificate holds: clients check it, since few hold for the loopback."""

WEBHOOKS = ("ValidatingAdmissionWebhook", "MutatingAdmissionWebhook")
_CALLS_OUT = frozenset({*WEBHOOKS, "ImagePolicyWebhook"})

_REMOVED = frozenset({"bind-address", "secure-port", "endpoint-reconciler-type"})
"""The address that it advertises stays: without one it looks for a default route, and nobody learns of it anyway."""
_ENDED_SOON = frozenset(
    {"shutdown-delay-duration", "shutdown-watch-termination-grace-period", "shutdown-send-retry-after"}
)
_BACKENDS = {
    "audit-webhook-": "the audit webhook",
    "authorization-webhook-": "the authorization webhook",
    "authentication-token-webhook-": "the token webhook",
    "egress-selector-config-file": "the egress selector",
    "authorization-config": "the authorization configuration, which may name webhooks",
}
"""Flags, or how they begin, of what may be pods."""

_ADDED = (
    "--bind-address=127.0.0.1",
    f"--secure-port={RECOVERY_PORT}",
    "--endpoint-reconciler-type=none",
    "--shutdown-delay-duration=0s",
    "--shutdown-watch-termination-grace-period=0s",
)
_MODES = "Node,RBAC"
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle")
_Flag = tuple[str, tuple[str, ...]]
"""A flag's name, and the one or two words that it is written in."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """The manifest (YAML), and what it leaves out that the cluster's own API server has."""

    manifest: str
    notes: tuple[str, ...]


def recovery_manifest(text: str, *, what: str) -> Recovery:
    """Make it from the API server's own manifest, as it will lie on the host where the recovery one is to run.

    Raises `UsageError` for what is not the manifest of an API server, or starts it by a shell.
    """
    try:
        pod = yaml.safe_load(text)
        containers = pod["spec"]["containers"]
        server = next((one for one in containers if one.get("name") == "kube-apiserver"), containers[0])
        words = [str(word) for word in [*(server.get("command") or ()), *(server.get("args") or ())]]
        program = next((number for number, word in enumerate(words) if word.startswith("--")), len(words))
        if "kube-apiserver" not in [PurePosixPath(word).name for word in words[:program]]:
            raise UsageError(
                f"{what} does not start kube-apiserver by name", hint="one that a shell starts cannot be rewritten"
            )
        flags, notes = _flags(list(_split(words[program:])))
        manifest = yaml.safe_dump(_pod(pod, server, [*words[:program], *flags]), width=2**31, sort_keys=True)
    except (yaml.YAMLError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as err:
        raise UsageError(f"{what} is not the manifest of an API server: {type(err).__name__}") from err
    return Recovery(manifest, tuple(notes))


def _split(words: Sequence[str]) -> Iterator[_Flag]:
    """``--name=value`` as it is, ``--name`` with a word after it that is its value."""
    number = 0
    while number < len(words):
        name, equals, _ = words[number].removeprefix("--").partition("=")
        takes_next = not equals and number + 1 < len(words) and not words[number + 1].startswith("--")
        taken = words[number : number + (2 if takes_next else 1)]
        yield name, tuple(taken)
        number += len(taken)


def _flags(flags: Sequence[_Flag]) -> tuple[list[str], list[str]]:
    """The recovery server's flags, and what there is to say of those that are left out."""
    kept: list[str] = []
    notes: list[str] = []
    disabled: list[str] = []
    names = {name for name, _ in flags}
    for name, words in flags:
        backend = next((text for start, text in _BACKENDS.items() if name.startswith(start)), "")
        if backend:
            if (note := f"without {backend}") not in notes:
                notes.append(note)
        elif name == "disable-admission-plugins":
            disabled += _list(words)
        elif name in ("enable-admission-plugins", "admission-control"):
            left = [one for one in _list(words) if one not in _CALLS_OUT]
            notes += (f"without the admission plugin {one}" for one in _list(words) if one in _CALLS_OUT)
            kept += [f"--{name}={','.join(left)}"] if left else []
        elif name == "authorization-mode":
            kept.append(f"--{name}={','.join(one for one in _list(words) if one != 'Webhook') or _MODES}")
        elif name not in _REMOVED | _ENDED_SOON:
            kept += words
    if "authorization-config" in names and "authorization-mode" not in names:
        kept.append(f"--authorization-mode={_MODES}")
    if "admission-control" not in names:  # the old flag, which lists everything, excludes the newer two
        kept.append(f"--disable-admission-plugins={','.join(dict.fromkeys([*disabled, *WEBHOOKS]))}")
    return [*kept, *_ADDED], notes


def _list(words: Sequence[str]) -> list[str]:
    value = words[1] if len(words) == 2 else words[0].partition("=")[2]
    return [one.strip() for one in value.split(",") if one.strip()]


def _pod(pod: dict[str, Any], server: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    # Probes would kill it while it migrates or waits for etcd; whoever starts it looks by itself whether it is ready.
    container = {key: value for key, value in server.items() if key not in (*_PROBES, "args", "ports")}
    container |= {"name": "kube-apiserver", "command": list(command)}
    others = [one for one in pod["spec"]["containers"] if one is not server]
    spec = {**pod["spec"], "containers": [container, *others], "hostNetwork": True, "terminationGracePeriodSeconds": 2}
    labels = {"component": RECOVERY_POD, "tier": "control-plane"}  # not the API server's: nothing may take it for one
    metadata = {"name": RECOVERY_POD, "namespace": "kube-system", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
