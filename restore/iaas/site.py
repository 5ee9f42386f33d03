"""What an inventory leads to: the adapter that it names, and the rare abilities that it has there."""

from __future__ import annotations

from dataclasses import dataclass

from restore.iaas.hooked import HookEndpoint, HookFence, HookRelease
from restore.iaas.hosts import HostsIaas
from restore.iaas.iaas import Endpoint, Fence, Iaas, Release
from restore.iaas.inventory import HostsInventory, Inventory
from restore.iaas.lab import LabIaas


@dataclass(frozen=True, slots=True)
class Site:
    """An adapter; what it cannot do is None. ``endpoint_address`` is the ``host:port`` that the inventory names."""

    iaas: Iaas
    fence: Fence | None = None
    release: Release | None = None
    endpoint: Endpoint | None = None
    endpoint_address: str | None = None


def open_iaas(inventory: Inventory) -> Site:
    """The adapter that an inventory names. Asks nobody."""
    if isinstance(inventory, HostsInventory):
        fence, hook, address = inventory.fence_hook, inventory.endpoint_hook, inventory.endpoint
        return Site(
            HostsIaas(inventory),
            fence=HookFence(inventory, fence) if fence is not None else None,
            release=HookRelease(inventory, inventory.release_hook) if inventory.release_hook is not None else None,
            endpoint=HookEndpoint(address, hook) if hook is not None and address is not None else None,
            endpoint_address=address,
        )
    lab = LabIaas(inventory)
    return Site(lab, fence=lab, release=lab, endpoint=lab)
