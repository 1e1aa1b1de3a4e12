#!/usr/bin/env python3
"""What a program may expect of a file system, tried through the kernel's client on a merged tree. Each function is a check; its name says what
holds. Arguments: operations of the random one, entries of the big directory, seed. $NFS_OPTS are the mount's options."""
import ctypes, errno, fcntl, mmap, os, random, stat, subprocess, sys, time, traceback

OPS, ENTRIES, SEED = (int(a) for a in sys.argv[1:4])
ROOT = os.getcwd()
OPTS = os.environ['NFS_OPTS']
libc = ctypes.CDLL(None, use_errno=True)

def fails(code, call, *args, **kw):
    try:
        call(*args, **kw)
    except OSError as e:
        assert e.errno == code, '%s instead of %s' % (errno.errorcode[e.errno], errno.errorcode[code])
        return
    raise AssertionError('did not fail with ' + errno.errorcode[code])

def write(path, data, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
    fd = os.open(path, flags, 0o644)
    assert os.write(fd, data) == len(data)
    os.close(fd)

def read(path):
    with open(path, 'rb') as f:
        return f.read()

def forget():
    """Makes the client ask the server again."""
    os.sync()
    with open('/proc/sys/vm/drop_caches', 'w') as f:
        f.write('3')

def second_mount(path, options='noac'):
    os.makedirs(path, exist_ok=True)
    subprocess.check_call([os.environ['BB'], 'mount', '-t', 'nfs', '-o', OPTS + ',nosharecache,' + options, os.environ['NFS_SRC'], path])

# ---- files that are open ----
def a_removed_file_that_is_open_is_read_and_written_until_it_is_closed():
    for path in 'new', 'lower/open1':  # the second is a lower's: its silly name stands in the upper, with a whiteout for its old one
        if path == 'new':
            write(path, b'content')
        fd = os.open(path, os.O_RDWR)
        before = os.fstat(fd).st_ino
        os.unlink(path)
        assert not os.path.lexists(path)
        directory = os.path.dirname(path) or '.'
        assert [n for n in os.listdir(directory) if n.startswith('.nfs')], 'no silly name'
        os.pwrite(fd, b'C', 0)
        os.fsync(fd)
        forget()
        assert os.pread(fd, 100, 0) == b'Content' and os.fstat(fd).st_ino == before
        write(path, b'another')
        assert os.fstat(fd).st_ino != os.stat(path).st_ino
        os.close(fd)
        assert not [n for n in os.listdir(directory) if n.startswith('.nfs')], 'the silly name stays'
        assert read(path) == b'another'

def a_lower_file_open_for_reading_shows_what_is_written_through_another_descriptor():
    reader = os.open('lower/open2', os.O_RDONLY)
    assert os.pread(reader, 100, 0) == b'content'
    writer = os.open('lower/open2', os.O_WRONLY)  # copies up
    os.pwrite(writer, b'CON', 0)
    os.fsync(writer)
    assert os.pread(reader, 100, 0) == b'CONtent'
    forget()
    assert os.pread(reader, 100, 0) == b'CONtent'
    assert os.fstat(reader).st_ino == os.fstat(writer).st_ino
    os.close(reader)
    os.close(writer)

def a_rename_over_an_open_file_leaves_it_readable():
    write('over', b'old')
    fd = os.open('over', os.O_RDONLY)
    write('over2', b'new')
    os.rename('over2', 'over')
    assert os.pread(fd, 10, 0) == b'old' and read('over') == b'new'
    os.close(fd)

def a_working_directory_stays_when_it_and_those_above_are_renamed():
    os.chdir('lower/cwd/here')
    os.rename(ROOT + '/lower/cwd', ROOT + '/lower/moved')
    os.rename(ROOT + '/lower/moved/here', ROOT + '/lower/moved/there')
    write('made', b'x')
    assert sorted(os.listdir('.')) == ['file', 'made'] and os.getcwd() == ROOT + '/lower/moved/there'
    forget()
    assert read('file') == b'content'

# ---- memory maps ----
def maps_of_files_are_written_back():
    for path, size in ('mapped', 3 * 4096 + 100), ('lower/mapped', 7):
        if path == 'mapped':
            write(path, b'.' * size)
        fd = os.open(path, os.O_RDWR)
        m = mmap.mmap(fd, size)
        m[0:3] = b'map'
        m[size - 1:size] = b'!'
        m.flush()
        m.close()
        os.close(fd)
        forget()
        got = read(path)
        assert got[:3] == b'map' and got[-1:] == b'!' and len(got) == size, got[:20]

def a_map_and_a_descriptor_agree():
    write('both', bytes(8192))
    fd = os.open('both', os.O_RDWR)
    m = mmap.mmap(fd, 8192)
    os.pwrite(fd, b'by descriptor', 4000)
    assert m[4000:4013] == b'by descriptor'
    m[5000:5006] = b'by map'
    assert os.pread(fd, 6, 5000) == b'by map'
    m.close()
    os.close(fd)

def a_program_in_a_lower_runs_and_so_does_its_copy():
    assert subprocess.check_output(['lower/program']) == b'ran\n'
    os.chmod('lower/program', 0o700)
    forget()
    assert subprocess.check_output(['lower/program']) == b'ran\n'

# ---- creating, appending, locking ----
def exclusive_creation_has_one_winner():
    for i in range(10):
        os.close(os.open('excl%d' % i, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
        fails(errno.EEXIST, os.open, 'excl%d' % i, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        st = os.stat('excl%d' % i)
        assert st.st_mode & 0o777 == 0o640 and abs(st.st_mtime - time.time()) < 3600, st
    fails(errno.EEXIST, os.open, 'lower/file', os.O_CREAT | os.O_EXCL)
    os.unlink('lower/file')
    os.close(os.open('lower/file', os.O_CREAT | os.O_EXCL))  # over its whiteout
    assert read('lower/file') == b''

def appends_by_two_processes_of_one_client_lose_nothing():
    children = []
    for i in range(2):
        pid = os.fork()
        if not pid:
            fd = os.open('log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for _ in range(200):
                os.write(fd, b'%d23456789\n' % i)
            os.close(fd)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    forget()
    lines = read('log').split(b'\n')
    assert sorted(lines) == [b''] + [b'023456789'] * 200 + [b'123456789'] * 200

def locks_work_locally():
    write('locked', b'')
    for lock in fcntl.flock, fcntl.lockf:
        fd = os.open('locked', os.O_RDWR)
        lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        pid = os.fork()
        if not pid:
            other = os.open('locked', os.O_RDWR)
            try:
                lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                os._exit(0 if e.errno in (errno.EAGAIN, errno.EACCES) else 2)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        lock(fd, fcntl.LOCK_UN)
        os.close(fd)

# ---- sizes ----
def truncation_takes_and_gives_zeros():
    for path in 'trunc', 'lower/trunc':
        if path == 'trunc':
            write(path, b'x' * 100000)
        else:
            assert os.stat(path).st_size == 100000
        os.truncate(path, 70001)
        os.truncate(path, 80000)
        forget()
        got = read(path)
        assert got == b'x' * 70001 + bytes(9999), len(got)
        os.truncate(path, 0)
        assert os.stat(path).st_size == 0

def holes_stay_holes():
    with open('sparse', 'wb') as f:
        f.seek(1 << 32)
        f.write(b'end')
    forget()
    st = os.stat('sparse')
    assert st.st_size == (1 << 32) + 3 and st.st_blocks < 10000, st
    fd = os.open('lower/sparse', os.O_RDWR)
    os.pwrite(fd, b'copied up', 0)
    os.fsync(fd)
    os.close(fd)
    forget()
    st = os.stat('lower/sparse')
    assert st.st_size == 1 << 30 and st.st_blocks < 10000, st
    with open('lower/sparse', 'rb') as f:
        assert f.read(9) == b'copied up'
        f.seek((1 << 30) - 3)
        assert f.read() == b'end'

def random_reads_writes_truncations_and_maps_agree_with_a_copy():
    """After fsx: every operation is done to the file and to a copy in memory."""
    r = random.Random(SEED)
    most = 300000
    copy = bytearray(read('lower/random'))
    fd = os.open('lower/random', os.O_RDWR)
    for op in range(OPS):
        what, at = r.randrange(20), r.randrange(most)
        n = r.choice([r.randrange(1, 100), r.randrange(1, 70000)])
        if what < 7:
            data = r.randbytes(n)
            os.pwrite(fd, data, at)
            copy.extend(bytes(max(0, at - len(copy))))
            copy[at:at + n] = data
        elif what < 13:
            assert os.pread(fd, n, at) == bytes(copy[at:at + n]), (SEED, op)
        elif what < 15:
            os.ftruncate(fd, at)
            copy[at:] = bytes(max(0, at - len(copy)))
        elif what < 17 and len(copy) > 4096:
            m = mmap.mmap(fd, len(copy))
            at %= len(copy)
            if what == 15:
                data = r.randbytes(min(n, len(copy) - at))
                m[at:at + len(data)] = data
                copy[at:at + len(data)] = data
            else:
                assert m[at:at + n] == bytes(copy[at:at + n]), (SEED, op)
            m.close()
        elif what == 17:
            os.fsync(fd)
        elif what == 18 and not r.randrange(4):
            forget()
        elif what == 19:
            os.close(fd)
            fd = os.open('lower/random', os.O_RDWR)
        assert os.fstat(fd).st_size == len(copy), (SEED, op)
    os.close(fd)
    forget()
    assert read('lower/random') == bytes(copy)

# ---- names ----
def unusual_names_work():
    names = [bytes([c]) for c in range(1, 256) if c not in b'/.'] + [b'...', b'..a', b'a' * 255, 'ä€😀'.encode() * 25, b'\xff\xfe', b'new\nline', b'-rf']
    os.mkdir('names')
    for n in names:
        write(b'names/' + n, n)
    forget()
    assert sorted(os.listdir(b'names')) == sorted(names)
    for n in names:
        assert read(b'names/' + n) == n
    fails(errno.ENAMETOOLONG, write, b'names/' + b'a' * 256, b'')
    subprocess.check_call(['rm', '-rf', 'names'])

def deep_paths_work():
    depth, here = 200, ROOT
    os.mkdir('deep')
    os.chdir('deep')
    for i in range(depth):
        os.mkdir('n' * 50)
        os.chdir('n' * 50)
    write('bottom', b'deep')
    forget()
    assert read('bottom') == b'deep' and len(os.getcwd()) > 4096 * 2
    os.chdir(here)
    subprocess.check_call(['rm', '-rf', 'deep'])

def links_of_all_kinds_are_kept():
    os.symlink('x' * 1000, 'long')
    assert os.readlink('long') == 'x' * 1000 and os.lstat('long').st_size == 1000
    assert os.readlink('lower/link') == 'file'
    a, b = os.stat('lower/name1'), os.stat('lower/name2')
    assert a.st_ino == b.st_ino and a.st_nlink == b.st_nlink == 2
    write('lower/name1', b'through one')
    forget()
    assert read('lower/name2') == b'through one' and os.stat('lower/name1').st_ino == a.st_ino == os.stat('lower/name2').st_ino
    os.unlink('lower/name1')
    forget()
    st = os.stat('lower/name2')
    assert (st.st_ino, st.st_nlink) == (a.st_ino, 1), st

def special_files_are_made_and_shown():
    os.mkfifo('fifo', 0o640)
    if not os.path.exists('/media/unprivileged'):
        os.mknod('null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod('disk', stat.S_IFBLK | 0o600, os.makedev(8, 17))
        assert os.stat('null').st_rdev == os.makedev(1, 3) and os.stat('disk').st_rdev == os.makedev(8, 17)
        write('null', b'swallowed')
        fails(errno.EPERM, os.mknod, 'whiteout', stat.S_IFCHR, os.makedev(0, 0))
    assert stat.S_ISFIFO(os.stat('fifo').st_mode) and stat.S_IMODE(os.stat('fifo').st_mode) == 0o640
    pid = os.fork()
    if not pid:
        with open('fifo', 'wb') as f:
            f.write(b'through the fifo')
        os._exit(0)
    assert read('fifo') == b'through the fifo'
    os.waitpid(pid, 0)
    import socket
    s = socket.socket(socket.AF_UNIX)
    s.bind('socket')
    assert stat.S_ISSOCK(os.stat('socket').st_mode)
    s.close()

# ---- directories ----
def a_big_directory_is_listed_whole_by_small_calls():
    second_mount('/tmp/small', 'rsize=4096,wsize=4096')
    names = sorted(os.listdir('/tmp/small/big'))
    assert len(names) == ENTRIES and names == sorted('entry%d' % i for i in range(ENTRIES)), len(names)
    by_name = {e.name: e.inode() for e in os.scandir('/tmp/small/big')}
    for i in random.Random(1).sample(range(ENTRIES), 50):
        assert os.stat('/tmp/small/big/entry%d' % i).st_ino == by_name['entry%d' % i]
    os.system('umount /tmp/small')

def a_directory_is_emptied_while_it_is_read():
    os.mkdir('churn')
    for i in range(1500):
        write('churn/%d' % i, b'')
    forget()
    seen = 0
    with os.scandir('churn') as entries:
        for e in entries:
            os.unlink(e.path)
            seen += 1
    assert seen == 1500 and os.listdir('churn') == []
    os.rmdir('churn')

def a_directory_that_is_not_empty_stays():
    fails(errno.ENOTEMPTY, os.rmdir, 'lower/cwd' if os.path.exists('lower/cwd') else 'lower/moved')
    fails(errno.ENOTDIR, os.rmdir, 'lower/file')
    fails(errno.EISDIR, os.unlink, 'lower')
    fails(errno.EINVAL, os.rename, 'lower', 'lower/below')

# ---- two clients ----
def two_clients_see_each_others_changes():
    second_mount('/tmp/a')
    second_mount('/tmp/b')
    assert os.stat('/tmp/a').st_dev != os.stat('/tmp/b').st_dev
    a, b = '/tmp/a/', '/tmp/b/'
    for i in range(20):
        write(a + 'shared', b'round %d' % i)
        assert read(b + 'shared') == b'round %d' % i
        write(b + 'shared', b'+', os.O_WRONLY | os.O_APPEND)
        assert read(a + 'shared') == b'round %d+' % i
        os.rename(a + 'shared', a + 'shared%d' % i)
        assert not os.path.exists(b + 'shared') and os.path.exists(b + 'shared%d' % i)
        os.mkdir(b + 'made%d' % i)
        assert os.path.isdir(a + 'made%d' % i)
        os.rmdir(a + 'made%d' % i)
        assert not os.path.exists(b + 'made%d' % i)
    assert sorted(os.listdir(a)) == sorted(os.listdir(b))
    fd = os.open(a + 'lower/two', os.O_RDONLY)  # copied up by the other client while it is open here
    write(b + 'lower/two', b'changed', os.O_WRONLY)
    assert os.pread(fd, 100, 0) == b'changed'
    os.unlink(b + 'lower/two')
    fails(errno.ESTALE, os.pread, fd, 100, 0)  # no silly name for another client's files: it is gone
    os.close(fd)
    os.system('umount /tmp/a; umount /tmp/b')

# ---- attributes ----
def times_and_modes_are_kept_to_the_nanosecond():
    for path in 'timed', 'lower/timed', 'lower':
        if path == 'timed':
            write(path, b'')
        os.utime(path, ns=(1234567890123456789, 987654321987654321))
        forget()
        st = os.stat(path)
        assert (st.st_atime_ns, st.st_mtime_ns) == (1234567890123456789, 987654321987654321), st
    for mode in 0o600, 0o4755, 0o2755, 0o1777, 0:
        os.chmod('timed', mode)
        assert stat.S_IMODE(os.stat('timed').st_mode) == mode
    before = os.stat('timed').st_ctime_ns
    time.sleep(0.02)
    os.chmod('timed', 0o644)
    assert os.stat('timed').st_ctime_ns > before

def statfs_and_df_tell_of_the_upper():
    st = os.statvfs('.')
    assert st.f_blocks > 0 and 0 < st.f_bavail <= st.f_bfree <= st.f_blocks and st.f_namemax == 255 and st.f_files >= st.f_ffree, st
    out = subprocess.check_output(['df', '-P', '.'], text=True)
    assert os.environ['NFS_SRC'] in out, out
    assert os.pathconf('.', 'PC_NAME_MAX') == 255

def xattrs_and_acls_are_absent_and_say_so():
    assert os.listxattr('lower/file') == []
    fails(errno.EOPNOTSUPP, os.setxattr, 'lower/file', 'user.x', b'')
    fails(errno.EOPNOTSUPP, os.getxattr, 'lower', 'trusted.overlay.opaque')
    fails(errno.EOPNOTSUPP, os.getxattr, 'lower', 'system.posix_acl_access')
    subprocess.check_call(['cp', '-a', 'lower/xattrs', 'copy'])  # cp does not mind

def another_user_may_do_what_the_modes_say():
    if os.path.exists('/media/unprivileged'):
        return
    os.mkdir('private', 0o700)
    write('private/secret', b's')
    os.mkdir('sticky')
    os.chmod('sticky', 0o1777)
    write('sticky/roots', b'')
    write('readable', b'r')
    os.mkdir('theirs')
    os.chown('theirs', 1234, 1235)
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([1300])
            os.setgid(1235)
            os.setuid(1234)
            fails(errno.EACCES, os.listdir, 'private')
            fails(errno.EACCES, read, 'private/secret')
            fails(errno.EACCES, write, 'readable', b'')
            assert read('readable') == b'r'
            fails(errno.EPERM, os.chmod, 'readable', 0o777)
            fails(errno.EPERM, os.chown, 'readable', 1234, -1)
            fails(errno.EACCES, os.mkdir, 'mine')
            fails(errno.EACCES, os.unlink, 'readable')
            fails(errno.EACCES, os.rename, 'readable', 'theirs/readable')
            write('sticky/mine', b'')
            assert os.stat('sticky/mine').st_uid == 1234 and os.stat('sticky/mine').st_gid == 1235
            fails(errno.EPERM, os.unlink, 'sticky/roots')
            os.unlink('sticky/mine')
            write('theirs/file', b'1')
            os.chmod('theirs/file', 0)
            os.chown('theirs/file', -1, 1300)
            fails(errno.EPERM, os.chown, 'theirs/file', -1, 1400)
            fails(errno.EPERM, os.chown, 'theirs/file', 0, -1)
            fd = os.open('theirs/held', os.O_RDWR | os.O_CREAT, 0o600)
            os.write(fd, b'before')
            os.fchmod(fd, 0)  # an open file stays open
            os.pwrite(fd, b'after!', 0)
            os.fsync(fd)
            assert os.pread(fd, 10, 0) == b'after!'
            os.close(fd)
            fails(errno.EACCES, read, 'theirs/held')
            fails(errno.EPERM, os.mknod, 'theirs/null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

failed = 0
tests = [(n, f) for n, f in list(globals().items()) if '_' in n and getattr(f, '__module__', None) == '__main__' and not f.__code__.co_argcount]
for name, f in tests:
    os.chdir(ROOT)
    os.umask(0o022)
    start = time.time()
    try:
        f()
        print('[       OK ] %s, %.1f s' % (name, time.time() - start))
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        print('[  FAILED  ] ' + name)
        failed += 1
    sys.stdout.flush()
print('[  PASSED  ] %d tests, with the options %s' % (len(tests) - failed, OPTS))
if failed:
    print('[  FAILED  ] %d tests' % failed)
sys.exit(1 if failed else 0)
