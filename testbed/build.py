"""Builds the real servers that tests and demos run, once, from pinned Go modules.

    python3 testbed/build.py etcd-3.6 minio     those families
    python3 testbed/build.py --all              every family that `make test` runs
    python3 testbed/build.py --lab              Kubernetes and containerd, for real clusters in the lab: minutes
    python3 testbed/build.py --bin-dir DIR ...  programs in DIR are used where their version fits

A family is a folder beside this file: its go.mod pins the versions and names the tools. What is built lies in
``~/.cache/bbr/testbed/<family>-<version>/bin`` (``XDG_CACHE_HOME`` is honoured). Programs of the fitting version that
are on the PATH or in ``KUBEBUILDER_ASSETS`` are used as they are. Only the standard library is needed, and Go.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD_LIMIT_S = 1800
VERSION_LIMIT_S = 20


@dataclass(frozen=True)
class Tool:
    """A program: its name, the package it is built from, and how it is asked for its version."""

    name: str
    package: str
    version_arguments: tuple[str, ...] = ("--version",)


@dataclass(frozen=True)
class Family:
    """Programs that are pinned together. ``module`` is the one whose version is theirs, ``pinned_in`` the folder whose
    go.mod pins it.

    ``stamps`` are variables that the linker sets, for programs that else do not know their version; ``{version}``,
    ``{major}`` and ``{minor}`` in them are filled in. ``for_lab``: only the lab runs it, so ``--all`` leaves it out.
    """

    name: str
    module: str
    tools: tuple[Tool, ...]
    stamps: tuple[str, ...] = ()
    for_lab: bool = False
    pinned_in: str = ""

    @property
    def version(self) -> str:
        """The pinned version, without its v."""
        pinned = re.search(rf"^(?:require )?\s*{re.escape(self.module)} v(\S+)", self._go_mod, re.MULTILINE)
        if pinned is None:
            raise SystemExit(f"testbed: {self.folder.name}/go.mod does not pin {self.module}")
        return pinned[1]

    @property
    def linker_flags(self) -> str:
        """What Go's linker is told: no symbols, and the stamps."""
        major, minor, *_ = self.version.split(".")
        filled = (stamp.format(version=self.version, major=major, minor=minor) for stamp in self.stamps)
        return " ".join(("-s -w", *(f"-X {stamp}" for stamp in filled)))

    @property
    def folder(self) -> Path:
        """Where its go.mod is."""
        return HERE / (self.pinned_in or self.name)

    @property
    def _go_mod(self) -> str:
        return (self.folder / "go.mod").read_text()


_ETCD_TOOLS = (
    Tool("etcd", "go.etcd.io/etcd/server/v3"),
    Tool("etcdctl", "go.etcd.io/etcd/etcdctl/v3", ("version",)),
    Tool("etcdutl", "go.etcd.io/etcd/etcdutl/v3", ("version",)),
)
_KUBEADM = Tool("kubeadm", "k8s.io/kubernetes/cmd/kubeadm", ("version", "-o", "short"))
_KUBERNETES_TOOLS = (
    *(
        Tool(name, f"k8s.io/kubernetes/cmd/{name}")
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
    ),
    _KUBEADM,
    Tool("kubectl", "k8s.io/kubernetes/cmd/kubectl", ("version", "--client")),
)
# kubeadm takes the version of the cluster it makes from these; without them it would look for it on the internet.
_KUBERNETES_STAMPS = (
    "k8s.io/component-base/version.gitVersion=v{version}",
    "k8s.io/component-base/version.gitMajor={major}",
    "k8s.io/component-base/version.gitMinor={minor}",
    "k8s.io/component-base/version.gitTreeState=clean",
    "k8s.io/component-base/version.gitCommit=unknown",
    "k8s.io/component-base/version.buildDate=2026-01-01T00:00:00Z",
    "k8s.io/client-go/pkg/version.gitVersion=v{version}",
)
_CONTAINERD = "github.com/containerd/containerd/v2"
_CONTAINERD_TOOLS = (
    Tool("containerd", f"{_CONTAINERD}/cmd/containerd"),
    Tool("ctr", f"{_CONTAINERD}/cmd/ctr"),
    Tool("containerd-shim-runc-v2", f"{_CONTAINERD}/cmd/containerd-shim-runc-v2", ("-v",)),
)
FAMILIES = {
    family.name: family
    for family in (
        *(Family(name, "go.etcd.io/etcd/server/v3", _ETCD_TOOLS) for name in ("etcd-3.6", "etcd-3.5", "etcd-3.7")),
        Family("minio", "github.com/minio/minio", (Tool("minio", "github.com/minio/minio"),)),
        Family(
            "age",
            "filippo.io/age",
            (Tool("age", "filippo.io/age/cmd/age"), Tool("age-keygen", "filippo.io/age/cmd/age-keygen")),
        ),
        # Alone, for tests that need what it writes and no cluster: a fifth of building all of Kubernetes.
        Family("kubeadm", "k8s.io/kubernetes", (_KUBEADM,), _KUBERNETES_STAMPS, pinned_in="kubernetes-1.37"),
        Family("kubernetes-1.37", "k8s.io/kubernetes", _KUBERNETES_TOOLS, _KUBERNETES_STAMPS, for_lab=True),
        Family("containerd", _CONTAINERD, _CONTAINERD_TOOLS, (f"{_CONTAINERD}/version.Version=v{{version}}",), True),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is asked for and not there. Returns an exit code."""
    parser = argparse.ArgumentParser(description="Build the testbed's servers from pinned Go modules.")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="what to build")
    parser.add_argument("--all", action="store_true", help="every family that `make test` runs")
    parser.add_argument("--lab", action="store_true", help="the families of the lab: Kubernetes and containerd")
    parser.add_argument("--bin-dir", type=Path, help="use fitting programs in this folder")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.families if name not in FAMILIES]:
        parser.error(f"no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    for family in _chosen(options.families, everyday=options.all, lab=options.lab):
        provide(family, options.bin_dir)
    return 0


def _chosen(names: Sequence[str], *, everyday: bool, lab: bool) -> list[Family]:
    return [
        family
        for name, family in FAMILIES.items()
        if name in names or (everyday and not family.for_lab) or (lab and family.for_lab)
    ]


def provide(family: Family, bin_dir: Path | None) -> None:
    """Make sure that the programs of a family are on this machine."""
    target = cache() / f"{family.name.split('-')[0]}-{family.version}" / "bin"
    if all((target / tool.name).exists() for tool in family.tools):
        return
    if all(_fits(tool, family.version, bin_dir) for tool in family.tools):
        print(f"testbed: {family.name} {family.version} is on this machine")
        return
    with _lock(target.parent.with_name(f"{target.parent.name}.lock")):
        if not all((target / tool.name).exists() for tool in family.tools):
            _build(family, target)


def cache() -> Path:
    """Where everything lies that was built."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bbr" / "testbed"


def _build(family: Family, target: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise SystemExit(
            f"testbed: Go is missing, and {family.name} {family.version} is not on this machine.\n"
            f"  install Go (https://go.dev/doc/install), or name a folder with {_names(family)} by --bin-dir"
        )
    print(f"testbed: building {family.name} {family.version} ({_names(family)}), once", flush=True)
    began = time.monotonic()
    # Beside the target, so that it appears whole by one rename; what a killed build left is overwritten.
    scratch = target.parent.with_name(f".{target.parent.name}.building")
    for tool in family.tools:
        _compile(go, tool, family, scratch / tool.name)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    scratch.rename(target)
    print(f"testbed: built {family.name} {family.version} in {time.monotonic() - began:.0f} s", flush=True)


def _compile(go: str, tool: Tool, family: Family, to: Path) -> None:
    # Exactly what go.mod and go.sum say, whatever workspace, flags or checkout surround us.
    command = [go, "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", family.linker_flags]
    environ = {**os.environ, "GOWORK": "off", "GOFLAGS": ""}
    try:
        subprocess.run(
            [*command, "-o", str(to), tool.package],
            cwd=family.folder,
            env=environ,
            check=True,
            timeout=BUILD_LIMIT_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as err:
        raise SystemExit(f"testbed: {tool.name} of {family.name} {family.version} was not built: {err}") from err


def _fits(tool: Tool, version: str, bin_dir: Path | None) -> bool:
    folders = [str(bin_dir)] if bin_dir else []
    for name in ("KUBEBUILDER_ASSETS", "PATH"):
        folders += [folder for folder in os.environ.get(name, "").split(os.pathsep) if folder]
    found = filter(None, (shutil.which(tool.name, path=folder) for folder in folders))
    return any(_says(path, tool.version_arguments, version) for path in found)


def _says(path: str, arguments: Sequence[str], version: str) -> bool:
    """Whether a program runs and names this version. A broken one on the PATH is no reason to stop."""
    try:
        answer = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=VERSION_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return re.search(rf"(?<![\d.]){re.escape(version)}(?![\d.])", answer.stdout) is not None


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One build of a family at a time on this machine; another waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _names(family: Family) -> str:
    return ", ".join(tool.name for tool in family.tools)


if __name__ == "__main__":
    sys.exit(main())
