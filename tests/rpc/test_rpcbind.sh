#!/bin/bash
# Registration with rpcbind, in a network namespace of its own, so that the machine's is left alone.
set -u
if [ "${1:-}" != inside ]; then
	[ "$(id -u)" -eq 0 ] || { echo "a network namespace is made by root alone"; exit 77; }
	unshare -n -m true 2>/dev/null || { echo "no network namespace can be made here"; exit 77; }
	overnfsd=$(realpath "${OVERNFSD:-build/overnfsd}") || exit 1
	dir=$(mktemp -d /tmp/overnfsd-rpcbind.XXXXXX); trap 'rm -rf "$dir"' EXIT
	rpcbind=$(command -v rpcbind) rpcinfo=$(command -v rpcinfo) libs=
	if [ -z "$rpcbind" ] || [ -z "$rpcinfo" ]; then # unpacked, not installed: a test starts no service on its machine
		chmod 777 "$dir"; (cd "$dir" && apt-get download rpcbind libwrap0 && for d in *.deb; do dpkg-deb -x "$d" .; done) >"$dir/log" 2>&1 ||
			{ echo "rpcbind is not installed, and can't be fetched: $(tail -n 1 "$dir/log")"; exit 77; }
		rpcbind=$(ls "$dir"/sbin/rpcbind "$dir"/usr/sbin/rpcbind 2>/dev/null | head -n 1)
		[ -n "$rpcinfo" ] || rpcinfo=$(ls "$dir"/usr/bin/rpcinfo "$dir"/usr/sbin/rpcinfo 2>/dev/null | head -n 1)
		libs=$(dirname "$(find "$dir" -name 'libwrap.so*' | head -n 1)")
	fi
	unshare -n -m env LD_LIBRARY_PATH="$libs" "$0" inside "$overnfsd" "$dir" "$rpcbind" "$rpcinfo"
	exit
fi
overnfsd=$2 dir=$3 rpcbind=$4 rpcinfo=$5 passed=0 failed=0 pids=
trap 'for p in $pids; do kill -CONT $p; kill -9 $p; done 2>/dev/null' EXIT
ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)); echo "[  FAILED  ] $1: $2"; }
cd "$dir" || exit 1
mount -t tmpfs none /run && ip link set lo up || { echo "the namespace can't be set up"; exit 77; }
mkdir -p lower
start() { # NAME options...
	local name=$1; shift
	rm -f "$name.json"
	"$overnfsd" --lower "$dir/lower" --foreground --json "$@" >"$name.json" 2>"$name.log" &
	eval "$name=$!"; pids="$pids $!"
	while [ ! -s "$name.json" ]; do kill -0 $! 2>/dev/null || { cat "$name.log"; return 1; }; sleep 0.05; done
	eval "${name}_port=$(sed -n 's/.*"port":\([0-9]*\).*/\1/p' "$name.json")"
}
stop() { kill -TERM "$1"; wait "$1"; }
registered() { "$rpcinfo" -p 127.0.0.1 2>/dev/null | awk -v prog="$1" -v vers="$2" -v proto="$3" '$1 == prog && $2 == vers && $3 == proto { print $4 }'; }

if start one --port 0 && grep -q 'not registered with rpcbind' one.log && grep -q "port=$one_port,mountport=$one_port" one.log; then ok; else no a_machine_without_rpcbind_is_served "$(cat one.log)"; fi
stop "$one"

[ -r /etc/services ] || { echo "rpcinfo wants /etc/services (package netbase): tests/install-deps rpcbind"; exit 77; }
"$rpcbind" -f -w >/dev/null 2>bind.log & bind=$!; pids="$pids $bind"
for _ in $(seq 200); do "$rpcinfo" -p 127.0.0.1 >/dev/null 2>&1 && break; sleep 0.05; done
"$rpcinfo" -p 127.0.0.1 >/dev/null 2>&1 || { echo "rpcbind does not run here: $(cat bind.log)"; exit 77; }

if start one --port 0 --mount-port 0; then
	mount_port=$(sed -n 's/.*"mount_port":\([0-9]*\).*/\1/p' one.json)
	bad=
	for proto in tcp udp; do
		[ "$(registered 100003 3 $proto)" = "$one_port" ] || bad="$bad nfs/$proto"
		for vers in 1 3; do [ "$(registered 100005 $vers $proto)" = "$mount_port" ] || bad="$bad mount$vers/$proto"; done
	done
	if [ -z "$bad" ]; then ok; else no every_program_is_registered_with_its_port "$bad: $("$rpcinfo" -p 127.0.0.1)"; fi
	short=$("$rpcinfo" -s 127.0.0.1 | awk '$1 == 100003 { print $3 }')
	for n in tcp udp tcp6 udp6; do case ,$short, in *,$n,*) ;; *) bad="$bad $n";; esac; done
	if [ -z "$bad" ]; then ok; else no each_transport_of_both_families_is_registered "$bad missing in $short"; fi
	for t in tcp udp; do "$rpcinfo" -T $t 127.0.0.1 100003 3 >out 2>&1 || bad="$bad $t: $(cat out)"; done
	for t in tcp6 udp6; do "$rpcinfo" -T $t ::1 100003 3 >out 2>&1 || bad="$bad $t: $(cat out)"; done
	if [ -z "$bad" ]; then ok; else no clients_of_either_family_find_it "$bad"; fi
	if ! command -v showmount >/dev/null; then echo "skipped: showmount is not installed"
	elif showmount -e 127.0.0.1 >out 2>&1 && grep -q '^/overlay' out; then ok; else no showmount_finds_the_export "$(cat out)"; fi
	if start two --port 0 && grep -q 'not registered' two.log && [ "$(registered 100003 3 tcp)" = "$one_port" ]; then ok; else no another_server_that_lives_keeps_its_registration "$(cat two.log)"; fi
	stop "$two"
	if [ "$(registered 100003 3 tcp)" = "$one_port" ]; then ok; else no who_did_not_register_does_not_unregister ""; fi
	stop "$one"
	if ! "$rpcinfo" -p 127.0.0.1 | grep -qE '10000[35] '; then ok; else no a_stop_unregisters "$("$rpcinfo" -p 127.0.0.1)"; fi
	start one --port 0; old=$one_port; kill -9 "$one"; wait "$one" 2>/dev/null
	if [ "$(registered 100003 3 tcp)" = "$old" ] && start one --port 0 && [ "$one_port" != "$old" ] && [ "$(registered 100003 3 tcp)" = "$one_port" ]; then ok; else no what_a_killed_server_left_is_replaced "$(cat one.log)"; fi
	stop "$one"
	start one --port 0 --listen 127.0.0.1
	if "$rpcinfo" -s 127.0.0.1 | awk '$1 == 100003 { print $3 }' | grep -q 6; then no a_family_that_is_not_served_is_not_registered ""; else ok; fi
	stop "$one"
	start one --port 0 --no-rpcbind
	if [ -z "$(registered 100003 3 tcp)" ]; then ok; else no with_no_rpcbind_nothing_is_registered ""; fi
	stop "$one"
	for address in 127.0.0.2 ::1; do # a server that is not there for 127.0.0.1
		if start one --port 0 --listen $address && start two --port 0 --listen $address && grep -q 'not registered' two.log; then ok; else no a_server_at_one_address_keeps_its_registration_too "$address: $(cat two.log)"; fi
		stop "$two"
		if "$rpcinfo" -p 127.0.0.1 | grep -q "100003 .* $one_port " || "$rpcinfo" 127.0.0.1 | grep -q "100003 .*\.$((one_port / 256))\.$((one_port % 256)) "; then ok; else no a_server_at_one_address_is_still_found "$address: $("$rpcinfo" 127.0.0.1)"; fi
		stop "$one"
	done
	# one port at two addresses, as where each is taken over by another machine: whoever stops last unregisters
	start one --port 0 --listen 127.0.0.1 && start two --port $one_port --listen 127.0.0.2; stop "$two"
	if [ "$(registered 100003 3 tcp)" = "$one_port" ] && [ "$(registered 100005 3 udp)" = "$one_port" ]; then ok; else no a_server_at_the_same_port_of_another_address_stays_registered "$("$rpcinfo" -p 127.0.0.1)"; fi
	stop "$one"
	if [ -z "$(registered 100003 3 tcp)" ]; then ok; else no the_last_at_the_port_unregisters ""; fi
	kill -STOP $bind
	if start one --port 0 && grep -q 'not registered' one.log; then ok; else no an_rpcbind_that_hangs_holds_up_nothing "$(cat one.log)"; fi
	stop "$one"
else no the_server_starts "$(cat one.log)"; fi
echo "[  PASSED  ] $passed test(s)."
[ $failed -eq 0 ] || echo "[  FAILED  ] $failed test(s)."
[ $failed -eq 0 ]
