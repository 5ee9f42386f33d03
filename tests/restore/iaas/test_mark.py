"""A mark comes back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import IaasError, UsageError
from restore.iaas.mark import Claim, Mark, read_claim

EXPIRES = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MARK = Mark("r1", "prod", "drill", EXPIRES)
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?", fullmatch=True)


@given(
    run=NAMES,
    cluster=NAMES,
    purpose=st.sampled_from(["restore", "drill"]),
    expires=st.datetimes(timezones=st.just(UTC)),
    role=st.sampled_from(["master", "worker", "etcd"]),
    how=st.sampled_from(["begun", "made", "found"]),
)
def test_claim_is_read_as_it_was_written(**words: object) -> None:
    mark = Mark(words["run"], words["cluster"], words["purpose"], words["expires"])  # type: ignore[arg-type]
    claim = Claim(mark, words["role"], words["how"])  # type: ignore[arg-type]
    assert read_claim(claim.to_bytes(), where="here") == claim


def changed(**changes: object) -> bytes:
    return json.dumps(json.loads(Claim(MARK, "master", "made").to_bytes()) | changes).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"[" * 12_000,
        changed(schema="bbr.mark/2"),
        changed(run="../../etc"),
        changed(run=""),
        changed(run=7),
        changed(run="a" * 101),
        changed(cluster=None),
        changed(purpose="production"),
        changed(role="jump"),
        changed(how=True),
        changed(expires="tomorrow"),
        changed(expires="2026-01-02T03:04:05"),
        changed(expires=0),
    ],
)
def test_anything_else_is_refused_and_not_repeated(body: bytes) -> None:
    with pytest.raises(IaasError, match=r"^here holds something that is no mark of bbr"):
        read_claim(body, where="here")


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused(body: bytes) -> None:
    with pytest.raises(IaasError):
        read_claim(body, where="here")


def test_a_mark_is_over_at_its_moment_and_not_before() -> None:
    assert not MARK.is_expired(EXPIRES - timedelta(microseconds=1))
    assert MARK.is_expired(EXPIRES)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "a-", "a\n", "ä"])
def test_names_that_would_be_trouble_in_a_path_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Mark(name, "prod", "drill", EXPIRES)
    with pytest.raises(UsageError):
        Mark("r1", name, "drill", EXPIRES)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="without a zone"):
        Mark("r1", "prod", "drill", EXPIRES.replace(tzinfo=None))
