"""An S3 bucket by boto3. The one module that imports it.

Checksums are sent by hand with each PUT: boto3's own defaults break some compatible servers (a trailer inside the
object), so they are on only for AWS itself. Retries are ours (`bbr.stores.retry`); boto3's are off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own tree
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from bbr.errors import AccessDenied, NotAStore, StoreError, StoreUnavailable, UsageError
from bbr.stores.answers import check_body, check_longer, check_order, error_for, rule_line, server_time, sha256_base64
from bbr.stores.store import Buffer, Entry, Stored, Version, checked_name

CONNECT_TIME_S = 5
READ_TIME_S = 30
CONNECTIONS = 32


class S3Store:
    """Objects under ``prefix`` of a bucket.

    ``endpoint`` None is AWS; ``ca_file`` None trusts what the system trusts.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        ca_file: str | None = None,
        path_style: bool = False,
    ) -> None:
        """Raises `UsageError` for what boto3 cannot take. The network is not touched."""
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        checks: Literal["when_supported", "when_required"] = "when_supported" if endpoint is None else "when_required"
        config = Config(
            connect_timeout=CONNECT_TIME_S,
            read_timeout=READ_TIME_S,
            max_pool_connections=CONNECTIONS,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path" if path_style else "auto"},
            request_checksum_calculation=checks,
            response_checksum_validation=checks,
        )
        try:
            # The session finds a region in the usual places; a server with none of its own takes any.
            session = boto3.session.Session()
            place = region or session.region_name or "us-east-1"
            self._client = session.client("s3", endpoint_url=endpoint, region_name=place, verify=ca_file, config=config)
        except (BotoCoreError, ValueError) as err:
            raise UsageError(f"s3://{bucket}: {err}") from err

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        """See `Store.put`."""
        content = bytes(body)
        arguments: dict[str, Any] = {"ChecksumSHA256": sha256_base64(content), "IfNoneMatch": "*"}
        if retain_until is not None:
            arguments |= {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": retain_until}
        with self._translated(f"writing {name}"):
            answer = self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=content, **arguments)
        if not answer.get("ETag"):
            raise NotAStore(f"writing {name}: the answer has no ETag, as S3's has", hint="check the URL")
        time = server_time(answer["ResponseMetadata"]["HTTPHeaders"], doing=f"writing {name}")
        return Stored(name, len(content), time)

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        """See `Store.get`."""
        with self._translated(f"reading {name}"):
            return self._read(self._client.get_object(Bucket=self._bucket, Key=self._key(name)), name, limit_bytes)

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`."""
        pages = self._client.get_paginator("list_objects_v2")
        doing, last = f"listing {prefix or 'everything'}", ""
        with self._translated(doing):
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                if "IsTruncated" not in page:  # any other page parses as an empty listing
                    raise NotAStore(
                        f"{doing}: the answer is no listing",
                        hint="this address does not answer as S3 does: check the URL, its port and its scheme",
                    )
                for found in page.get("Contents", ()):
                    last = check_order(found["Key"][len(self._prefix) :], last, doing=doing)
                    yield Entry(last, found["Size"], found["LastModified"].astimezone(UTC))

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        with self._translated(f"deleting {name}"):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def versions(self, name: str) -> tuple[Version, ...]:
        """See `Versions.versions`."""
        key, found = self._key(name), []
        with self._translated(f"listing the versions of {name}"):
            if self._client.get_bucket_versioning(Bucket=self._bucket).get("Status") != "Enabled":
                return ()
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=key):
                for one in page.get("Versions", ()):
                    if one["Key"] == key:
                        time = one["LastModified"].astimezone(UTC)
                        found.append(Version(name, one["VersionId"], one["Size"], time, is_delete_marker=False))
                for mark in page.get("DeleteMarkers", ()):
                    if mark["Key"] == key:
                        time = mark["LastModified"].astimezone(UTC)
                        found.append(Version(name, mark["VersionId"], 0, time, is_delete_marker=True))
        return tuple(sorted(found, key=lambda version: version.time, reverse=True))

    def get_version(self, name: str, version_id: str, *, limit_bytes: int) -> bytes:
        """See `Versions.get_version`."""
        with self._translated(f"reading version {version_id} of {name}"):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name), VersionId=version_id)
            return self._read(answer, name, limit_bytes)

    def retention_enabled(self) -> bool:
        """See `Retention.retention_enabled`."""
        with self._translated("asking for object lock"):
            try:
                answer = self._client.get_object_lock_configuration(Bucket=self._bucket)
            except ClientError as err:
                if err.response["Error"]["Code"] in ("ObjectLockConfigurationNotFoundError", "NotImplemented"):
                    return False
                raise
        return bool(answer["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled")

    def retained_until(self, name: str) -> datetime | None:
        """See `Retention.retained_until`."""
        with self._translated(f"asking until when {name} is locked"):
            answer = self._client.head_object(Bucket=self._bucket, Key=self._key(name))
        until = answer.get("ObjectLockRetainUntilDate")
        return until.astimezone(UTC) if until else None

    def extend_retention(self, name: str, until: datetime) -> None:
        """See `Retention.extend_retention`."""
        check_longer(name, self.retained_until(name), until)
        with self._translated(f"locking {name} for longer"):
            self._client.put_object_retention(
                Bucket=self._bucket,
                Key=self._key(name),
                Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
            )

    def expiry_rules(self) -> tuple[str, ...]:
        """See `Lifecycle.expiry_rules`."""
        with self._translated("asking for lifecycle rules"):
            try:
                answer = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket)
            except ClientError as err:
                if err.response["Error"]["Code"] in ("NoSuchLifecycleConfiguration", "NotImplemented"):
                    return ()
                raise
        return tuple(text for rule in answer["Rules"] if (text := self._rule(rule)))

    def _rule(self, rule: Any) -> str:
        """One line for a rule that would touch what is ours, else ""."""
        scope = rule.get("Filter", {}).get("Prefix", rule.get("Prefix", ""))
        acts = [word for word in ("Expiration", "Transitions", "NoncurrentVersionExpiration") if word in rule]
        if rule["Status"] != "Enabled":
            return ""
        return rule_line(rule.get("ID", "without a name"), scope, acts, self._prefix)

    def _read(self, answer: Any, name: str, limit_bytes: int) -> bytes:
        promised = answer.get("ContentLength")  # absent where the body comes in chunks
        body: bytes = answer["Body"].read(limit_bytes + 1) if promised is None or promised <= limit_bytes else b""
        answer["Body"].close()
        check_body(name, len(body), promised, limit_bytes)
        return body

    def _key(self, name: str) -> str:
        return self._prefix + checked_name(name)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except ClientError as err:
            raise self._error(err, doing) from err
        except (NoCredentialsError, PartialCredentialsError) as err:
            raise AccessDenied(
                f"{doing}: {err}", hint="boto3 looks in the environment, ~/.aws and the instance's role"
            ) from err
        except SSLError as err:
            raise StoreError(
                f"{doing}: TLS to the store failed: {err}", hint="name its authority with ?ca_file= in the URL"
            ) from err
        except ResponseParserError as err:
            raise NotAStore(f"{doing}: the answer is not S3's: {str(err)[:200]}", hint="check the URL") from err
        except ParamValidationError as err:
            raise UsageError(f"{doing}: {err}") from err
        except (ConnectionError, HTTPClientError) as err:  # refused, dropped, timed out, a body cut
            raise StoreUnavailable(f"{doing}: {err}", hint="check that the store is reachable") from err
        except BotoCoreError as err:
            raise StoreError(f"{doing}: {err}") from err

    def _error(self, err: ClientError, doing: str) -> Exception:
        said = err.response["Error"]
        status = err.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        code = said.get("Code", "")
        plain = code.isdigit()  # boto3 puts the status there when the body names no code
        return error_for("" if plain else code, status, said.get("Message", ""), doing=doing, bucket=self._bucket)
