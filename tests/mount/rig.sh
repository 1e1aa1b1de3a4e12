# rig.sh: sourced by the tests that need a real kernel's NFS client. A stack in a temporary directory ($dir), the server over it,
# and a guest whose kernel mounts it: $KERNEL_CLIENT, see kernel-client.sh --help there.
set -eu
rig=${KERNEL_CLIENT:-../shared/kernel-client/kernel-client.sh}
python=$(python3 -c 'import sys; print(sys.executable)' 2>/dev/null || true)
skip() { echo "$*"; exit 77; }
[ -r "$rig" ] || skip "no kernel client: $rig is not there (name another with KERNEL_CLIENT)"
for tool in qemu-system-x86_64 apt-get perl; do
	command -v $tool >/dev/null || skip "the kernel client needs $tool: tests/install-deps guest"
done
[ -n "$python" ] || skip "what runs in the guest needs python3: tests/install-deps guest"
here=$PWD/tests/mount
server=${OVERNFSD:-$PWD/build/overnfsd}
case ${BUILD:-} in *san*|*tsan*) slow=yes;; *) slow=;; esac
dir=$(mktemp -d "${TMPDIR:-/tmp}/overnfsd-mount-XXXXXX") pid=0 port=0
chmod 755 "$dir"
mkdir "$dir"/{lower1,lower2,upper,work,out}
[ "$(id -u)" -eq 0 ] || touch "$dir/out/unprivileged" # a server without root owns all that it makes
finish() {
	[ $pid -eq 0 ] || { kill -TERM $pid; wait $pid; } 2>/dev/null || true
	[ -n "${KEEP:-}" ] || rm -rf "$dir"
}
trap finish EXIT

# serve [OPTION...]: starts the server over the stack; the port stays the same over restarts.
serve() {
	rm -f "$dir/started"
	"$server" --foreground --json --port $port --no-rpcbind --no-root-squash --log-level "${OVERNFSD_LOG:-warning}" \
		--lower "$dir/lower1" --lower "$dir/lower2" --upper "$dir/upper" --work "$dir/work" "$@" >"$dir/started" &
	pid=$!
	for ((i = 0; i < 600; i++)); do
		[ ! -s "$dir/started" ] || break
		kill -0 $pid 2>/dev/null || { pid=0; echo "the server did not start"; exit 1; }
		sleep 0.05
	done
	port=$(sed 's/.*"port":\([0-9]*\).*/\1/' "$dir/started")
}
stop() { # it must end well
	local p=$pid
	pid=0
	kill -TERM $p
	wait $p || { echo "the server ended with $?"; exit 1; }
}
# guest OPTS PROGRAM [ARG...]: mounts with the options and runs the Python program there; $OUT there is $dir/out here.
guest() {
	local opts=$1 program=$2
	shift 2
	{ echo "#!$python"; tail -n +2 "$program"; } >"$dir/program"
	boot --port "$port" --export /overlay --opts "$opts" --out "$dir/out" --timeout "${GUEST_TIMEOUT:-3000}" "$dir/program" "$@"
}
boot() { # as guest, but with the rig's own options
	local rc=0
	bash "$rig" "$@" 2>"$dir/complaints" || rc=$?
	cat "$dir/complaints" >&2
	if [ $rc -eq 125 ] && grep -q 'apt-get download' "$dir/complaints"; then skip "the guest's kernel can't be had: apt-get download failed"; fi
	return $rc
}
