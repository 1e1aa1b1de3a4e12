#!/usr/bin/env python3
"""Works as a user would, in a mount of the stack that test_kernel_changes.sh makes; what it leaves is checked there, in the upper."""
import os, subprocess

def read(path):
    with open(path) as f:
        return f.read()

def write(path, text, mode='w'):
    with open(path, mode) as f:
        f.write(text)

assert sorted(os.listdir('.')) == ['bin', 'doc', 'etc', 'hard1', 'hard2', 'link', 'old', 'set'], os.listdir('.')
assert sorted(os.listdir('etc')) == ['conf', 'hidden', 'settings']
assert read('etc/settings') == 'from the top\n' and read('etc/conf') == 'conf\n'
assert read('doc/deep/er/page') == 'a page\n'
assert os.readlink('link') == 'etc/conf' and read('link') == 'conf\n'
assert os.stat('hard1').st_ino == os.stat('hard2').st_ino and os.stat('hard1').st_nlink == 2
before = os.stat('etc/conf')

write('new file', 'new\n')                         # write
write('etc/conf', 'appended\n', 'a')               # append to a lower's file
after = os.stat('etc/conf')
assert after.st_ino == before.st_ino and after.st_size == 14
os.rename('doc', 'documents')                      # rename a directory that comes from a lower
assert read('documents/deep/er/page') == 'a page\n'
write('documents/deep/er/more', 'more\n')
os.remove('etc/hidden')                            # remove what only a lower has
os.remove('etc/settings')                          # remove what both lowers have
os.chmod('bin/tool', 0o700)                        # chmod
os.link('bin/tool', 'bin/tool2')                   # hard link
assert os.stat('bin/tool').st_nlink == 2 and os.stat('bin/tool2').st_mode & 0o7777 == 0o700
write('hard1', 'changed through one name\n')       # both names of a hard-linked lower file
assert read('hard2') == 'changed through one name\n' and os.stat('hard2').st_ino == os.stat('hard1').st_ino
subprocess.check_call(['rm', '-r', 'old'])         # a whole directory of a lower
os.mkdir('old')                                    # and a new one under its name, which must not show the old content
assert os.listdir('old') == []
write('old/fresh', 'fresh\n')
os.rename('set/a', 'set/b')                        # over another lower's file
os.mkdir('plain')
os.symlink('somewhere', 'plain/link')
os.mkfifo('plain/fifo')
os.remove('new file')
write('plain/kept', 'kept\n')
