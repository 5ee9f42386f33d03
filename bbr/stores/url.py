"""A store from its URL. What an address cannot say, or must not (credentials), is refused before anything is touched.

/abs/path, ./relative, file:///path                              a directory
s3://bucket/prefix?endpoint=&region=&ca_file=&style=path|host    S3 by boto3
minio://host:port/bucket/prefix?region=&ca_file=                 S3 by the MinIO SDK, over TLS
minio+http://host:port/bucket/prefix                             the same in the clear: loopback, or a network you trust
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from bbr.errors import NoSpace, StoreError, UsageError
from bbr.stores.directory import DirectoryStore
from bbr.stores.retry import Retrying
from bbr.stores.store import Store

_S3_OPTIONS = {"endpoint", "region", "ca_file", "style"}
_MINIO_OPTIONS = {"region", "ca_file"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def open_store(url: str) -> Store:
    """The store at ``url``, with retries around it. Touches nothing. Raises `UsageError` for what is no address."""
    parts = _split(url)
    if parts.scheme in ("", "file"):
        return Retrying(DirectoryStore(_path(url, parts)))
    if parts.scheme == "s3":
        return Retrying(_s3(url, parts))
    if parts.scheme in ("minio", "minio+http"):
        return Retrying(_minio(url, parts))
    raise UsageError(f"{url}: no store is called {parts.scheme}://", hint="use a path, s3:// or minio://")


def folder_of(url: str) -> Path | None:
    """The directory that an address names, from wherever it is named; None where it names a server."""
    parts = _split(url)
    return _path(url, parts) if parts.scheme in ("", "file") else None


def create_place(url: str) -> None:
    """Make the directory that a new repository is to be in; buckets are made by whoever owns them."""
    path = folder_of(url)
    if path is not None:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError as err:
            raise UsageError(f"{path} is not a directory") from err
        except PermissionError as err:
            raise StoreError(f"{path} cannot be made: {err.strerror}") from err
        except OSError as err:
            raise NoSpace(f"{path} cannot be made: {err.strerror}") from err


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        credentials = parts.username or parts.password
    except ValueError as err:
        raise UsageError(f"not an address of a store: {err}") from err
    if credentials:
        raise UsageError(
            f"the address of the store at {parts.hostname} holds credentials",
            hint="leave them out: they are taken from the environment or the SDK's own files, and change them now",
        )
    return parts


def _path(url: str, parts: SplitResult) -> Path:
    path = unquote(parts.path) if parts.scheme else url
    if not path or parts.netloc:
        raise UsageError(f"{url!r} is not the path of a directory", hint="use /path or file:///path")
    return Path(path).absolute()


def _s3(url: str, parts: SplitResult) -> Store:
    from bbr.stores.s3 import S3Store  # boto3 takes a third of a second to import

    options = _options(url, parts, _S3_OPTIONS)
    style = options.get("style", "host")
    if not parts.netloc or style not in ("path", "host"):
        raise UsageError(f"{url}: not s3://BUCKET/PREFIX, or a style that is neither path nor host")
    return S3Store(
        _checked_bucket(url, parts.netloc),
        unquote(parts.path),
        endpoint=options.get("endpoint"),
        region=options.get("region"),
        ca_file=options.get("ca_file"),
        path_style=style == "path",
    )


def _minio(url: str, parts: SplitResult) -> Store:
    from bbr.stores.minio import MinioStore  # only who uses it waits for its import

    options = _options(url, parts, _MINIO_OPTIONS)
    bucket, _, prefix = unquote(parts.path).lstrip("/").partition("/")
    if not parts.netloc or not bucket:
        raise UsageError(f"{url}: not minio://HOST:PORT/BUCKET/PREFIX")
    return MinioStore(
        parts.netloc,
        _checked_bucket(url, bucket),
        prefix,
        secure=parts.scheme == "minio",
        region=options.get("region"),
        ca_file=options.get("ca_file"),
    )


def _checked_bucket(url: str, bucket: str) -> str:
    """The bucket's name itself, when S3 and MinIO can have one: an SDK would blame the server for a wrong name."""
    if not _BUCKET.fullmatch(bucket) or any(wrong in bucket for wrong in ("..", ".-", "-.")):
        raise UsageError(
            f"{url}: {bucket!r} cannot be a bucket's name",
            hint="it has 3 to 63 of a-z 0-9 . - and begins and ends with a letter or a digit",
        )
    return bucket


def _options(url: str, parts: SplitResult, known: set[str]) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    unknown = sorted(options.keys() - known)
    if unknown or len(options) != len(pairs) or parts.fragment:
        what = f"unknown option {unknown[0]!r}" if unknown else "an option twice, or a fragment"
        raise UsageError(f"{url}: {what}", hint=f"options here: {', '.join(sorted(known))}")
    ca_file = options.get("ca_file")
    if ca_file is not None and not Path(ca_file).is_file():
        raise UsageError(f"{url}: there is no file {ca_file}")
    return options
