"""Where a kubeadm master keeps its etcd access: read from the static-pod manifests, so that no configuration is needed.

kube-apiserver's flags say it: ``--etcd-servers``, ``--etcd-cafile``, ``--etcd-certfile``, ``--etcd-keyfile``,
``--etcd-prefix``, and ``--etcd-servers-overrides`` (``/events#https://a:2379;https://b:2379,group/resource#...``),
which keeps some resources in another etcd that must be backed up too. On a host that runs etcd alone, its flags do.
Flags name files as the container sees them; volume mounts tell where they lie on the host. Source: kubeadm's
app/util/staticpod and the flag help of kube-apiserver and etcd.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bbr.errors import UsageError
from bbr.layouts.staticpod import StaticPod, parse_pod

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


def discover(manifests_dir: Path) -> dict[str, EtcdAccess]:
    """The etcds of this master by name: "main", and one for each other etcd that holds some resources ("events").

    Raises `UsageError` when the manifests are not there, not readable as such, or do not tell.
    """
    if (manifests_dir / _API_SERVER).is_file():
        path = manifests_dir / _API_SERVER
        return _from_api_server(_read(path, "kube-apiserver"), path)
    if (manifests_dir / _ETCD).is_file():
        path = manifests_dir / _ETCD
        return {"main": _from_etcd(_read(path, "etcd"), path)}
    raise UsageError(f"{manifests_dir} holds neither {_API_SERVER} nor {_ETCD}", hint=_BY_HAND)


def _from_api_server(pod: StaticPod, path: Path) -> dict[str, EtcdAccess]:
    main = _endpoints(pod.flags.get("etcd-servers", ""), ",")
    if not main:
        raise UsageError(f"{path} has no --etcd-servers", hint=_BY_HAND)
    found = {"main": main}
    for override in filter(None, pod.flags.get("etcd-servers-overrides", "").split(",")):
        resource, mark, servers = override.partition("#")
        endpoints = _endpoints(servers, ";")
        if not mark or not endpoints:
            raise UsageError(f"{path}: {override!r} in --etcd-servers-overrides names no servers", hint=_BY_HAND)
        if sorted(endpoints) not in map(sorted, found.values()):
            # Several resources may share one etcd: the first of them names it. The core group is empty: "/events".
            found[resource.strip().strip("/").replace("/", "-")] = endpoints
    files = _file(pod, "etcd-cafile"), _file(pod, "etcd-certfile"), _file(pod, "etcd-keyfile")
    prefix = "/" + pod.flags.get("etcd-prefix", DEFAULT_PREFIX).strip("/")
    return {name: EtcdAccess(endpoints, *files, prefix) for name, endpoints in found.items()}


def _from_etcd(pod: StaticPod, path: Path) -> EtcdAccess:
    endpoints = _endpoints(pod.flags.get("advertise-client-urls", ""), ",")
    if not endpoints:
        raise UsageError(f"{path} has no --advertise-client-urls", hint=_BY_HAND)
    certificate, key = _file(pod, "cert-file"), _file(pod, "key-file")
    if certificate is not None:
        # kubeadm's server certificate may serve clients too, but one made for asking about health is beside it.
        client = certificate.with_name("healthcheck-client.crt"), certificate.with_name("healthcheck-client.key")
        if all(file.is_file() for file in client):
            certificate, key = client
    return EtcdAccess(endpoints, _file(pod, "trusted-ca-file"), certificate, key, DEFAULT_PREFIX)


def _endpoints(servers: str, separator: str) -> tuple[str, ...]:
    return tuple(server.strip() for server in servers.split(separator) if server.strip())


def _read(path: Path, program: str) -> StaticPod:
    try:
        return parse_pod(path.read_text(encoding="utf-8"), program, what=str(path))
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror}", hint="run as root on the master") from err
    except UnicodeDecodeError as err:
        raise UsageError(f"{path} is not the manifest of a static pod: {err}", hint=_BY_HAND) from err
    except UsageError as err:
        raise UsageError(str(err), hint=_BY_HAND) from err


def _file(pod: StaticPod, flag: str) -> Path | None:
    named = pod.file(flag)
    return Path(named) if named else None
