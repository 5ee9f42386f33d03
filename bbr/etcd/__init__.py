"""etcd as it is: its RPCs, its file format, its records, its own tools."""
