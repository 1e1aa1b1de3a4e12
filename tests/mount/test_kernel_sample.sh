#!/bin/bash
# make run's sample: the mount command that it prints works as it stands, but for the server's address, which in the guest is another; and a newcomer, as
# root of the client, can do everything in it.
. "$(dirname "$0")/rig.sh"
bash tests/run-sample "$server" >"$dir/started" 2>&1 & pid=$!
while ! grep -q '^  mount ' "$dir/started"; do kill -0 $pid || { pid=0; cat "$dir/started"; exit 1; }; sleep 0.05; done
sample=$(sed -n 's/^A sample stack is in \([^:]*\):.*/\1/p' "$dir/started")
trap 'finish; case $sample in /tmp/overnfsd-sample.*) rm -rf "$sample";; esac' EXIT
sed -n 's/^  mount *//p' "$dir/started" >"$dir/out/command"
cat >"$dir/script" <<'END'
#!/bin/sh
set -e
set -- $(cat "$OUT/command")
test "$1 $2 $3 $4 $7" = "mount -t nfs -o /mnt"
if [ -x /sbin/mount.nfs ] && [ -r /etc/protocols ]; then mount -t nfs -o "$5" 10.0.2.2:"${6#*:}" "$7"; else $BB mount -t nfs -o "$5,addr=10.0.2.2" 10.0.2.2:"${6#*:}" "$7"; fi
cd "$7"
test "$(ls | tr '\n' ' ')" = "bin doc etc "
test "$(cat etc/settings)" = "colour = green"
test "$(bin/hello)" = "hello from the base"
echo new >note; echo more >>etc/settings; mv doc papers; rm bin/hello; chmod 600 papers/README; ln note etc/again
test "$(cat etc/again)" = new; test "$(tail -n 1 etc/settings)" = more; test -r papers/README; test ! -e doc; test ! -e bin/hello
cd /
umount "$7"
END
boot --no-mount --out "$dir/out" --timeout 120 "$dir/script"
stop
changes=$(cd "$sample/changes" && find . -path ./.overnfsd -prune -o ! -name . -printf '%P %y\n' | LC_ALL=C sort | tr '\n' ' ')
[ "$changes" = "bin d bin/hello c doc c etc d etc/again f etc/settings f note f papers d papers/README f " ] || { echo "in the upper: $changes"; exit 1; }
[ -z "$(find "$sample/base" "$sample/patch" -newer "$dir/started")" ] || { echo "a lower was changed"; exit 1; }
