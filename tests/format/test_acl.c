/* POSIX ACLs: asked as acl(5) says, whatever layer they are in, and given on by directories; compared with Linux over the same layers. */
#include "trees.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Callers that meet every kind of entry. */
static const struct caller {
	uint32_t uid, gid, ngroups, groups[2];
} callers[] = {
	{ 1000, 1000, 0, { 0 } }, /* the owner */
	{ 2000, 1000, 0, { 0 } }, /* its group */
	{ 2001, 2001, 0, { 0 } }, /* a named user */
	{ 2002, 3001, 0, { 0 } }, /* a named group, by the first */
	{ 2003, 2003, 1, { 3001 } }, /* and by another */
	{ 2004, 3001, 1, { 3002 } }, /* two named groups: neither gives all */
	{ 2005, 1000, 1, { 3001 } }, /* the owning group and a named one */
	{ 2006, 2006, 0, { 0 } }, /* nobody of these */
};
enum { CALLERS = sizeof callers / sizeof *callers };

static const char *const acls[] = {
	"u::rwx,g::r-x,o::---",
	"u::rw-,u:2001:rw-,g::r--,g:3001:-w-,m::rw-,o::---",
	"u::r--,u:2001:rwx,g::rwx,g:3001:rwx,m::r--,o::rwx", /* the mask narrows all but owner and others */
	"u::rwx,u:2001:---,g::---,g:3001:rw-,g:3002:r-x,m::rwx,o::rwx", /* a named user with nothing gets nothing */
	"u::---,g::rwx,g:3001:---,m::rwx,o::rwx",
	"u::rwx,u:2001:rwx,g::rwx,m::---,o::r-x", /* an empty mask */
	"u::rwx,g::---,g:3001:-w-,g:3002:--x,m::rwx,o::---", /* write and search come from two groups: no name can be made */
};
enum { ACLS = sizeof acls / sizeof *acls };

/* What Linux says, as a process with these ids: bits 4 read, 2 write, 1 execute of the object at path, and 8: a name can be made in it. */
static int linux_access(const char *dir, int acl, const char *what, const struct caller *who)
{
	int status;
	pid_t pid = fork();
	if (!pid) {
		char path[256], name[300];
		gid_t groups[2] = { who->groups[0], who->groups[1] };
		snprintf(path, sizeof path, "%s/m/%s%d", dir, what, acl);
		snprintf(name, sizeof name, "%s/by-linux-%u", path, who->uid);
		if (setgroups(who->ngroups, groups) || setresgid(who->gid, who->gid, who->gid) || setresuid(who->uid, who->uid, who->uid))
			_exit(255);
		int bits = 0;
		for (int bit = 1; bit <= 4; bit <<= 1)
			if (!faccessat(AT_FDCWD, path, bit, AT_EACCESS))
				bits |= bit;
		if (*what == 'd' && !mkdir(name, 0755))
			bits |= 8;
		_exit(bits);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 16);
	return WEXITSTATUS(status);
}

static int nfs_access(struct stack *s, int acl, const char *what, const struct caller *who)
{
	struct client c;
	struct fh fh, made;
	char path[64], name[64];
	client_open(&c, s, who->uid, who->gid);
	c.ngroups = who->ngroups;
	memcpy(c.groups, who->groups, sizeof who->groups);
	snprintf(path, sizeof path, "%s%d", what, acl);
	snprintf(name, sizeof name, "by-nfs-%u", who->uid);
	assert_int_equal(client_path(&c, path, &fh, NULL), NFS3_OK);
	uint32_t got = client_access(&c, &fh, 0x3f);
	int bits = (got & ACCESS3_READ ? 4 : 0) | (got & ACCESS3_MODIFY ? 2 : 0) | (got & (*what == 'd' ? ACCESS3_LOOKUP : ACCESS3_EXECUTE) ? 1 : 0);
	if (*what == 'd') {
		nfsstat3 rc = client_mkdir(&c, &fh, name, 0755, &made);
		assert_true(rc == NFS3_OK || rc == NFS3ERR_ACCES);
		bits |= rc ? 0 : 8;
	}
	client_close(&c);
	return bits;
}

static void callers_get_what_linux_gives_them(void **state)
{
	struct stack s;
	char script[1024];
	int linux_says[ACLS][CALLERS][2];
	(void)state;
	stack_make(&s, NULL, "chmod 755 . lower2");
	for (int a = 0; a < ACLS; a++) {
		snprintf(script, sizeof script, "mkdir lower2/d%d; echo x >lower2/f%d; chown 1000:1000 lower2/[df]%d; chmod 0 lower2/[df]%d; setfacl --set %s lower2/d%d lower2/f%d", a, a, a, a, acls[a], a, a);
		stack_sh(&s, script);
	}
	linux_mount(&s, "lower1:lower2", true, NULL);
	for (int a = 0; a < ACLS; a++)
		for (int w = 0; w < CALLERS; w++) {
			linux_says[a][w][0] = linux_access(s.dir, a, "d", &callers[w]);
			linux_says[a][w][1] = linux_access(s.dir, a, "f", &callers[w]);
		}
	linux_unmount(&s);
	stack_sh(&s, "rm -rf upper work; mkdir upper work; chmod 755 upper");
	for (int copied = 0; copied < 2; copied++) { /* asked of the lowers, then of copies with names made in them */
		server_start(&s, NULL);
		for (int a = 0; a < ACLS; a++)
			for (int w = 0; w < CALLERS; w++)
				for (int k = 0; k < 2; k++) {
					int ours = nfs_access(&s, a, k ? "f" : "d", &callers[w]), theirs = linux_says[a][w][k];
					if (copied) /* the names are there already */
						ours = (ours & 7) | (theirs & 8);
					if (ours != theirs)
						fail_msg("%s, %s, uid %u: Linux says %x, we say %x", acls[a], k ? "file" : "directory", callers[w].uid, theirs, ours);
				}
		server_stop(&s);
		stack_sh(&s, "for d in upper/d*; do getfacl -n $d 2>/dev/null | grep -v ^# >one; getfacl -n lower2/${d#upper/} 2>/dev/null | grep -v ^# | cmp one -; done");
		stack_sh(&s, "rmdir upper/d*/by-nfs-* 2>/dev/null || :");
	}
	stack_remove(&s);
}

/* A client sends a mode from which it has taken its umask; a default ACL narrows it further, and takes nothing of the server's own mask. */
static void default_acls_are_given_on_as_by_linux(void **state)
{
	struct stack s;
	struct client c;
	struct fh dir, fh;
	static const char *const defaults[] = { "d:u::rwx,d:u:77:rwx,d:g::r-x,d:g:88:rwx,d:m::rwx,d:o::r--", "d:u::rw-,d:g::r--,d:o::---", "d:u::rwx,d:u:77:r-x,d:g::rwx,d:m::r-x,d:o::rwx" };
	(void)state;
	stack_make(&s, NULL, "mkdir t");
	for (int i = 0; i < 3; i++) {
		char script[512];
		snprintf(script, sizeof script, "for where in lower2 lower1 t; do test $where = lower2 && continue; mkdir -p $where/d%d; setfacl -m %s $where/d%d; done; chmod 2775 lower1/d%d t/d%d; chgrp 5 lower1/d%d t/d%d", i, defaults[i], i, i, i, i, i);
		stack_sh(&s, script);
		snprintf(script, sizeof script, "python3 -c \"\nimport os\nos.umask(0); os.chdir('t/d%d')\nfor m in (0o666, 0o640, 0o4755, 0o777):\n os.close(os.open('f%%o' %% m, os.O_CREAT | os.O_EXCL, m)); os.mkdir('d%%o' %% m, m); os.mknod('p%%o' %% m, 0o10644)\nos.close(os.open('x', os.O_CREAT, 0o644)); os.symlink('x', 'l')\n\"", i);
		stack_sh(&s, script);
	}
	server_start(&s, "--no-root-squash");
	client_open(&c, &s, 0, 0);
	for (int i = 0; i < 3; i++) {
		char path[16], name[16];
		snprintf(path, sizeof path, "d%d", i);
		assert_int_equal(client_path(&c, path, &dir, NULL), NFS3_OK);
		/* over a whiteout it is made elsewhere and moved */
		assert_int_equal(client_create(&c, &dir, "f666", GUARDED, 0600, &fh), NFS3_OK);
		assert_int_equal(client_remove(&c, &dir, "f666"), NFS3_OK);
		static const uint32_t modes[] = { 0666, 0640, 04755, 0777 };
		for (int m = 0; m < 4; m++) {
			snprintf(name, sizeof name, "f%o", modes[m]);
			assert_int_equal(client_create(&c, &dir, name, GUARDED, modes[m], &fh), NFS3_OK);
			snprintf(name, sizeof name, "d%o", modes[m]);
			assert_int_equal(client_mkdir(&c, &dir, name, modes[m], &fh), NFS3_OK);
			snprintf(name, sizeof name, "p%o", modes[m]);
			assert_int_equal(client_mknod(&c, &dir, name, NF3FIFO, 0, 0, &fh), NFS3_OK);
		}
		assert_int_equal(client_create(&c, &dir, "x", EXCLUSIVE, 7, &fh), NFS3_OK);
		assert_int_equal(client_symlink(&c, &dir, "l", "x", &fh), NFS3_OK);
	}
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "acls() { (cd $1; find . -mindepth 2 | sort | while read f; do echo \"$f $(stat -c '%a %u %g %F' $f)\"; test -L $f || getfacl -n --absolute-names $f 2>/dev/null | grep -v '^#'; done); };"
		     "acls t >want; acls upper >got; test $(grep -c default: want) -gt 20; diff want got >&2");
	stack_remove(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(callers_get_what_linux_gives_them),
		cmocka_unit_test(default_acls_are_given_on_as_by_linux),
	};
	mounts_begin();
	umask(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
