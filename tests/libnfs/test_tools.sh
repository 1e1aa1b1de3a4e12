#!/bin/bash
# libnfs's own tools on a merged tree: nfs-ls lists it, nfs-cat and nfs-cp read it and write to it.
set -eu
for tool in nfs-ls nfs-cat nfs-cp; do
	command -v $tool >/dev/null || { echo "$tool is not installed (package libnfs-utils)"; exit 77; }
done
server=${OVERNFSD:-$PWD/build/overnfsd}
dir=$(mktemp -d "${TMPDIR:-/tmp}/overnfsd-tools-XXXXXX") pid=
trap '[ -z "$pid" ] || kill $pid; rm -rf "$dir"' EXIT
cd "$dir"
mkdir -p lower1/both lower2/{both,only/deep/er} upper work
echo top >lower1/both/file; echo hidden >lower2/both/file; echo other >lower2/both/other
head -c 3000000 /dev/urandom >lower2/only/big
for i in $(seq 500); do echo $i >"lower2/only/deep/er/file$i"; done
"$server" --foreground --json --port 0 --no-rpcbind --no-root-squash --log-level warning --lower "$dir/lower1" --lower "$dir/lower2" --upper "$dir/upper" \
	--work "$dir/work" >started &
pid=$!
while [ ! -s started ]; do kill -0 $pid; sleep 0.05; done
port=$(sed 's/.*"port":\([0-9]*\).*/\1/' started)
url() { echo "nfs://127.0.0.1/overlay$1?version=3&nfsport=$port&mountport=$port&uid=$(id -u)&gid=$(id -g)"; }
same() { [ "$2" = "$3" ] || { echo "$1: '$2' instead of '$3'"; exit 1; }; }

mkdir merged && cp -a lower2/. lower1/. merged
(cd merged && find . -mindepth 1 -printf '%M %P\n') | LC_ALL=C sort >wanted
nfs-ls -R "$(url /)" | awk '{print $1, $NF}' | LC_ALL=C sort >got
diff wanted got
same "size and owner in nfs-ls" "$(nfs-ls "$(url /only)" | awk '/big/ {print $3, $4, $5}')" "$(id -u) $(id -g) 3000000"
same "nfs-cat of a merged file" "$(nfs-cat "$(url /both/file)")" top
nfs-cp "$(url /only/big)" out >/dev/null
cmp out lower2/only/big
nfs-cp out "$(url /only/deep/copy)" >/dev/null
cmp out upper/only/deep/copy
nfs-cat "$(url /only/deep/copy)" | cmp - out
if nfs-cat "$(url /nowhere)" >/dev/null 2>&1; then echo "nfs-cat of what is not there succeeded"; exit 1; fi
kill $pid; wait $pid; pid=
same "the upper" "$(cd upper && find . -mindepth 1 | LC_ALL=C sort | tr '\n' ' ')" "./only ./only/deep ./only/deep/copy "
