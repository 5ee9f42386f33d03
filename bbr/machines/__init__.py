"""Machines: commands run and files put and got, on this machine or over SSH."""
