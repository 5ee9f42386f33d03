"""A lab host made able to become a master of the fast tier: the kubelet's stand-in is put on it, with a systemctl.

The stand-in takes its own PyYAML along (the pure Python of the one that bbr uses): what writes manifests may write any
YAML, and a host's Python need not have one.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bbr.lab.cluster import programs
from bbr.lab.cluster.remote import run
from bbr.lab.lab import Lab
from bbr.lab.programs import SYSTEM_PATH
from bbr.threads import pool

_HERE = Path(__file__).parent
_LIBRARY = "usr/local/lib/kubelet-standin"
_MODULES = ("kubelet_standin", "fast_node", "fast_pod", "fast_process")
_THREADS = 8

_LAUNCHER = f"""\
#!/bin/sh
# The kubelet's stand-in, by a Python that is new enough.
PATH={SYSTEM_PATH} LC_ALL=C PYTHONPATH=/{_LIBRARY}
export PATH LC_ALL PYTHONPATH
cd / # Python looks into the current folder first
for python in python3 python3.11 python3.12 python3.13 python3.14; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue
    [ "${{1:-}}" != --check ] || exit 0
    exec "$python" -m bbr.lab.cluster.kubelet_standin
done
echo "the kubelet's stand-in needs Python 3.10 or newer: apt-get install python3" >&2
exit 1
"""

_RC_LOCAL = """\
#!/bin/sh
# What a host starts when it is switched on.
! systemctl is-enabled --quiet kubelet || systemctl start kubelet
"""


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    mode: int = 0o644


def prepare(lab: Lab, host_names: Sequence[str]) -> None:
    """Make hosts able to become nodes, side by side: `systemctl start kubelet` starts the stand-in afterwards.

    Raises `ToolMissing` when a host has not got the programs of a control plane, `PreconditionFailed` without a
    Python 3.10. Harmless on a host that is prepared; the kubelet then runs on as it is.
    """
    for name in host_names:
        for program in (name for family in programs.FAST for name in family.names):
            programs.of_host(lab, name, program)
    archive = _archive(_files())
    with pool(_THREADS, "prepare") as threads:
        for _ in threads.map(lambda name: _install(lab, name, archive), host_names):
            pass


def _install(lab: Lab, host: str, archive: bytes) -> None:
    run(lab, host, "tar -C / -x && kubelet-standin --check && mkdir -p -m 700 /etc/kubernetes/manifests", stdin=archive)


def _files() -> dict[str, _File]:
    files = {
        "usr/local/bin/kubelet-standin": _File(_LAUNCHER.encode(), 0o755),
        "usr/local/bin/systemctl": _File((_HERE / "fast_systemctl.sh").read_bytes(), 0o755),
        "etc/rc.local": _File(_RC_LOCAL.encode(), 0o755),
    }
    # Empty ones: a host may have a bbr of its own, which would win over a package without them.
    for package in ("bbr", "bbr/lab", "bbr/lab/cluster"):
        files[f"{_LIBRARY}/{package}/__init__.py"] = _File(b"")
    for module in _MODULES:
        files[f"{_LIBRARY}/bbr/lab/cluster/{module}.py"] = _File((_HERE / f"{module}.py").read_bytes())
    files.update(_yaml())
    return files


def _yaml() -> Iterator[tuple[str, _File]]:
    for path in sorted(Path(yaml.__file__).parent.glob("*.py")):
        yield f"{_LIBRARY}/yaml/{path.name}", _File(path.read_bytes())


def _archive(files: dict[str, _File]) -> bytes:
    """Files and the folders above them, of root."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, file in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(file.body), file.mode
            archive.addfile(entry, io.BytesIO(file.body))
    return out.getvalue()
