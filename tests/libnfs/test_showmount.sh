#!/bin/bash
# showmount -e and -a tell what is exported and who mounted it, by way of rpcbind, on a network of the test's own.
set -eu
if [ "${1:-}" != inside ]; then
	for tool in showmount rpcbind unshare ip nfs-ls rpcinfo; do
		PATH=$PATH:/sbin:/usr/sbin command -v $tool >/dev/null || { echo "$tool is not installed: tests/install-deps rpcbind"; exit 77; }
	done
	[ -r /etc/services ] || { echo "rpcinfo wants /etc/services (package netbase): tests/install-deps rpcbind"; exit 77; }
	unshare --net --mount --pid --fork true 2>/dev/null || { echo "needs a network namespace of its own: root"; exit 77; }
	exec unshare --net --mount --pid --fork --kill-child --mount-proc "$0" inside
fi
PATH=$PATH:/sbin:/usr/sbin
server=${OVERNFSD:-$PWD/build/overnfsd}
mount -t tmpfs tmpfs /run # rpcbind's socket, lock and saved list: ours, not the machine's
mkdir -p /run/rpcbind /run/sendsigs.omit.d
ip link set lo up
dir=$(mktemp -d "${TMPDIR:-/tmp}/overnfsd-showmount-XXXXXX") pid= bind=
trap '[ -z "$pid" ] || kill $pid; [ -z "$bind" ] || kill $bind; rm -rf "$dir"' EXIT
mkdir "$dir/lower"; echo x >"$dir/lower/file"
same() { [ "$2" = "$3" ] || { echo "$1: '$2' instead of '$3'"; exit 1; }; }
rpcbind -f -w & bind=$!
for ((i = 0; i < 200; i++)); do rpcinfo -p 127.0.0.1 >/dev/null 2>&1 && break; sleep 0.05; done
"$server" --foreground --json --port 0 --export /merged --clients 127.0.0.0/8,10.1.0.0/16 --log-level warning --lower "$dir/lower" >"$dir/started" & pid=$!
while [ ! -s "$dir/started" ]; do kill -0 $pid; sleep 0.05; done
port=$(sed 's/.*"port":\([0-9]*\).*/\1/' "$dir/started")

programs() { rpcinfo -p 127.0.0.1 | awk '$1 == 100003 || $1 == 100005 {print $1, $2, $3, $4}' | LC_ALL=C sort | tr '\n' ' '; }
same "registered programs" "$(programs)" "100003 3 tcp $port 100003 3 udp $port 100005 1 tcp $port 100005 1 udp $port 100005 3 tcp $port 100005 3 udp $port "
same "showmount -e" "$(showmount --no-headers -e 127.0.0.1 | tr -s ' ')" "/merged 127.0.0.0/8,10.1.0.0/16"
same "showmount -a before a mount" "$(showmount --no-headers -a 127.0.0.1)" ""
nfs-ls "nfs://127.0.0.1/merged?version=3" >"$dir/list" # by the ports that rpcbind tells
grep -q ' file$' "$dir/list"
same "showmount -a after it" "$(showmount --no-headers -a 127.0.0.1)" "127.0.0.1:/merged"
same "showmount -d" "$(showmount --no-headers -d 127.0.0.1)" "/merged"
kill $pid; wait $pid; pid=
same "registered programs when it has ended" "$(programs)" ""
