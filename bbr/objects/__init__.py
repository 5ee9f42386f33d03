"""What keys and values in etcd mean to Kubernetes."""
