"""In the guest, in the mount: lives in the image for a while, removes a package, then writes down the whole tree."""
import os
import subprocess
import sys

sys.path.insert(0, os.environ["OUT"])
import treelist  # noqa: E402  (beside this program on the host)


def inside(*command):
    """Runs a command in the image."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root", "LC_ALL": "C"}
    done = subprocess.run(["chroot", "."] + list(command), env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit("chroot . %s: %d\n%s" % (" ".join(command), done.returncode, done.stdout[-4000:]))
    return done.stdout


print("in the image:", inside("cat", "/etc/debian_version").strip(), inside("uname", "-m").strip())
packages = inside("dpkg-query", "-W", "-f", "${Package}\n").split()
assert "less" in packages and "tree" not in packages, packages
assert inside("dpkg", "--audit") == ""
subprocess.run([os.environ["BB"], "mount", "-t", "proc", "proc", "proc"], check=True)
print(inside("apt-get", "remove", "-y", "--purge", "less").strip().splitlines()[-1])
subprocess.run([os.environ["BB"], "umount", "proc"], check=True)
assert "less" not in inside("dpkg-query", "-W", "-f", "${Package} ").split()
assert not os.path.exists("usr/bin/less")
assert inside("dpkg", "--audit") == ""
inside("sh", "-ec", "adduser --system --quiet tester 2>/dev/null || useradd -r tester; mv /usr/share/doc /usr/share/papers; echo changed >>/etc/motd; chmod 600 /usr/bin/perl*; ldconfig")
with open(os.path.join(os.environ["OUT"], "tree.nfs"), "w") as f:
    print(treelist.write(".", f), "objects")
