"""Where a kubeadm master keeps its etcd access: read from the static-pod manifests, so that no configuration is needed.

kube-apiserver's flags say it: ``--etcd-servers``, ``--etcd-cafile``, ``--etcd-certfile``, ``--etcd-keyfile``,
``--etcd-prefix``, and ``--etcd-servers-overrides`` (``/events#https://a:2379;https://b:2379,group/resource#...``),
which keeps some resources in another etcd that must be backed up too. On a host that runs etcd alone, its flags do.
Flags name files as the container sees them; volume mounts tell where they lie on the host. Source: kubeadm's
app/util/staticpod and the flag help of kube-apiserver and etcd.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from bbr.errors import UsageError

DEFAULT_PREFIX = "/registry"

_API_SERVER, _ETCD = "kube-apiserver.yaml", "etcd.yaml"
_BY_HAND = "name the endpoints and certificate files yourself"


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """How one etcd of a master is reached. Files are paths on this host; None where it is reached without TLS."""

    endpoints: tuple[str, ...]
    ca_file: Path | None
    certificate_file: Path | None
    key_file: Path | None
    prefix: str


@dataclass(frozen=True, slots=True)
class _Pod:
    """A static pod's command line, and where its container's paths lie on the host."""

    path: Path
    flags: Mapping[str, str]
    mounts: tuple[tuple[PurePosixPath, Path], ...]

    def file(self, flag: str) -> Path | None:
        """A flag's file on the host."""
        if not self.flags.get(flag):
            return None
        inside = PurePosixPath(self.flags[flag])
        for mounted, host in self.mounts:
            if inside.is_relative_to(mounted):
                return host / inside.relative_to(mounted)
        return Path(inside)


def discover(manifests_dir: Path) -> dict[str, EtcdAccess]:
    """The etcds of this master by name: "main", and one for each other etcd that holds some resources ("events").

    Raises `UsageError` when the manifests are not there, not readable as such, or do not tell.
    """
    if (manifests_dir / _API_SERVER).is_file():
        return _from_api_server(_read(manifests_dir / _API_SERVER, "kube-apiserver"))
    if (manifests_dir / _ETCD).is_file():
        return {"main": _from_etcd(_read(manifests_dir / _ETCD, "etcd"))}
    raise UsageError(f"{manifests_dir} holds neither {_API_SERVER} nor {_ETCD}", hint=_BY_HAND)


def _from_api_server(pod: _Pod) -> dict[str, EtcdAccess]:
    main = _endpoints(pod.flags.get("etcd-servers", ""), ",")
    if not main:
        raise UsageError(f"{pod.path} has no --etcd-servers", hint=_BY_HAND)
    found = {"main": main}
    for override in filter(None, pod.flags.get("etcd-servers-overrides", "").split(",")):
        resource, mark, servers = override.partition("#")
        endpoints = _endpoints(servers, ";")
        if not mark or not endpoints:
            raise UsageError(f"{pod.path}: {override!r} in --etcd-servers-overrides names no servers", hint=_BY_HAND)
        if sorted(endpoints) not in map(sorted, found.values()):
            # Several resources may share one etcd: the first of them names it. The core group is empty: "/events".
            found[resource.strip().strip("/").replace("/", "-")] = endpoints
    files = pod.file("etcd-cafile"), pod.file("etcd-certfile"), pod.file("etcd-keyfile")
    prefix = "/" + pod.flags.get("etcd-prefix", DEFAULT_PREFIX).strip("/")
    return {name: EtcdAccess(endpoints, *files, prefix) for name, endpoints in found.items()}


def _from_etcd(pod: _Pod) -> EtcdAccess:
    endpoints = _endpoints(pod.flags.get("advertise-client-urls", ""), ",")
    if not endpoints:
        raise UsageError(f"{pod.path} has no --advertise-client-urls", hint=_BY_HAND)
    certificate, key = pod.file("cert-file"), pod.file("key-file")
    if certificate is not None:
        # kubeadm's server certificate may serve clients too, but one made for asking about health is beside it.
        client = certificate.with_name("healthcheck-client.crt"), certificate.with_name("healthcheck-client.key")
        if all(file.is_file() for file in client):
            certificate, key = client
    return EtcdAccess(endpoints, pod.file("trusted-ca-file"), certificate, key, DEFAULT_PREFIX)


def _endpoints(servers: str, separator: str) -> tuple[str, ...]:
    return tuple(server.strip() for server in servers.split(separator) if server.strip())


def _read(path: Path, program: str) -> _Pod:
    try:
        pod = yaml.safe_load(path.read_text(encoding="utf-8"))
        containers = pod["spec"]["containers"]
        container = next((one for one in containers if one.get("name") == program), containers[0])
        words = [str(word) for word in [*(container.get("command") or ()), *(container.get("args") or ())]]
        mounts = tuple(_mounts(pod["spec"].get("volumes") or (), container.get("volumeMounts") or ()))
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror}", hint="run as root on the master") from err
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as err:
        raise UsageError(f"{path} is not the manifest of a static pod: {err}", hint=_BY_HAND) from err
    return _Pod(path, dict(_flags(words)), mounts)


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """``--name=value`` and ``--name value``; the last of a name counts, as it does for the program."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        yield name, value if equals else ("" if following.startswith("--") else following)


def _mounts(volumes: Sequence[Any], mounted: Sequence[Any]) -> Iterator[tuple[PurePosixPath, Path]]:
    """(path in the container, path on the host), the deepest first: the innermost mount hides the others."""
    hosts = {volume["name"]: volume["hostPath"]["path"] for volume in volumes if volume.get("hostPath")}
    pairs = [
        (PurePosixPath(mount["mountPath"]), Path(hosts[mount["name"]], mount.get("subPath") or ""))
        for mount in mounted
        if mount["name"] in hosts
    ]
    yield from sorted(pairs, key=lambda pair: len(pair[0].parts), reverse=True)
