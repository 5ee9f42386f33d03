"""A containerd folder with a cluster's images in it, unpacked: made once a machine, and lent to every host.

A host gets hard links of the files, in a moment and for no space; what containerd never writes again are blobs and
layers, so that is safe. Its databases are copied. (An import on each host, as one would do it, takes ten seconds or
more of every one.) Only the newest store is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bbr.errors import PreconditionFailed
from bbr.lab.cluster import images
from bbr.lab.cluster.images import Image
from bbr.lab.programs import SYSTEM_PATH

CACHE = Path("/var/cache/bbr/lab")
_NAMESPACE = "k8s.io"
_OWN = shutil.ignore_patterns("uuid")
"""What each containerd makes for itself: who it is."""

_LIMIT_S = 300
_START_LIMIT_S = 30
_POLL_S = 0.05

# Nothing of it may meet a containerd of the machine: its sockets, its state, and the folders it makes for plugins.
_CONFIG = """\
version = 3
root = "{store}"
state = "{scratch}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{scratch}/containerd.sock"
[ttrpc]
address = "{scratch}/containerd.sock.ttrpc"
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The containerd that makes the store, and its client."""

    containerd: Path
    ctr: Path


@contextlib.contextmanager
def prepared(wanted: Sequence[Image], runtime: Runtime, *, cache: Path = CACHE) -> Iterator[Callable[[Path], None]]:
    """A function that fills a folder, as /var/lib/containerd of a host whose containerd has not run yet; a filled one
    stays as it is.

    The store is made when the cache has none of these images. Raises `PreconditionFailed`.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = cache / images.fingerprint(wanted)
    with (cache / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not store.exists():
            # Between the two locks another process may have made it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not store.exists():
                _make(store, wanted, runtime)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if not store.exists():
                raise PreconditionFailed(
                    f"{store} was removed by another run", hint="that makes a lab of other programs: run one at a time"
                )
        yield lambda folder: _lend(store, folder)


def _lend(store: Path, folder: Path) -> None:
    missing = [part.name for part in store.iterdir() if not (folder / part.name).exists()]
    # Beside it first: where this is cut, no half of a part is taken for a whole one.
    draft = folder.with_name(f"{folder.name}.part")
    if draft.exists():
        shutil.rmtree(draft)
    for name in missing:
        shutil.copytree(store / name, draft / name, copy_function=_link, symlinks=True, ignore=_OWN)
        (draft / name).rename(folder / name)
    if missing:
        draft.rmdir()


def _link(source: str, target: str) -> None:
    if not source.endswith(".db"):
        with contextlib.suppress(OSError):  # of another file system, or one without hard links
            os.link(source, target, follow_symlinks=False)
            return
    shutil.copy2(source, target, follow_symlinks=False)


def _make(store: Path, wanted: Sequence[Image], runtime: Runtime) -> None:
    for old in store.parent.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
    # A socket's path must be short: the kernel takes 107 bytes.
    run_folder = tempfile.TemporaryDirectory(prefix="bbr-lab-", dir="/tmp")
    with tempfile.TemporaryDirectory(dir=store.parent) as draft, run_folder as run:
        layers = Path(draft, "layers")
        layers.mkdir()
        with _containerd(Path(draft, "store"), Path(run), runtime) as ctr:
            _import(ctr, wanted, layers)
        Path(draft, "store").rename(store)


@contextlib.contextmanager
def _containerd(store: Path, scratch: Path, runtime: Runtime) -> Iterator[list[str]]:
    """A containerd of our own, for as long as the context lasts. Yields how its client is called."""
    config, log = scratch / "config.toml", scratch / "log"
    config.write_text(_CONFIG.format(store=store, scratch=scratch))
    # It ends with us, however we end; its mounts are seen by nobody else, and end with it.
    setpriv = shutil.which("setpriv", path=SYSTEM_PATH)
    bound = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    apart = [*bound, "unshare", "--mount", "--propagation", "private"]
    ctr = [str(runtime.ctr), "--address", str(scratch / "containerd.sock")]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*apart, str(runtime.containerd), "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={"PATH": SYSTEM_PATH},
        )
    try:
        deadline = time.monotonic() + _START_LIMIT_S
        while subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                raise PreconditionFailed(f"{runtime.containerd} does not start; it says:\n{tail}")
            time.sleep(_POLL_S)
        yield ctr
    finally:
        process.terminate()
        process.wait()


def _import(ctr: Sequence[str], wanted: Sequence[Image], layers: Path) -> None:
    command = [*ctr, "--namespace", _NAMESPACE, "images", "import", "-"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, env={"PATH": SYSTEM_PATH})
        with process:
            assert process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
            try:
                images.write_archive(wanted, process.stdin, layers)
                process.stdin.close()
                process.wait(_LIMIT_S)
            except BrokenPipeError:  # what it says tells more
                process.wait(_LIMIT_S)
            except BaseException:
                process.kill()
                raise
        said.seek(0)
        if process.returncode:
            raise PreconditionFailed(f"images were not imported: {said.read().decode(errors='replace').strip()}")
