"""The client against a real kube-apiserver: objects, pages, errors, and whom it trusts."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from bbr.apiserver import client
from bbr.apiserver.client import ApiServer
from bbr.errors import (
    ApiServerError,
    ApiServerTls,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFoundObject,
    NotReady,
    UsageError,
)
from bbr.machines.ssh import ssh_machine
from bbr.servers.certificates import Authority
from bbr.servers.ports import LOOPBACK, free_ports
from tests.apiserver.conftest import Pki, wait_until
from tests.machines.sshd import start_sshd


def configmap(name: str, **data: str) -> client.Object:
    """A ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.fixture
def maps(namespace: str) -> str:
    """The collection of ConfigMaps of a new namespace."""
    return f"/api/v1/namespaces/{namespace}/configmaps"


def test_object_is_made_read_changed_and_deleted(api: ApiServer, maps: str) -> None:
    made = api.create(maps, configmap("one", a="1"))
    read = api.get(f"{maps}/one")
    assert read == made
    read["data"]["a"] = "2"
    assert api.replace(f"{maps}/one", read)["data"] == {"a": "2"}
    assert api.patch(f"{maps}/one", {"data": {"b": "3", "a": None}})["data"] == {"b": "3"}
    assert api.delete(f"{maps}/one")
    assert not api.delete(f"{maps}/one")
    with pytest.raises(NotFoundObject, match="one"):
        api.get(f"{maps}/one")


def test_change_made_meanwhile_is_a_conflict(api: ApiServer, maps: str) -> None:
    old = api.create(maps, configmap("one", a="1"))
    api.patch(f"{maps}/one", {"data": {"a": "2"}})
    with pytest.raises(Conflict):
        api.replace(f"{maps}/one", old)
    with pytest.raises(Conflict):
        api.patch(f"{maps}/one", {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "data": {}})
    assert api.get(f"{maps}/one")["data"] == {"a": "2"}


def test_object_that_exists_is_a_conflict(api: ApiServer, maps: str) -> None:
    api.create(maps, configmap("one"))
    with pytest.raises(Conflict, match="already exists"):
        api.create(maps, configmap("one"))


def test_another_object_of_the_name_is_not_deleted(api: ApiServer, maps: str) -> None:
    old = api.create(maps, configmap("one"))
    api.delete(f"{maps}/one")
    api.create(maps, configmap("one"))
    with pytest.raises(Conflict):
        api.delete(f"{maps}/one", uid=old["metadata"]["uid"])
    assert api.get(f"{maps}/one")


def test_content_that_is_no_object_is_invalid(api: ApiServer, maps: str) -> None:
    with pytest.raises(Invalid, match="Bad_Name"):
        api.create(maps, configmap("Bad_Name"))


def test_collection_is_listed_in_pages(api: ApiServer, maps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE_OBJECTS", 3)
    wanted = [f"n{at}" for at in range(8)]
    for name in wanted:
        api.create(maps, configmap(name, secret="s"))
    assert [one["metadata"]["name"] for one in api.list(maps)] == wanted
    assert [one["metadata"]["name"] for one in api.names(maps)] == wanted
    assert all("data" not in one for one in api.names(maps))
    assert len(api.page(maps)["items"]) == 3


def test_answer_over_the_limit_is_refused(api: ApiServer, maps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    api.create(maps, configmap("large", a="x" * 400_000))
    monkeypatch.setattr(client, "ANSWER_LIMIT_BYTES", 300_000)
    with pytest.raises(ApiServerError, match="more than 300000 bytes"):
        api.get(f"{maps}/large")
    assert api.get("/version")


@pytest.mark.parametrize("path", ["api/v1", "/api v1", "/a\r\nX: y", "/ü"])
def test_path_that_is_none_is_not_sent(api: ApiServer, path: str) -> None:
    with pytest.raises(UsageError):
        api.get(path)


def test_token_that_is_no_continuation_is_invalid_or_gone(api: ApiServer) -> None:
    with pytest.raises((Invalid, Gone)):
        api.get("/api/v1/namespaces", **{"continue": "nonsense"})


def test_server_that_serves_is_ready(api: ApiServer) -> None:
    assert api.ready().is_ready


def test_port_without_a_server_is_not_ready(pki: Pki) -> None:
    (port,) = free_ports(1)
    with pki.client(port) as nobody:
        with pytest.raises(NotReady) as caught:
            nobody.get("/version")
        assert caught.value.retry_may_help
        assert "Connection refused" in nobody.ready().reason


def test_server_of_another_authority_is_refused_before_anything_is_said(pki: Pki, api_port: int) -> None:
    other = Authority("other").certificate
    with ApiServer((LOOPBACK, api_port), other, pki.pem("admin.crt"), pki.pem("admin.key")) as stranger:
        with pytest.raises(ApiServerTls, match="verify"):
            stranger.get("/version")
        with pytest.raises(ApiServerTls):
            stranger.ready()


def test_server_of_another_name_is_refused(pki: Pki, api_port: int) -> None:
    with pki.client(api_port, server_name="other.example") as stranger, pytest.raises(ApiServerTls, match="other"):
        stranger.get("/version")


def test_client_of_another_authority_is_forbidden(pki: Pki, api_port: int) -> None:
    pair = Authority("other").issue("root")
    with ApiServer((LOOPBACK, api_port), pki.pem("ca.crt"), pair.certificate, pair.key) as stranger:
        with pytest.raises(Forbidden) as caught:
            stranger.get("/api/v1/secrets")
        assert "system:masters" in caught.value.hint


def test_nobody_is_forbidden(pki: Pki, api_port: int) -> None:
    with ApiServer((LOOPBACK, api_port), pki.pem("ca.crt")) as nobody, pytest.raises(Forbidden):
        nobody.get("/api/v1/secrets")


@pytest.mark.parametrize("pair", [("admin.crt", "sa.key"), ("sa.pub", "admin.key"), ("admin.crt", "admin.crt")])
def test_what_is_no_pair_is_told_without_the_key(pki: Pki, pair: tuple[str, str]) -> None:
    with pytest.raises(ApiServerTls) as caught:
        ApiServer((LOOPBACK, 1), pki.pem("ca.crt"), pki.pem(pair[0]), pki.pem(pair[1]))
    assert "BEGIN" not in str(caught.value)


def test_key_lies_in_no_file_and_no_descriptor(pki: Pki, api_port: int) -> None:
    def memory_files() -> list[str]:
        found = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the one that lists them
                found.append(str(descriptor.readlink()))
        return [one for one in found if "memfd" in one]

    with os.fdopen(os.memfd_create("seen")):
        assert memory_files() == ["/memfd:seen (deleted)"]
    with pki.client(api_port) as one:
        one.get("/version")
        assert memory_files() == []


def test_proxy_of_the_environment_is_not_used(pki: Pki, api_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with pki.client(api_port) as one:
        assert one.get("/version")["major"] == "1"


@contextmanager
def silent_server(body: bytes = b"") -> Iterator[int]:
    """A port that takes connections, says ``body``, and closes them if there is one."""
    with socket.create_server((LOOPBACK, 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if body:
                    connection.sendall(body)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in held:
                connection.close()


def test_server_that_says_nothing_is_given_up(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_TIME", timedelta(seconds=0.5))
    with silent_server() as port, pki.client(port, limit=timedelta(seconds=0.5)) as one, pytest.raises(NotReady):
        one.get("/version")


def test_what_speaks_no_tls_is_told(pki: Pki) -> None:
    with silent_server(b"220 mail ready\r\n" * 10) as port, pki.client(port) as one, pytest.raises(ApiServerTls):
        one.get("/version")


def test_server_is_asked_through_the_ssh_connection_of_its_machine(pki: Pki, api_port: int) -> None:
    with (
        start_sshd() as sshd,
        ssh_machine(sshd.host()) as machine,
        machine.forward(api_port) as (_, port),
        pki.client(port) as one,
    ):
        assert one.ready().is_ready
        sshd.drop_connections()
        wait_until(lambda: one.ready().is_ready, "a new SSH connection")
        assert one.get("/api/v1/namespaces/default")
