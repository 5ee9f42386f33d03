"""An opened repository, as every reader needs it: the store, what is trusted and listed there, what can open it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bbr.repository.catalog import Catalog
from bbr.repository.keys import Identity
from bbr.repository.root import TrustedRoot
from bbr.stores.store import Store


@dataclass(frozen=True, slots=True)
class Archive:
    """``identities`` may be empty: listing and the ``stored`` level of verify need no key."""

    store: Store
    trusted: TrustedRoot
    catalog: Catalog
    identities: Sequence[Identity] = ()
