/* CREATE MKDIR SYMLINK MKNOD REMOVE RMDIR RENAME LINK over the wire: their success, and each error of RFC 1813 that can be provoked. */
#include "sample.h"

#include <string.h>

/* ---- CREATE ---- */
static void create_in_its_three_ways(void **state)
{
	(void)state;
	struct fh fh, again;
	fattr3 a;
	struct fh open = path(&user, "open");
	assert_nfs(client_create(&user, &open, "new", GUARDED, 0640, &fh), NFS3_OK);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.mode, 0640);
	assert_int_equal(a.uid, 1000);
	assert_int_equal(a.gid, 1000);
	assert_nfs(client_create(&user, &open, "new", GUARDED, 0640, &again), NFS3ERR_EXIST);
	assert_nfs(client_create(&user, &open, "new", UNCHECKED, 0600, &again), NFS3_OK);
	assert_memory_equal(&again, &fh, sizeof fh.len + fh.len);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.mode, 0640); /* of one that is there, only the size is set */
	assert_nfs(client_create(&user, &open, "once", EXCLUSIVE, 77, &fh), NFS3_OK);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.uid, 1000);
	assert_int_equal(a.gid, 1000);
	assert_nfs(client_create(&user, &open, "once", EXCLUSIVE, 77, &again), NFS3_OK);
	assert_memory_equal(&again, &fh, sizeof fh.len + fh.len);
	assert_nfs(client_create(&user, &open, "once", EXCLUSIVE, 78, &again), NFS3ERR_EXIST);
}

static void exclusive_create_survives_a_restart(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	struct fh fh, again;
	stack_make(&s, NULL, NULL);
	server_start(&s, "--no-root-squash");
	client_open(&c, &s, 0, 0);
	assert_nfs(client_create(&c, &c.root, "x", EXCLUSIVE, 0x12345678, &fh), NFS3_OK);
	client_close(&c);
	server_kill(&s);
	server_start(&s, "--no-root-squash");
	client_open(&c, &s, 0, 0);
	assert_nfs(client_create(&c, &c.root, "x", EXCLUSIVE, 0x12345678, &again), NFS3_OK);
	assert_memory_equal(&again, &fh, sizeof fh.len + fh.len);
	assert_nfs(client_create(&c, &c.root, "x", EXCLUSIVE, 0x12345679, &again), NFS3ERR_EXIST);
	client_close(&c);
	stack_remove(&s);
}

/* What the four that make a name refuse alike. */
typedef nfsstat3 maker(struct client *c, const struct fh *dir, const char *name, struct fh *fh);
static nfsstat3 make_file(struct client *c, const struct fh *dir, const char *name, struct fh *fh)
{
	return client_create(c, dir, name, GUARDED, 0644, fh);
}
static nfsstat3 make_dir(struct client *c, const struct fh *dir, const char *name, struct fh *fh)
{
	return client_mkdir(c, dir, name, 0755, fh);
}
static nfsstat3 make_link(struct client *c, const struct fh *dir, const char *name, struct fh *fh)
{
	return client_symlink(c, dir, name, "target", fh);
}
static nfsstat3 make_fifo(struct client *c, const struct fh *dir, const char *name, struct fh *fh)
{
	return client_mknod(c, dir, name, NF3FIFO, 0, 0, fh);
}

static void making_a_name_refuses(void **state)
{
	(void)state;
	maker *const makers[] = { make_file, make_dir, make_link, make_fifo };
	struct fh fh, d = path(&root, "d"), file = path(&root, "hello"), ro = path(&reader, "d"), bad = bad_handle();
	for (size_t i = 0; i < 4; i++) {
		assert_nfs(makers[i](&root, &d, "a", &fh), NFS3ERR_EXIST);
		assert_nfs(makers[i](&root, &d, ".", &fh), NFS3ERR_EXIST);
		assert_nfs(makers[i](&root, &d, "..", &fh), NFS3ERR_EXIST);
		assert_nfs(makers[i](&root, &d, "", &fh), NFS3ERR_ACCES);
		assert_nfs(makers[i](&root, &d, "x/y", &fh), NFS3ERR_ACCES);
		assert_nfs(makers[i](&root, &d, long_name, &fh), NFS3ERR_NAMETOOLONG);
		assert_nfs(makers[i](&root, &file, "x", &fh), NFS3ERR_NOTDIR);
		assert_nfs(makers[i](&user, &d, "x", &fh), NFS3ERR_ACCES);
		assert_nfs(makers[i](&reader, &ro, "x", &fh), NFS3ERR_ROFS);
		assert_nfs(makers[i](&root, &bad, "x", &fh), NFS3ERR_BADHANDLE);
	}
}

/* ---- MKDIR SYMLINK MKNOD ---- */
static void mkdir_symlink_and_mknod_make_what_they_say(void **state)
{
	(void)state;
	struct fh fh, open = path(&root, "open");
	fattr3 a;
	char target[4097], far[4001];
	assert_nfs(client_mkdir(&user, &open, "dir", 0751, &fh), NFS3_OK);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.type, NF3DIR);
	assert_int_equal(a.mode, 0751);
	assert_int_equal(a.uid, 1000);
	memset(far, 'f', 4000);
	far[4000] = 0;
	assert_nfs(client_symlink(&user, &open, "symlink", far, &fh), NFS3_OK);
	assert_nfs(client_readlink(&user, &fh, target, sizeof target), NFS3_OK);
	assert_string_equal(target, far);
	assert_nfs(client_mknod(&user, &open, "a fifo", NF3FIFO, 0, 0, &fh), NFS3_OK);
	assert_nfs(client_mknod(&user, &open, "a socket", NF3SOCK, 0, 0, &fh), NFS3_OK);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.type, NF3SOCK);
	assert_nfs(client_mknod(&root, &open, "zero", NF3CHR, 1, 5, &fh), NFS3_OK);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.type, NF3CHR);
	assert_int_equal(a.rdev.specdata1, 1);
	assert_int_equal(a.rdev.specdata2, 5);
}

static void mknod_makes_no_whiteout_and_no_nonsense(void **state)
{
	(void)state;
	struct fh fh, open = path(&root, "open");
	assert_int_not_equal(client_mknod(&root, &open, "whiteout", NF3CHR, 0, 0, &fh), NFS3_OK);
	assert_nfs(client_lookup(&root, &open, "whiteout", &fh, NULL), NFS3ERR_NOENT);
	assert_nfs(client_mknod(&root, &open, "regular", NF3REG, 0, 0, &fh), NFS3ERR_BADTYPE);
	assert_nfs(client_mknod(&root, &open, "directory", NF3DIR, 0, 0, &fh), NFS3ERR_BADTYPE);
	assert_int_not_equal(client_mknod(&user, &open, "device", NF3BLK, 8, 0, &fh), NFS3_OK);
}

/* ---- REMOVE RMDIR ---- */
static void remove_and_rmdir_hide_what_is_below(void **state)
{
	(void)state;
	struct fh d = path(&root, "d"), fh;
	assert_nfs(client_rmdir(&root, &root.root, "d"), NFS3ERR_NOTEMPTY);
	assert_nfs(client_remove(&root, &root.root, "d"), NFS3ERR_ISDIR);
	assert_nfs(client_rmdir(&root, &d, "a"), NFS3ERR_NOTDIR);
	assert_nfs(client_remove(&root, &d, "b"), NFS3_OK);
	assert_nfs(client_lookup(&root, &d, "b", &fh, NULL), NFS3ERR_NOENT);
	assert_nfs(client_remove(&root, &d, "b"), NFS3ERR_NOENT);
	stack_sh(&stack, "test -c upper/d/b; test -f lower1/d/b");
	assert_nfs(client_create(&root, &d, "b", GUARDED, 0600, &fh), NFS3_OK); /* over the whiteout */
	assert_nfs(client_remove(&root, &d, "b"), NFS3_OK);
	assert_nfs(client_create(&root, &d, "passing", GUARDED, 0600, &fh), NFS3_OK);
	assert_nfs(client_remove(&root, &d, "passing"), NFS3_OK);
	stack_sh(&stack, "test ! -e upper/d/passing"); /* no whiteout where nothing is below */
}

static void remove_and_rmdir_refuse(void **state)
{
	(void)state;
	struct fh d = path(&root, "d"), file = path(&root, "hello"), sticky = path(&root, "sticky"), bad = bad_handle();
	struct fh ro = path(&reader, "d");
	assert_nfs(client_remove(&root, &d, "nothing"), NFS3ERR_NOENT);
	assert_nfs(client_rmdir(&root, &d, "nothing"), NFS3ERR_NOENT);
	assert_nfs(client_remove(&root, &file, "x"), NFS3ERR_NOTDIR);
	assert_nfs(client_rmdir(&root, &file, "x"), NFS3ERR_NOTDIR);
	assert_nfs(client_remove(&root, &d, long_name), NFS3ERR_NAMETOOLONG);
	assert_nfs(client_rmdir(&root, &d, long_name), NFS3ERR_NAMETOOLONG);
	assert_nfs(client_remove(&root, &d, "."), NFS3ERR_INVAL);
	assert_nfs(client_rmdir(&root, &d, "."), NFS3ERR_INVAL);
	assert_nfs(client_rmdir(&root, &d, ".."), NFS3ERR_EXIST);
	assert_nfs(client_remove(&user, &d, "a"), NFS3ERR_ACCES);
	assert_nfs(client_remove(&user, &sticky, "roots"), NFS3ERR_PERM);
	assert_nfs(client_remove(&reader, &ro, "a"), NFS3ERR_ROFS);
	assert_nfs(client_rmdir(&reader, &reader.root, "closed"), NFS3ERR_ROFS);
	assert_nfs(client_remove(&root, &bad, "x"), NFS3ERR_BADHANDLE);
	assert_nfs(client_rmdir(&root, &bad, "x"), NFS3ERR_BADHANDLE);
}

/* ---- RENAME ---- */
static void rename_moves_files_and_directories_of_any_layer(void **state)
{
	(void)state;
	struct fh open = path(&root, "open"), before, after, fh;
	stack_sh(&stack, "mkdir -p lower1/moving/sub lower2/moving; echo 1 >lower1/moving/sub/one; echo 2 >lower2/moving/two");
	before = path(&root, "moving/sub");
	assert_nfs(client_rename(&root, &root.root, "moving", &open, "moved"), NFS3_OK);
	after = path(&root, "open/moved/sub");
	assert_memory_equal(&after, &before, sizeof after.len + after.len);
	assert_nfs(client_path(&root, "open/moved/two", NULL, NULL), NFS3_OK);
	assert_nfs(client_lookup(&root, &root.root, "moving", &fh, NULL), NFS3ERR_NOENT);
	before = path(&root, "deep");
	assert_nfs(client_create(&root, &open, "victim", GUARDED, 0600, &fh), NFS3_OK);
	assert_nfs(client_rename(&root, &root.root, "deep", &open, "victim"), NFS3_OK);
	after = path(&root, "open/victim");
	assert_memory_equal(&after, &before, sizeof after.len + after.len);
	assert_nfs(client_getattr(&root, &fh, NULL), NFS3ERR_STALE); /* the one that was there */
	assert_nfs(client_rename(&root, &open, "victim", &root.root, "deep"), NFS3_OK);
}

static void rename_onto_itself_changes_nothing(void **state)
{
	(void)state;
	struct fh open = path(&root, "open"), fh;
	assert_nfs(client_create(&root, &open, "one name", GUARDED, 0600, &fh), NFS3_OK);
	assert_nfs(client_link(&root, &fh, &open, "other name"), NFS3_OK);
	assert_nfs(client_rename(&root, &open, "one name", &open, "one name"), NFS3_OK);
	assert_nfs(client_rename(&root, &open, "one name", &open, "other name"), NFS3_OK);
	assert_nfs(client_path(&root, "open/one name", NULL, NULL), NFS3_OK); /* POSIX: both stay */
	assert_nfs(client_path(&root, "open/other name", NULL, NULL), NFS3_OK);
}

static void rename_refuses(void **state)
{
	(void)state;
	struct fh d = path(&root, "d"), file = path(&root, "hello"), open = path(&root, "open"), sub, fh, bad = bad_handle(), sticky = path(&root, "sticky");
	assert_nfs(client_mkdir(&root, &open, "empty", 0755, &fh), NFS3_OK);
	assert_nfs(client_mkdir(&root, &fh, "sub", 0755, &sub), NFS3_OK);
	assert_nfs(client_rename(&root, &d, "nothing", &d, "x"), NFS3ERR_NOENT);
	assert_nfs(client_rename(&root, &file, "x", &d, "x"), NFS3ERR_NOTDIR);
	assert_nfs(client_rename(&root, &d, "a", &file, "x"), NFS3ERR_NOTDIR);
	assert_nfs(client_rename(&root, &root.root, "open", &d, "a"), NFS3ERR_NOTDIR);
	assert_nfs(client_rename(&root, &d, "a", &root.root, "open"), NFS3ERR_ISDIR);
	assert_nfs(client_rename(&root, &open, "empty", &root.root, "d"), NFS3ERR_NOTEMPTY);
	assert_nfs(client_rename(&root, &open, "empty", &sub, "x"), NFS3ERR_INVAL);
	assert_nfs(client_rename(&root, &d, "a", &d, "."), NFS3ERR_INVAL);
	assert_nfs(client_rename(&root, &d, "..", &d, "x"), NFS3ERR_INVAL);
	assert_nfs(client_rename(&root, &d, "a", &d, long_name), NFS3ERR_NAMETOOLONG);
	assert_nfs(client_rename(&root, &d, "a", &d, ""), NFS3ERR_ACCES);
	assert_nfs(client_rename(&user, &d, "a", &d, "x"), NFS3ERR_ACCES);
	assert_nfs(client_rename(&user, &sticky, "roots", &sticky, "x"), NFS3ERR_PERM);
	assert_nfs(client_rename(&reader, &reader.root, "hello", &reader.root, "x"), NFS3ERR_ROFS);
	assert_nfs(client_rename(&root, &bad, "a", &d, "x"), NFS3ERR_BADHANDLE);
	assert_nfs(client_rename(&root, &d, "a", &bad, "x"), NFS3ERR_BADHANDLE);
}

/* ---- LINK ---- */
static void link_gives_one_object_another_name(void **state)
{
	(void)state;
	struct fh open = path(&root, "open"), fh = path(&root, "d/c"), other;
	fattr3 a;
	assert_nfs(client_link(&root, &fh, &open, "c too"), NFS3_OK); /* of a lower file: copied up */
	assert_nfs(client_lookup(&root, &open, "c too", &other, &a), NFS3_OK);
	assert_memory_equal(&other, &fh, sizeof fh.len + fh.len);
	assert_int_equal(a.nlink, 2);
	struct fh d = path(&root, "d");
	assert_nfs(client_remove(&root, &d, "c"), NFS3_OK);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK); /* by its other name */
	assert_int_equal(a.nlink, 1);
}

static void link_refuses(void **state)
{
	(void)state;
	struct fh d = path(&root, "d"), file = path(&root, "hello"), bad = bad_handle(), ro = path(&reader, "hello");
	assert_nfs(client_link(&root, &file, &d, "a"), NFS3ERR_EXIST);
	assert_nfs(client_link(&root, &file, &file, "x"), NFS3ERR_NOTDIR);
	assert_nfs(client_link(&root, &d, &root.root, "x"), NFS3ERR_INVAL);
	assert_nfs(client_link(&root, &file, &d, long_name), NFS3ERR_NAMETOOLONG);
	assert_nfs(client_link(&root, &file, &d, ""), NFS3ERR_ACCES);
	assert_nfs(client_link(&user, &file, &d, "x"), NFS3ERR_ACCES);
	assert_nfs(client_link(&reader, &ro, &reader.root, "x"), NFS3ERR_ROFS);
	assert_nfs(client_link(&root, &bad, &d, "x"), NFS3ERR_BADHANDLE);
	assert_nfs(client_link(&root, &file, &bad, "x"), NFS3ERR_BADHANDLE);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(create_in_its_three_ways),
		cmocka_unit_test(exclusive_create_survives_a_restart),
		cmocka_unit_test(making_a_name_refuses),
		cmocka_unit_test(mkdir_symlink_and_mknod_make_what_they_say),
		cmocka_unit_test(mknod_makes_no_whiteout_and_no_nonsense),
		cmocka_unit_test(remove_and_rmdir_hide_what_is_below),
		cmocka_unit_test(remove_and_rmdir_refuse),
		cmocka_unit_test(rename_moves_files_and_directories_of_any_layer),
		cmocka_unit_test(rename_onto_itself_changes_nothing),
		cmocka_unit_test(rename_refuses),
		cmocka_unit_test(link_gives_one_object_another_name),
		cmocka_unit_test(link_refuses),
	};
	return SAMPLE_RUN(tests);
}
