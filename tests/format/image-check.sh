#!/bin/bash
# A container image: Debian's minimal system as three layers with whiteouts, an opaque directory and a redirect between them, made by Linux overlayfs;
# served, lived in over NFS by a real kernel's client (chroot, apt-get remove), then mounted by Linux overlayfs again: both must show the same tree.
# Takes minutes and a Debian mirror (apt's own, or $MIRROR), so it is no part of make check: make image-check.
# BASE=DIR: take this as the first layer, a directory that debootstrap made before.
# In a mount namespace of its own: a copy of its mounts in another's would keep the overlays in use.
[ "$(id -u)" -ne 0 ] || [ -n "${OWN_MOUNTS:-}" ] || exec unshare -m env OWN_MOUNTS=1 "$0" "$@"
. tests/mount/rig.sh
[ "$(id -u)" -eq 0 ] || skip "needs root, for debootstrap and to mount overlayfs"
[ -n "${BASE:-}" ] || command -v debootstrap >/dev/null || skip "needs debootstrap: apt-get install debootstrap"
mounted=
finish_image() { [ -z "$mounted" ] || umount "$mounted"; finish; }
trap finish_image EXIT
overlay() { # LOWERS [UPPER WORK]: on $dir/m
	mkdir -p "$dir/m"
	mount -t overlay overlay -o "lowerdir=$1${2:+,upperdir=$2,workdir=$3},redirect_dir=on,metacopy=on${2:+,index=on}" "$dir/m"
	mounted=$dir/m
}
unoverlay() { umount "$dir/m"; mounted=; }
in_image() { chroot "$dir/m" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"; }

suite=$(. /etc/os-release; echo "$VERSION_CODENAME")
if [ -n "${BASE:-}" ]; then
	cp -a "$BASE" "$dir/base"
else
	mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)}
	debootstrap --variant=minbase "$suite" "$dir/base" "$mirror" >"$dir/debootstrap.log" 2>&1 || { tail -n 20 "$dir/debootstrap.log"; exit 1; }
fi
mkdir "$dir"/{l2,l3,w2,w3,deb}
(cd "$dir/deb" && chmod 777 . && apt-get download -q less tree >/dev/null)

# the second layer: two packages more, documentation less, a directory of the first renamed
overlay "$dir/base" "$dir/l2" "$dir/w2"
cp "$dir"/deb/*.deb "$dir/m/tmp"
in_image sh -ec 'dpkg -i /tmp/*.deb; rm /tmp/*.deb; rm -r /usr/share/man /usr/share/locale/*; mv /usr/share/perl5 /usr/share/perl5.moved; ln -s perl5.moved /usr/share/perl5' >"$dir/l2.log" 2>&1 || { cat "$dir/l2.log"; exit 1; }
unoverlay
# the third: a package of the second gone, a directory made anew over a removed one
overlay "$dir/l2:$dir/base" "$dir/l3" "$dir/w3"
in_image sh -ec 'dpkg --purge tree; rm -r /usr/share/bug; mkdir /usr/share/bug; echo new >/usr/share/bug/only; chmod 700 /usr/bin/dpkg-deb; mv /etc/skel /etc/skeleton' >"$dir/l3.log" 2>&1 || { cat "$dir/l3.log"; exit 1; }
unoverlay
count() { find "$@" -printf x | wc -c; }
whiteouts=$(count "$dir/l2" "$dir/l3" -type c)
redirects=$(getfattr -R -n trusted.overlay.redirect --absolute-names "$dir/l2" "$dir/l3" 2>/dev/null | grep -c '=' || true)
echo "| layers: $(count "$dir/base") + $(count "$dir/l2") + $(count "$dir/l3") objects, $whiteouts whiteouts, $redirects redirects |"
[ "$whiteouts" -gt 5 ] && [ "$redirects" -gt 1 ] || { echo "the layers hold no whiteouts or no redirects"; exit 1; }

rmdir "$dir/lower1" "$dir/lower2"
mv "$dir/l3" "$dir/lower1"; mv "$dir/l2" "$dir/lower2"
serve --lower "$dir/base"
cp tests/format/treelist.py "$dir/out"
start=$SECONDS
guest "" tests/format/guest_image.py | tee "$dir/guest.log" || { echo "in the guest: failed"; exit 1; }
echo "| in the guest: $((SECONDS - start)) s |"
stop

overlay "$dir/lower1:$dir/lower2:$dir/base" "$dir/upper" "$dir/work"
[ "$(in_image dpkg --audit | wc -l)" -eq 0 ]
python3 tests/format/treelist.py "$dir/m" >"$dir/tree.linux"
unoverlay
lines=$(wc -l <"$dir/tree.linux")
[ "$lines" -gt 4000 ]
diff "$dir/out/tree.nfs" "$dir/tree.linux" >"$dir/diff" || { echo "the trees differ:"; head -n 40 "$dir/diff"; exit 1; }
echo "| over NFS and by Linux overlayfs: the same $lines objects |"
