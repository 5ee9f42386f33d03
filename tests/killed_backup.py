"""One backup that kills itself with SIGKILL at a chosen call to the store. Run as a program by test_kill.py.

Arguments: a JSON object with the repository's folder, the state folder, the repository's id, the writer key file, the
endpoint, which call (from 1; 0: none), and when: "before" it, "during" it, or "after" it. Prints how many calls were
made.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from bbr.backup import Request, run
from bbr.progress import Silent
from bbr.repository.keyfiles import read_writer_key
from bbr.repository.root import Pin, load_roots
from bbr.repository.state import State
from bbr.stores.directory import DirectoryStore
from bbr.stores.store import Buffer, Entry, Stored
from tests.making import CLUSTER, source


class KillingStore:
    """Counts calls to a store in the folder ``root``, and ends the process at one of them.

    "During" is a point at which half of the work is done: half of the body is read, half of the list is given out. A
    put runs on in another thread, and is cut wherever it is. A delete is one call of the system: it is done or not.
    """

    def __init__(self, inner: DirectoryStore, call: int, when: str, root: Path) -> None:
        self._inner, self._call, self._when, self._root = inner, call, when, root
        self._lock = threading.Lock()
        self.calls = 0

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        """See `Store.put`."""
        fatal = self._enter()
        if fatal and self._when == "during":
            # The real put is under way in another thread, and is cut wherever it is.
            threading.Thread(target=self._inner.put, args=(name, body), daemon=True).start()
            threading.Event().wait(self._call % 4 / 2000)
            _die()
        try:
            return self._inner.put(name, body, retain_until=retain_until)
        finally:
            self._leave(fatal)

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        """See `Store.get`."""
        fatal = self._enter()
        if fatal and self._when == "during":
            path = self._root / name
            if path.exists():
                with path.open("rb") as file:
                    file.read(path.stat().st_size // 2)
                    _die()
            _die()
        try:
            return self._inner.get(name, limit_bytes=limit_bytes)
        finally:
            self._leave(fatal)

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`."""
        fatal = self._enter()
        entries = list(self._inner.list(prefix))
        for number, entry in enumerate(entries):
            if fatal and self._when == "during" and number == len(entries) // 2:
                _die()
            yield entry
        # An empty list has no middle.
        self._leave(fatal)

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        fatal = self._enter()
        if fatal and self._when == "during":
            threading.Thread(target=self._inner.delete, args=(name,), daemon=True).start()
            _die()
        self._inner.delete(name)
        self._leave(fatal)

    def _enter(self) -> bool:
        with self._lock:
            self.calls += 1
            fatal = self.calls == self._call
        if fatal and self._when == "before":
            _die()
        return fatal

    def _leave(self, fatal: bool) -> None:
        if fatal:
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: str) -> None:
    """Back up once."""
    what = json.loads(arguments)
    folder = Path(what["repository"])
    store = KillingStore(DirectoryStore(folder), what["call"], what["when"], folder)
    pin = Pin(what["repository_id"], 1)
    run(
        Request(CLUSTER, (source([what["endpoint"]]),)),
        store=store,
        trusted=load_roots(store, pin),
        key=read_writer_key(Path(what["key"])).key,
        state=State.open(Path(what["state"]), pin.repository_id),
        progress=Silent(),
    )
    sys.stdout.write(f"{store.calls}\n")


if __name__ == "__main__":
    main(sys.argv[1])
