"""Bringing a cluster back from its backups."""
