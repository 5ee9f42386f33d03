"""Kubernetes clusters on the hosts of a lab, in two tiers that take the same `spec.ClusterSpec` and give a `Cluster`.

- `true`: an unmodified kubeadm, kubelet, containerd and runc on every host. What works here works on machines.
- `fast`: control planes of the same files and programs, without containers, in seconds.

Neither needs a registry, an image or the internet: the programs are those that the hosts have on their PATH.
"""
