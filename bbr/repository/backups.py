"""What a listing is made of: backups that were believed, and findings about all that is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bbr.repository.manifest import Manifest

Severity = Literal["error", "note"]


@dataclass(frozen=True, slots=True)
class Backup:
    """A manifest that was believed, and the object that holds it: SHA-256 (hex) and size as stored, and when the store
    says that it was written (None for one that this run has just put)."""

    manifest: Manifest
    object_name: str
    sha256: str
    size_bytes: int
    stored: datetime | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. An "error" is damage, loss or forgery; a "note" may well be harmless.

    ``kind`` is one word for machines; ``cluster`` is "" where none can be told.
    """

    severity: Severity
    kind: str
    cluster: str
    object_name: str
    message: str

    def __str__(self) -> str:
        return self.message if self.object_name in self.message else f"{self.object_name}: {self.message}"
