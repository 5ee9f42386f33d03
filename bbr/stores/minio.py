"""An S3 bucket by the MinIO SDK: faster than boto3 with small objects. The one module that imports it.

The SDK's public ``put_object`` takes no If-None-Match, so a PUT goes through its request method, which signs and
sends like the public ones; a test over the real server holds that in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.request import getproxies, proxy_bypass
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.commonconfig import COMPLIANCE
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    MinioClientConfigProvider,
)
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.retention import Retention as MinioRetention
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.exceptions import SSLError as TlsError

from bbr.errors import AccessDenied, NotAStore, StoreError, StoreUnavailable, UsageError
from bbr.stores.answers import check_body, check_longer, check_order, error_for, rule_line, server_time, sha256_base64
from bbr.stores.store import Buffer, Entry, Stored, Version, checked_name

CONNECT_TIME_S = 5
READ_TIME_S = 30
CONNECTIONS = 32
_BLOCK_BYTES = 1 << 20
_NO_CREDENTIALS = "fail to fetch"
"""In the ValueError by which the SDK says that none of its providers has credentials."""


def _connections(endpoint: str, ca_file: str | None, *, secure: bool) -> urllib3.PoolManager:
    """Connections of our limits; through the proxy that the environment names, unless it excepts this host."""
    settings: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=CONNECT_TIME_S, read=READ_TIME_S),
        "maxsize": CONNECTIONS,
        "retries": False,
        "cert_reqs": "CERT_REQUIRED",
        "ca_certs": ca_file,
    }
    proxy = getproxies().get("https" if secure else "http")
    if proxy and not proxy_bypass(endpoint.rsplit(":", 1)[0]):
        return urllib3.ProxyManager(proxy, **settings)
    return urllib3.PoolManager(**settings)


class MinioStore:
    """Objects under ``prefix`` of a bucket at ``endpoint`` (host:port)."""

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        prefix: str = "",
        *,
        secure: bool = True,
        region: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        """Raises `UsageError` for what the SDK cannot take. The network is not touched."""
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        http = _connections(endpoint, ca_file, secure=secure)
        credentials = ChainedProvider(
            [EnvMinioProvider(), EnvAWSProvider(), AWSConfigProvider(), MinioClientConfigProvider()]
        )
        try:
            self._client = Minio(endpoint, secure=secure, region=region, http_client=http, credentials=credentials)
        except ValueError as err:
            raise UsageError(f"minio://{endpoint}: {err}") from err

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        """See `Store.put`."""
        content = bytes(body)
        headers: dict[str, Any] = {"If-None-Match": "*", "x-amz-checksum-sha256": sha256_base64(content)}
        if retain_until is not None:
            headers["x-amz-object-lock-mode"] = COMPLIANCE
            headers["x-amz-object-lock-retain-until-date"] = f"{retain_until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        with self._translated(f"writing {name}"):
            answer = self._client._execute("PUT", self._bucket, self._key(name), body=content, headers=headers)
        if not answer.headers.get("etag"):
            raise NotAStore(f"writing {name}: the answer has no ETag, as S3's has", hint="check the URL")
        return Stored(name, len(content), server_time(dict(answer.headers), doing=f"writing {name}"))

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        """See `Store.get`."""
        with self._translated(f"reading {name}"):
            return self._read(self._client.get_object(self._bucket, self._key(name)), name, limit_bytes)

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`."""
        doing, last = f"listing {prefix or 'everything'}", ""
        with self._translated(doing):
            for found in self._client.list_objects(self._bucket, prefix=self._prefix + prefix, recursive=True):
                last = check_order(found.object_name[len(self._prefix) :], last, doing=doing)
                yield Entry(last, found.size, found.last_modified.astimezone(UTC))

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        with self._translated(f"deleting {name}"):
            self._client.remove_object(self._bucket, self._key(name))

    def versions(self, name: str) -> tuple[Version, ...]:
        """See `Versions.versions`."""
        key = self._key(name)
        with self._translated(f"listing the versions of {name}"):
            if self._client.get_bucket_versioning(self._bucket).status != "Enabled":
                return ()
            listed = self._client.list_objects(self._bucket, prefix=key, recursive=True, include_version=True)
            found = [
                Version(name, one.version_id, one.size or 0, one.last_modified.astimezone(UTC), one.is_delete_marker)
                for one in listed
                if one.object_name == key
            ]
        return tuple(sorted(found, key=lambda version: version.time, reverse=True))

    def get_version(self, name: str, version_id: str, *, limit_bytes: int) -> bytes:
        """See `Versions.get_version`."""
        with self._translated(f"reading version {version_id} of {name}"):
            answer = self._client.get_object(self._bucket, self._key(name), version_id=version_id)
            return self._read(answer, name, limit_bytes)

    def retention_enabled(self) -> bool:
        """See `Retention.retention_enabled`."""
        with self._translated("asking for object lock"):
            try:
                self._client.get_object_lock_config(self._bucket)
            except S3Error as err:
                if err.code in ("ObjectLockConfigurationNotFoundError", "NotImplemented"):
                    return False
                raise
        return True

    def retained_until(self, name: str) -> datetime | None:
        """See `Retention.retained_until`."""
        with self._translated(f"asking until when {name} is locked"):
            try:
                held = self._client.get_object_retention(self._bucket, self._key(name))
            except S3Error as err:
                if err.code in ("NoSuchObjectLockConfiguration", "InvalidRequest"):
                    return None
                raise
        return held.retain_until_date.astimezone(UTC) if held else None

    def extend_retention(self, name: str, until: datetime) -> None:
        """See `Retention.extend_retention`."""
        check_longer(name, self.retained_until(name), until)
        with self._translated(f"locking {name} for longer"):
            self._client.set_object_retention(self._bucket, self._key(name), MinioRetention(COMPLIANCE, until))

    def expiry_rules(self) -> tuple[str, ...]:
        """See `Lifecycle.expiry_rules`."""
        with self._translated("asking for lifecycle rules"):
            answer = self._client.get_bucket_lifecycle(self._bucket)
        return tuple(text for rule in (answer.rules if answer else ()) if (text := self._rule(rule)))

    def _rule(self, rule: Any) -> str:
        """One line for a rule that would touch what is ours, else ""."""
        scope = (rule.rule_filter.prefix if rule.rule_filter else "") or ""
        parts = {
            "Expiration": rule.expiration,
            "Transitions": rule.transition,
            "NoncurrentVersionExpiration": rule.noncurrent_version_expiration,
        }
        acts = [word for word, part in parts.items() if part is not None]
        if rule.status != "Enabled":
            return ""
        return rule_line(rule.rule_id or "without a name", scope, acts, self._prefix)

    def _read(self, answer: Any, name: str, limit_bytes: int) -> bytes:
        promised = answer.headers.get("content-length")  # absent where the body comes in chunks
        body = bytearray()
        try:
            # As it was sent: a body that says that it is compressed may grow without a limit.
            for block in answer.stream(_BLOCK_BYTES, decode_content=False):
                body += block
                if len(body) > limit_bytes:
                    break
            else:
                answer.release_conn()
        finally:
            answer.close()
        check_body(name, len(body), None if promised is None else int(promised), limit_bytes)
        return bytes(body)

    def _key(self, name: str) -> str:
        return self._prefix + checked_name(name)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except S3Error as err:
            raise self._error(err, doing) from err
        except ServerError as err:
            raise error_for("", err.status_code, str(err), doing=doing, bucket=self._bucket) from err
        except InvalidResponseError as err:  # no XML: a proxy, a load balancer, or no S3 at all
            status = getattr(err, "_code", 0)
            raise error_for("", status, str(err)[:200], doing=doing, bucket=self._bucket) from err
        except (TlsError, MaxRetryError) as err:
            reason = getattr(err, "reason", err)
            if not isinstance(reason, TlsError):
                raise StoreUnavailable(f"{doing}: {reason}", hint="check that the store is reachable") from err
            raise StoreError(
                f"{doing}: TLS to the store failed: {reason}", hint="name its authority with ?ca_file= in the URL"
            ) from err
        except HTTPError as err:  # refused, dropped, timed out, a body cut
            said = err.args[0] if err.args else err  # the second of them is the first again, as an object
            raise StoreUnavailable(f"{doing}: {said}", hint="check that the store is reachable") from err
        except MinioException as err:
            raise StoreError(f"{doing}: {err}") from err
        except (ValueError, ParseError) as err:
            if _NO_CREDENTIALS in str(err):
                raise AccessDenied(
                    f"{doing}: no credentials", hint="the SDK looks in MINIO_ and AWS_ variables, ~/.mc and ~/.aws"
                ) from err
            raise NotAStore(f"{doing}: the answer is not S3's: {str(err)[:200]}", hint="check the URL") from err

    def _error(self, err: S3Error, doing: str) -> Exception:
        status = err.response.status if err.response is not None else 0
        return error_for(err.code or "", status, err.message or "", doing=doing, bucket=self._bucket)
