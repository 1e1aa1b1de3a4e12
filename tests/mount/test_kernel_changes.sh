#!/bin/bash
# A user's changes through a kernel's client leave in the upper exactly those changes, in overlayfs's format, and the lowers as they were to the
# last nanosecond and xattr.
. "$(dirname "$0")/rig.sh"

cd "$dir"
mkdir -p lower1/etc lower1/set lower2/{bin,etc,doc/deep/er,old/sub,set}
echo 'from the top' >lower1/etc/settings
echo 'from below' >lower2/etc/settings
echo conf >lower2/etc/conf
echo hidden >lower2/etc/hidden
echo '#!/bin/sh' >lower2/bin/tool; chmod 755 lower2/bin/tool
echo 'a page' >lower2/doc/deep/er/page
echo old >lower2/old/sub/file
echo a >lower1/set/a; echo b >lower2/set/b
echo one >lower2/hard1; ln lower2/hard1 lower2/hard2
ln -s etc/conf lower2/link
setfattr -n user.note -v kept lower2/etc/conf 2>/dev/null || skip "the file system of $dir has no user xattrs"
touch -d '2001-02-03 04:05:06.123456789' lower2/etc/conf lower2/doc/deep/er/page lower2/bin/tool lower2/doc
chmod 2750 lower2/doc/deep

state() { # of a layer: names, modes, owners, sizes, times of change, bytes, xattrs
	(cd "$1" && find . -printf '%p %M %U %G %n %s %T+ %l\n' | LC_ALL=C sort &&
		find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum && find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -hd -m - --absolute-names)
}
state lower1 >before1; state lower2 >before2
# Reading moves an access time that is older than the content: so these would move. Of a symlink it can be kept from it by root alone.
if [ "$(id -u)" -eq 0 ]; then find lower1 lower2; else find lower1 lower2 ! -type l; fi >names
xargs -a names touch -h -a -d 2001-01-01
cd - >/dev/null
serve
guest "" "$here/guest_changes.py"
stop
cd "$dir"
xargs -a names stat -c '%x %n' | grep -v '^2001-01-01 00:00:00' && { echo "access times of lowers were changed"; exit 1; }
state lower1 | diff before1 - || { echo "lower1 was changed"; exit 1; }
state lower2 | diff before2 - || { echo "lower2 was changed"; exit 1; }

# what stands in the upper: type, permissions and name of each
(cd upper && find . -mindepth 1 -printf '%y %m %p\n' | sed 's/hard[12]/hard?/' | LC_ALL=C sort -k 3) >got # NFS does not say by which name a file was written
cat >wanted <<'END'
d 755 ./bin
f 700 ./bin/tool
f 700 ./bin/tool2
c 0 ./doc
d 755 ./documents
d 2750 ./documents/deep
d 755 ./documents/deep/er
f 644 ./documents/deep/er/more
d 755 ./etc
f 644 ./etc/conf
c 0 ./etc/hidden
c 0 ./etc/settings
f 644 ./hard?
d 755 ./old
f 644 ./old/fresh
d 755 ./plain
p 644 ./plain/fifo
f 644 ./plain/kept
l 777 ./plain/link
d 755 ./set
c 0 ./set/a
f 644 ./set/b
END
diff wanted got || { echo "the upper holds other things than the changes"; exit 1; }

p=trusted; [ "$(id -u)" -eq 0 ] || p=user
mark() { getfattr -h --only-values -n "$p.overlay.$2" "upper/$1" 2>/dev/null; }
is() { [ "$2" = "$3" ] || { echo "$1: '$2' instead of '$3'"; exit 1; }; }
is "redirect of the renamed directory" "$(mark documents redirect)" doc
is "opaque mark of the new directory" "$(mark old opaque)" y
for d in bin etc set documents/deep plain; do is "opaque mark of $d" "$(mark $d opaque)" ""; done
is "content of etc/conf" "$(cat upper/etc/conf)" "$(printf 'conf\nappended')"
is "user's xattr of the copied-up file" "$(getfattr --only-values -n user.note upper/etc/conf)" kept
is "names of one inode" "$(stat -c %i upper/bin/tool)" "$(stat -c %i upper/bin/tool2)"
is "content of the hard-linked file" "$(cat upper/hard[12])" "changed through one name"
is "its inode in the index, where the other name finds it" "$(stat -c %i work/index/*)" "$(stat -c %i upper/hard[12])"
is "mtime of the tool, which was not written to" "$(stat -c %y upper/bin/tool | cut -c1-29)" "2001-02-03 04:05:06.123456789"
for w in doc etc/hidden etc/settings set/a; do is "$w" "$(stat -c '%F %t %T' "upper/$w")" "character special file 0 0"; done
[ -n "$(getfattr -h -n "$p.overlay.origin" upper/etc/conf 2>/dev/null)" ] || { echo "no origin on etc/conf"; exit 1; }
[ -n "$(getfattr -h -n "$p.overlay.impure" upper/etc 2>/dev/null)" ] || { echo "no impure mark on etc"; exit 1; }
[ -z "$(ls -A work/work)" ] || { echo "left in the work directory:"; ls -A work/work; exit 1; }
echo "lowers untouched; the upper holds the changes and nothing else"
