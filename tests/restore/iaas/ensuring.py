"""A process of its own that ensures one machine: ``python -m tests.restore.iaas.ensuring INVENTORY NAME RUN``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from restore.iaas.iaas import MachineWanted
from restore.iaas.inventory import read_inventory
from restore.iaas.mark import Mark
from restore.iaas.site import open_iaas


def main() -> None:
    inventory, name, run = sys.argv[1:]
    mark = Mark(run, "prod", "drill", datetime.now(UTC) + timedelta(hours=1))
    open_iaas(read_inventory(Path(inventory))).iaas.ensure_machine(MachineWanted(name, "master", mark))


if __name__ == "__main__":
    main()
