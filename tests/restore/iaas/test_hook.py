"""A hook gets JSON, no shell is between, and how it ends is what is believed."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from bbr.errors import IaasError, IaasUnavailable
from restore.iaas.hook import run_hook

KEEP = "import json, sys; json.dump([sys.argv[1:], json.load(sys.stdin)], open(sys.argv[1], 'w'))"


def test_it_gets_its_words_and_the_request_as_they_are(tmp_path: Path) -> None:
    kept = tmp_path / "kept; $(touch x)"
    request = {"endpoint": "api:6443", "addresses": ["10.0.0.1", "fd00::1"]}
    run_hook([sys.executable, "-c", KEEP, str(kept), "*"], request, doing="pointing")
    assert json.loads(kept.read_text()) == [[str(kept), "*"], request]
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


@pytest.mark.parametrize(("code", "may_help"), [(1, False), (75, True), (127, False)])
def test_its_code_says_whether_trying_again_may_help(code: int, may_help: bool) -> None:
    with pytest.raises(IaasError, match=f"fencing m1: /bin/sh ended with code {code}: no power controller") as raised:
        run_hook(["/bin/sh", "-c", f"echo no power controller >&2; exit {code}"], {}, doing="fencing m1")
    assert raised.value.retry_may_help is may_help


def test_one_that_does_not_read_its_input_is_judged_by_its_code() -> None:
    run_hook(["/bin/true"], {"much": "x" * 1_000_000}, doing="fencing")


def test_one_that_does_not_end_is_ended_with_what_it_started() -> None:
    begun = time.monotonic()
    with pytest.raises(IaasUnavailable, match="took longer than"):
        run_hook(["/bin/sh", "-c", "sleep 60 & sleep 60"], {}, doing="fencing", limit=timedelta(seconds=0.3))
    assert time.monotonic() - begun < 20  # and that nothing is left running is looked at when all tests are over


def test_one_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IaasError, match="was not run"):
        run_hook([str(tmp_path / "none")], {}, doing="fencing")
