"""The guided tour: a real etcd backed up, destroyed, restored and compared."""
