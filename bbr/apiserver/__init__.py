"""The API server of a cluster, asked over HTTPS by a client of our own, and what a restore does there."""
