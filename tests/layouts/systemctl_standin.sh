#!/bin/sh
# Stands in for systemctl in a host without systemd: units' first ExecStart is run for real, by a shell.
verb=$1
shift
for word; do case $word in --*) ;; *) unit=$word ;; esac; done
state=/run/standin wants=/etc/systemd/system/multi-user.target.wants
mkdir -p "$state" "$wants"
runs() { [ -f "$state/$unit" ] && kill -0 "$(cat "$state/$unit")" 2>/dev/null; }
file() { for at in /etc /usr/lib; do [ ! -e "$at/systemd/system/$unit" ] || { echo "$at/systemd/system/$unit"; return; }; done; }
case $verb in
daemon-reload) ;;
is-active) runs && echo active || { echo inactive; exit 3; } ;;
is-enabled) [ -L "$wants/$unit" ] && echo enabled || { echo disabled; exit 1; } ;;
enable) ln -sf "$(file)" "$wants/$unit" ;;
disable) rm -f "$wants/$unit" ;;
start)
  runs && exit 0
  found=$(file)
  [ -n "$found" ] || exit 5
  environment=$(sed -n 's/^EnvironmentFile=-\{0,1\}//p' "$found")
  [ -z "$environment" ] || { set -a; . "$environment"; set +a; }
  command=$(sed -e ':a' -e '/\\$/N; s/\\\n/ /; ta' "$found" | sed -n 's/^ExecStart=//p')
  rm -f "$state/$unit"
  # In a session of its own before we end: what is left in ours is ended with it.
  export pid_file="$state/$unit" run="exec $command"
  setsid sh -c 'echo $$ >"$pid_file.new"; mv "$pid_file.new" "$pid_file"; eval "$run"' </dev/null >>"/var/log/$unit.log" 2>&1 &
  while [ ! -f "$state/$unit" ]; do sleep 0.02; done
  ;;
stop)
  runs && { pid=$(cat "$state/$unit"); kill "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done; }
  rm -f "$state/$unit"
  ;;
restart) "$0" stop "$unit"; "$0" start "$unit" ;;
*) exit 1 ;;
esac
