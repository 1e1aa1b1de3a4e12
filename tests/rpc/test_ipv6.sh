#!/bin/bash
# A server at ::. Calls by UDP to each address of the machine: the answer comes from there. In a network of its own, as root.
set -u
overnfsd=$(realpath "${OVERNFSD:-build/overnfsd}")
if [ "${1:-}" != inside ]; then
	unshare -n ip link add t0 type bridge 2>/dev/null || { echo "skipped: a network of its own takes root, ip and a bridge"; exit 77; }
	exec unshare -n "$0" inside
fi
dir=$(mktemp -d /tmp/overnfsd-ipv6.XXXXXX) server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$dir"' EXIT
ip link set lo up
ip link add t0 type bridge
ip link set t0 up
ip addr add fd00:77::1/64 dev t0 nodad
ip addr add fe80::77/64 dev t0 nodad
mkdir "$dir/lower"
"$overnfsd" --foreground --lower "$dir/lower" --listen :: --clients ::/0 --port 2049 --no-rpcbind >"$dir/out" 2>"$dir/log" & server=$!
for _ in $(seq 100); do grep -q mount "$dir/out" && break; sleep 0.05; done
python3 - "$dir/out" <<'END'
import socket, struct, sys
passed = failed = 0
said = open(sys.argv[1]).read()
if 'proto=tcp6,' in said and 'mountproto=tcp6,' in said:
	passed += 1
else:
	print('[  FAILED  ] the line to mount it names IPv6: ' + said)
	failed += 1
call = struct.pack('>10I', 7, 0, 2, 100003, 3, 0, 0, 0, 0, 0)
for source, to in (('::1', '::1'), ('::1', 'fd00:77::1'), ('fd00:77::1', 'fd00:77::1'), ('fd00:77::1', '::1'), ('fe80::77%t0', 'fe80::77%t0')):
	s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
	s.settimeout(3)
	s.bind(socket.getaddrinfo(source, 0, socket.AF_INET6, socket.SOCK_DGRAM)[0][4])
	at = socket.getaddrinfo(to, 2049, socket.AF_INET6, socket.SOCK_DGRAM)[0][4]
	try:
		s.connect(at) # what comes from elsewhere is not taken
		s.send(call)
		answer = s.recv(100)
		assert answer[:8] == struct.pack('>2I', 7, 1), answer
		passed += 1
	except (OSError, AssertionError) as e:
		print('[  FAILED  ] from %s to %s: %s' % (source, to, e))
		failed += 1
print('[  PASSED  ] %d test(s).' % passed)
if failed:
	print('[  FAILED  ] %d test(s).' % failed)
sys.exit(failed > 0)
END
