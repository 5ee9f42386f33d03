"""An opened repository, as every reader needs it: the store, what is trusted and listed there, what can open it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bbr.repository.catalog import Backup, Catalog
from bbr.repository.epoch import open_epoch
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

    def inventory(self, backup: Backup) -> Inventory:
        """What a backup holds, counted. Raises `KeyRefused` or `PartDamaged`."""
        return decode_inventory(b"".join(fetch(self.store, backup.manifest.inventory, self.epoch_identity(backup))))
