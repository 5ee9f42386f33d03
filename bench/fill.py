"""Many objects put straight into the etcd of a cluster in the lab. A program of its own: it runs in the lab's network.

    python -m bench.fill URL COUNT FOLDER       FOLDER has ca.crt, healthcheck-client.crt and healthcheck-client.key

They are ConfigMaps in JSON, which an API server reads as well as what it writes itself.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from bbr.etcd.address import Credentials
from bbr.etcd.client import EtcdClient
from bbr.etcd.write import txn

NAMESPACE = "default"
VALUE_BYTES = 900
_BATCH = 100


def main() -> None:
    """Write them."""
    url, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    ca, certificate, key = (folder / name for name in ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key"))
    credentials = Credentials(ca.read_bytes(), certificate.read_bytes(), key.read_bytes())
    made = _objects(count)
    with EtcdClient(url, credentials) as client:
        while batch := dict(islice(made, _BATCH)):
            txn(client, batch)


def _objects(count: int) -> Iterator[tuple[bytes, bytes]]:
    random = Random(1)
    for number in range(count):
        name = f"filled-{number:06}"
        metadata = {
            "name": name,
            "namespace": NAMESPACE,
            "uid": str(uuid.UUID(int=random.getrandbits(128), version=4)),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        body = {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": metadata,
            "data": {"value": random.randbytes(VALUE_BYTES // 2).hex()},
        }
        yield f"/registry/configmaps/{NAMESPACE}/{name}".encode(), json.dumps(body).encode()


if __name__ == "__main__":
    main()
