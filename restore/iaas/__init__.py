"""Where machines come from: adapters to an inventory of hosts, to a lab, and to whatever makes machines elsewhere."""
