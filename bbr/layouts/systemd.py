"""A layout without static pods: etcd and Kubernetes' programs are units of systemd, found by what their commands run.

A program is taken out by stopping its units and disabling them, so that none comes back with the next boot; whether it
was enabled is remembered beside what the run keeps. Proven against a stand-in of systemctl, not yet on a machine whose
init is systemd. Not read: drop-ins for all units (``service.d``), template units, etcd's ``--config-file``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from bbr.errors import FileMissing, PreconditionFailed, UsageError
from bbr.layouts.layout import OURS, STOP_ORDER, Definition
from bbr.layouts.masterfiles import MasterFiles, collect_named
from bbr.layouts.moving import check_aside, move_file
from bbr.layouts.staticpod import StaticPod, read_flags
from bbr.layouts.staticpods import REMOVED
from bbr.layouts.units import Unit, parse_unit
from bbr.machines.machine import Machine
from bbr.repository.hostfiles import FILE_LIMIT_BYTES

INSTALLED = PurePosixPath("/etc/systemd/system")
FOLDERS = (
    INSTALLED,
    PurePosixPath("/run/systemd/system"),
    PurePosixPath("/usr/local/lib/systemd/system"),
    PurePosixPath("/usr/lib/systemd/system"),
    PurePosixPath("/lib/systemd/system"),
)
"""Where units lie; the first that has a name hides the others. Source: systemd.unit(5)."""

ROOTS = (PurePosixPath("/etc/etcd"), PurePosixPath("/etc/ssl/etcd"))
"""Where etcd's authorities are kept, whose keys no flag names."""

_AGENT = "kubelet.service"
_IN_SERVICE = ("active", "activating", "reloading", "deactivating", "refreshing")
_SECRET_WORDS = ("PASSWORD", "SECRET")

_FIND = r"""\
find "$@" -maxdepth 2 \( -path '*.service' -o -path '*.service.d/*.conf' \) -xtype f -printf '%p\0%l\0' 2>/dev/null
exit 0
"""
_NAMING = r"""\
find "$@" -maxdepth 2 \( -path '*.service' -o -path '*.service.d/*.conf' \) -xtype f \
  -exec grep -lZE 'etcd|kube-|cloud-controller-manager' {} + 2>/dev/null
exit 0
"""


@dataclass(frozen=True, slots=True)
class _Found:
    """A unit of ours to look after: its files in the order in which they count, what they say, and its command."""

    name: str
    files: tuple[PurePosixPath, ...]
    unit: Unit
    definition: Definition


class Systemd:
    """A `Layout`: programs as units."""

    @property
    def name(self) -> str:
        """See `Layout.name`."""
        return "systemd"

    def collect(self, machine: Machine) -> MasterFiles:
        """See `Layout.collect`: units, drop-ins, environment files, and what the commands' flags name."""
        units = list(_units(machine))
        if not units:
            raise UsageError(f"{machine.name} has no unit that runs one of {', '.join(STOP_ORDER)}")
        pods = {program: one.pod for program, one in _by_program(units).items()}
        files = [path for one in units for path in (*one.files, *(file.path for file in one.unit.files))]
        return collect_named(machine, "systemd", ROOTS, files, pods)

    def programs(self, machine: Machine) -> Mapping[str, Definition]:
        """See `Layout.programs`. Of two units with one program the shorter name counts."""
        return _by_program(list(_units(machine)))

    def is_in_service(self, machine: Machine, program: str) -> bool:
        """See `Layout.is_in_service`: a unit is active, or on its way to be, or enabled."""
        return any(_is_active(machine, one.name) or _is_enabled(machine, one.name) for one in _of(machine, program))

    def take_out(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """See `Layout.take_out`. Returns when systemd has stopped it. Units that require it are stopped with it."""
        for live in FOLDERS:
            check_aside(machine, aside, live)
        for one in _of(machine, program):
            enabled = _is_enabled(machine, one.name)
            if not enabled and not _is_active(machine, one.name):
                continue
            note = _note(aside, one.name)
            if machine.stat(note) is None:
                machine.run(["mkdir", "-p", "-m", "0700", "--", str(aside)])
                machine.put(note, [b"enabled\n" if enabled else b"disabled\n"], mode=0o600)
            if enabled:
                _check_not_linked(machine, one)
                machine.run(["systemctl", "disable", "--", one.name])
            machine.run(["systemctl", "stop", "--", one.name])

    def put_back(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """See `Layout.put_back`. What was taken out is started, and enabled where it was."""
        for one in _of(machine, program):
            note = _note(aside, one.name)
            if machine.stat(note) is None:
                continue
            if _read(machine, note).strip() == "enabled":
                machine.run(["systemctl", "enable", "--", one.name])
            _start(machine, one.name)
            move_file(machine, note, aside / REMOVED / note.name, numbered=True)

    def install(self, machine: Machine, program: str, text: str) -> None:
        """See `Layout.install`. ``text`` is a unit, enabled where it has a section [Install], and started."""
        unit, path = f"{program}.service", INSTALLED / f"{program}.service"
        new = parse_unit([text], what=f"the new {unit}")
        if not program.startswith(OURS) and new.program != program:
            raise UsageError(f"the new {unit} does not run {program}")
        present = machine.stat(path) is not None
        if present and _read(machine, path) != text:
            raise PreconditionFailed(
                f"{machine.name}: {path} is there; it was left as it is", hint=f"remove {program} first"
            )
        others = [one.name for one in _of(machine, program) if one.name != unit and _is_active(machine, one.name)]
        if others:
            raise PreconditionFailed(
                f"{machine.name}: {', '.join(others)} runs {program}", hint=f"take {program} out first"
            )
        if not present:
            machine.put(path, [text.encode()], mode=0o600, owner="root:root")
        machine.run(["systemctl", "daemon-reload"])
        if new.is_installable:
            machine.run(["systemctl", "enable", "--", unit])
        _start(machine, unit)

    def remove(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """See `Layout.remove`."""
        unit, path = f"{program}.service", INSTALLED / f"{program}.service"
        if machine.stat(path) is None:
            return
        if _is_enabled(machine, unit):
            machine.run(["systemctl", "disable", "--", unit])
        machine.run(["systemctl", "stop", "--", unit])
        move_file(machine, path, aside / REMOVED / path.name, numbered=True)
        machine.run(["systemctl", "daemon-reload"])

    def stop_agent(self, machine: Machine) -> None:
        """See `Layout.stop_agent`."""
        machine.run(["systemctl", "stop", _AGENT])

    def start_agent(self, machine: Machine) -> None:
        """See `Layout.start_agent`."""
        machine.run(["systemctl", "restart", _AGENT])


def _by_program(units: list[_Found]) -> dict[str, Definition]:
    found: dict[str, Definition] = {}
    for one in sorted(units, key=lambda one: (len(one.name), one.name)):
        found.setdefault(_program(one), one.definition)
    return dict(sorted(found.items()))


def _program(one: _Found) -> str:
    return one.name.removesuffix(".service") if one.name.startswith(OURS) else one.definition.pod.program


def _of(machine: Machine, program: str) -> list[_Found]:
    return [one for one in _units(machine) if _program(one) == program]


def _units(machine: Machine) -> Iterator[_Found]:
    """The units whose command is one of the programs. Others that only name one (a backup's script) are none."""
    naming = machine.run(["sh", "-c", _NAMING, "bbr", *map(str, FOLDERS)]).stdout
    names = {_unit_of(PurePosixPath(one.decode(errors="replace"))) for one in naming.split(b"\0") if one}
    if not names:
        return
    listed = machine.run(["sh", "-c", _FIND, "bbr", *map(str, FOLDERS)]).stdout.decode(errors="replace").split("\0")
    paths = dict(zip(map(PurePosixPath, listed[::2]), listed[1::2], strict=False))
    for name in sorted(names):
        files = _files(name, paths)
        if not files:
            continue
        what = f"{machine.name}: {files[0]}"
        unit = parse_unit([_read(machine, path) for path in files], what=what)
        if unit.program in STOP_ORDER:
            read = {file.path: _environment(machine, file.path, file.optional) for file in unit.files}
            words = unit.words(read, what=what)
            flags = dict(read_flags(words[1:]))
            if unit.program == "etcd":
                flags = _etcd_flags(unit.variables(read, what=what)) | flags
            pod = StaticPod(unit.program, words[0], flags, ())
            yield _Found(name, files, unit, Definition(files[0], pod))


def _unit_of(path: PurePosixPath) -> str:
    return path.parent.name.removesuffix(".d") if path.suffix == ".conf" else path.name


def _files(name: str, paths: Mapping[PurePosixPath, str]) -> tuple[PurePosixPath, ...]:
    """A unit's file and drop-ins; in each folder a name hides the same one in the folders behind it."""
    own = [folder / name for folder in FOLDERS if folder / name in paths]
    # An alias is a link to a unit of another name: that one is found by itself.
    if not own or (paths[own[0]] and PurePosixPath(paths[own[0]]).name != name):
        return ()
    drop_ins: dict[str, PurePosixPath] = {}
    for folder in FOLDERS:
        for path in paths:
            if path.parent == folder / f"{name}.d":
                drop_ins.setdefault(path.name, path)
    return (own[0], *(drop_ins[one] for one in sorted(drop_ins)))


def _etcd_flags(variables: Mapping[str, str]) -> dict[str, str]:
    """etcd takes every flag from its environment too: ETCD_DATA_DIR is --data-dir. Source: etcd's pkg/flags."""
    return {
        name.removeprefix("ETCD_").lower().replace("_", "-"): value
        for name, value in variables.items()
        if name.startswith("ETCD_") and not any(word in name for word in _SECRET_WORDS)
    }


def _environment(machine: Machine, path: PurePosixPath, optional: bool) -> str:
    try:
        return _read(machine, path)
    except FileMissing:
        if optional:
            return ""
        raise


def _read(machine: Machine, path: PurePosixPath) -> str:
    return b"".join(machine.get(path, limit_bytes=FILE_LIMIT_BYTES)).decode(errors="replace")


def _note(aside: PurePosixPath, unit: str) -> PurePosixPath:
    return aside / f"{unit}.was"


def _is_active(machine: Machine, unit: str) -> bool:
    said = machine.run(["systemctl", "is-active", "--", unit], expect=range(256)).stdout
    return said.decode(errors="replace").strip() in _IN_SERVICE


def _is_enabled(machine: Machine, unit: str) -> bool:
    said = machine.run(["systemctl", "is-enabled", "--", unit], expect=range(256)).stdout
    return said.decode(errors="replace").strip() == "enabled"


def _start(machine: Machine, unit: str) -> None:
    # A member of three becomes ready with the others only: systemd must not be waited for.
    machine.run(["systemctl", "start", "--no-block", "--", unit])


def _check_not_linked(machine: Machine, one: _Found) -> None:
    """`systemctl disable` removes a unit's link too, and then there is nothing to enable."""
    path = one.files[0]
    about = machine.stat(path)
    if about is not None and about.kind == "link":
        raise PreconditionFailed(
            f"{machine.name}: {path} is a link, which `systemctl disable` would remove",
            hint="put the unit's file itself there",
        )
