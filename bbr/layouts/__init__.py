"""Where a distribution keeps a master's files, and how its components are reached."""
