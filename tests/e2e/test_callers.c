/* Who calls, and what that may do: squashing, AUTH_NONE, ACLs. */
#include "sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void root_is_squashed_by_default(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	struct fh fh, open;
	fattr3 a;
	stack_make(&s, NULL, tree);
	server_start(&s, NULL);
	client_open(&c, &s, 0, 0);
	assert_nfs(client_create(&c, &c.root, "x", GUARDED, 0644, &fh), NFS3ERR_ACCES);
	open = path(&c, "open");
	assert_nfs(client_create(&c, &open, "x", GUARDED, 0644, &fh), NFS3_OK);
	assert_nfs(client_getattr(&c, &fh, &a), NFS3_OK);
	assert_int_equal(a.uid, 65534);
	assert_int_equal(a.gid, 65534);
	client_close(&c);
	stack_remove(&s);
}

static void root_of_some_clients_alone_acts_as_root(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	struct fh fh;
	stack_make(&s, NULL, tree);
	server_start(&s, "--root-clients 127.0.0.1");
	client_open(&c, &s, 0, 0);
	assert_nfs(client_create(&c, &c.root, "x", GUARDED, 0644, &fh), NFS3_OK);
	client_close(&c);
	server_stop(&s);
	server_start(&s, "--root-clients 127.0.0.2,10.0.0.0/8");
	client_open(&c, &s, 0, 0);
	assert_nfs(client_create(&c, &c.root, "y", GUARDED, 0644, &fh), NFS3ERR_ACCES);
	client_close(&c);
	stack_remove(&s);
}

/* As little privilege as the unit for systemd leaves, and less: the files are their makers' all the same. */
static void a_server_of_few_capabilities_makes_files_for_their_callers(void **state)
{
	(void)state;
	static const char *const sets[] = { "$(sed -n 's/^CapabilityBoundingSet=//p' etc/overnfsd.service | tr A-Z a-z | sed 's/cap_/+/g; s/ /,/g')",
					    "+chown,+dac_override,+dac_read_search,+fowner,+fsetid,+sys_admin" };
	char *server = getenv("OVERNFSD"), command[4096];
	if (geteuid()) {
		print_message("skipped: without root there are no capabilities to take away\n");
		skip();
	}
	server = strdup(server ? server : "build/overnfsd");
	for (size_t i = 0; i < 2; i++) {
		struct stack s;
		struct client c;
		struct fh fh, open;
		fattr3 a;
		stack_make(&s, NULL, tree);
		snprintf(command, sizeof command, "setpriv --no-new-privs --bounding-set=-all,%s %s", sets[i], server);
		setenv("OVERNFSD", command, 1);
		server_start(&s, NULL);
		setenv("OVERNFSD", server, 1);
		client_open(&c, &s, 1000, 1001);
		open = path(&c, "open");
		assert_nfs(client_create(&c, &open, "x", GUARDED, 0644, &fh), NFS3_OK);
		assert_nfs(client_getattr(&c, &fh, &a), NFS3_OK);
		assert_true(a.uid == 1000 && a.gid == 1001);
		client_close(&c);
		stack_remove(&s);
	}
	free(server);
}

/* Without root all is the server's user's, whose own permissions bind the server too. */
enum { SELF = 65533 };
static uid_t server_user(void)
{
	return geteuid() ? geteuid() : SELF;
}

static void start_without_root(struct stack *s, struct client *c)
{
	char *server = strdup(getenv("OVERNFSD") ? getenv("OVERNFSD") : "build/overnfsd"), command[4096];
	if (!geteuid()) {
		snprintf(command, sizeof command, "setpriv --pdeathsig KILL --reuid=65533 --regid=65533 --clear-groups %s", server);
		setenv("OVERNFSD", command, 1);
	}
	server_start(s, NULL);
	setenv("OVERNFSD", server, 1);
	free(server);
	client_open(c, s, server_user(), getegid() ? getegid() : SELF);
}

static void make_without_root(struct stack *s, const char *script)
{
	stack_make(s, NULL, script);
	stack_sh(s, "[ $(id -u) != 0 ] || chown -R 65533:65533 .");
}

static uint32_t mode_of(struct client *c, const struct fh *fh)
{
	fattr3 a;
	assert_nfs(client_getattr(c, fh, &a), NFS3_OK);
	return a.mode;
}

/* As git makes its objects, with a mode of 0444; the server may be restarted before they are written. */
static void without_root_the_owner_writes_whatever_the_mode(void **state)
{
	(void)state;
	static const uint32_t modes[] = { 0444, 0400, 0200, 0 };
	struct stack s;
	struct client c;
	struct fh fh[4];
	char name[8], buf[8];
	uint32_t got = 0;
	bool eof;
	make_without_root(&s, NULL);
	start_without_root(&s, &c);
	for (uint32_t i = 0; i < 4; i++) {
		snprintf(name, sizeof name, "f%u", i);
		assert_nfs(client_create(&c, &c.root, name, GUARDED, modes[i], &fh[i]), NFS3_OK);
	}
	for (int life = 0; life < 4; life++) {
		client_close(&c);
		server_stop(&s);
		start_without_root(&s, &c);
		for (int i = 0; i < 4; i++) {
			sattr3 size = { .size = { .set_it = true, .set_uint64_u.value = 3 } };
			if (life == 0)
				assert_nfs(client_write(&c, &fh[i], 0, "text", 4, UNSTABLE, NULL), NFS3_OK);
			if (life == 1)
				assert_nfs(client_commit(&c, &fh[i], NULL), NFS3_OK);
			if (life == 2)
				assert_nfs(client_setattr(&c, &fh[i], &size, NULL, NULL), NFS3_OK);
			if (life == 3)
				assert_nfs(client_read(&c, &fh[i], 0, 8, buf, &got, &eof), NFS3_OK);
			assert_int_equal(mode_of(&c, &fh[i]), modes[i]);
		}
	}
	assert_int_equal(got, 3);
	c.uid = 12345; /* another gets nothing of what was lent for the owner */
	assert_nfs(client_write(&c, &fh[0], 0, "x", 1, UNSTABLE, NULL), NFS3ERR_ACCES);
	client_close(&c);
	stack_sh(&s, "test \"$(stat -c %a upper/f? | tr '\\n' ' ')\" = '444 400 200 0 '");
	stack_remove(&s);
}

/* A directory that nobody may write to guards its names, not what they name. */
static void without_root_what_stands_in_a_shut_directory_is_copied_up(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	fattr3 a, b;
	make_without_root(&s, "mkdir -p lower1/d/e; echo a >lower1/d/a; echo b >lower1/d/b; ln lower1/d/b lower1/d/c; chmod 555 lower1/d; chmod 500 lower1/d/e; touch -d 2001-01-01 lower1/d");
	start_without_root(&s, &c);
	struct fh d = path(&c, "d"), file = path(&c, "d/a"), linked = path(&c, "d/b"), e = path(&c, "d/e");
	sattr3 mode = { .mode = { .set_it = true, .set_uint32_u.value = 0640 } }, now = { .mtime = { .set_it = SET_TO_SERVER_TIME } };
	assert_nfs(client_getattr(&c, &d, &a), NFS3_OK);
	assert_nfs(client_setattr(&c, &d, &(sattr3){ .mode = { .set_it = true, .set_uint32_u.value = 0511 } }, NULL, NULL), NFS3_OK);
	assert_nfs(client_setattr(&c, &file, &mode, NULL, NULL), NFS3_OK);
	assert_nfs(client_setattr(&c, &linked, &now, NULL, NULL), NFS3_OK);
	assert_nfs(client_setattr(&c, &e, &mode, NULL, NULL), NFS3_OK);
	assert_nfs(client_write(&c, &file, 0, "A", 1, FILE_SYNC, NULL), NFS3_OK);
	assert_int_equal(mode_of(&c, &file), 0640);
	assert_nfs(client_getattr(&c, &d, &b), NFS3_OK);
	assert_int_equal(b.mode, 0511);
	assert_int_equal(a.mtime.seconds, b.mtime.seconds);
	assert_nfs(client_remove(&c, &d, "b"), NFS3ERR_ACCES); /* that it is the names it guards */
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "test \"$(stat -c %a upper/d upper/d/a upper/d/b upper/d/e | tr '\\n' ' ')\" = '511 640 644 640 '; chmod -R u+rwx lower1 upper");
	stack_remove(&s);
}

/* Nor does its mode guard its own name. */
static void without_root_a_shut_directory_is_renamed_and_removed(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	struct fh fh, d;
	make_without_root(&s, "mkdir -p lower1/low/x lower1/empty lower1/full lower1/gone lower1/up; echo f >lower1/full/f; echo x >lower1/up/x;"
			      "echo 444 >lower1/file; chmod 444 lower1/file; chmod 555 lower1/low lower1/empty lower1/gone");
	start_without_root(&s, &c);
	assert_nfs(client_rename(&c, &c.root, "low", &c.root, "moved"), NFS3_OK);
	assert_nfs(client_path(&c, "moved/x", &fh, NULL), NFS3_OK);
	sattr3 mode = { .mode = { .set_it = true, .set_uint32_u.value = 0511 } };
	d = path(&c, "empty");
	assert_nfs(client_setattr(&c, &d, &mode, NULL, NULL), NFS3_OK);
	assert_nfs(client_rmdir(&c, &c.root, "empty"), NFS3_OK);
	d = path(&c, "full"); /* to hold a whiteout */
	assert_nfs(client_remove(&c, &d, "f"), NFS3_OK);
	assert_nfs(client_setattr(&c, &d, &mode, NULL, NULL), NFS3_OK);
	assert_nfs(client_mkdir(&c, &c.root, "mine", 0755, &fh), NFS3_OK);
	assert_nfs(client_rename(&c, &c.root, "mine", &c.root, "full"), NFS3_OK);
	assert_nfs(client_rmdir(&c, &c.root, "gone"), NFS3_OK);
	assert_nfs(client_mkdir(&c, &c.root, "gone", 0555, &fh), NFS3_OK); /* over a whiteout */
	assert_int_equal(mode_of(&c, &fh), 0555);
	assert_nfs(client_lookup(&c, &fh, "x", &d, NULL), NFS3ERR_NOENT);
	assert_nfs(client_rmdir(&c, &c.root, "gone"), NFS3_OK);
	d = path(&c, "up");
	assert_nfs(client_remove(&c, &d, "x"), NFS3_OK);
	assert_nfs(client_setattr(&c, &d, &mode, NULL, NULL), NFS3_OK);
	assert_nfs(client_rmdir(&c, &c.root, "up"), NFS3_OK);
	d = path(&c, "moved");
	assert_int_equal(mode_of(&c, &d), 0555);
	struct fh file = path(&c, "file"); /* as if Linux had copied it up, which leaves its origin alone */
	assert_nfs(client_setattr(&c, &file, &(sattr3){ .mtime = { .set_it = SET_TO_SERVER_TIME } }, NULL, NULL), NFS3_OK);
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "chmod 644 upper/file; setfattr -x user.overlay.overnfsd upper/file; chmod 444 upper/file");
	start_without_root(&s, &c);
	assert_nfs(client_path(&c, "moved/x", &fh, NULL), NFS3_OK);
	assert_nfs(client_rename(&c, &c.root, "file", &c.root, "other"), NFS3_OK);
	fh = path(&c, "other");
	assert_true(fh.len == file.len && !memcmp(fh.data, file.data, fh.len));
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "test -z \"$(ls -A work/work)\"; test $(stat -c %a upper/moved) = 555; chmod -R u+rwx lower1 upper");
	stack_remove(&s);
}

/* What it hides, and where it came from, is said in its xattrs, which without root nobody reads then. */
static void without_root_an_unreadable_directory_shows_what_it_did(void **state)
{
	(void)state;
	static const char *const names[] = { "moved", "moved2", "old", "gone" };
	struct stack s;
	struct client c;
	struct fh fh, d;
	sattr3 mode = { .mode = { .set_it = true, .set_uint32_u.value = 0300 } };
	make_without_root(&s, "for d in low low2 old gone; do mkdir lower1/$d; echo x >lower1/$d/x; done");
	start_without_root(&s, &c);
	assert_nfs(client_rename(&c, &c.root, "low2", &c.root, "moved2"), NFS3_OK);
	for (int i = 2; i < 4; i++) {
		d = path(&c, names[i]);
		assert_nfs(client_remove(&c, &d, "x"), NFS3_OK);
		assert_nfs(client_rmdir(&c, &c.root, names[i]), NFS3_OK);
		assert_nfs(client_mkdir(&c, &c.root, names[i], i == 2 ? 0700 : 0300, &d), NFS3_OK);
	}
	d = path(&c, "low");
	assert_nfs(client_setattr(&c, &d, &(sattr3){ .mode = { .set_it = true, .set_uint32_u.value = 0100 } }, NULL, NULL), NFS3_OK);
	assert_nfs(client_rename(&c, &c.root, "low", &c.root, "moved"), NFS3_OK);
	for (int i = 1; i < 3; i++) {
		d = path(&c, names[i]);
		assert_nfs(client_setattr(&c, &d, &mode, NULL, NULL), NFS3_OK);
	}
	for (int life = 0; life < 2; life++) {
		client_close(&c);
		server_stop(&s);
		start_without_root(&s, &c);
		for (int i = 0; i < 4; i++) {
			d = path(&c, names[i]);
			assert_nfs(client_lookup(&c, &d, "x", &fh, NULL), i < 2 ? NFS3_OK : NFS3ERR_NOENT);
		}
	}
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "chmod -R u+rwx upper");
	stack_remove(&s);
}

static void nobody_reads_what_all_may_read(void **state)
{
	(void)state;
	struct client c;
	struct fh fh;
	char buf[8];
	uint32_t got;
	bool eof;
	client_open(&c, &stack, 0, 0);
	c.no_auth = true;
	assert_int_equal(client_call(&c, 100003, 3, 0, NULL, NULL, NULL, NULL), 0);
	fh = path(&c, "hello");
	assert_nfs(client_read(&c, &fh, 0, 5, buf, &got, &eof), NFS3_OK);
	fh = path(&c, "private");
	assert_nfs(client_read(&c, &fh, 0, 5, buf, &got, &eof), NFS3ERR_ACCES);
	client_close(&c);
}

static void acls_decide_who_may(void **state)
{
	(void)state;
	if (!stack_says(&stack, "echo acl >lower1/acl; chmod 600 lower1/acl; setfacl -m u:1000:r lower1/acl; mkdir lower1/acldir; setfacl -m g:77:rwx lower1/acldir")) {
		print_message("skipped: the file system of /tmp has no ACLs\n");
		skip();
	}
	struct fh fh = path(&root, "acl"), dir = path(&root, "acldir");
	assert_int_equal(client_access(&user, &fh, 63), ACCESS3_READ);
	user.uid = 1001;
	assert_int_equal(client_access(&user, &fh, 63), 0);
	user.ngroups = 1;
	user.groups[0] = 77;
	assert_true(client_access(&user, &dir, 63) & ACCESS3_MODIFY);
	user.uid = 1000;
	user.ngroups = 0;
	sattr3 s = { .mtime = { .set_it = SET_TO_SERVER_TIME } };
	assert_nfs(client_setattr(&root, &fh, &s, NULL, NULL), NFS3_OK); /* copied up with it */
	assert_int_equal(client_access(&user, &fh, 63), ACCESS3_READ);
	stack_sh(&stack, "getfacl -np upper/acl | grep -q user:1000:r");
}

/* By every way of making: what is made must never stay the server's own. */
static void expect_owner(struct client *c, const struct fh *dir, uint32_t uid, uint32_t gid)
{
	struct fh fh;
	fattr3 a;
	char name[32];
	static int n;
	for (int kind = 0; kind < 5; kind++) {
		snprintf(name, sizeof name, "made%d", n++);
		nfsstat3 st = kind == 0 ? client_create(c, dir, name, UNCHECKED, 0644, &fh) : kind == 1 ? client_create(c, dir, name, EXCLUSIVE, 0, &fh)
			    : kind == 2 ? client_mkdir(c, dir, name, 0755, &fh) : kind == 3 ? client_symlink(c, dir, name, "x", &fh)
					: client_create(c, dir, name, GUARDED, 04755, &fh);
		assert_nfs(st, NFS3_OK);
		assert_nfs(client_getattr(c, &fh, &a), NFS3_OK);
		assert_int_equal(a.uid, uid);
		assert_int_equal(a.gid, gid);
		if (kind == 0)
			assert_nfs(client_write(c, &fh, 0, "mine", 4, FILE_SYNC, NULL), NFS3_OK);
	}
}

static void nobodys_numbers_make_nothing_of_roots(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	struct fh open;
	stack_make(&s, NULL, tree);
	server_start(&s, NULL);
	client_open(&c, &s, UINT32_MAX, UINT32_MAX);
	open = path(&c, "open");
	expect_owner(&c, &open, 65534, 65534);
	c.uid = 1000;
	expect_owner(&c, &open, 1000, 65534);
	c.uid = UINT32_MAX;
	c.gid = 1000;
	expect_owner(&c, &open, 65534, 65534);
	client_close(&c);
	stack_remove(&s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(root_is_squashed_by_default),
		cmocka_unit_test(root_of_some_clients_alone_acts_as_root),
		cmocka_unit_test(nobodys_numbers_make_nothing_of_roots),
		cmocka_unit_test(a_server_of_few_capabilities_makes_files_for_their_callers),
		cmocka_unit_test(without_root_the_owner_writes_whatever_the_mode),
		cmocka_unit_test(without_root_what_stands_in_a_shut_directory_is_copied_up),
		cmocka_unit_test(without_root_a_shut_directory_is_renamed_and_removed),
		cmocka_unit_test(without_root_an_unreadable_directory_shows_what_it_did),
		cmocka_unit_test(nobody_reads_what_all_may_read),
		cmocka_unit_test(acls_decide_who_may),
	};
	return SAMPLE_RUN(tests);
}
