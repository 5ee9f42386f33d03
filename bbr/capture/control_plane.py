"""What a rebuild needs besides etcd: the files of every master, looked at together, as one archive.

An etcd file is not a cluster. Without the authorities, the service-account key and the encryption configuration it
cannot even be read. They are taken as they lie on the masters; what does not hold together makes the backup partial,
since a rebuild would stop there.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

from bbr.capture.etcd import Canaries
from bbr.errors import BbrError
from bbr.layouts.detect import detect
from bbr.layouts.masterfiles import MasterFiles
from bbr.layouts.pki import PKI, PkiReport, check_pki
from bbr.layouts.staticpod import StaticPod
from bbr.machines.machine import Machine
from bbr.objects.encryption import why_sealed
from bbr.progress import Progress
from bbr.repository.hostfiles import HostFile, HostFiles, split_owner

KUBEADM = "kubeadm"
MIXED = "mixed"
"""The layout of an archive whose hosts have different ones (etcd as units beside masters of kubeadm's)."""

_CA_DATA = re.compile(rb"certificate-authority-data: ([A-Za-z0-9+/]+=*)")
"""In the kubeconfig that cluster-info holds. Source: kubeadm's bootstraptoken/clusterinfo."""

_CLUSTER_FLAGS = {
    "service_cidr": ("kube-apiserver", "service-cluster-ip-range"),
    "pod_cidr": ("kube-controller-manager", "cluster-cidr"),
    "cluster_name": ("kube-controller-manager", "cluster-name"),
    "service_account_issuer": ("kube-apiserver", "service-account-issuer"),
}
"""What a plan must know without a live cluster, and which program's flag says it."""


@dataclass(frozen=True, slots=True)
class ControlPlaneTaken:
    """The masters' files as one archive. ``problems`` make the backup partial, ``warnings`` do not."""

    archive: HostFiles
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def take_control_plane(
    masters: Mapping[str, Machine], canaries: Canaries, *, now: datetime, progress: Progress
) -> ControlPlaneTaken:
    """Read every master's files and hold them against each other, and against what etcd holds. ``masters`` are by the
    name that they have in backups.

    A master that cannot be read is a problem: the others, and etcd, are still worth having.
    """
    found: dict[str, MasterFiles] = {}
    layouts: dict[str, str] = {}
    missing: list[str] = []
    for name, machine in masters.items():
        progress.step(f"control plane: reading the files of {machine.name}")
        try:
            layout = detect(machine)
            found[name] = layout.collect(machine)
            layouts[name] = layout.name
        except BbrError as err:
            progress.warn(str(err))
            missing.append(f"the files of master {name} are missing: {err}")
    bodies = {name: {file.path: file.body for file in master.files} for name, master in found.items()}
    pki = check_pki(bodies, now=now)
    problems = missing + [problem for master in found.values() for problem in master.problems] + list(pki.problems)
    problems += _differing_versions(found)
    for name, master in found.items():
        problems += (f"{name}: {problem}" for problem in _misfits(master, canaries))
    hosts = {name: tuple(_host_files(master)) for name, master in found.items()}
    notes = (*pki.notes, *_not_compared(bodies))
    return ControlPlaneTaken(HostFiles(_index(found, layouts, pki), hosts), tuple(problems), notes)


def _not_compared(bodies: Mapping[str, Mapping[PurePosixPath, bytes]]) -> Iterator[str]:
    """Keys that lie where kubeadm puts none are stored, and nobody held them against their certificates."""
    for name, files in bodies.items():
        if not any(path.is_relative_to(PKI) for path in files):
            yield f"{name}: its keys do not lie in {PKI}; whether they fit their certificates was not looked at"


def _host_files(master: MasterFiles) -> Sequence[HostFile]:
    return [
        HostFile(file.path, file.mode, *split_owner(file.owner), body=file.body, link=file.link)
        for file in master.files
    ]


def _differing_versions(found: Mapping[str, MasterFiles]) -> list[str]:
    """In the middle of an upgrade masters run different images: their files do not belong together."""
    problems = []
    for program in sorted({program for master in found.values() for program in master.pods}):
        images = {master.pods[program].image: name for name, master in found.items() if program in master.pods}
        if len(images) > 1:
            listed = ", ".join(f"{name} {image}" for image, name in sorted(images.items()))
            problems.append(f"{program} is of different versions: {listed}; an upgrade is under way")
    return problems


def _misfits(master: MasterFiles, canaries: Canaries) -> Iterator[str]:
    """Whether a cluster rebuilt from these files could read this etcd, and would be the same to its clients."""
    bodies = {file.path: file.body for file in master.files}
    api_server = master.pods.get("kube-apiserver")
    if canaries.secret is not None and api_server is not None:
        key, value = canaries.secret
        path = api_server.file("encryption-provider-config")
        problem = why_sealed(bodies.get(path) if path else None, key, value)
        if problem:
            yield f"Secret {key.decode(errors='replace')} cannot be read with these files: {problem}"
    authority = bodies.get(PKI / "ca.crt")
    told = _CA_DATA.search(canaries.cluster_info or b"")
    if authority is not None and told is not None and base64.b64decode(told[1]).strip() != authority.strip():
        yield f"{PKI / 'ca.crt'} is not the CA that etcd's cluster-info names"


def _index(found: Mapping[str, MasterFiles], layouts: Mapping[str, str], pki: PkiReport) -> dict[str, object]:
    """What is known without opening any file. No secrets: flags name files, they do not hold keys."""
    pods = [master.pods for master in found.values()]
    any_pods = next((one for one in pods if "kube-apiserver" in one), pods[0] if pods else {})
    names = sorted(set(layouts.values()))
    return {
        "schema": "bbr.control-plane/1",
        "layout": KUBEADM if not names else names[0] if len(names) == 1 else MIXED,
        "cluster": {name: _flag(any_pods, *where) for name, where in _CLUSTER_FLAGS.items()},
        "hosts": {
            name: {
                "layout": layouts[name],
                "programs": {
                    program: {"image": pod.image, "flags": dict(pod.flags)} for program, pod in master.pods.items()
                },
                "why": {str(file.path): file.why for file in master.files},
            }
            for name, master in found.items()
        },
        "expiries": [
            {
                "host": one.host,
                "path": str(one.path),
                "not_after": f"{one.not_after.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            }
            for one in pki.expiries
        ],
    }


def _flag(pods: Mapping[str, StaticPod], program: str, flag: str) -> str:
    return pods[program].flags.get(flag, "") if program in pods else ""
