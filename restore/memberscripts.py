"""The shell scripts of `restore.member`, run on a master: POSIX sh, coreutils and find.

All begin with the data directory, the separate WAL directory or "", and the run. Each ends with 0, or with one of the
codes below and one line on stdout that says what is the matter. Names beside `member`, in either directory:

    .bbr-<run>-before     what was there before the run; `done` in it says that all of it is
    .bbr-<run>-new        what is being made
    .bbr-<run>-undone-N   what was made and taken back
    member/.bbr-<run>     in a member that the run made; it gets its place together with the member, by one rename

etcd warns about what it does not know in its directories, and leaves it alone.
"""

IN_USE, NOT_EMPTY, NOT_ASIDE, NOT_WHOLE, NO_SPACE = 70, 71, 72, 73, 74

_BEGIN = f"""\
set -eu
umask 077
data=$1 wal=$2 run=$3
shift 3
member=$data/member before=$data/.bbr-$run-before made=$data/.bbr-$run-new
ours=$member/.bbr-$run
logs=${{wal:-$member/wal}} made_logs=$made/member/wal
[ -z "$wal" ] || made_logs=$wal/.bbr-$run-new

stop() {{
  echo "$2"
  exit "$1"
}}

there() {{ [ -e "$1" ] || [ -L "$1" ]; }}

# Refuses while a process has the member's files open, whatever it is, or was told to serve this folder.
check_free() {{
  [ -d "$data" ] || return 0
  set -- -false
  for file in "$member/snap/db" "$logs"/*.wal; do
    [ ! -f "$file" ] || set -- "$@" -o -samefile "$file"
  done
  for open in $(find -L /proc/[0-9]*/fd -maxdepth 1 '(' "$@" ')' 2>/dev/null || :); do
    open=${{open#/proc/}}
    stop {IN_USE} "process ${{open%%/*}} has files of $member open"
  done
  for process in $(grep -lasz -e '^--\\{{0,1\\}}data-dir' /proc/[0-9]*/cmdline || :); do
    process=${{process%/cmdline}}
    told=$(tr '\\0' '\\n' 2>/dev/null <"$process/cmdline" | sed -n -e 's/^--\\{{0,1\\}}data-dir=//p' \\
      -e '/^--\\{{0,1\\}}data-dir$/{{n;p;}}' | head -n 1) || continue
    [ ! "$process/root$told" -ef "$data" ] || stop {IN_USE} "process ${{process#/proc/}} was started to serve $data"
  done
}}

# Files of a WAL directory, never its own lost+found nor what bbr made there; hidden names are not matched.
move_logs() {{
  mkdir -p -- "$2"
  for one in "$1"/*; do
    there "$one" && [ "${{one##*/}}" != lost+found ] || continue
    ! there "$2/${{one##*/}}" || stop {NOT_EMPTY} "$2/${{one##*/}} is there already"
    mv -T -- "$one" "$2/${{one##*/}}"
  done
  sync -- "$1" "$2"
}}

has_logs() {{
  for one in "$1"/*.wal; do ! there "$one" || return 0; done
  return 1
}}

remove_new() {{
  rm -rf -- "$made"
  [ -z "$wal" ] || rm -rf -- "$made_logs" "$made_logs.tmp"
}}

set_undone() {{
  number=1
  while there "$data/.bbr-$run-undone-$number" || {{ [ -n "$wal" ] && there "$wal/.bbr-$run-undone-$number"; }}; do
    number=$((number + 1))
  done
  undone=.bbr-$run-undone-$number
}}

# After all that was there is aside, what lies in the WAL directory without a member is from a make that was cut short.
move_stray_logs() {{
  [ -n "$wal" ] && [ -e "$before/done" ] && ! there "$member" && has_logs "$wal" || return 0
  move_logs "$wal" "$wal/$undone"
}}
"""

LOOK = f"""{_BEGIN}
if there "$ours"; then echo ours; elif there "$member"; then echo before; else echo none; fi
if [ -e "$before/done" ]; then echo whole; elif [ -d "$before" ]; then echo partial; else echo none; fi
if [ -d "$made" ]; then echo yes; else echo no; fi
if [ -n "$wal" ] && has_logs "$wal"; then echo yes; else echo no; fi
set_undone
echo "$((number - 1))"
"""

MOVE_ASIDE = f"""{_BEGIN}
! there "$ours" || exit 0
if [ -e "$before/done" ]; then
  ! there "$member" || stop {NOT_EMPTY} "$member came after everything was moved aside"
  exit 0
fi
check_free
[ -d "$data" ] || mkdir -p -m 0700 -- "$data"
mkdir -p -- "$before"
if there "$member"; then
  ! there "$before/member" || stop {NOT_EMPTY} "$member and $before/member are both there"
  mv -T -- "$member" "$before/member"
fi
if [ -n "$wal" ]; then
  [ -d "$wal" ] || mkdir -p -m 0700 -- "$wal"
  move_logs "$wal" "$wal/.bbr-$run-before"
fi
sync -- "$before" "$data"
: >"$before/done"
sync -- "$before/done" "$before"
"""

PREPARE = f"""{_BEGIN}
needed=$1
if there "$ours"; then
  echo ours
  exit 0
fi
[ -e "$before/done" ] || stop {NOT_ASIDE} "what is in $data was not moved aside"
! there "$member" || stop {NOT_EMPTY} "$member is there, and this run did not make it"
check_free
remove_new
set_undone
move_stray_logs
for folder in "$data" ${{wal:+"$wal"}}; do
  free=$(($(stat -f -c '%a * %S' -- "$folder")))
  [ "$free" -ge "$needed" ] || stop {NO_SPACE} "$folder has $free bytes free; $needed are needed"
done
"""
"""bytes: ready for etcdutl; "ours" on stdout when the member is made already."""

FINISH = f"""{_BEGIN}
for needed in "$made/member/snap/db" "$made"/member/snap/*.snap "$made_logs"/*.wal; do
  [ -s "$needed" ] || stop {NOT_WHOLE} "$needed is missing or empty"
done
! there "$member" || stop {NOT_EMPTY} "$member appeared meanwhile"
: >"$made/member/.bbr-$run"
like=$data
[ ! -d "$before/member" ] || like=$before/member
chown -R --reference="$like" -- "$made" "$made_logs"
chmod 0700 -- "$made/member"
find "$made" "$made_logs" -exec sync -- {{}} +
if [ -n "$wal" ]; then
  move_logs "$made_logs" "$wal"
  rmdir -- "$made_logs"
fi
mv -T -- "$made/member" "$member"
sync -- "$data"
rmdir -- "$made" || :
"""

REMOVE_NEW = f"""{_BEGIN}
remove_new
"""

UNDO_MAKE = f"""{_BEGIN}
remove_new
set_undone
if there "$ours"; then
  check_free
  mkdir -- "$data/$undone"
  mv -T -- "$member" "$data/$undone/member"
  sync -- "$data/$undone" "$data"
fi
move_stray_logs
"""

UNDO_MOVE_ASIDE = f"""{_BEGIN}
[ -d "$before" ] || exit 0
if there "$member" && {{ there "$before/member" || [ -e "$before/done" ]; }}; then
  stop {NOT_EMPTY} "$member is in the place of what was moved aside"
fi
if [ -n "$wal" ] && [ -e "$before/done" ] && has_logs "$wal"; then
  stop {NOT_EMPTY} "$wal holds files in the place of those that were moved aside"
fi
check_free
rm -f -- "$before/done"
sync -- "$before"
if [ -n "$wal" ] && [ -d "$wal/.bbr-$run-before" ]; then
  move_logs "$wal/.bbr-$run-before" "$wal"
  rmdir -- "$wal/.bbr-$run-before"
fi
! there "$before/member" || mv -T -- "$before/member" "$member"
sync -- "$data"
rmdir -- "$before"
sync -- "$data"
"""

SAFETY_COPY = f"""{_BEGIN}
target=$1
! there "$target" || exit 0
from=$member logs=$wal
if [ -d "$before/member" ]; then
  from=$before/member
  [ -z "$wal" ] || [ ! -d "$wal/.bbr-$run-before" ] || logs=$wal/.bbr-$run-before
fi
if [ ! -d "$from" ]; then
  echo nothing
  exit 0
fi
check_free
mkdir -p -- "${{target%/*}}"
rm -rf -- "$target.partial"
trap 'rm -rf -- "$target.partial"' EXIT
size=0
for folder in "$from" ${{logs:+"$logs"}}; do
  part=$(du -s -B 1 -- "$folder")
  size=$((size + ${{part%%[!0-9]*}}))
done
free=$(($(stat -f -c '%a * %S' -- "${{target%/*}}")))
[ "$free" -ge "$size" ] || stop {NO_SPACE} "${{target%/*}} has $free bytes free; $size are needed"
mkdir -- "$target.partial"
cp -a --reflink=auto -- "$from" "$target.partial/member"
if [ -n "$logs" ]; then
  mkdir -- "$target.partial/wal"
  for one in "$logs"/*; do
    [ ! -f "$one" ] || cp -a --reflink=auto -- "$one" "$target.partial/wal/"
  done
fi
find "$target.partial" -exec sync -- {{}} +
mv -T -- "$target.partial" "$target"
sync -- "${{target%/*}}"
"""
"""target: what was there before the run, as it is on the disk; "nothing" on stdout when nothing was."""

LEFTOVERS = """\
for one in "$1"/.bbr-*; do
  [ -d "$one" ] && [ ! -L "$one" ] || continue
  size=$(du -s -B 1 -- "$one") || continue
  printf '%s %s\\0' "${size%%[!0-9]*}" "${one##*/}"
done
"""
"""folder: size and name of what runs left in it, each ended by a NUL."""

CLEAN = f"""{_BEGIN}
if [ -d "$before" ] && ! there "$member" && ! has_logs "$data"; then
  stop {NOT_EMPTY} "nothing is in the place of $before"
fi
for one in "$before" "$made" "$made.tmp" "$data/.bbr-$run-undone-"[0-9]*; do
  number=${{one##*-}}
  case $number in new | new.tmp | before) ;; *[!0-9]*) continue ;; esac
  [ ! -d "$one" ] || [ -L "$one" ] || rm -rf -- "$one"
done
sync -- "$data"
"""

FREE_BYTES = """\
path=$1
while [ ! -d "$path" ]; do path=${path%/*}; path=${path:-/}; done
echo $(($(stat -f -c '%a * %S' -- "$path")))
"""
"""path: free bytes of the file system that it is on, or would be."""
