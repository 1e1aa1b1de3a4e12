#!/bin/bash
# overnfsctl: check says in words what is wrong and mends it with --repair; rebuild makes the map anew; both keep off a running server.
set -u
dir=$(mktemp -d /tmp/overnfsd-ctl-XXXXXX) server=
trap '[ -z "$server" ] || kill -9 $server 2>/dev/null; rm -rf "$dir"' EXIT
daemon=${OVERNFSD:-$PWD/build/overnfsd} ctl=$(dirname "${OVERNFSD:-$PWD/build/overnfsd}")/overnfsctl
passed=0 failed=0
layers="--lower $dir/lower --upper $dir/upper --work $dir/work"
user=; [ "$(id -u)" -eq 0 ] || user=--userxattr # as the server takes without root
mkdir "$dir/lower" "$dir/upper" "$dir/work"
for i in $(seq 50); do mkdir -p "$dir/lower/d$((i % 5))"; echo $i >"$dir/lower/d$((i % 5))/f$i"; done

serve() { # until it is ready
	"$daemon" --foreground --json --port 0 --no-rpcbind --no-root-squash $layers $user >"$dir/out" 2>>"$dir/log" & server=$!
	until [ -s "$dir/out" ] || ! kill -0 $server 2>/dev/null; do sleep 0.02; done
	port=$(sed 's/.*"port":\([0-9]*\).*/\1/' "$dir/out")
}
stop() { kill $server; wait $server; server=; }
url() { echo "nfs://127.0.0.1/overlay/$1?nfsport=$port&mountport=$port&uid=0&gid=0"; }
is() { # name, condition that was evaluated
	if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; sed 's/^/    /' "$dir/said"; fi
}
ctl() { "$ctl" "$@" $layers $user >"$dir/said" 2>&1; }
says() { grep -q -e "$1" "$dir/said"; }

serve
nfs-cp "$dir/lower/d1/f1" "$(url made)" >/dev/null 2>&1; is "a client makes a file" $?
ctl check; [ $? -eq 2 ] && says 'in use by another overnfsd'; is "check keeps off a running server, and says so" $?
ctl rebuild; [ $? -eq 2 ]; is "rebuild keeps off a running server" $?
stop

before=$(cd "$dir/work" && find . -type f ! -name '*lock' -exec md5sum {} + | sort)
ctl check; [ $? -eq 0 ] && says 'all is well' && says 'names are not in the map'; is "check of a map that is not full finds nothing wrong" $?
[ "$before" = "$(cd "$dir/work" && find . -type f ! -name '*lock' -exec md5sum {} + | sort)" ]; is "check changes nothing" $?
ctl rebuild; [ $? -eq 0 ] && says '56 names in the merged tree, 56 entries'; is "rebuild puts every name into the map" $?
ctl check --json; [ $? -eq 0 ] && says '"missing":0,"stale":0' && says '"problems":\[\]'; is "check after it misses nothing, in JSON too" $?
python3 -c 'import json,sys; json.load(sys.stdin)' <"$dir/said"; is "the JSON is JSON" $?

mv "$dir/lower/d1/f1" "$dir/lower/d2/f1" # behind the server's back: the map is wrong about it
ctl check; [ $? -eq 1 ] && says '1 entries of the handle map name places where their objects are not' && says '--repair'; is "check finds an entry that is wrong" $?
ctl check --repair; [ $? -eq 0 ] && says '(repaired)'; is "check --repair mends it" $?
ctl check; [ $? -eq 0 ] && says 'all is well' && ! says 'not in the map'; is "then all is well" $?

head -c 50000 /dev/urandom >"$dir/work/overnfsd/map.mdb"
ctl check; [ $? -eq 1 ] && says 'the handle map is damaged'; is "check finds a damaged map" $?
ctl check --repair; [ $? -eq 0 ]; is "check --repair sets it aside and fills a new one" $?
ctl check; [ $? -eq 0 ] && says 'all is well'; is "then all is well again" $?

rm "$dir/work/overnfsd/map.mdb"
ctl check; [ $? -eq 0 ] && says 'there is no handle map'; is "a missing map is said to be no fault" $?

# inside of the file, where LMDB would end the process: a way down that is the only one, a page in use that is said to be free
spoil() { # how
	python3 - "$dir/work/overnfsd/map.mdb" "$1" <<'EOP'
import struct, sys
d = bytearray(open(sys.argv[1], 'rb').read())
u = lambda form, at: struct.unpack_from('<' + form, d, at)[0]
meta = max((0, 4096), key=lambda m: u('Q', m + 144))
free, main = u('Q', meta + 80), u('Q', meta + 128)
nodes = lambda page: [page * 4096 + u('H', page * 4096 + 16 + 2 * i) for i in range((u('H', page * 4096 + 12) - 16) // 2)]
data = lambda node: node + 8 + u('H', node + 6)
root = u('Q', data(nodes(main)[0]) + 40)
assert u('H', root * 4096 + 10) == 1, 'more than one page is wanted'
if sys.argv[2] == 'branch':
	struct.pack_into('<H', d, root * 4096 + 12, 18)
else:
	leaf = nodes(root)[0]
	struct.pack_into('<Q', d, data(nodes(free)[0]) + 8, u('H', leaf) | u('H', leaf + 2) << 16)
open(sys.argv[1], 'wb').write(d)
EOP
}
mkdir "$dir/lower/big"; (cd "$dir/lower/big" && seq -f 'a-name-that-takes-some-room-%g' 1000 | xargs touch)
ctl rebuild; spoil branch; ctl check; [ $? -eq 1 ] && says 'the handle map is damaged'; is "check finds a branch that is none" $?
ctl rebuild; rm "$dir"/lower/big/*9; ctl check --repair; spoil free; ctl check; [ $? -eq 1 ] && says 'the handle map is damaged'; is "check finds a page in use among the free ones" $?
ctl rebuild

if [ -z "$user" ]; then # root does it for a server without root
	chown -R nobody "$dir/work"; rm "$dir"/work/overnfsd/map.mdb*
	ctl check --repair; [ -z "$(find "$dir/work/overnfsd" ! -user nobody)" ]; is "check --repair leaves the map to the server's user" $?
	ctl rebuild; [ -z "$(find "$dir/work/overnfsd" ! -user nobody)" ]; is "rebuild leaves the map to the server's user" $?
	chown -R root "$dir/work"
fi
odd=$(printf 'odd\377\303"\\\001\n\342\202\254'); mkdir "$dir/upper/$odd"
prefix=trusted; [ -z "$user" ] || prefix=user
python3 -c 'import os, sys; os.setxattr(os.fsencode(sys.argv[1]), sys.argv[2], b"//x")' "$dir/upper/$odd" $prefix.overlay.redirect
ctl check --json; [ $? -eq 1 ] && python3 -c 'import json, sys; p = json.loads(sys.stdin.buffer.read().decode())["problems"]; assert p[0]["problem"].startswith("/odd\ufffd\ufffd\"\\\1\n\u20ac "), p' <"$dir/said"
is "the JSON is JSON whatever bytes are in a name" $?
rm -r "$dir/upper/$odd"

"$ctl" --help >"$dir/said"; [ $? -eq 0 ] && says 'overnfsctl check --lower /srv/base' && says '--repair' && ! says '--port'; is "--help teaches, and lists what belongs to it" $?
"$ctl" >"$dir/said" 2>&1; [ $? -eq 2 ] && says 'say what to do'; is "without a command it says what it wants" $?
"$ctl" check --lower "$dir/lower" >"$dir/said" 2>&1; [ $? -eq 2 ] && says 'nothing to look after'; is "a stack without an upper has nothing to check" $?
mkdir "$dir/unused"; "$ctl" check --lower "$dir/lower" --upper "$dir/unused" >"$dir/said" 2>&1; [ $? -eq 2 ] && says 'no server has used' && [ -z "$(ls -A "$dir/unused")" ]; is "check of an upper that no server used says so, and leaves nothing there" $?
"$ctl" check --prot 1 >"$dir/said" 2>&1; [ $? -eq 2 ] && says 'no such option'; is "an unknown option is refused" $?
for mistake in --json 'check --jsno --json' 'check --lower base --json' 'check -x --json' 'rebuild --json' 'check --json --upper'; do
	"$ctl" $mistake >"$dir/said" 2>"$dir/err"; [ $? -eq 2 ] && [ "overnfsctl: $(python3 -c 'import json, sys; print(json.load(sys.stdin)["error"])' <"$dir/said")" = "$(cat "$dir/err")" ]
	is "a mistake is told in JSON as well: $mistake" $?
done
printf 'lower = %s\nupper = %s\nwork = %s\nport = 2049\n' "$dir/lower" "$dir/upper" "$dir/work" >"$dir/conf"
"$ctl" check --config "$dir/conf" $user >"$dir/said" 2>&1; is "the server's configuration file tells the layers" $?

[ $failed -eq 0 ] && echo "[  PASSED  ] $passed test(s)."
[ $failed -eq 0 ] || { echo "[  PASSED  ] $passed test(s)."; echo "[  FAILED  ] $failed test(s)."; exit 1; }
