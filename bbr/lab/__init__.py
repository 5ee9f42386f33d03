"""Real hosts on one Linux machine, without a hypervisor: for drills, for tests, for rehearsing a disaster.

A host is a set of namespaces (network, mounts, processes, name, cgroups) with an sshd in it, on a bridge. The bridge
lies in a network namespace of its own that nothing connects to the machine: no address of a host is known outside,
and nothing inside has a way out. So a lab can do no harm to a network, two labs may use the same addresses, and what
is fenced off stays so. The price: a client has to enter that namespace to reach a host. `bbr.lab.door` does it, for
sockets of this process and, as a ProxyCommand, for the stock ssh; the lab's ``ssh_config`` has it filled in. A veth
pair from the machine to the bridge would need no door, but hosts would then reach every server of the machine that
listens on all addresses, a second lab would need other addresses, and a machine that forwards would be an uplink.

A host is no sandbox: its root is root of the machine, with the machine's devices for the asking. Run nothing in it
that you would not run beside it.
"""
