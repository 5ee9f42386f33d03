"""The rebuild of a lost control plane, as a checklist: a real cluster, a backup, a disaster, a restore, the proof.

The cluster is the lab's true tier: unmodified kubeadm, kubelet, containerd and etcd on hosts in network namespaces. The
master is destroyed whole; what comes back comes from the repository, onto a machine with another name and address. The
worker is never touched. As in the other tour, a step that is yielded has proven what it says.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bbr.demo.bastion import PLAN, Bastion
from bbr.demo.step import Clock, Shown, Step
from bbr.errors import PreconditionFailed, VerificationFailed
from bbr.lab import network
from bbr.lab.cluster import true
from bbr.lab.cluster.images import APP
from bbr.lab.cluster.remote import run
from bbr.lab.cluster.spec import ClusterSpec, host_specs
from bbr.lab.lab import Lab
from bbr.progress import Progress
from restore.plan import Plan
from restore.runfolder import read_plan

TARGET = "demo"
OLD, WORKER, NEW = "m1", "w1", "n1"
OLD_ADDRESS = str(network.SUBNET[51])
"""Not the first free one: that goes to the new machine, whose address must be another."""

SPEC = ClusterSpec((OLD,), (WORKER,))
WAIT_TIME = timedelta(minutes=2)
_POLL_S = 0.3
_WORD = "plugh"
_CLIENT = """\
{{"kind": "Config", "current-context": "c", "contexts": [{{"name": "c", "context": {{"cluster": "c", "user": "u"}}}}],
"clusters": [{{"name": "c", "cluster": {{"server": "https://{endpoint}",
"certificate-authority": "/etc/kubernetes/pki/ca.crt"}}}}], "users": [{{"name": "u", "user": {{"token": "{token}"}}}}]}}
"""
_WHOAMI = """\
umask 077
trap 'rm -f /run/bbr-demo.conf' EXIT
cat >/run/bbr-demo.conf
kubectl --kubeconfig /run/bbr-demo.conf auth whoami -o jsonpath='{.status.userInfo.username}'
"""
"""A kubeconfig with a token on standard input: no other user of the host may see it."""


@dataclass(frozen=True, slots=True)
class _Pod:
    """A pod that runs, and its container's process on the node."""

    name: str
    uid: str
    container: str
    restarts: int
    pid: str


def tour(
    programs: Sequence[Path], folder: Path, *, base: Path, progress: Progress
) -> Generator[Step | Shown, None, None]:
    """Go through all of it. ``programs`` are the folders that hosts get, ``base`` is where the lab lies.

    Raises `VerificationFailed` when anything is not as it was. Close the iterator to end early; the lab goes with it.
    """
    clock = Clock(progress)
    with ExitStack() as up:
        clock.begin(f"start a real cluster: kubeadm, master {OLD}, worker {WORKER}")
        bastion = _start(programs, folder, base, up, progress)
        version = json.loads(bastion.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
        yield clock.done(f"Kubernetes {version}, {OLD} at {OLD_ADDRESS}", version=version)

        clock.begin("run a Deployment, keep a Secret, issue a service account token")
        bastion.kubectl("create", "secret", "generic", "known", f"--from-literal=word={_WORD}")
        bastion.kubectl("create", "serviceaccount", "robot")
        token = bastion.kubectl("create", "token", "robot", "--duration", "24h").strip()
        before = _deployed(bastion, "before")
        yield clock.done(f"pod {before.name} runs on {WORKER}, process {before.pid}")

        clock.begin("back up etcd and the master's files")
        bastion.init()
        backup = json.loads(bastion.bbr("backup", "-o", "json", inside=True))
        yield clock.done(f"{backup['id']}, {backup['status']}", backup=str(backup["id"]))

        clock.begin(f"disaster: power off {OLD}, destroy its disk")
        bastion.lab.remove(OLD)
        _check_lost(bastion)
        yield clock.done("nothing answers at the endpoint any more")

        words = bastion.plan_words(make=[NEW], attest=[OLD])
        clock.begin(f"plan the rebuild on a new machine, {NEW}")
        yield Shown(_command_line(words))
        text = bastion.bbr(*words)
        yield Shown(text)
        plan = read_plan(folder / PLAN)
        yield clock.done(f"{len(plan.steps)} steps, for backup {plan.source.backup_id}")

        clock.begin("do what the plan says")
        yield Shown(_command_line(bastion.apply_words()))
        began = datetime.now(UTC)
        bastion.bbr(*bastion.apply_words(), watch=_Follower(bastion, plan, progress))
        yield Shown(_took(bastion, plan))
        ready_s = ready_after_s(bastion, began)
        yield clock.done(f"API server ready after {ready_s:.1f} s", api_ready_s=round(ready_s, 3))

        bastion = replace(
            bastion,
            lab=Lab.open(bastion.lab.name, base=base),
            cluster=replace(bastion.cluster, masters=(NEW,)),
        )
        address = bastion.lab.host(NEW).address
        clock.begin(f"use the old token on {WORKER}, by the endpoint's name")
        kubeconfig = _CLIENT.format(endpoint=bastion.cluster.endpoint, token=token)
        _same(run(bastion.lab, WORKER, _WHOAMI, stdin=kubeconfig), "system:serviceaccount:default:robot")
        yield clock.done(f"{bastion.cluster.endpoint} is {NEW} at {address} now, and knows it")

        clock.begin("read the Secret, encrypted with the key from the old master")
        word = bastion.kubectl("get", "secret", "known", "-o", "go-template={{.data.word|base64decode}}")
        _same(word, _WORD)
        yield clock.done("it reads as it was written")

        clock.begin("look at the pod that ran all the time")
        _same(_running(bastion, "before"), before)
        yield clock.done(f"process {before.pid} on {WORKER}, {before.restarts} restarts")

        clock.begin("run a new Deployment")
        after = _deployed(bastion, "after")
        yield clock.done(f"pod {after.name} runs on {WORKER}")

        clock.begin("take everything down")
        bastion.lab.down()
        yield clock.done("no process, network or file of it is left")


def ready_after_s(bastion: Bastion, began: datetime) -> float:
    """From ``began`` to the API servers' readiness, by the run's journal. Raises `VerificationFailed`."""
    entries = bastion.journal()
    ready = next((one for one in entries if (one.event, one.step) == ("done", "start-api-servers")), None)
    if ready is None:
        raise VerificationFailed("the journal does not say that an API server was started")
    return (ready.time - began).total_seconds()


def _start(programs: Sequence[Path], folder: Path, base: Path, up: ExitStack, progress: Progress) -> Bastion:
    specs = [replace(spec, address=OLD_ADDRESS) if spec.name == OLD else spec for spec in host_specs(SPEC, programs)]
    lab = up.enter_context(Lab.up(specs, base=base))
    # The machines that a restore makes are in the label by then, not in this object.
    up.callback(_take_down, lab.name, base)
    return Bastion(lab, true.create(lab, SPEC, progress=progress), folder, TARGET)


def _take_down(name: str, base: Path) -> None:
    if (base / name).exists():
        Lab.open(name, base=base).down()


def _deployed(bastion: Bastion, name: str) -> _Pod:
    """A Deployment of one pod, which runs on return."""
    container = {"name": "app", "image": APP, "imagePullPolicy": "Never", "command": ["/bin/sleep", "infinity"]}
    labels = {"app": name}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        },
    }
    bastion.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    return _soon(lambda: _running(bastion, name), what=f"the pod of Deployment {name}")


def _running(bastion: Bastion, name: str) -> _Pod | None:
    """The pod of a Deployment; None while there is not just one that runs."""
    listed = json.loads(bastion.kubectl("get", "pods", "-l", f"app={name}", "-o", "json"))["items"]
    if len(listed) != 1 or listed[0]["status"]["phase"] != "Running":
        return None
    pod: dict[str, Any] = listed[0]
    (status,) = pod["status"]["containerStatuses"]
    container = str(status["containerID"]).rpartition("/")[2]
    task = run(bastion.lab, WORKER, f"ctr -n k8s.io tasks ls | grep {shlex.quote(container)} || true").split()
    if task[2:] != ["RUNNING"]:
        return None
    meta = pod["metadata"]
    return _Pod(meta["name"], meta["uid"], container, int(status["restartCount"]), task[1])


def _check_lost(bastion: Bastion) -> None:
    """Raises `VerificationFailed` when the cluster still answers."""
    address = f"/dev/tcp/{bastion.cluster.endpoint.replace(':', '/')}"
    said = run(bastion.lab, WORKER, f"timeout 1 bash -c ': <{address}' 2>/dev/null && echo alive || echo gone")
    _same(said.strip(), "gone")


def _same(found: object, expected: object) -> None:
    """Raises `VerificationFailed` for anything else than what was there."""
    if found != expected:
        raise VerificationFailed(f"{found} came back, {expected} was there")


def _soon(look: Callable[[], _Pod | None], *, what: str) -> _Pod:
    """Poll until there is one. Raises `PreconditionFailed` when the time is over."""
    deadline = time.monotonic() + WAIT_TIME.total_seconds()
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise PreconditionFailed(f"{what} does not run after {WAIT_TIME}")
        time.sleep(_POLL_S)
    return found


class _Follower:
    """Tells which step of a run is under way, from its journal."""

    def __init__(self, bastion: Bastion, plan: Plan, progress: Progress) -> None:
        self._bastion, self._progress = bastion, progress
        self._titles = {
            step.name: f"[{number}/{len(plan.steps)}] {step.title}" for number, step in enumerate(plan.steps, 1)
        }
        self._told = ""

    def __call__(self) -> None:
        """Look once."""
        step = next((one.step for one in reversed(self._bastion.journal()) if one.event == "begun"), "")
        if step in self._titles and step != self._told:
            self._told = step
            self._progress.step(self._titles[step])


def _took(bastion: Bastion, plan: Plan) -> str:
    """Each step of the plan with its seconds, from the journal."""
    seconds: dict[str, float] = {}
    for entry in bastion.journal():
        if entry.event in ("done", "found"):
            seconds[entry.step] = seconds.get(entry.step, 0.0) + entry.seconds
    return "\n".join(
        f"{number:4}  {seconds.get(step.name, 0.0):6.1f} s  {step.title}" for number, step in enumerate(plan.steps, 1)
    )


def _command_line(words: Sequence[str]) -> str:
    return f"$ {shlex.join(['bbr', *words])}"
