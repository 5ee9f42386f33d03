"""One contract, every store: directory, memory, and a real MinIO by both SDKs, and retries around one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest

from bbr.errors import AlreadyExists, BodyTooLarge, NotFound, StoreError
from bbr.servers.minio import MinioServer
from bbr.stores.directory import DirectoryStore
from bbr.stores.memory import MemoryStore
from bbr.stores.minio import MinioStore
from bbr.stores.retry import Retrying
from bbr.stores.s3 import S3Store
from bbr.stores.store import NAME_LIMIT_CHARACTERS, Store

LIMIT = 64 << 20
STORES = ("directory", "memory", "s3", "minio", "retrying")


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store of the kind that the test is run for."""
    kind = request.param
    if kind == "memory":
        yield MemoryStore()
    elif kind == "directory":
        yield DirectoryStore(tmp_path)
    elif kind == "retrying":
        yield Retrying(MemoryStore())
    else:
        server: MinioServer = request.getfixturevalue("minio_server")
        bucket = f"b{secrets.token_hex(6)}"
        server.create_bucket(bucket)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        if kind == "s3":
            yield S3Store(bucket, "some/prefix", endpoint=server.endpoint, path_style=True)
        else:
            yield MinioStore(server.endpoint.removeprefix("http://"), bucket, "some/prefix", secure=False)


every_store = pytest.mark.parametrize("store", STORES, indirect=True)


@every_store
@pytest.mark.parametrize("size", [0, 1, 4096, 16 << 20])
def test_body_comes_back_byte_for_byte(store: Store, size: int) -> None:
    body = os.urandom(size)
    stored = store.put("a/b.age", memoryview(body))
    assert stored.size_bytes == size
    assert store.get("a/b.age", limit_bytes=size) == body


@every_store
def test_time_is_the_stores_own_and_about_now(store: Store) -> None:
    stored = store.put("a", b"x")
    assert stored.time.tzinfo is not None
    assert abs(stored.time - datetime.now(UTC)) < timedelta(minutes=1)
    (entry,) = store.list("a")
    assert abs(entry.time - stored.time) <= timedelta(seconds=2)


@every_store
def test_taken_name_is_refused_and_its_body_stays(store: Store) -> None:
    store.put("a", b"first")
    with pytest.raises(AlreadyExists):
        store.put("a", b"second")
    assert store.get("a", limit_bytes=10) == b"first"


@every_store
def test_of_eight_writers_of_one_name_one_wins(store: Store) -> None:
    for round_number in range(5):
        name, barrier = f"race/{round_number}", Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            won = [body for body in pool.map(partial(race, store, name, barrier), range(8)) if body is not None]
        assert len(won) == 1
        assert store.get(name, limit_bytes=100) == won[0]


def race(store: Store, name: str, barrier: Barrier, number: int) -> bytes | None:
    body = b"writer %d" % number
    barrier.wait(30)
    try:
        store.put(name, body)
    except StoreError:
        return None
    return body


@every_store
def test_missing_name_is_not_found_and_deleting_it_no_error(store: Store) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        store.get("nowhere", limit_bytes=1)
    store.delete("nowhere")


@every_store
def test_deleted_object_is_gone(store: Store) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")
    assert list(store.list("")) == []
    with pytest.raises(NotFound):
        store.get("a/b", limit_bytes=1)


@every_store
def test_body_larger_than_expected_is_refused(store: Store) -> None:
    store.put("a", b"12345")
    with pytest.raises(BodyTooLarge):
        store.get("a", limit_bytes=4)


@every_store
def test_2500_objects_are_listed_in_order_and_by_prefix(store: Store) -> None:
    names = [f"list/{number % 7}/{number:05d}" for number in range(2500)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, name.encode()), names))
    entries = list(store.list(""))
    assert [entry.name for entry in entries] == sorted(names)
    assert {entry.size_bytes for entry in entries} == {12}
    assert [entry.name for entry in store.list("list/3/")] == sorted(name for name in names if "/3/" in name)
    assert [entry.name for entry in store.list("list/3/001")] == sorted(n for n in names if n.startswith("list/3/001"))
    assert list(store.list("absent/")) == []


@every_store
def test_parallel_puts_and_gets_do_not_mix(store: Store) -> None:
    bodies = {f"p/{number}": os.urandom(50_000) for number in range(64)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store.put(*item), bodies.items()))
        read = dict(zip(bodies, pool.map(lambda name: store.get(name, limit_bytes=LIMIT), bodies), strict=True))
    assert read == bodies


@every_store
@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a b", "a\n", "ä", "x" * (NAME_LIMIT_CHARACTERS + 1)],
)
def test_name_that_not_every_store_can_hold_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="not a name"):
        store.put(name, b"x")
    with pytest.raises(StoreError, match="not a name"):
        store.get(name, limit_bytes=1)
    with pytest.raises(StoreError, match="not a name"):
        store.delete(name)


@every_store
def test_longest_name_is_stored_and_listed(store: Store) -> None:
    name = "/".join(["d" * 99] * 4) + "/" + "f" * (NAME_LIMIT_CHARACTERS - 400)
    store.put(name, b"x")
    assert [entry.name for entry in store.list("d")] == [name]
