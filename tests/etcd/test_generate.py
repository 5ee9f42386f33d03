"""What is committed is what the compiler makes of rpc.proto."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bbr.etcd import rpc_pb2

FOLDER = Path(str(rpc_pb2.__file__)).parent


def test_regenerating_yields_what_is_committed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "generate", tmp_path], check=True, timeout=60)
    for name in ("rpc_pb2.py", "rpc_pb2.pyi"):
        assert (tmp_path / "bbr/etcd" / name).read_text() == (FOLDER / name).read_text()
