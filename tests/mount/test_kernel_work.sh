#!/bin/bash
# A kernel's client does the day's work on a merged tree: cp -a, diff -r, tar, git, make, find -newer, rm -rf, with the default mount options and
# with no caching of attributes. FILES=20000 MAKE_TARGETS=all is the full size; MOUNTS=defaults does the first half.
. "$(dirname "$0")/rig.sh"
files=${FILES:-${slow:+100}} files=${files:-150}
command -v git >/dev/null || skip "git is not installed: tests/install-deps guest"

mkdir "$dir/lower2/project"
cp -a Makefile README.md LICENSE nfs3 overlay rpc tests "$dir/lower2/project"
tar --format=posix -C "$dir/lower2" -cf "$dir/lower2/src.tar" project
(
	export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.org GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.org
	git init -q "$dir/repo"
	cp -a "$dir/lower2/project/." "$dir/repo"
	git -C "$dir/repo" add . && git -C "$dir/repo" commit -qm first
	git clone -q --bare "$dir/repo" "$dir/lower2/src.git"
)
few="build/rpc/auth.o build/rpc/drc.o build/rpc/rpcbind.o build/rpc/udp.o" # compiling is slow in the guest
for mount in ${MOUNTS:-defaults actimeo=0}; do
	opts=${mount#defaults}
	rm -rf "$dir/upper" "$dir/work"
	mkdir "$dir/upper" "$dir/work"
	serve
	guest "$opts" "$here/guest_work.py" "$files" ${MAKE_TARGETS-$few}
	few=
	stop
done
