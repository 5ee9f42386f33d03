#!/bin/sh
# Starts a host: joins its cgroups and makes its namespaces. It is started in the host's network already.
#
#   $CGROUPS   files by which a process joins the cgroups that become the host's root
#   $LEAVES    the same for cgroups below them, where a root must have no processes of its own (version 2)
#   $INIT      init.sh, which becomes the host's process number 1
#
# Standard input is the lab's lock, held until now: from here on the host is found by its network.
set -eu
exec </dev/null
for procs in $CGROUPS; do echo 0 >"$procs"; done
# The last unshare stays behind outside, as the parent, and ends with number 1.
exec unshare --cgroup -- /bin/sh -euc '
    for procs in $LEAVES; do echo 0 >"$procs"; done
    exec unshare --mount --propagation private --uts --ipc --pid --fork -- /bin/sh "$INIT"'
