#!/usr/bin/env python3
"""What people do on a file system, each step checked. In a mount of a stack that rig.sh's caller made: lower2 holds src.tar, src.git and
project/. Arguments: number of files, what to make in project/."""
import os, shutil, subprocess, sys, time

FILES = int(sys.argv[1])
TARGETS = sys.argv[2:]
OWNERS = not os.path.exists(os.environ['OUT'] + '/unprivileged')
HERE = os.getcwd()
ENV = dict(os.environ, HOME='/tmp', GIT_CONFIG_NOSYSTEM='1', LC_ALL='C')
took = []

def run(*command, **kw):
    r = subprocess.run(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if r.returncode:
        print(r.stdout[-3000:])
        sys.exit('%s: exit code %d' % (' '.join(command), r.returncode))
    return r.stdout

def step(name, f):
    start = time.time()
    f()
    took.append('%s %.1f s' % (name, time.time() - start))

def make_tree(top):
    """FILES files in directories of 100, of many sizes, modes and times; links of both kinds."""
    for i in range(FILES):
        d = '%s/d%03d/e%d' % (top, i // 1000, i // 100 % 10)
        if i % 100 == 0:
            os.makedirs(d)
        path = '%s/file %d' % (d, i)
        with open(path, 'wb') as f:
            f.write((b'%d\n' % i) * (i % 7 * i % 1500))
        os.chmod(path, (0o644, 0o600, 0o755, 0o444)[i % 4])
        os.utime(path, (1e9 + i, 1.1e9 + i))
        if i % 50 == 0:
            os.symlink('file %d' % i, '%s/link %d' % (d, i))
        if i % 70 == 0:
            os.link(path, '%s/hard %d' % (d, i))

def same_attributes(a, b):
    """diff -r compares bytes; this compares the rest."""
    for top, dirs, files in os.walk(a):
        for name in dirs + files:
            x, y = os.lstat(os.path.join(top, name)), os.lstat(os.path.join(b + top[len(a):], name))
            assert (x.st_mode, x.st_mtime_ns) == (y.st_mode, y.st_mtime_ns), (top, name, x, y)
            assert not OWNERS or (x.st_uid, x.st_gid) == (y.st_uid, y.st_gid), (top, name, x, y)
            if name in files:
                assert (x.st_size, x.st_nlink) == (y.st_size, y.st_nlink), (top, name, x, y)

def copy_in():
    run('cp', '-a', '/tmp/tree', 'tree')

def diff():
    os.system('echo 3 > /proc/sys/vm/drop_caches')
    run('diff', '-r', '/tmp/tree', 'tree')
    same_attributes('/tmp/tree', 'tree')

def untar():
    os.mkdir('untar')
    run('tar', 'xf', '../src.tar', cwd='untar')
    run('diff', '-r', 'project', 'untar/project')
    same_attributes('project', 'untar/project')

def clone():
    run('git', 'clone', '-q', 'src.git', 'clone')
    run('git', 'fsck', '--full', '--strict', cwd='clone')
    assert run('git', 'status', '--porcelain', cwd='clone') == ''
    with open('clone/README.md', 'a') as f:
        f.write('one line more\n')
    run('git', 'commit', '-qam', 'one line more', cwd='clone')
    run('git', 'push', '-q', 'origin', 'HEAD', cwd='clone')  # into the repository that lies in a lower
    run('git', 'fsck', '--full', '--strict', cwd='src.git')

def build():
    run('make', '-j4', *TARGETS, cwd='project')
    if 'all' in TARGETS:
        assert 'overnfsd' in run('project/build/overnfsd', '--version')
    again = run('make', '-j4', *TARGETS, cwd='project')
    assert ' cc ' not in again and 'link' not in again, again  # times are right: nothing is made twice

def find_newer():
    with open('stamp', 'w'):
        pass
    time.sleep(0.05)
    with open('tree/d000/e0/file 3', 'ab') as f:
        f.write(b'more')
    os.mkdir('tree/d000/new')
    newer = run('find', 'tree', 'project', '-newer', 'stamp').split('\n')
    assert sorted(newer) == ['', 'tree/d000', 'tree/d000/e0/file 3', 'tree/d000/new'], newer

def remove():
    for name in 'tree', 'untar', 'clone', 'project':
        run('rm', '-rf', name)
        assert not os.path.lexists(name), name
    assert sorted(os.listdir('.')) == ['src.git', 'src.tar', 'stamp'], os.listdir('.')

os.umask(0o022)
with open('/tmp/.gitconfig', 'w') as f:
    f.write('[safe]\ndirectory = *\n[user]\nname = t\nemail = t@example.org\n')
make_tree('/tmp/tree')
step('cp -a', copy_in)
step('diff -r', diff)
step('tar x', untar)
step('git clone, fsck, push', clone)
if TARGETS:
    step('make -j4', build)
step('find -newer', find_newer)
step('rm -rf', remove)
print('| %s: %d files: %s' % (os.environ['NFS_OPTS'].split('nolock,addr=10.0.2.2')[-1].strip(',') or 'default options', FILES, ', '.join(took)))
