"""What every adapter promises, asked of each over real SSH hosts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from bbr.errors import IaasError, IaasRefused, MachineTaken, MachineUnreachable, NotOurs
from bbr.lab.lab import Lab
from restore.iaas.iaas import MachineMade, machine_of
from restore.iaas.inventory import read_inventory
from restore.iaas.site import open_iaas
from tests.restore.iaas.conftest import OLD, Bench, mark, refused, wanted

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; from bbr.cli.main import main; sys.argv[0] = 'bbr'; main()"

START_ETCD = """\
cd /tmp
setsid --fork sh -c 'echo $$ >/tmp/etcd.pid; exec etcd --data-dir /tmp/etcd' >/dev/null 2>&1 </dev/null
until grep -q 0100007F:094B /proc/net/tcp; do sleep 0.05; done
"""


def bbr(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which knows nothing but what is written down."""
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90, cwd=ROOT)


def hostname(made: MachineMade | None) -> str:
    assert made is not None
    with machine_of(made) as machine:
        return machine.run(["hostname"]).stdout.decode().strip()


def test_it_says_what_it_is_and_finds_nothing_in_the_way(bench: Bench) -> None:
    info = bench.site.iaas.info()
    assert (info.adapter, info.makes_machines) == (bench.kind, bench.kind == "lab")
    assert OLD in {one.name for one in info.known}
    findings = bench.site.iaas.preflight()
    assert findings
    assert [one for one in findings if not one.is_good] == []


def test_ensured_twice_is_one_machine(bench: Bench) -> None:
    its = mark()
    first = bench.site.iaas.ensure_machine(wanted(bench.names[0], its))
    again = bench.site.iaas.ensure_machine(wanted(bench.names[0], its))
    assert again == first
    assert (first.state, first.role, first.node_name) == ("on", "master", bench.names[0])
    assert hostname(again) == bench.names[0]
    assert bench.owned() == {bench.names[0]: first}
    assert bench.site.iaas.get(bench.names[0]) == first


def test_ensured_by_two_threads_at_once_is_one_machine(bench: Bench) -> None:
    its = mark()
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(bench.site.iaas.ensure_machine, wanted(bench.names[0], its)) for _ in range(2)]
        problems = [call.exception() for call in calls]
    # One may have been told that the other was quicker: then it may simply ask again.
    assert all(one is None or (isinstance(one, IaasError) and one.retry_may_help) for one in problems)
    assert bench.site.iaas.ensure_machine(wanted(bench.names[0], its)).mark == its
    assert list(bench.owned()) == [bench.names[0]]


def test_of_two_runs_that_want_one_machine_at_once_one_gets_it(bench: Bench) -> None:
    def ensure(run: str) -> MachineMade | IaasError:
        try:
            return bench.site.iaas.ensure_machine(wanted(bench.names[0], mark(run)))
        except IaasError as err:
            return err

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(ensure, ["r1", "r2"]))
    (winner,) = [one for one in answers if isinstance(one, MachineMade)]
    assert bench.owned()[bench.names[0]].mark == winner.mark


def test_machine_of_another_run_is_not_taken(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted(bench.names[0], mark("first")))
    with pytest.raises(MachineTaken, match="held by run first"):
        bench.site.iaas.ensure_machine(wanted(bench.names[0], mark("second")))
    its = bench.owned()[bench.names[0]].mark
    assert its is not None
    assert its.run == "first"


def test_machine_of_a_run_whose_mark_is_over_is_taken(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted(bench.names[0], mark("first", hours=-1)))
    made = bench.site.iaas.ensure_machine(wanted(bench.names[0], mark("second")))
    assert made.mark is not None
    assert made.mark.run == "second"
    assert bench.owned() == {bench.names[0]: made}


def test_own_mark_is_renewed(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted(bench.names[0], mark(hours=1)))
    later = mark(hours=5)
    bench.site.iaas.ensure_machine(wanted(bench.names[0], later))
    assert bench.owned()[bench.names[0]].mark == later


def test_machine_is_found_by_a_process_that_knows_nothing(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted(bench.names[0], mark("found-me")))
    said = bbr("iaas", "list", bench.inventory, "-o", "json")
    assert said.returncode == 0, said.stderr
    (machine,) = json.loads(said.stdout)["machines"]
    assert (machine["name"], machine["run"], machine["state"]) == (bench.names[0], "found-me", "on")


def test_machine_without_a_mark_is_not_listed_and_not_given_back(bench: Bench) -> None:
    assert bench.owned() == {}
    assert "NotOurs" in refused(bench.site, OLD, "r1")
    there = bench.site.iaas.get(OLD)
    assert there is not None
    assert there.mark is None
    assert hostname(there) == OLD


def test_machine_of_another_run_is_not_given_back(bench: Bench) -> None:
    made = bench.site.iaas.ensure_machine(wanted(bench.names[0], mark("theirs")))
    assert "NotOurs" in refused(bench.site, bench.names[0], "ours")
    assert bench.owned() == {bench.names[0]: made}
    assert hostname(made) == bench.names[0]


def test_given_back_twice_is_given_back(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted(bench.names[0]))
    bench.site.iaas.delete(bench.names[0], run="r1")
    bench.site.iaas.delete(bench.names[0], run="r1")
    assert bench.owned() == {}


def test_what_was_handed_over_is_nobodys_and_goes_on(bench: Bench) -> None:
    made = bench.site.iaas.ensure_machine(wanted(bench.names[0]))
    with pytest.raises(NotOurs):
        bench.site.iaas.hand_over(bench.names[0], run="another")
    bench.site.iaas.hand_over(bench.names[0], run="r1")
    bench.site.iaas.hand_over(bench.names[0], run="r1")
    assert bench.owned() == {}
    assert hostname(made) == bench.names[0]


def test_machine_that_never_was_is_none_and_given_back(bench: Bench) -> None:
    assert bench.site.iaas.get("never-was") is None
    bench.site.iaas.delete("never-was", run="r1")


def test_what_was_found_is_given_back_with_its_data(bench: Bench) -> None:
    made = bench.site.iaas.ensure_machine(wanted(OLD))
    with machine_of(made) as machine:
        machine.run(["touch", "/srv/data"])
    bench.site.iaas.delete(OLD, run="r1")
    there = bench.site.iaas.get(OLD)
    assert there is not None
    assert there.mark is None
    with machine_of(there) as machine:
        machine.run(["test", "-e", "/srv/data"])


def test_a_living_cluster_is_taken_only_by_who_asks_for_it(bench: Bench) -> None:
    there = bench.site.iaas.get(OLD)
    assert there is not None
    with machine_of(there) as machine:
        machine.run(["sh", "-c", START_ETCD], timeout=timedelta(seconds=30))
        try:
            with pytest.raises(MachineTaken, match="etcd runs"):
                bench.site.iaas.ensure_machine(wanted(OLD))
            assert bench.owned() == {}
            bench.site.iaas.ensure_machine(wanted(OLD, take_living=True))
            # A run that goes on with its own machine finds what it started there itself.
            bench.site.iaas.ensure_machine(wanted(OLD))
        finally:
            machine.run(["sh", "-c", "kill -KILL $(cat /tmp/etcd.pid)"])
    assert list(bench.owned()) == [OLD]


def test_what_a_killed_run_began_is_found_and_removed(bench: Bench) -> None:
    name = bench.names[1]
    before = {host.name for host in Lab.open(bench.lab.name, base=bench.lab.folder.parent).hosts}
    killed = subprocess.Popen(
        [sys.executable, "-m", "tests.restore.iaas.ensuring", str(bench.inventory), name, "killed"], cwd=ROOT
    )
    deadline = time.monotonic() + 60
    while not bench.sign_of(name).exists():
        assert killed.poll() is None
        assert time.monotonic() < deadline
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL

    its = bench.owned()[name].mark
    assert its is not None
    assert its.run == "killed"
    said = bbr("iaas", "sweep", bench.inventory, "--run", "killed", "--yes", "-o", "json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["given_back"] == [name]
    assert bench.owned() == {}
    assert {host.name for host in Lab.open(bench.lab.name, base=bench.lab.folder.parent).hosts} == before
    made = bench.site.iaas.ensure_machine(wanted(name))
    assert hostname(made) == name


def test_fenced_machine_answers_no_more_and_can_be_fenced_again(bench: Bench) -> None:
    there = bench.site.iaas.get(OLD)
    assert there is not None
    assert hostname(there) == OLD
    assert bench.site.fence is not None
    bench.site.fence.fence(OLD)
    with pytest.raises(MachineUnreachable):
        hostname(there)
    bench.site.fence.fence(OLD)


def test_fenced_machine_that_is_released_answers_again(bench: Bench) -> None:
    there = bench.site.iaas.get(OLD)
    assert there is not None
    assert bench.site.fence is not None
    assert bench.site.release is not None
    bench.site.fence.fence(OLD)
    bench.site.release.release(OLD)
    assert hostname(there) == OLD


def test_fencing_or_releasing_what_is_not_there_is_refused(bench: Bench) -> None:
    assert bench.site.fence is not None
    assert bench.site.release is not None
    with pytest.raises(IaasRefused):
        bench.site.fence.fence("never-was")
    with pytest.raises(IaasRefused):
        bench.site.release.release("never-was")


def test_adapter_is_made_from_its_file_again(bench: Bench) -> None:
    again = open_iaas(read_inventory(bench.inventory))
    assert again.iaas.info() == bench.site.iaas.info()
