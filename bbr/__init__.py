"""bbr: backup, restore and disaster recovery for Kubernetes clusters."""

__version__ = "0.1.0"
