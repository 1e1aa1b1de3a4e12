#!/bin/bash
# make run's sample: the mount command that it prints works as it stands, but for the server's address, which in the guest is another.
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
if [ -x /sbin/mount.nfs ]; then mount -t nfs -o "$5" 10.0.2.2:"${6#*:}" "$7"; else $BB mount -t nfs -o "$5,addr=10.0.2.2" 10.0.2.2:"${6#*:}" "$7"; fi
cd "$7"
test "$(ls | tr '\n' ' ')" = "bin doc etc "
test "$(cat etc/settings)" = "colour = green"
test "$(bin/hello)" = "hello from the base"
test "$(id -u)" = 0 && chmod 777 doc 2>/dev/null && exit 1 # root is nobody here, as the server said
cd /
umount "$7"
END
bash "$rig" --no-mount --out "$dir/out" --timeout 120 "$dir/script"
[ -z "$(ls "$sample/changes")" ] || { echo "reading left something in the upper: $(ls "$sample/changes")"; exit 1; }
stop
