"""Building the testbed: pins, programs that are there already, and one real build of a small module of our own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bbr.servers.binaries import find, version_of
from testbed import build
from testbed.build import FAMILIES, Family, Tool
from tests.conftest import ETCD_VERSIONS

TINY = Family("tiny", "example.test/tiny", (Tool("tiny", "example.test/tiny"),))


def run(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The script as a person runs it, with nothing on the PATH but what the test puts there."""
    command = [sys.executable, build.__file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment without Go, and with an empty cache."""
    (tmp_path / "empty").mkdir()
    return {"PATH": str(tmp_path / "empty"), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def etcd_folder(search: tuple[Path, ...], version: str) -> str:
    return str(find("etcdutl", search=search, version=version).path.parent)


def test_pinned_etcds_are_those_of_the_version_matrix() -> None:
    pinned = {family.version for name, family in FAMILIES.items() if name.startswith("etcd-")}
    assert pinned == set(ETCD_VERSIONS)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_program_is_a_tool_of_its_module_and_summed(name: str) -> None:
    family, folder = FAMILIES[name], FAMILIES[name].folder
    go_mod = (folder / "go.mod").read_text()
    block = re.search(r"^tool (?:\(([^)]*)\)|(\S+))", go_mod, re.MULTILINE)
    assert block is not None
    packages = {tool.package for one in FAMILIES.values() if one.folder == folder for tool in one.tools}
    assert set((block[1] or block[2]).split()) == packages
    assert {tool.package for tool in family.tools} <= packages
    assert f"{family.module} v{family.version} h1:" in (folder / "go.sum").read_text()


def test_built_programs_are_left_alone(search: tuple[Path, ...], bare: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "bbr" / "testbed" / "etcd-3.6.16" / "bin"
    shutil.copytree(etcd_folder(search, "3.6.16"), folder, copy_function=os.symlink)
    done = run("etcd-3.6", environ=bare)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_go_is_said_with_the_way_out(bare: dict[str, str]) -> None:
    done = run("etcd-3.6", environ=bare)
    assert done.returncode == 1
    assert "Go is missing, and etcd-3.6 3.6.16 is not on this machine" in done.stderr
    assert "etcd, etcdctl, etcdutl by --bin-dir" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", ["PATH", "KUBEBUILDER_ASSETS", "--bin-dir"])
def test_programs_of_the_version_that_are_there_are_used(
    place: str, search: tuple[Path, ...], bare: dict[str, str]
) -> None:
    folder = etcd_folder(search, "3.5.35")
    arguments = ["--bin-dir", folder] if place == "--bin-dir" else []
    done = run(*arguments, "etcd-3.5", environ=bare if arguments else {**bare, place: folder})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "testbed: etcd-3.5 3.5.35 is on this machine\n"


def test_programs_of_another_version_do_not_count(search: tuple[Path, ...], bare: dict[str, str]) -> None:
    done = run("etcd-3.6", environ={**bare, "PATH": etcd_folder(search, "3.5.35")})
    assert done.returncode == 1
    assert "etcd-3.6 3.6.16 is not on this machine" in done.stderr


def test_fitting_programs_behind_others_are_found(search: tuple[Path, ...], bare: dict[str, str]) -> None:
    path = f"{etcd_folder(search, '3.5.35')}:{etcd_folder(search, '3.6.16')}"
    assert run("etcd-3.6", environ={**bare, "PATH": path}).returncode == 0


def fake_program(folder: Path, tool: Tool, version: str) -> Path:
    """A program that tells its version only to who asks as one has to ask the real one."""
    folder.mkdir(exist_ok=True)
    path = folder / tool.name
    asked = " ".join(tool.version_arguments)
    path.write_text(f'#!/bin/sh\n[ "$*" = "{asked}" ] && echo "{tool.name} v{version}"\n')
    path.chmod(0o755)
    return path


def test_all_is_what_the_tests_run_and_not_what_takes_minutes_for_the_lab(bare: dict[str, str], tmp_path: Path) -> None:
    versions = " ".join(family.version for family in FAMILIES.values())
    for family in FAMILIES.values():
        for tool in family.tools:
            fake_program(tmp_path / "bin", tool, versions)
    done = run("--all", "--bin-dir", str(tmp_path / "bin"), environ=bare)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines()] == [
        "etcd-3.6",
        "etcd-3.5",
        "etcd-3.7",
        "minio",
        "age",
        "kubeadm",
    ]
    done = run("--lab", "--bin-dir", str(tmp_path / "bin"), environ=bare)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["kubernetes-1.37", "containerd"]


@pytest.mark.parametrize(
    ("tool", "version"),
    [
        pytest.param(tool, family.version, id=tool.name)
        for family in FAMILIES.values()
        if family.for_lab
        for tool in family.tools
    ],
)
def test_programs_of_the_lab_are_asked_for_their_version_alike_by_the_testbed_and_by_bbr(
    tool: Tool, version: str, tmp_path: Path
) -> None:
    assert version_of(fake_program(tmp_path / "bin", tool, version)) == version


def test_kubernetes_and_containerd_are_told_their_version() -> None:
    kubernetes = FAMILIES["kubernetes-1.37"].linker_flags
    for stamp in ("gitVersion=v1.37.2", "gitMajor=1", "gitMinor=37", "gitTreeState=clean"):
        assert f" -X k8s.io/component-base/version.{stamp}" in kubernetes
    assert " -X k8s.io/client-go/pkg/version.gitVersion=v1.37.2" in kubernetes
    containerd = FAMILIES["containerd"].linker_flags
    assert containerd == "-s -w -X github.com/containerd/containerd/v2/version.Version=v2.4.2"
    assert FAMILIES["minio"].linker_flags == "-s -w"


def test_unknown_family_is_refused_with_the_known_ones(bare: dict[str, str]) -> None:
    done = run("etcd-2.3", environ=bare)
    assert done.returncode == 2
    assert "no family etcd-2.3; there are etcd-3.6, etcd-3.5, etcd-3.7, minio, age" in done.stderr


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family whose module lies beside it, so that the real Go builds it without a network. Yields its bin folder."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not on this machine, and all programs of the testbed are")
    # Go keeps its own cache below XDG_CACHE_HOME, too; the warm one is wanted here.
    go_cache = subprocess.run([go, "env", "GOCACHE"], capture_output=True, text=True, check=True, timeout=60)
    monkeypatch.setenv("GOCACHE", go_cache.stdout.strip())
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "HERE", tmp_path)
    module = tmp_path / "tiny" / "module"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module example.test/tiny\n\ngo 1.21\n")
    (module / "main.go").write_text('package main\n\nfunc main() { println("tiny") }\n')
    pins = "require example.test/tiny v1.2.3\n\nreplace example.test/tiny v1.2.3 => ./module\n"
    (tmp_path / "tiny" / "go.mod").write_text(f"module bbr/testbed/tiny\n\ngo 1.21\n\n{pins}")
    return tmp_path / "cache" / "bbr" / "testbed" / "tiny-1.2.3" / "bin"


def test_family_is_built_once_with_its_time_said(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build.provide(TINY, None)
    said = capsys.readouterr().out
    assert re.fullmatch(r"testbed: building tiny 1\.2\.3 \(tiny\), once\ntestbed: built tiny 1\.2\.3 in \d+ s\n", said)
    assert subprocess.run([tiny / "tiny"], capture_output=True, check=True, timeout=20).stderr == b"tiny\n"
    build.provide(TINY, None)
    assert capsys.readouterr().out == ""


def test_stamps_of_a_family_are_in_its_programs(tiny: Path, tmp_path: Path) -> None:
    source = "package main\n\nvar version, minor string\n\nfunc main() { println(version, minor) }\n"
    (tmp_path / "tiny" / "module" / "main.go").write_text(source)
    build.provide(replace(TINY, stamps=("main.version=v{version}", "main.minor={minor}")), None)
    assert subprocess.run([tiny / "tiny"], capture_output=True, check=True, timeout=20).stderr == b"v1.2.3 2\n"


def test_two_builds_at_once_build_once(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as both:
        for one in [both.submit(build.provide, TINY, None) for _ in range(2)]:
            one.result()
    assert capsys.readouterr().out.count("building") == 1
    assert (tiny / "tiny").exists()


def test_broken_build_is_one_line_and_leaves_no_program(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "tiny" / "module" / "main.go"
    good = source.read_text()
    source.write_text("package main\n\nfunc main() { nonsense }\n")
    with pytest.raises(SystemExit, match=r"testbed: tiny of tiny 1\.2\.3 was not built"):
        build.provide(TINY, None)
    assert not tiny.exists()
    source.write_text(good)
    build.provide(TINY, None)
    assert (tiny / "tiny").exists()


def test_flags_and_workspaces_around_a_build_do_not_reach_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    (tmp_path / "go.work").write_text("go 1.21\n")
    build.provide(TINY, None)
    assert (tiny / "tiny").exists()
