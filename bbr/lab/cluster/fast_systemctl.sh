#!/bin/sh
# Stands in for systemctl on a host without systemd. It knows one unit: kubelet, which is the kubelet's stand-in here.
# Its words and codes are systemctl's own, as far as scripts look at them.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PID=/run/kubelet-standin.pid ENABLED=/etc/kubelet-standin.enabled LOG=/var/log/kubelet.log

main() {
    quiet='' now='' action='' units=''
    for word; do
        case $word in
        -q | --quiet) quiet=1 ;;
        --now) now=1 ;;
        -*) ;;
        *) if [ "$action" ]; then units="$units ${word%.service}"; else action=$word; fi ;;
        esac
    done
    case $action in
    daemon-reload | reset-failed) return 0 ;;
    '') say "no action" && return 1 ;;
    esac
    for unit in $units; do
        [ "$unit" = kubelet ] || { unknown "$unit"; return; }
        action_of=on_$(echo "$action" | tr - _)
        command -v "$action_of" >/dev/null || { echo "Unknown command verb $action." >&2; return 1; }
        "$action_of" || return
    done
}

say() { [ "$quiet" ] || echo "$1"; }

unknown() {
    case $action in
    is-active) say inactive && return 3 ;;
    is-enabled) say not-found && return 4 ;;
    status) echo "Unit $1.service could not be found." >&2 && return 4 ;;
    esac
    echo "Unit $1.service not found." >&2
    return 5
}

pid() { cat $PID 2>/dev/null; }
runs() { [ "$(cat "/proc/$(pid)/comm" 2>/dev/null)" = kubelet ]; }

on_start() {
    runs && return 0
    setsid kubelet-standin >>$LOG 2>&1 </dev/null &
    wait_for runs || { echo "kubelet did not start; see $LOG" >&2; return 1; }
}

on_stop() {
    runs || return 0
    kill -s TERM "$(pid)"
    wait_for stopped || kill -s KILL "$(pid)"
}

stopped() { ! runs; }

# Ten seconds, looked at every 20th of one.
wait_for() {
    turns=200
    until "$1"; do
        turns=$((turns - 1))
        [ $turns -gt 0 ] || return 1
        sleep 0.05
    done
}

on_restart() { on_stop && on_start; }
on_reload_or_restart() { on_restart; }
on_try_restart() { ! runs || on_restart; }
on_enable() { : >$ENABLED && { [ ! "$now" ] || on_start; }; }
on_disable() { rm -f $ENABLED && { [ ! "$now" ] || on_stop; }; }

on_is_active() {
    if runs; then say active; else say inactive && return 3; fi
}

on_is_enabled() {
    if [ -e $ENABLED ]; then say enabled; else say disabled && return 1; fi
}

on_status() {
    echo "kubelet.service - a stand-in of the kubelet"
    echo "     Loaded: loaded (/usr/local/bin/kubelet-standin)"
    if runs; then echo "     Active: active (running)"; else echo "     Active: inactive (dead)" && return 3; fi
}

main "$@"
