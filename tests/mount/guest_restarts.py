#!/usr/bin/env python3
"""Processes that hold files and a working directory open and write, rename, link, remove and copy up, while the server is killed and started
again. What they did is compared with a model in memory. Arguments: seconds, seed. Kills are counted by test_kernel_restarts.sh."""
import errno, fcntl, os, random, sys, time

SECONDS, SEED = float(sys.argv[1]), int(sys.argv[2])
PROCESSES = 3
# A reply that was lost with the server's memory: the client asks again, and hears of its own first try. NFSv3 has no cure for that, so it
# counts as done where it is done; what must hold is what is there afterwards.
lost = 0

def once_or_twice(expected, call, *args):
    """True: done, and the reply came."""
    global lost
    try:
        call(*args)
        return True
    except OSError as e:
        if e.errno != expected:
            raise
        lost += 1
        return False

class Work:
    """One process's directory: its files by name, each (bytes, open descriptor or None)."""
    def __init__(self, number, home):
        self.r = random.Random(SEED * 10 + number)
        self.number = number
        os.fchdir(home)  # for good: its names change above it
        self.here = os.open('.', os.O_RDONLY)
        self.files = {}
        self.dirs = {'.': None, 'sub': None}
        for i in range(20):
            for d in '.', 'sub':
                name = '%s/f%d' % (d, i)
                content = bytearray(b'%d %d %s' % (number, i, d.encode()) * (i * 97 % 300))
                fd = os.open(name, os.O_RDWR if i % 3 else os.O_RDONLY) if i % 2 else None
                self.files[name] = (content, fd)
        self.next = 100
        self.ops = 0

    def pick(self):
        return self.r.choice(sorted(self.files))

    def fresh(self):
        self.next += 1
        return '%s/n%d' % (self.r.choice(sorted(self.dirs)), self.next)

    def write(self):
        name = self.pick()
        content, fd = self.files[name]
        at, data = self.r.randrange(len(content) + 1), bytes([self.r.randrange(1, 256)]) * self.r.randrange(1, 20000)
        own = fd is None or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        out = os.open(name, os.O_WRONLY) if own else fd
        assert os.pwrite(out, data, at) == len(data)
        content[at:at + len(data)] = data
        if self.r.random() < 0.3:
            os.fsync(out)
        if own:
            os.close(out)

    def read(self):
        name = self.pick()
        content, fd = self.files[name]
        if fd is None:
            with open(name, 'rb') as f:
                got = f.read()
        else:
            got = os.pread(fd, len(content) + 10, 0)
        assert got == bytes(content), (name, len(got), len(content))

    def truncate(self):
        name = self.pick()
        content, fd = self.files[name]
        size = self.r.randrange(len(content) + 1000)
        os.truncate(name, size)
        del content[size:]
        content.extend(bytes(size - len(content)))

    def rename(self):
        old, new = self.pick(), self.r.choice([self.fresh(), self.pick()])
        if old == new:
            return
        if new in self.files and self.files[new][1] is not None:
            os.close(self.files[new][1])  # a rename over an open file is two for the server, and the client gives up when it hears that the first was done
        heard = once_or_twice(errno.ENOENT, os.rename, old, new)
        content, fd = self.files.pop(old)
        if not heard and fd is not None:  # the client knows it by its old name still, and would not know that it is open by its new one
            os.close(fd)
            fd = os.open(new, os.O_RDWR)
        self.files[new] = (content, fd)

    def rename_directory(self):
        """Another name for this process's working directory, or for what all stand below."""
        above, names = ('../..', ('top', 'peak')) if self.number == 0 else ('..', ('work%d' % self.number, 'other%d' % self.number))
        old = [n for n in os.listdir(above) if n in names]
        assert len(old) == 1, old
        once_or_twice(errno.ENOENT, os.rename, above + '/' + old[0], above + '/' + names[old[0] == names[0]])

    def create(self):
        name = self.fresh()
        once_or_twice(errno.EEXIST, lambda: os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)))
        fd = os.open(name, os.O_RDWR)
        data = b'new %d' % self.next
        os.write(fd, data)
        if self.r.random() < 0.5:
            os.close(fd)
            fd = None
        self.files[name] = (bytearray(data), fd)

    def mkdir(self):
        self.next += 1
        name = 'd%d' % self.next
        once_or_twice(errno.EEXIST, os.mkdir, name)
        self.dirs[name] = None

    def remove(self):
        name = self.pick()
        content, fd = self.files.pop(name)
        once_or_twice(errno.ENOENT, os.unlink, name)
        if fd is not None:  # open still: the client keeps it under another name until it is closed
            assert os.pread(fd, len(content) + 10, 0) == bytes(content), name
            os.close(fd)

    def chmod(self):
        name = self.pick()
        mode = self.r.choice([0o600, 0o644, 0o666])
        os.chmod(name, mode)
        assert os.stat(name).st_mode & 0o777 == mode

    def look(self):
        for d in self.dirs:
            there = {n for n in os.listdir(d) if not n.startswith('.nfs')}
            known = {n.split('/')[1] for n in self.files if n.startswith(d + '/')} | (set(self.dirs) - {'.'} if d == '.' else set())
            assert there == known, (d, there ^ known)

    def all(self):
        self.look()
        for name in list(self.files):
            content, fd = self.files[name]
            with open(name, 'rb') as f:
                assert f.read() == bytes(content), name
            if fd is not None:
                assert os.fstat(fd).st_ino == os.stat(name).st_ino, name

    def run(self, until):
        steps = [self.write] * 6 + [self.read] * 4 + [self.rename] * 3 + [self.create, self.remove, self.truncate, self.chmod, self.look] + [self.rename_directory]
        while time.time() < until:
            step = self.r.choice(steps)
            if step == self.create and len(self.files) > 60:
                step = self.remove
            if step == self.remove and len(self.files) < 20:
                step = self.create
            try:
                step()
            except BaseException:
                print('process %d, operation %d, %s' % (self.number, self.ops, step.__name__), flush=True)
                raise
            self.ops += 1
        os.sync()
        self.all()
        os.system('echo 3 > /proc/sys/vm/drop_caches')
        self.all()

def main():
    until = time.time() + SECONDS
    children = []
    homes = [os.open('top/work%d' % number, os.O_RDONLY) for number in range(PROCESSES)]  # before the first of them renames
    for number in range(PROCESSES):
        pid = os.fork()
        if not pid:
            rc = 1
            try:
                w = Work(number, homes[number])
                w.run(until)
                print('| process %d: %d operations, %d heard of their own first try' % (number, w.ops, lost), flush=True)
                rc = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            os._exit(rc)
        children.append(pid)
    failed = [pid for pid in children if os.waitpid(pid, 0)[1]]
    open(os.environ['OUT'] + '/done', 'w').close()
    sys.exit(1 if failed else 0)

main()
