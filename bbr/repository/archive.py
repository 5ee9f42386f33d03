"""An opened repository, as every reader needs it: the store, what is trusted and listed there, what can open it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from bbr.errors import PartDamaged
from bbr.repository.catalog import Backup, Catalog
from bbr.repository.epoch import open_epoch
from bbr.repository.hostfiles import ARCHIVE_LIMIT_BYTES, HostFiles, decode_host_files
from bbr.repository.inventory import Inventory, decode_inventory
from bbr.repository.keys import Identity
from bbr.repository.root import TrustedRoot
from bbr.repository.transfer import fetch
from bbr.stores.store import Store


@dataclass(frozen=True, slots=True)
class Archive:
    """``identities`` may be empty: listing and the ``stored`` level of verify need no key."""

    store: Store
    trusted: TrustedRoot
    catalog: Catalog
    identities: Sequence[Identity] = ()

    def epoch_identity(self, backup: Backup) -> Identity:
        """What opens the parts of a backup. Raises `KeyRefused` when none of the identities reads its epoch."""
        return open_epoch(self.store, self.trusted, backup.manifest.epoch, self.identities)

    def control_plane(self, backup: Backup) -> HostFiles | None:
        """The masters' files; None where the backup has none. Raises `KeyRefused` or `PartDamaged`."""
        stored = backup.manifest.control_plane
        if stored is None:
            return None
        if sum(part.raw_bytes for part in stored.parts) > ARCHIVE_LIMIT_BYTES:
            raise PartDamaged(f"{backup.manifest.backup_id}: its control-plane archive is larger than any")
        body = b"".join(fetch(self.store, stored.parts, self.epoch_identity(backup)))
        if hashlib.sha256(body).hexdigest() != stored.sha256:
            raise PartDamaged(f"{backup.manifest.backup_id}: its control-plane archive is not what was signed for")
        return decode_host_files(body)

    def inventory(self, backup: Backup) -> Inventory:
        """What a backup holds, counted. Raises `KeyRefused` or `PartDamaged`."""
        return decode_inventory(b"".join(fetch(self.store, backup.manifest.inventory, self.epoch_identity(backup))))
