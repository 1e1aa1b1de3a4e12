"""A whole tree as text, one line an object, in order: what two views of one image must agree in."""
import hashlib
import os
import stat
import sys


def describe(path):
    st = os.lstat(path)
    what = ""
    if stat.S_ISLNK(st.st_mode):
        what = os.readlink(path)
    elif stat.S_ISREG(st.st_mode):
        with open(path, "rb") as f:
            what = hashlib.sha256(f.read()).hexdigest()
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        what = "%d:%d" % (os.major(st.st_rdev), os.minor(st.st_rdev))
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    return "%o %d:%d links %d size %d mtime %d %s" % (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, size, st.st_mtime_ns, what)


def write(root, out):
    """Writes the tree below root to out; the number of objects."""
    lines = []
    for where, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(where, name)
            lines.append("%r %s\n" % (os.path.relpath(path, root), describe(path)))
    out.writelines(sorted(lines))
    return len(lines)


if __name__ == "__main__":
    write(sys.argv[1], sys.stdout)
