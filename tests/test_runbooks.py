"""The runbooks of docs/runbooks, carried out: each on a cluster that has its disaster, with the commands as they stand.

A chapter is run whole: its commands in their order, each ending as the page says, its shown lines among what was
printed, in their order. Figures, ids and times may be others. What a page cannot know, such as the name of a run, is
put in by `Hand.line`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.restore.cluster.site import TARGET, Site, object_names, opened_site

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"), pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
RUNBOOKS = ROOT / "docs" / "runbooks"
CHAPTER = re.compile(r"^## (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"\bprod-2026\d{4}t\d{6}-[0-9a-f]{4}\b")
HOST = re.compile(r"[mnw]\d[:,]?")
REACHED_S = 120.0


@dataclass(frozen=True, slots=True)
class Shown:
    """One command of a page, and the lines that the page shows of what it prints."""

    command: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hand:
    """Who does what a page says, at the rescue host of a site."""

    site: Site
    page: str

    def chapter(self, beginning: str) -> None:
        """Carry out the chapter whose heading begins so."""
        found = [one for title, one in chapters(self.page).items() if title.startswith(beginning)]
        assert len(found) == 1, f"{self.page} has {len(found)} chapters that begin with {beginning!r}"
        assert found[0], f"{self.page}, {beginning!r}: no command"
        for shown in found[0]:
            self.carry_out(shown)

    def carry_out(self, shown: Shown) -> None:
        """Run one command, and find all that the page shows of it, in order."""
        ended = subprocess.run(
            self.line(shown.command),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            cwd=self.site.folder,
            env=environment(),
        )
        said = f"{ended.stdout}\n{ended.stderr}"
        assert ended.returncode == 0, f"$ {shown.command}\n{said}"
        rest = iter(ended.stdout.splitlines())
        for line in shown.lines:
            wanted = pattern(line)
            assert any(wanted.search(one) for one in rest), f"$ {shown.command}\nshows {line!r}, and it said\n{said}"

    def start(self, beginning: str) -> subprocess.Popen[str]:
        """Begin the only command of a chapter, and leave it running."""
        (shown,) = next(one for title, one in chapters(self.page).items() if title.startswith(beginning))
        return subprocess.Popen(
            self.line(shown.command),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.site.folder,
            env=environment(),
        )

    def line(self, command: str) -> list[str]:
        """The command as it is run here."""
        command = command.replace("ssh ", f"ssh -F {self.site.lab.ssh_config} ")
        # The pages' new machines stand ready; here the inventory's adapter makes them.
        command = command.replace("--to n", "--make n")
        plan = self.site.folder / "plan.json"
        if plan.exists():
            command = RUN.sub(str(json.loads(plan.read_text())["plan"]["run"]), command)
        return ["/bin/bash", "-euo", "pipefail", "-c", command]


def environment() -> dict[str, str]:
    """bbr first on the PATH, and this tree's code."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def chapters(page: str) -> dict[str, list[Shown]]:
    """The commands of each chapter of a page, by its heading."""
    pieces = CHAPTER.split((RUNBOOKS / page).read_text(encoding="utf-8"))
    found = {}
    for title, text in zip(pieces[1::2], pieces[2::2], strict=True):
        found[title] = [one for block in FENCE.findall(text) for one in commands(block)]
    return found


def commands(block: str) -> list[Shown]:
    """Lines after ``$``, joined at a backslash; below each, what is shown of its output."""
    found: list[Shown] = []
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append(Shown(line.removeprefix("$ "), ()))
        elif line.strip():
            found[-1] = Shown(found[-1].command, (*found[-1].lines, line.strip()))
    return found


def pattern(line: str) -> re.Pattern[str]:
    """What a shown line stands for: any figure may be another, the names of hosts may not."""
    words = [re.escape(word) if HOST.fullmatch(word) or not re.search(r"\d", word) else r"\S+" for word in line.split()]
    return re.compile(r"(?:^|\s)" + r"\s+".join(words))


def prepare(site: Site) -> None:
    """What the pages count on: a backup, and a recovery identity in the folder."""
    shutil.copy(site.folder / "bbr-keys" / "recovery-1.txt", site.folder / "recovery-1.txt")
    site.kubectl(site.cluster.masters[0], "create", "namespace", "before")
    site.back_up()


def reached(site: Site, step: str) -> None:
    """Wait until a step of plan.json's run is done."""
    deadline = time.monotonic() + REACHED_S
    while not any((one["event"], one["step"]) == ("done", step) for one in site.journal(site.folder / "plan.json")):
        assert time.monotonic() < deadline, f"{step} was not done"
        time.sleep(0.05)


def namespaces(site: Site, master: str) -> set[str]:
    """Those that a test made."""
    return {one.split("/")[-1] for one in object_names(site, master, "namespaces")} & {"before", "harm"}


def test_the_pages_name_every_chapter_s_commands() -> None:
    """No block that nobody runs: only ``console`` is used, and each page is carried out below."""
    pages = sorted(path.name for path in RUNBOOKS.glob("*.md"))
    assert pages == ["README.md", "bad-data.md", "masters-lost.md", "one-master-lost.md"]
    for page in pages:
        kinds = set(re.findall(r"^```(\w+)$", (RUNBOOKS / page).read_text(encoding="utf-8"), re.MULTILINE))
        assert kinds <= {"console"}, page


@pytest.mark.timeout(1800)
def test_bad_data_goes_back_and_forth(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1", "m2", "m3")) as site:
        prepare(site)
        hand = Hand(site, "bad-data.md")
        site.kubectl("m1", "delete", "namespace", "before")
        site.kubectl("m1", "create", "namespace", "harm")
        hand.chapter("1.")
        hand.chapter("2.")

        # Stopped by the person who does it, and taken back.
        running = hand.start("3.")
        reached(site, "make-members")
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        undo, plan_back, apply_back = next(
            one for title, one in chapters(hand.page).items() if title.startswith("If you must")
        )
        hand.carry_out(undo)
        assert namespaces(site, "m1") == {"harm"}

        (site.folder / "plan.json").unlink()
        for beginning in ("2.", "3.", "4."):
            hand.chapter(beginning)
        assert namespaces(site, "m1") == {"before"}
        refused = site.undo(site.folder / "plan.json", check=False)
        assert refused.returncode == 5
        assert "safety:prod-" in refused.stderr

        hand.carry_out(plan_back)
        hand.carry_out(apply_back)
        assert namespaces(site, "m2") == {"harm"}
        hand.chapter("5.")
        check_clean(site, ("m1", "m2", "m3"))


@pytest.mark.timeout(1800)
def test_lost_masters_come_back_on_new_machines(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1", "m2", "m3"), workers=("w1",)) as site:
        prepare(site)
        site.kubectl("m1", "create", "namespace", "harm")
        for name in site.cluster.masters:
            site.lab.remove(name)
        hand = Hand(site, "masters-lost.md")
        for beginning in ("2.", "3.", "4.", "5.", "6."):
            hand.chapter(beginning)
        assert namespaces(site, "n3") == {"before"}
        hand.chapter("7.")
        check_clean(site, ("n1", "n2", "n3"))


@pytest.mark.timeout(1800)
def test_one_lost_master_is_replaced(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1", "m2", "m3")) as site:
        prepare(site)
        site.kubectl("m1", "create", "namespace", "harm")
        site.lab.remove("m2")
        hand = Hand(site, "one-master-lost.md")
        wait_not_ready(site, "m1", "m2")
        for beginning in ("1.", "3.", "4.", "5."):
            hand.chapter(beginning)
        assert namespaces(site, "n2") == {"before", "harm"}
        hand.chapter("6.")
        check_clean(site, ("n2",))


def wait_not_ready(site: Site, master: str, lost: str) -> None:
    """Until the cluster has seen that a master is gone."""
    deadline = time.monotonic() + REACHED_S
    while True:
        listed = site.kubectl(master, "get", "node", lost, "--no-headers")
        if "NotReady" in listed:
            return
        assert time.monotonic() < deadline, listed
        time.sleep(1)


def check_clean(site: Site, masters: Sequence[str]) -> None:
    """The plan's run left nothing on these machines but its mark in the member that it made, and not what it saved."""
    run = str(json.loads((site.folder / "plan.json").read_text())["plan"]["run"])
    for name in masters:
        assert site.on(name, f"find / -xdev -name '*{run}*' -not -name .bbr-{run} -not -path '/proc/*'") == ""
    assert not (site.folder / "state" / "restores" / run / "safety.db").exists()
    assert TARGET == "prod"
