"""The bolt file format, both ways."""
