#!/bin/bash
# What programs expect of a file system, through a kernel's client: open files that are removed, maps, locks, holes, names, listings, two clients,
# permissions. The checks are in guest_semantics.py. OPS=, ENTRIES=, SEED= set the sizes and the seed of the random one,
# MORE_OPTS="noac nordirplus,rsize=32768" more mounts to try.
. "$(dirname "$0")/rig.sh"
entries=${ENTRIES:-${slow:+2000}} entries=${entries:-10000} ops=${OPS:-${slow:+200}} ops=${ops:-600}

cd "$dir"
mkdir -p lower1/lower/cwd lower2/lower/cwd/here lower2/big
for f in file open1 open2 mapped two timed cwd/here/file; do printf content >"lower2/lower/$f"; done
head -c 100000 /dev/zero | tr '\0' x >lower1/lower/trunc
head -c 200000 /dev/urandom >lower1/lower/random
printf end | dd of=lower1/lower/sparse bs=1 seek=$(((1 << 30) - 3)) status=none
ln -s file lower2/lower/link
printf named >lower2/lower/name1; ln lower2/lower/name1 lower2/lower/name2
printf '#!/bin/sh\necho ran\n' >lower2/lower/program; chmod 755 lower2/lower/program
printf x >lower1/lower/xattrs; setfattr -n user.note -v kept lower1/lower/xattrs 2>/dev/null || true
(cd lower2/big && seq -f entry%g 0 $((entries - 1)) | xargs touch)
cd - >/dev/null
serve
for opts in "" ${MORE_OPTS:-}; do
	rc=0
	guest "$opts" "$here/guest_semantics.py" "$ops" "$entries" "${SEED:-1}" >"$dir/output" || rc=$?
	[ -z "$opts" ] && cat "$dir/output" || grep -E 'PASSED|FAILED|Error' "$dir/output" || true
	[ $rc -eq 0 ] || exit $rc
	stop
	rm -rf "$dir/upper" "$dir/work"; mkdir "$dir/upper" "$dir/work"
	serve
done
stop
