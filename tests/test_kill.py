"""kill -9 at every call to the store, before, during and after it, of a first and of an incremental backup.

After each kill: every committed backup restores, the next backup succeeds without help, and verify is clean.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bbr.repository.keyfiles import write_writer_key
from bbr.repository.state import State
from bbr.servers.etcd import EtcdServers
from bbr.stores.directory import DirectoryStore
from tests.making import Site, churn, make_site, source

WHEN = ("before", "during", "after")


@dataclass(frozen=True, slots=True)
class Scene:
    """A repository on disk before the backup that is to be killed, to be copied for each kill."""

    folder: Path
    site: Site
    endpoint: str
    calls: int

    def copy(self, to: Path) -> Scene:
        shutil.copytree(self.folder, to)
        site = replace(
            self.site,
            store=DirectoryStore(to / "repository"),
            state=State.open(to / "state", self.site.trusted.repository_id),
        )
        return Scene(to, site, self.endpoint, self.calls)

    def run(self, call: int, when: str) -> subprocess.CompletedProcess[str]:
        arguments = {
            "repository": str(self.folder / "repository"),
            "state": str(self.folder / "state"),
            "repository_id": self.site.trusted.repository_id,
            "key": str(self.folder / "writer.key"),
            "endpoint": self.endpoint,
            "call": call,
            "when": when,
        }
        return subprocess.run(
            [sys.executable, "-m", "tests.killed_backup", json.dumps(arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(params=["first", "incremental"])
def scene(request: pytest.FixtureRequest, small_etcd: EtcdServers, tmp_path: Path) -> Iterator[Scene]:
    """A repository without a backup, or with one that the killed run would build upon."""
    folder = tmp_path / "before"
    (folder / "repository").mkdir(parents=True)
    site = make_site(DirectoryStore(folder / "repository"), folder)
    write_writer_key(folder / "writer.key", site.key, site.trusted.pin, "host")
    endpoint = small_etcd.endpoints[0]
    with small_etcd.client() as client:
        churn(client, 1)
        if request.param == "incremental":
            site.backup(source([endpoint]))
            churn(client, 2)
    scene = Scene(folder, site, endpoint, 0)
    whole = scene.copy(tmp_path / "whole").run(0, "before")
    assert whole.returncode == 0, whole.stderr
    yield replace(scene, calls=int(whole.stdout))


def check_after_kill(scene: Scene, scratch: Path) -> None:
    """Everything committed restores, the next backup succeeds, and verify is clean before and after it."""
    scratch.mkdir()
    before = scene.site.archive().catalog
    assert before.findings == ()
    for backup in before.backups:
        rebuilt = scene.site.rebuild(backup, scratch / f"{backup.manifest.backup_id}.db")
        assert rebuilt.hash_kv == backup.manifest.etcd("main").hash_kv
    outcome = scene.site.backup(source([scene.endpoint]))
    after = scene.site.archive().catalog
    assert after.backups[-1].sha256 == outcome.backup.sha256
    assert len(after.backups) == len(before.backups) + 1
    assert scene.site.failed_checks(scratch) == []
    assert list(scene.site.state.spool.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_every_call_loses_nothing(scene: Scene, tmp_path: Path) -> None:
    assert scene.calls >= 8
    for call in range(1, scene.calls + 1):
        for when in WHEN:
            killed = scene.copy(tmp_path / f"{call}-{when}")
            result = killed.run(call, when)
            assert result.returncode == -signal.SIGKILL, f"call {call}, {when}: {result.stdout}{result.stderr}"
            check_after_kill(killed, tmp_path / f"{call}-{when}-scratch")
            shutil.rmtree(killed.folder)
