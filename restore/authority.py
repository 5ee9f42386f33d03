"""An authority whose key is elsewhere: requests for it in a folder of the operator's, and what it gave back.

DIR/<machine>/<name>.csr    what the authority is to sign
DIR/<machine>/<name>.key    the key that belongs to it (0600), made here and never to leave
DIR/<machine>/<name>.crt    what comes back, put there by a person
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography import x509

from bbr.durable import replace_file
from bbr.errors import PreconditionFailed, TargetNotEmpty, UsageError
from bbr.layouts.reissue import Csr, Issued
from bbr.layouts.signed import Signed, request_name
from bbr.private import read_private

_CERTIFICATE_LIMIT_BYTES = 256 * 1024


def write_requests(folder: Path, requests: Iterable[tuple[str, Csr]]) -> list[Path]:
    """Write requests with their keys; one that is there and asks for the same stays, since it may have been sent.

    Returns the requests' files. Raises `TargetNotEmpty` for another that is in the way, and `UsageError` when the
    folder cannot be written.
    """
    written = []
    for host, csr in requests:
        place = folder / host
        path = place / f"{request_name(csr.path)}.csr"
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists():
                _check_same(path, csr)
            else:
                replace_file(path.with_suffix(".key"), csr.key)
                replace_file(path, csr.request)  # last: a request without its key is worth nothing
        except OSError as err:
            raise UsageError(f"{path} cannot be written: {err.strerror}", hint="name another folder") from err
        written.append(path)
    return written


def read_signed(folder: Path) -> Mapping[str, Signed]:
    """What an authority gave, by machine. What it is worth is decided where it is used.

    Raises `PreconditionFailed` for a certificate without its key, `UsageError` for a folder that is none, and
    `KeyRefused` for a key that others can read.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="name the one that --csr-dir wrote the requests to")
    return {place.name: _signed(place) for place in sorted(folder.iterdir()) if place.is_dir()}


def _signed(place: Path) -> Signed:
    found = {}
    for path in sorted(place.glob("*.crt")):
        key = path.with_suffix(".key")
        if not key.exists():
            raise PreconditionFailed(
                f"{path} has no key beside it", hint=f"the key was written with the request, as {key.name}"
            )
        with path.open("rb") as file:
            body = file.read(_CERTIFICATE_LIMIT_BYTES + 1)
        if len(body) > _CERTIFICATE_LIMIT_BYTES:
            raise PreconditionFailed(f"{path} is larger than any certificate")
        found[path.stem] = Issued(body, read_private(key))
    return found


def _check_same(path: Path, csr: Csr) -> None:
    there, wanted = _meaning(path.read_bytes()), _meaning(csr.request)
    if there is None or there != wanted or not path.with_suffix(".key").exists():
        raise TargetNotEmpty(f"{path} asks for something else; it was left as it is", hint="name another folder")


def _meaning(request: bytes) -> tuple[object, ...] | None:
    """What a request asks for, but for its key; None for what is none."""
    try:
        csr = x509.load_pem_x509_csr(request)
        return csr.subject, tuple(sorted((one.oid.dotted_string, one.value.public_bytes()) for one in csr.extensions))
    except ValueError:
        return None
