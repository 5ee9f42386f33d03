"""A static pod's manifest, as far as host processes can stand in for its containers. Pure; runs on a lab's host.

Image, probes, resources and priorities are not looked at. What would make a container something else than a process of
the host, with the host's network and files, is refused: a pod that silently ran otherwise would be a false witness.

Imports the standard library and PyYAML only: it is put on hosts that have no bbr. Source: the Pod API, and the
kubelet's pkg/kubelet/config/file.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

DEFAULT_GRACE_S = 30


class Refused(Exception):
    """This is no manifest, or it asks for what host processes cannot do."""


@dataclass(frozen=True, slots=True)
class HostPath:
    """A path of the host that a container sees at ``target``. ``kind`` is the API's type, "" for none."""

    source: str
    target: str
    kind: str
    is_read_only: bool

    @property
    def is_elsewhere(self) -> bool:
        """Whether the container sees it at another path than the host does."""
        return self.source != self.target


@dataclass(frozen=True, slots=True)
class Container:
    """One program: its command with arguments, its own environment, and where it starts ("" for /)."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    folder: str
    paths: tuple[HostPath, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """A static pod. ``digest`` is of its manifest: another one is another pod."""

    namespace: str
    name: str
    digest: str
    grace_s: int
    containers: tuple[Container, ...]


def parse(body: bytes) -> Pod:
    """Read a manifest, YAML or JSON. Raises `Refused`."""
    try:
        manifest = yaml.safe_load(body)
        if manifest["kind"] != "Pod":
            raise Refused(f"it is a {manifest['kind']}, and no Pod")
        metadata, spec = manifest["metadata"], manifest["spec"]
        _check(spec)
        volumes = {str(volume["name"]): volume for volume in spec.get("volumes") or ()}
        grace_s = spec.get("terminationGracePeriodSeconds")
        return Pod(
            namespace=str(metadata.get("namespace") or "default"),
            name=str(metadata["name"]),
            digest=hashlib.sha256(body).hexdigest(),
            grace_s=DEFAULT_GRACE_S if grace_s is None else int(grace_s),
            containers=tuple(_container(one, volumes) for one in spec["containers"]),
        )
    except (yaml.YAMLError, RecursionError, AttributeError, KeyError, IndexError, TypeError, ValueError) as err:
        raise Refused(f"it is not the manifest of a pod: {err!r}") from err


def _check(spec: Mapping[str, Any]) -> None:
    if not spec.get("hostNetwork"):
        raise Refused("it wants a network of its own (no hostNetwork)")
    if spec.get("initContainers"):
        raise Refused("it has initContainers")
    if not spec["containers"]:
        raise Refused("it has no containers")
    for one in (spec, *spec["containers"]):
        security = one.get("securityContext") or {}
        if security.get("runAsUser") or security.get("runAsGroup") or security.get("runAsNonRoot"):
            raise Refused("it runs as another user than root")


def _container(one: Mapping[str, Any], volumes: Mapping[str, Any]) -> Container:
    name = str(one["name"])
    if not one.get("command"):
        raise Refused(f"container {name} has no command: what its image would run is not known here")
    if one.get("envFrom") or any("valueFrom" in entry for entry in one.get("env") or ()):
        raise Refused(f"container {name} takes its environment from elsewhere")
    paths = tuple(sorted(_paths(name, one, volumes), key=lambda path: path.target))
    moved = [path for path in paths if path.is_elsewhere]
    for path in paths:
        # Mounted one after the other, so that it would show what is mounted there, and not what lies there.
        if any(PurePosixPath(path.source).is_relative_to(other.target) for other in moved):
            raise Refused(f"container {name} has a mount over {path.source}, which it mounts too")
    return Container(
        name=name,
        command=(*map(str, one["command"]), *map(str, one.get("args") or ())),
        environment=tuple((str(entry["name"]), str(entry.get("value") or "")) for entry in one.get("env") or ()),
        folder=str(one.get("workingDir") or ""),
        paths=paths,
    )


def _paths(container: str, one: Mapping[str, Any], volumes: Mapping[str, Any]) -> Iterator[HostPath]:
    for mount in one.get("volumeMounts") or ():
        volume = volumes[str(mount["name"])]
        if not volume.get("hostPath"):
            raise Refused(f"container {container} mounts {mount['name']}, which is no hostPath")
        source = PurePosixPath(volume["hostPath"]["path"], mount.get("subPath") or "")
        target = PurePosixPath(mount["mountPath"])
        if not source.is_absolute() or not target.is_absolute() or ".." in (*source.parts, *target.parts):
            raise Refused(f"container {container}: {source} or {target} is no absolute path")
        kind = str(volume["hostPath"].get("type") or "")
        yield HostPath(str(source), str(target), kind, bool(mount.get("readOnly")))
