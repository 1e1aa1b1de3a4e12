#!/bin/bash
# What make install lays down is complete, and the manual, the sample configuration and --help tell of the same options.
set -u
server=${OVERNFSD:-build/overnfsd}
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
failed=0
wrong() { echo "wrong: $*"; failed=1; }

make --no-print-directory BUILD="${BUILD:-build}" install PREFIX=/usr DESTDIR="$dir" >"$dir/log" 2>&1 || { cat "$dir/log"; wrong "make install failed"; }
for f in sbin/overnfsd sbin/overnfsctl share/man/man8/overnfsctl.8 share/man/man8/overnfsd.8 share/man/man5/overnfsd.conf.5 lib/systemd/system/overnfsd.service share/doc/overnfsd/overnfsd.conf; do
	[ -s "$dir/usr/$f" ] || wrong "$f was not installed"
done
"$dir/usr/sbin/overnfsd" --version | grep -q '^overnfsd [0-9]' || wrong "the installed server does not say its version"
grep -q '^ExecStart=/usr/sbin/overnfsd' "$dir/usr/lib/systemd/system/overnfsd.service" || wrong "the unit does not start the installed server"

for cap in CAP_SETUID CAP_SETGID; do # or every new file would be root's own, or have to be given away
	grep -q "^CapabilityBoundingSet=.*\<$cap\>" "$dir/usr/lib/systemd/system/overnfsd.service" || wrong "the unit takes $cap from the server, which makes files as their owners"
done

# PROGRAM PAGE: each option of --help is in the manual, and the other way round
same_options() {
	local help manual o
	help=$("$1" --help | sed -n 's/^  --\([a-z-]*\).*/\1/p' | sort)
	manual=$(grep -E '^\.It Fl ' "$2" | grep -oE '(Fl|,) -[a-z-]+' | sed 's/.* -//' | sort -u)
	[ -n "$help" ] || wrong "$1 --help lists no option"
	for o in $help; do grep -qx -- "$o" <<<"$manual" || wrong "--$o is in $1 --help but not in $2"; done
	for o in $manual; do grep -qx -- "$o" <<<"$help" || wrong "--$o is in $2 but not in $1 --help"; done
}
same_options "$server" etc/overnfsd.8
same_options "${server%/*}/overnfsctl" etc/overnfsctl.8

mkdir "$dir/base" "$dir/changes" "$dir/work"
sed "s,/srv/overlay,$dir,; s,^# listen = .*,listen = 127.0.0.1,; s,^# clients = .*,clients = 127.0.0.0/8," etc/overnfsd.conf >"$dir/conf"
"$server" --config "$dir/conf" --port 0 --no-rpcbind --foreground --json >"$dir/out" 2>"$dir/err" & pid=$!
until [ -s "$dir/out" ] || ! kill -0 $pid 2>/dev/null; do sleep 0.05; done
grep -q '"export":"/overlay"' "$dir/out" || { cat "$dir/err"; wrong "the sample configuration does not start"; }
kill -TERM $pid 2>/dev/null; wait $pid || { cat "$dir/err"; wrong "the server with the sample configuration did not end cleanly"; }
mkdir "$dir/elsewhere"; make --no-print-directory BUILD="$dir/elsewhere" clean >"$dir/log" 2>&1
[ ! -e "$dir/elsewhere" ] && [ -x "$server" ] || wrong "make clean removes another build than its own"
[ $failed -eq 0 ] && echo "installed files, manual, configuration and --help agree"
exit $failed
