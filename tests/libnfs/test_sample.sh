#!/bin/bash
# make run's sample, as a newcomer has it, with root and without: the mount line that is printed is right, and changes go where it says.
set -eu
command -v nfs-ls >/dev/null || { echo "nfs-ls is not installed (package libnfs-utils)"; exit 77; }
server=${OVERNFSD:-$PWD/build/overnfsd}
out=$(mktemp) pid= sample=
finish() {
	[ -z "$pid" ] || kill -INT $pid
	rm -rf "$out"
	case $sample in /tmp/overnfsd-sample.*) rm -rf "$sample";; esac
}
trap finish EXIT
same() { [ "$2" = "$3" ] || { echo "$1: '$2' instead of '$3'"; cat "$out"; exit 1; }; }

try() { # COMMAND...: runs the sample, under setpriv for one
	: >"$out"
	"$@" tests/run-sample "$server" >"$out" 2>&1 & pid=$!
	while ! grep -q '^  mount ' "$out"; do kill -0 $pid || { cat "$out"; exit 1; }; sleep 0.05; done
	sample=$(sed -n 's/^A sample stack is in \([^:]*\):.*/\1/p' "$out")
	set -- $(sed -n 's/^  mount *//p' "$out") # mount -t nfs -o OPTIONS HOST:PATH /mnt
	same "the line's beginning" "$1 $2 $3 $4 $7" "mount -t nfs -o /mnt"
	local port=$(tr , '\n' <<<"$5" | sed -n 's/^port=//p') mountport=$(tr , '\n' <<<"$5" | sed -n 's/^mountport=//p')
	local url="nfs://${6%%:*}${6#*:}" ports="version=3&nfsport=$port&mountport=$mountport"
	same "names" "$(nfs-ls "$url?$ports" | awk '{print $NF}' | LC_ALL=C sort | tr '\n' ' ')" "bin doc etc "
	same "what the patch layer hides" "$(nfs-cat "$url/etc/settings?$ports")" "colour = green"
	echo change >"$sample.new"
	nfs-cp "$sample.new" "$url/new?$ports" >/dev/null; rm -f "$sample.new"
	same "the change, in the upper" "$(cat "$sample/changes/new")" change
	kill -INT $pid; wait $pid || { echo "it ended with $?"; exit 1; }; pid=
	rm -rf "$sample"
}
try env
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	try setpriv --reuid=65534 --regid=65534 --clear-groups
	grep -q 'without root: new files belong to user 65534' "$out" || { echo "it does not say that there is no root"; cat "$out"; exit 1; }
fi
