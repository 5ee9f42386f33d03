"""Jobs that run by themselves."""
