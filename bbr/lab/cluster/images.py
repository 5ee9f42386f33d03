"""The container images of a cluster, made of this machine's own programs: one archive, and no registry.

An image is a layer of libraries that all share, and a layer of its programs, under the name that kubeadm gives it. It
is only ever found where it was put: pods have ``imagePullPolicy: Never``. The same files make the same archive, byte
by byte. Source: the archive that ``docker save`` writes (https://docs.docker.com/reference/cli/docker/image/save).
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bbr.errors import PreconditionFailed, ToolMissing
from bbr.lab.programs import SYSTEM_PATH

APP = "lab.local/app:1"
"""For pods of one's own: a shell, and what it takes to wait, read and write."""

_APP_PROGRAMS = ("sh", "sleep", "cat", "ls", "echo", "env", "hostname", "id", "date", "mkdir", "rm", "touch", "true")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARY = re.compile(r"(?:=>\s*)?(/\S+)\s+\(0x[0-9a-f]+\)")  # ldd(1)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Image:
    """A name, the machine's programs by the path that they get, and what runs when a pod does not say."""

    reference: str
    programs: tuple[tuple[str, Path], ...]
    entrypoint: tuple[str, ...] = ()

    @property
    def is_pause(self) -> bool:
        """Whether it is the one that a container runtime holds a pod's namespaces with."""
        return _short(self.reference) == "pause"


def of_cluster(references: Iterable[str], programs: dict[str, Path]) -> list[Image]:
    """The images that kubeadm names (``kubeadm config images list``), and `APP`.

    ``programs`` are the paths of kube-apiserver, kube-controller-manager, kube-scheduler, etcd, etcdctl and etcdutl.
    Others that it names (CoreDNS, kube-proxy) are left out. Raises `ToolMissing`.
    """
    images = []
    for reference in references:
        name = _short(reference)
        if name == "etcd":
            images.append(Image(reference, _in_bin(programs, ("etcd", "etcdctl", "etcdutl"))))
        elif name == "pause":
            # What holds a pod's namespaces has to be there, and no more; a runtime ends it with SIGKILL.
            images.append(Image(reference, (("/bin/sleep", _of_system("sleep")),), ("/bin/sleep", "infinity")))
        elif name in programs:
            images.append(Image(reference, _in_bin(programs, (name,))))
    app = tuple((f"/bin/{name}", _of_system(name)) for name in _APP_PROGRAMS)
    return [*images, Image(APP, app, ("/bin/sleep", "infinity"))]


def fingerprint(images: Sequence[Image]) -> str:
    """Changes when an image would: by the names, sizes and times of the files. 16 hexadecimal digits."""
    stats = [(path, path.stat()) for image in images for _, path in image.programs]
    body = [*map(repr, images), *(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)]
    return hashlib.sha256("\n".join(body).encode()).hexdigest()[:16]


def write_archive(images: Sequence[Image], file: IO[bytes], scratch: Path) -> None:
    """Write all of them as one archive. ``scratch`` is an empty folder for the layers. Raises `PreconditionFailed`."""
    shared = _layer(scratch, ((str(path), path) for path in _libraries(images)))
    manifest, configs, layers = [], {}, {shared.name: shared}
    for image in images:
        own = _layer(scratch, image.programs)
        layers[own.name] = own
        config = _config(image, [shared, own])
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        configs[name] = config
        manifest.append({"Config": name, "RepoTags": [image.reference], "Layers": [shared.name, own.name]})
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for name, body in {"manifest.json": json.dumps(manifest).encode(), **configs}.items():
            archive.addfile(_entry(name, len(body)), io.BytesIO(body))
        for name, path in layers.items():
            with path.open("rb") as layer:
                archive.addfile(_entry(name, path.stat().st_size), layer)


def _short(reference: str) -> str:
    return reference.rpartition("/")[2].partition(":")[0]


def _in_bin(programs: dict[str, Path], names: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    return tuple((f"/usr/local/bin/{name}", programs[name]) for name in names)


def _of_system(name: str) -> Path:
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise ToolMissing(f"images are made of this machine's programs, and it has no {name}")
    return Path(found)


def _libraries(images: Sequence[Image]) -> Iterator[Path]:
    """What the programs are linked with, the loader too, by the paths at which they look for it. Sorted."""
    found: set[str] = set()
    for path in {path for image in images for _, path in image.programs}:
        # A static program is none that ldd knows: it ends with 1 then, and names nothing.
        done = subprocess.run(
            ["ldd", path],  # noqa: S607 - the system's
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C"},
        )
        if "not found" in done.stdout:
            raise PreconditionFailed(f"{path} lacks a library:\n{done.stdout.strip()}")
        found.update(_LIBRARY.findall(done.stdout))
    return iter(sorted(map(Path, found)))


def _layer(scratch: Path, files: Iterable[tuple[str, Path]]) -> Path:
    """A layer, in a file whose name is its digest."""
    draft = scratch / "draft"
    with tarfile.open(draft, "w") as layer:
        for name, path in files:
            with path.open("rb") as file:
                layer.addfile(_entry(name.lstrip("/"), path.stat().st_size, mode=0o755), file)
    with draft.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return draft.rename(scratch / f"{digest}.tar")


def _config(image: Image, layers: Sequence[Path]) -> bytes:
    run = {"Env": [f"PATH={_PATH}"], **({"Entrypoint": image.entrypoint} if image.entrypoint else {})}
    machine = platform.machine()
    body = {
        "architecture": _MACHINES.get(machine, machine),
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.stem}" for layer in layers]},
    }
    return json.dumps(body, sort_keys=True).encode()


def _entry(name: str, size_bytes: int, *, mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size_bytes, mode
    return entry
