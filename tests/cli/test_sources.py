"""Which etcds are meant: flags, then the configuration, then a kubeadm master's manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.cli.config import Config, EtcdSettings
from bbr.cli.options import EtcdAccess
from bbr.cli.sources import cluster_name, find_sources
from bbr.errors import KeyRefused, UsageError

PEM = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"


def access(
    endpoints: tuple[str, ...] = (),
    *,
    ca: Path | None = None,
    user: str | None = None,
    password: Path | None = None,
    manifests: Path | None = None,
) -> EtcdAccess:
    return EtcdAccess(endpoints, ca, None, None, user, password, manifests)


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    for name in ("ca.crt", "client.crt", "client.key"):
        (tmp_path / name).write_text(PEM)
    (folder / "kube-apiserver.yaml").write_text(
        f"""
spec:
  containers:
    - name: kube-apiserver
      command:
        - kube-apiserver
        - --etcd-servers=https://127.0.0.1:2379
        - --etcd-servers-overrides=/events#https://127.0.0.1:2381
        - --etcd-cafile={tmp_path}/ca.crt
        - --etcd-certfile={tmp_path}/client.crt
        - --etcd-keyfile={tmp_path}/client.key
"""
    )
    return folder


def test_flags_go_before_the_configuration() -> None:
    config = Config(path=Path("bbr.yaml"), etcd={"main": EtcdSettings(("http://configured:2379",))})
    found = find_sources(access(("http://named:2379",)), config)
    assert [source.endpoints for source in found.sources] == [("http://named:2379",)]
    assert found.told_by == "--endpoints"


def test_the_configuration_goes_before_what_is_found_on_the_host(manifests: Path) -> None:
    config = Config(
        path=Path("bbr.yaml"), manifests_dir=manifests, etcd={"one": EtcdSettings(("http://configured:2379",))}
    )
    found = find_sources(access(), config)
    assert [(source.name, source.endpoints) for source in found.sources] == [("one", ("http://configured:2379",))]


def test_a_kubeadm_master_needs_no_word_about_etcd(manifests: Path, tmp_path: Path) -> None:
    found = find_sources(access(manifests=manifests), Config())
    assert {source.name: source.endpoints for source in found.sources} == {
        "main": ("https://127.0.0.1:2379",),
        "events": ("https://127.0.0.1:2381",),
    }
    assert found.sources[0].credentials.ca == PEM.encode()
    assert found.key_files == (tmp_path / "client.key",)
    assert cluster_name(None, Config(), found) == "kubernetes"
    assert cluster_name(None, Config(cluster="prod"), found) == "prod"
    assert cluster_name("named", Config(cluster="prod"), found) == "named"


def test_elsewhere_a_cluster_has_to_be_named() -> None:
    found = find_sources(access(("http://named:2379",)), Config())
    with pytest.raises(UsageError, match="the cluster has no name") as caught:
        cluster_name(None, Config(), found)
    assert "--cluster NAME" in caught.value.hint


def test_a_host_that_is_no_master_is_told_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bbr.cli.sources.MANIFESTS_DIR", tmp_path / "none")
    with pytest.raises(UsageError, match="no kubeadm master") as caught:
        find_sources(access(), Config())
    assert "--endpoints" in caught.value.hint


def test_a_folder_that_was_named_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kube-apiserver\.yaml"):
        find_sources(access(manifests=tmp_path / "none"), Config())


def test_a_certificate_without_an_endpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(PEM)
    with pytest.raises(UsageError, match="not where it is"):
        find_sources(access(ca=tmp_path / "ca.crt"), Config())


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nonsense")
    with pytest.raises(UsageError, match=r"ca\.crt is not a PEM file"):
        find_sources(access(("https://a:2379",), ca=tmp_path / "ca.crt"), Config())
    with pytest.raises(UsageError, match=r"missing\.crt cannot be read"):
        find_sources(access(("https://a:2379",), ca=tmp_path / "missing.crt"), Config())


def test_a_password_is_the_one_line_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("correct horse\n")
    path.chmod(0o600)
    found = find_sources(access(("http://a:2379",), user="root", password=path), Config())
    assert found.sources[0].credentials.password == "correct horse"
    assert "correct horse" not in repr(found)


@pytest.mark.parametrize("body", [b"", b"\n", b"one\ntwo\n", b"\xff\n"])
def test_a_password_file_that_is_not_one_line_is_refused(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "password"
    path.write_bytes(body)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="password"):
        find_sources(access(("http://a:2379",), user="root", password=path), Config())


def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("correct horse\n")
    path.chmod(0o640)
    with pytest.raises(KeyRefused, match="can be read by other users") as caught:
        find_sources(access(("http://a:2379",), user="root", password=path), Config())
    assert caught.value.hint == f"chmod 600 {path}"
