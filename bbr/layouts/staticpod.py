"""A static pod's manifest: its program's flags, its image, and where its container's paths lie on the host. Pure.

Source: kubeadm's app/util/staticpod, and the Pod API (``hostPath``, ``volumeMounts``, ``subPath``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from bbr.errors import UsageError


@dataclass(frozen=True, slots=True)
class Mount:
    """A path in the container, and what lies there on the host. ``kind`` is hostPath's type, "" when it has none."""

    inside: PurePosixPath
    host: PurePosixPath
    kind: str


@dataclass(frozen=True, slots=True)
class StaticPod:
    """One program of a static pod. ``flags``: the last of a name counts; ``mounts``: the deepest first."""

    program: str
    image: str
    flags: Mapping[str, str]
    mounts: tuple[Mount, ...]

    def on_host(self, inside: PurePosixPath) -> PurePosixPath:
        """Where a path of the container lies on the host. The innermost mount hides the others."""
        for mount in self.mounts:
            if inside.is_relative_to(mount.inside):
                return mount.host / inside.relative_to(mount.inside)
        return inside

    def file(self, flag: str) -> PurePosixPath | None:
        """The file that a flag names, on the host; None where the flag is absent or empty."""
        value = self.flags.get(flag)
        return self.on_host(PurePosixPath(value)) if value else None

    def files(self) -> dict[str, PurePosixPath]:
        """Every flag whose value is an absolute path, and where that lies on the host."""
        return {name: self.on_host(PurePosixPath(value)) for name, value in self.flags.items() if value.startswith("/")}


def parse_pod(text: str, program: str, *, what: str) -> StaticPod:
    """Read a manifest; ``program`` is the container that counts, else the first. ``what`` names it in the error.

    Raises `UsageError` for what is no manifest of a pod.
    """
    try:
        pod = yaml.safe_load(text)
        containers = pod["spec"]["containers"]
        container = next((one for one in containers if one.get("name") == program), containers[0])
        words = [str(word) for word in [*(container.get("command") or ()), *(container.get("args") or ())]]
        mounts = tuple(_mounts(pod["spec"].get("volumes") or (), container.get("volumeMounts") or ()))
        return StaticPod(str(container["name"]), str(container.get("image", "")), dict(read_flags(words)), mounts)
    except (yaml.YAMLError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as err:
        raise UsageError(f"{what} is not the manifest of a static pod: {err}") from err


def read_flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """``--name=value`` and ``--name value``, in their order; the last of a name counts, as it does for the program."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        yield name, value if equals else ("" if following.startswith("--") else following)


def _mounts(volumes: Sequence[Any], mounted: Sequence[Any]) -> Iterator[Mount]:
    hosts = {volume["name"]: volume["hostPath"] for volume in volumes if volume.get("hostPath")}
    mounts = [
        Mount(
            PurePosixPath(mount["mountPath"]),
            PurePosixPath(hosts[mount["name"]]["path"], mount.get("subPath") or ""),
            hosts[mount["name"]].get("type") or "",
        )
        for mount in mounted
        if mount["name"] in hosts
    ]
    yield from sorted(mounts, key=lambda mount: len(mount.inside.parts), reverse=True)
