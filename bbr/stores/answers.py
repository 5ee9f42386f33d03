"""What an S3 server's answers mean: its error codes in bbr's errors, its dates, its checksums. Both SDKs use it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from bbr.errors import (
    AccessDenied,
    AlreadyExists,
    BbrError,
    BodyTooLarge,
    BucketMissing,
    ClockSkew,
    NotAStore,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from bbr.stores.store import Buffer

_MISSING = {"NoSuchKey", "NoSuchVersion", "NoSuchObject"}
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName"}
_DENIED = {
    "AccessDenied",
    "AllAccessDisabled",
    "AccountProblem",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
_SKEWED = {"RequestTimeTooSkewed", "RequestExpired"}
_BUSY = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "ThrottlingException",
    "TooManyRequests",
    "XMinioServerNotInitialized",
}


def error_for(code: str, status: int, message: str, *, doing: str, bucket: str) -> BbrError:
    """The error for an answer that is none of success. ``code`` is the server's word, or "" when it gave none."""
    said = f"{doing}: the server answers {code or status}" + (f" ({message.strip()[:200]})" if message.strip() else "")
    if code in _NO_BUCKET:
        return BucketMissing(
            f"{doing}: bucket {bucket} does not exist", hint="make the bucket, or correct the repository's URL"
        )
    if code in _MISSING:
        return NotFound(f"{doing}: it is not in the store")
    if code == "PreconditionFailed" or status == 412:
        return AlreadyExists(f"{doing}: it exists already")
    if code in _SKEWED:
        return ClockSkew(
            f"{doing}: the server refuses this host's clock ({message.strip()[:200]})",
            hint="set this host's clock (timedatectl), then run it again",
        )
    if code == "AuthorizationHeaderMalformed":
        return AccessDenied(said, hint="the bucket may be in another region: name it with ?region= in the URL")
    if code in _DENIED or (status in (401, 403) and not code):
        return AccessDenied(said, hint="check the credentials, and what they may do in this bucket: docs/security.md")
    if code in _BUSY or status in (408, 429, 500, 502, 503, 504):
        return StoreUnavailable(said, hint="try again later; `bbr doctor` tests the store")
    if not code:
        return NotAStore(said, hint="this address does not answer as S3 does: check the URL, its port and its scheme")
    return StoreError(said)


def server_time(headers: Mapping[str, str], *, doing: str) -> datetime:
    """The time in the answer to a write. Raises `NotAStore` when there is none: it may not be made up."""
    text = next((value for name, value in headers.items() if name.lower() == "date"), "")
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError as err:
        raise NotAStore(f"{doing}: the server's answer has no date", hint="a proxy may have removed it") from err


def check_order(name: str, before: str, *, doing: str) -> str:
    """The name itself, when it comes after the one before it:

    a page that came twice, or a list in disorder, is none.
    """
    if name <= before:
        raise NotAStore(f"{doing}: {name[:80]!r} is listed after {before[:80]!r}", hint="run `bbr doctor`")
    return name


def check_body(name: str, got: int, promised: int | None, limit_bytes: int) -> None:
    """The body's ``got`` bytes are all that the answer's header promised (None: nothing), and within the limit.

    Raises `BodyTooLarge`, or `StoreUnavailable` when it came cut.
    """
    if max(got, promised or 0) > limit_bytes:
        raise BodyTooLarge(f"{name} has more than the {limit_bytes:,} bytes expected")
    if promised is not None and got != promised:
        raise StoreUnavailable(
            f"reading {name}: it came cut, {got:,} of {promised:,} bytes", hint="check the connection to the store"
        )


def check_longer(name: str, held: datetime | None, until: datetime) -> None:
    """Raises `AccessDenied` when an object that is locked until ``held`` would be free sooner."""
    if held is not None and held > until:
        raise AccessDenied(f"{name} is locked until {held:%Y-%m-%d %H:%M} UTC, which is never shortened")


def rule_line(name: str, scope: str, acts: Sequence[str], prefix: str) -> str:
    """One line for a lifecycle rule that does ``acts`` to ``scope``; "" when it touches nothing under ``prefix``."""
    touches = scope.startswith(prefix) or prefix.startswith(scope)
    if not touches or not acts:
        return ""
    return f"rule {name} on prefix {scope or '(all)'}: {', '.join(acts)}"


def sha256_base64(body: Buffer) -> str:
    """The checksum as S3's header wants it."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()
