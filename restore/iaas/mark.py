"""Whose a machine is: the mark of the run that took it, as it is kept on the machine or beside it.

    {"schema": "bbr.mark/1", "run": "prod-1", "cluster": "prod", "purpose": "drill",
     "expires": "2026-01-02T03:04:05+00:00", "role": "master", "how": "made"}

What comes back from a machine is anybody's writing: it is bounded and checked before it is believed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from bbr.errors import IaasError, UsageError

Purpose = Literal["restore", "drill"]
Role = Literal["master", "worker", "etcd"]
How = Literal["begun", "made", "found"]
"""How the run came to the machine: it began to make it, it made it, or it was there and is only given back."""

CLAIM_LIMIT_BYTES = 16 * 1024
_SCHEMA = "bbr.mark/1"
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Mark:
    """A run, the cluster that it works for, what for, and until when the mark holds (UTC).

    Run and cluster become parts of file names: raises `UsageError` unless they are letters, digits and ``._-`` inside.
    """

    run: str
    cluster: str
    purpose: Purpose
    expires: datetime

    def __post_init__(self) -> None:
        for what, name in (("run", self.run), ("cluster", self.cluster)):
            if _NAME.fullmatch(name) is None:
                raise UsageError(
                    f"{name[:100]!r} is no name for a {what}", hint="letters and digits, with . _ - inside"
                )
        if self.expires.tzinfo is None:
            raise UsageError(f"the mark of run {self.run} expires at a time without a zone")

    def is_expired(self, now: datetime) -> bool:
        """Whether the run that it names has no right to the machine any more."""
        return now >= self.expires


@dataclass(frozen=True, slots=True)
class Claim:
    """A mark as it is written down: with the machine's role, and how the run came to it."""

    mark: Mark
    role: Role
    how: How

    def to_bytes(self) -> bytes:
        """As it is kept."""
        body = {
            "schema": _SCHEMA,
            "run": self.mark.run,
            "cluster": self.mark.cluster,
            "purpose": self.mark.purpose,
            "expires": self.mark.expires.astimezone(UTC).isoformat(),
            "role": self.role,
            "how": self.how,
        }
        return f"{json.dumps(body)}\n".encode()


def read_claim(body: bytes, *, where: str) -> Claim:
    """The claim in what was read from ``where``. Raises `IaasError` when it is none: nobody's is not what it says."""
    try:
        return _claim(json.loads(body))
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as err:
        raise IaasError(
            f"{where} holds something that is no mark of bbr: {type(err).__name__}",
            hint="look at it, and move it away by hand when you know whose it was",
        ) from err


def _claim(body: Any) -> Claim:
    if body["schema"] != _SCHEMA:
        raise ValueError("another schema")
    purpose, role, how = body["purpose"], body["role"], body["how"]
    if purpose not in get_args(Purpose) or role not in get_args(Role) or how not in get_args(How):
        raise ValueError("purpose, role or how")
    expires = datetime.fromisoformat(body["expires"])
    return Claim(Mark(body["run"], body["cluster"], purpose, expires), role, how)
