#!/bin/bash
# Processes on a kernel's client hold files and working directories open while the server is killed (-9) in the middle of writes, renames and
# copy-ups, and started again: no ESTALE, no EIO, contents right. GUEST_SECONDS=300 SEED=7 runs longer, with other moments.
. "$(dirname "$0")/rig.sh"
seconds=${GUEST_SECONDS:-${slow:+12}} seconds=${seconds:-6} seed=${SEED:-1}
RANDOM=$seed

# both lowers, so that directories are merged; what the files hold is known to the guest's program
"$python" - "$dir" <<'END'
import os, sys
for n in range(3):
    for i in range(20):
        for d in '.', 'sub':
            top = '%s/lower%d/top/work%d/%s' % (sys.argv[1], 1 + i % 2, n, d)
            os.makedirs(top, exist_ok=True)
            with open('%s/f%d' % (top, i), 'wb') as f:
                f.write(b'%d %d %s' % (n, i, d.encode()) * (i * 97 % 300))
END
serve
real=$port
"$python" "$here/relay.py" "$real" >"$dir/relay" & relay=$!
trap 'kill $relay; finish' EXIT
while [ ! -s "$dir/relay" ]; do sleep 0.05; done
port=$(cat "$dir/relay")
guest nordirplus,rsize=32768 "$here/guest_restarts.py" "$seconds" "$seed" & client=$!
kills=0
port=$real
sleep 3 # it boots
while [ ! -e "$dir/out/done" ] && kill -0 $client 2>/dev/null; do
	sleep "0.$((RANDOM % 6))$((RANDOM % 10))"
	kill -KILL $pid
	wait $pid 2>/dev/null || true
	serve
	kills=$((kills + 1))
done
rc=0; wait $client || rc=$?
[ $rc -ne 77 ] || exit 77 # it said why
[ $rc -eq 0 ] || { echo "after $kills kills (seed $seed)"; exit 1; }
stop
echo "| the server was killed $kills times"
[ "$kills" -ge 5 ] || { echo "too few to say anything"; exit 1; }
