"""bbr.yaml: what is read from it, and what is said about each thing that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.cli.config import Config, load_config, read_config
from bbr.errors import UsageError

WHOLE = """\
repository: s3://backups/clusters?region=eu-central-1
repository_id: {id}
root: 3
cluster: production
writer_key: writer.key
identities: [/safe/recovery.txt]
state_dir: state
bin_dir: /opt/etcd
manifests_dir: manifests
compare_members: false
etcd:
  main:
    endpoints: [https://10.0.0.11:2379]
    ca_file: pki/ca.crt
    cert_file: pki/client.crt
    key_file: pki/client.key
  events:
    endpoints:
      - https://10.0.0.11:2381
    username: root
    password_file: password
""".format(id="ab" * 32)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "bbr.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, text: str | bytes) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_config(written(folder, text))
    return caught.value


def test_a_whole_file_is_read_and_its_paths_start_from_its_folder(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, WHOLE))
    assert config.repository == "s3://backups/clusters?region=eu-central-1"
    assert (config.repository_id, config.root, config.compare_members) == ("ab" * 32, 3, False)
    assert config.writer_key == tmp_path / "writer.key"
    assert config.identities == (Path("/safe/recovery.txt"),)
    assert (config.state_dir, config.bin_dir) == (tmp_path / "state", Path("/opt/etcd"))
    assert config.etcd["main"].ca_file == tmp_path / "pki/ca.crt"
    assert config.etcd["events"].endpoints == ("https://10.0.0.11:2381",)
    assert (config.etcd["events"].username, config.etcd["events"].password_file) == ("root", tmp_path / "password")


def test_a_repository_in_a_folder_starts_from_the_files_folder_too(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, "repository: ./backups\n")).repository == str(tmp_path / "backups")
    assert read_config(written(tmp_path, "repository: /mnt/backups\n")).repository == "/mnt/backups"


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n"])
def test_an_empty_file_says_nothing(tmp_path: Path, text: str) -> None:
    config = read_config(written(tmp_path, text))
    assert (config.repository, config.cluster, config.etcd) == (None, None, {})


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("repository: x\nclustre: y\n", "line 2: unknown key 'clustre'", "did you mean 'cluster'?"),
        ("compare_member: false\n", "line 1: unknown key 'compare_member'", "did you mean 'compare_members'?"),
        (
            "etcd:\n  main:\n    endpoint: [a]\n    endpoints: [a]\n",
            "line 3: unknown key 'endpoint' under etcd.main",
            "did you mean 'endpoints'?",
        ),
        ("zzz: 1\n", "line 1: unknown key 'zzz'", "the keys here are: repository, "),
        ("cluster: a\nroot: 2\ncluster: b\n", "line 3: 'cluster' is given twice", "remove one of them"),
        ("etcd:\n  main:\n    endpoints: [a]\n  main:\n    endpoints: [b]\n", "line 4: 'main' is given twice", ""),
        ("cluster: [a]\n", "line 1: cluster should be a valid string", "docs/configuration.md"),
        ("root: '3'\n", "line 1: root should be a valid integer", ""),
        ("root: 0\n", "line 1: root should be greater than or equal to 1", ""),
        ("compare_members: 1\n", "line 1: compare_members should be a valid boolean", ""),
        ("repository_id: abc\n", "line 1: repository_id", ""),
        ("etcd:\n  main: {}\n", "line 2: etcd.main.endpoints is missing", ""),
        ("etcd:\n  main:\n    endpoints: []\n", "line 3: etcd.main.endpoints", ""),
        ("etcd:\n  main:\n    endpoints: [a, 5]\n", "line 3: etcd.main.endpoints.1 should be a valid string", ""),
        ("cluster: a\n  b: c\n", "line 2: not YAML", ""),
        ("- a\n", "line 1: the file should be", ""),
        ("[a]: b\n", "line 1: a key must be a word", ""),
        ("a: &x [*x]\n", "nested deeper", ""),
        ("[" * 5000, "nested deeper", ""),
        ("state_dir: ~nobody-of-this-name/x\n", "home directory", "write paths without ~"),
        (
            "etcd:\n  main:\n    endpoints: [a]\n    username: root\n",
            "line 2: etcd.main has only one of username and password_file",
            "give both",
        ),
        (
            "etcd:\n  main:\n    endpoints: [a]\n    password_file: p\n",
            "line 2: etcd.main has only one of username and password_file",
            "give both",
        ),
        ("cluster: a\n--- \ncluster: b\n", "line 2: not YAML", ""),
        (b"cluster: \xff\n", "not text in UTF-8", ""),
        ("cluster: \x00\n", "not YAML", ""),
        ("cluster: !!python/object:os.system x\n", "line 1: 'x' is not a value", ""),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_what_would_fit(
    tmp_path: Path, text: str | bytes, message: str, hint: str
) -> None:
    err = refusal(tmp_path, text)
    assert str(tmp_path / "bbr.yaml") in str(err)
    assert message in str(err)
    assert hint in err.hint
    assert err.exit_code == 2


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    assert "(and 1 more)" in str(refusal(tmp_path, "aaa: 1\nbbb: 2\n"))


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    assert "larger than any configuration" in str(refusal(tmp_path, "#" * 1_100_000))


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file") as caught:
        load_config(tmp_path / "bbr.yaml")
    assert "--config" in caught.value.hint


def test_without_a_file_nothing_is_configured(tmp_path: Path) -> None:
    assert load_config(None, places=[tmp_path / "bbr.yaml", tmp_path / "bbr.yaml" / "below"]) == Config()


def test_the_first_file_that_is_there_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path, "cluster: here\n")
    path.chmod(0o644)
    assert load_config(None, places=[tmp_path / "missing.yaml", path]).cluster == "here"


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_a_file_that_others_can_write_is_not_taken_unasked(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, "cluster: here\n")
    path.chmod(mode)
    with pytest.raises(UsageError, match="can be written by other users") as caught:
        load_config(None, places=[path])
    assert f"chmod go-w {path}" in caught.value.hint
    assert load_config(path).cluster == "here"
