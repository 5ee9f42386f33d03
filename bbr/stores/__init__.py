"""Object storage behind a seam of four methods."""
