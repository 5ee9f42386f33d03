"""A stand-in of the kubelet, for hosts without containers: static pods as host processes, and the host's Node.

What a restore sees of a kubelet, and nothing more:
- every file of /etc/kubernetes/manifests, except those whose names begin with a dot, is a pod that runs. A removed one
  gets SIGTERM, and SIGKILL after its grace period; a changed one is stopped, then started; one that died is started
  again after a pause that grows.
- static pods outlive it: they run on while it is stopped, and the next one finds them (`fast_process.find`).
- once /etc/kubernetes/kubelet.conf is there and the API server answers, so is the Node, Ready, its Lease renewed.
Pods of the API, mirror pods, probes, logs and exec are not: the true tier has them.

    PYTHONPATH=<folder with this package> python3 -m bbr.lab.cluster.kubelet_standin

Ends on SIGTERM; when it is killed, nobody starts it again. One at a time: `LOCK` is locked while it runs, and holds
its process number.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bbr.lab.cluster import fast_node, fast_process
from bbr.lab.cluster.fast_pod import Pod, Refused, parse
from bbr.lab.cluster.fast_process import Belonging, Process

MANIFESTS = Path("/etc/kubernetes/manifests")
LOCK = Path("/run/kubelet-standin.pid")
LOGS = Path("/var/log/pods")
POLL_S = 0.1
BEAT_S = 2.0
_RETRY_S = 0.5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
_STEADY_S = 10.0
_MANIFEST_BYTES = 1024 * 1024


@dataclass(slots=True)
class _Pause:
    """How long a container that died has to wait."""

    next_at_s: float = 0.0
    length_s: float = _FIRST_PAUSE_S
    began_s: float = field(default=0.0)


class StaticPods:
    """The pods of the manifests' folder, and the processes that they are."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[tuple[int, ...], Pod | None]] = {}
        self._processes: dict[tuple[str, str], Process] = {}
        self._pauses: dict[tuple[str, str, str], _Pause] = {}
        for process in fast_process.find():
            self._processes[process.belonging.file, process.belonging.container] = process
            _say(f"{process.belonging.file}: {process.belonging.container} runs already, as {process.pid}")

    def sync(self) -> None:
        """Bring the processes one step closer to what the manifests say. Does not wait."""
        wanted, now_s = self._wanted(), time.monotonic()
        for place, process in list(self._processes.items()):
            if not process.is_alive():
                self._forget(place, process, now_s)
                continue
            its = _belongings(process.belonging.file, wanted.get(process.belonging.file))
            # Who was asked to end does so, also when its manifest has come back meanwhile.
            if process.belonging not in its or process.kill_at_s is not None:
                self._end(process, now_s)
        for file, pod in wanted.items():
            for belonging in _belongings(file, pod):
                if (file, belonging.container) not in self._processes:
                    self._start(pod, belonging, now_s)

    def _wanted(self) -> dict[str, Pod]:
        """The manifests, each read when it has changed. One that became unreadable changes nothing yet.

        It may be half written: the next look will see it whole.
        """
        there = {}
        with suppress(FileNotFoundError):
            there = {path.name: path for path in sorted(MANIFESTS.iterdir()) if not path.name.startswith(".")}
        for file in self._read.keys() - there.keys():
            del self._read[file]
        for file, path in there.items():
            with suppress(FileNotFoundError):
                self._look_at(file, path)
        return {file: pod for file, (_, pod) in self._read.items() if pod is not None}

    def _look_at(self, file: str, path: Path) -> None:
        state = path.stat()
        stamp = (state.st_ino, state.st_size, state.st_mtime_ns)
        before = self._read.get(file)
        if before is not None and before[0] == stamp:
            return
        pod = before[1] if before is not None else None
        try:
            if path.is_file():
                with path.open("rb") as body:
                    pod = parse(body.read(_MANIFEST_BYTES))
        except Refused as err:
            _say(f"{file}: {err}")
        self._read[file] = stamp, pod

    def _start(self, pod: Pod, belonging: Belonging, now_s: float) -> None:
        pause = self._pauses.setdefault((belonging.file, belonging.digest, belonging.container), _Pause())
        if now_s < pause.next_at_s:
            return
        container = next(one for one in pod.containers if one.name == belonging.container)
        uid = f"{pod.namespace}_{pod.name}-{socket.gethostname()}_{pod.digest[:32]}"
        try:
            process = fast_process.start(container, belonging, LOGS / uid / container.name / "0.log")
        except (Refused, OSError) as err:
            _say(f"{belonging.file}: {container.name} is not started: {err}")
            _lengthen(pause, now_s)
            return
        pause.began_s = now_s
        self._processes[belonging.file, belonging.container] = process
        _say(f"{belonging.file}: {container.name} started, as {process.pid}")

    def _end(self, process: Process, now_s: float) -> None:
        if process.kill_at_s is None:
            _say(f"{process.belonging.file}: {process.belonging.container} ({process.pid}) is asked to end")
        process.ask_to_end(now_s)
        if process.kill_at_s is not None and now_s >= process.kill_at_s:
            process.kill()

    def _forget(self, place: tuple[str, str], process: Process, now_s: float) -> None:
        process.kill()
        del self._processes[place]
        code = f" with {process.child.returncode}" if process.child is not None else ""
        _say(f"{process.belonging.file}: {process.belonging.container} ({process.pid}) has ended{code}")
        if process.kill_at_s is not None:
            return
        belonging = process.belonging
        pause = self._pauses.setdefault((belonging.file, belonging.digest, belonging.container), _Pause())
        if now_s - pause.began_s > _STEADY_S:
            pause.length_s = _FIRST_PAUSE_S
        _lengthen(pause, now_s)


def main() -> None:
    """Run until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("it runs already")
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        Path("/proc/self/comm").write_text("kubelet")  # what it is found by
        threading.Thread(target=_keep_node, daemon=True).start()
        _keep_pods()


def _keep_pods() -> None:
    """Sync for ever. What is wrong is said when it changes."""
    pods, said = StaticPods(), ""
    while True:
        problem = ""
        try:
            pods.sync()
        except OSError as err:
            problem = f"the static pods: {err}"
        if problem and problem != said:
            _say(problem)
        said = problem
        time.sleep(POLL_S)


def _keep_node() -> None:
    """Beat for ever. What is wrong, or right again, is said when it changes."""
    said = ""
    while True:
        pause_s, problem = _RETRY_S, "no kubelet.conf"
        if fast_node.KUBELET_CONF.exists():
            try:
                fast_node.beat()
            except fast_node.NoAnswer as err:
                problem = f"the API server: {err}"
            else:
                pause_s, problem = BEAT_S, "the Node is Ready"
        if problem != said:
            _say(problem)
            said = problem
        time.sleep(pause_s)


def _belongings(file: str, pod: Pod | None) -> list[Belonging]:
    if pod is None:
        return []
    return [Belonging(file, pod.digest, container.name, pod.grace_s) for container in pod.containers]


def _lengthen(pause: _Pause, now_s: float) -> None:
    pause.next_at_s = now_s + pause.length_s
    pause.length_s = min(pause.length_s * 2, _LONGEST_PAUSE_S)


def _say(what: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
