"""Warnings about versions, at the edges of each range."""

from __future__ import annotations

import pytest

from bbr.capture.versions import version_warning


@pytest.mark.parametrize(
    ("version", "fault"),
    [
        ("3.5.0", "different data"),
        ("3.5.2", "different data"),
        ("3.5.5", "defragmentation can damage"),
        ("3.5.11", "delete may be applied differently"),
        ("3.4.31", "revision can go back"),
        ("3.5.13", "revision can go back"),
        ("3.4.33", "watch can miss"),
        ("3.5.15", "watch can miss"),
        ("3.5.22", "can be lost"),
        ("3.6.4", "can be lost"),
        ("3.6.0-rc.1", "can be lost"),
    ],
)
def test_a_version_with_a_fault_is_named_with_it(version: str, fault: str) -> None:
    warning = version_warning(version)
    assert fault in warning
    assert f"etcd {version} " in warning


@pytest.mark.parametrize("version", ["3.4.34", "3.5.23", "3.5.35", "3.6.5", "3.6.16", "3.7.0"])
def test_a_version_without_known_faults_is_silent(version: str) -> None:
    assert version_warning(version) == ""


def test_all_faults_of_one_version_are_one_warning_with_the_version_that_mends_them() -> None:
    warning = version_warning("3.5.4")
    assert warning.count(";") == 4
    assert "mended in 3.5.23" in warning


def test_a_version_that_is_none_is_said() -> None:
    assert "'unknown'" in version_warning("unknown")
