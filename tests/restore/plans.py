"""A plan for tests, and a world that its steps change: steps with behaviour, not mocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from bbr.progress import Progress
from restore.plan import SCHEMA, Choices, EtcdSource, OldMaster, Plan, PlannedHost, PlannedStep, Source, Target
from restore.step import Observation, Step, done, todo

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_plan(*, steps: tuple[PlannedStep, ...] = (), kind: str = "in-place") -> Plan:
    """A plan that is whole and says little."""
    host = PlannedHost(
        name="m1",
        address="10.0.0.11",
        role="member",
        node_name="m1",
        node_address="10.0.0.11",
        member_name="m1",
        peer_url="https://10.0.0.11:2380",
        client_url="https://10.0.0.11:2379",
        data_dir="/var/lib/etcd",
        wal_dir="",
        ca_file="/etc/kubernetes/pki/etcd/ca.crt",
        etcd_image="registry.k8s.io/etcd:3.6.16-0",
        takes_after="",
        facts_sha256="a" * 64,
    )
    etcd = EtcdSource("main", 48211907, 48200000, 2843398832, "3.6.16", 1_000_000)
    return Plan(
        schema=SCHEMA,
        run="prod-20260102t030405-a1b2",
        kind=kind,
        made_at=NOW,
        inventory="/etc/bbr/prod.yaml",
        inventory_sha256="b" * 64,
        source=Source("/mnt/backups", "c" * 64, "prod", "prod-20260102T030000Z-a1c6", "d" * 64, NOW, etcd),
        target=Target("prod", "e" * 64, "api.prod:6443", ""),
        hosts=(host, replace(host, name="m2", node_name="m2", member_name="m2", peer_url="https://10.0.0.12:2380")),
        old_masters=(OldMaster("m0", "m0", "10.0.0.10", "https://10.0.0.10:2380", "attested"),),
        choices=Choices(10**9, "bbr-token", "kubeadm", True, True, True, True, True),
        loses=("everything since",),
        warnings=(),
        diffs=("--- a\n+++ b\n",),
        steps=steps,
        expect=("all is well",),
    )


@dataclass
class World:
    """What fake steps change. ``fuse`` is called at every point where a process may die."""

    parts: set[str] = field(default_factory=set)
    acts: list[str] = field(default_factory=list)
    fuse: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class FakeStep:
    """Adds two things to the world, one after the other, and removes what an earlier step added where it says so."""

    world: World
    name: str
    takes: str = ""
    superseded_by: str = ""
    undo_text: str = "take it away"

    @property
    def title(self) -> str:
        return f"do {self.name}"

    def observe(self) -> Observation:
        wanted = {f"{self.name}-1", f"{self.name}-2"}
        return done("both there") if wanted <= self.world.parts else todo(f"{len(wanted & self.world.parts)} there")

    def act(self, progress: Progress) -> None:
        del progress
        self.world.acts.append(self.name)
        self.world.fuse(f"{self.name} before")
        self.world.parts.add(f"{self.name}-1")
        self.world.fuse(f"{self.name} inside")
        self.world.parts.add(f"{self.name}-2")
        if self.takes:
            self.world.parts -= {f"{self.takes}-1", f"{self.takes}-2"}
        self.world.fuse(f"{self.name} after")

    def verify(self) -> None:
        assert self.observe().state == "done"

    def undo(self) -> None:
        self.world.fuse(f"undo {self.name} before")
        self.world.parts -= {f"{self.name}-1"}
        self.world.fuse(f"undo {self.name} inside")
        self.world.parts -= {f"{self.name}-2"}
        if self.takes:
            self.world.parts |= {f"{self.takes}-1", f"{self.takes}-2"}


def planned(steps: list[Step], *, no_return: str = "") -> Plan:
    """A plan of just these steps."""
    return make_plan(steps=tuple(PlannedStep(s.name, s.title, s.undo_text, s.name == no_return) for s in steps))
