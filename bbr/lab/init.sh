#!/bin/sh
# Process number 1 of a host: mounts its file systems, leaves the machine's behind, runs sshd, and collects orphans.
#
#   $FOLDER    the host's: upper, work (overlay), root (where it is mounted), volumes/<path>
#   $LOWER     what the overlay lies on: folders with colons between
#   $HOST      its name
#   $PROGRAMS  folders of the machine whose programs are to be on its PATH
#   $VOLUMES   absolute paths that are folders of a real file system instead of the overlay
#   $MOUNTS    cgroup hierarchies to show, each <folder>:<kind>:<options>
set -eu
umask 022 # whatever the user's is
cd "$FOLDER"
mount -t overlay bbr-lab -o "lowerdir=$LOWER,upperdir=upper,workdir=work" root
cd root

mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/lock run/sshd

# Devices that a program may need, and none of the machine's disks.
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 kmsg:1:11; do
    numbers=${device#*:}
    mknod -m 666 "dev/${device%%:*}" c "${numbers%:*}" "${numbers#*:}"
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${stream%:*}" "dev/${stream#*:}"; done

# One write to it would restart the machine, where the kernel has it.
[ ! -e proc/sysrq-trigger ] || mount --bind dev/null proc/sysrq-trigger

# A kubelet sets these, and they are the machine's: the host gets files of its own in their place.
for setting in kernel/panic kernel/panic_on_oops kernel/keys/root_maxbytes kernel/keys/root_maxkeys \
    vm/overcommit_memory vm/panic_on_oom; do
    [ -e "proc/sys/$setting" ] || continue
    mkdir -p "run/sysctl/${setting%/*}"
    cat "proc/sys/$setting" >"run/sysctl/$setting"
    mount --bind "run/sysctl/$setting" "proc/sys/$setting"
done

for mount in $MOUNTS; do
    folder=${mount%%:*} kind=${mount#*:}
    options=${kind#*:} kind=${kind%%:*}
    case $kind in
    cgroup)
        mountpoint -q sys/fs/cgroup || mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
        mkdir -p "sys/fs/cgroup/$folder"
        mount -t cgroup -o "$options" cgroup "sys/fs/cgroup/$folder"
        ;;
    cgroup2)
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        # Now that all of us are in a leaf, the root may hand its controllers on.
        for controller in $(cat sys/fs/cgroup/cgroup.controllers); do
            echo "+$controller" >sys/fs/cgroup/cgroup.subtree_control || :
        done
        ;;
    esac
done

for volume in $VOLUMES; do
    mkdir -p ".$volume"
    mount --bind "../volumes$volume" ".$volume"
done

# Bound, for a layer of the overlay may not lie in another; read-only, for all hosts share them.
number=0
for folder in $PROGRAMS; do
    number=$((number + 1))
    here=opt/lab/$number
    mkdir -p "$here"
    mount --bind "$folder" "$here"
    mount -o remount,bind,ro "$here"
    mkdir -p usr/local/bin
    for program in "$here"/*; do [ ! -x "$program" ] || ln -sf "/$program" usr/local/bin/; done
done

hostname "$HOST"
mkdir run/machine
pivot_root . run/machine
cd /
umount -l /run/machine
rmdir /run/machine
# A kubelet hands mounts on to containers.
mount --make-rshared /

unset FOLDER LOWER HOST PROGRAMS VOLUMES MOUNTS INIT CGROUPS LEAVES
sshd=$(command -v sshd)
"$sshd" -D -e &
# It never ends, so that the wait below always has something to wait for, and in it collects whoever lost its parent.
sleep infinity &
# A tier of the lab may have something to start with the host.
[ ! -x /etc/rc.local ] || /etc/rc.local </dev/null &
while :; do wait || :; done
