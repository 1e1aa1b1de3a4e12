/* GETATTR SETATTR LOOKUP ACCESS READLINK over the wire: their success, and each error of RFC 1813 that can be provoked. */
#include "sample.h"

#include <stdlib.h>
#include <string.h>

static struct fh stale_handle(void)
{
	struct fh fh;
	assert_nfs(client_create(&root, &root.root, "soon gone", GUARDED, 0644, &fh), NFS3_OK);
	assert_nfs(client_remove(&root, &root.root, "soon gone"), NFS3_OK);
	return fh;
}

static struct fh stale_dir(void)
{
	struct fh fh;
	assert_nfs(client_mkdir(&root, &root.root, "dir soon gone", 0755, &fh), NFS3_OK);
	assert_nfs(client_rmdir(&root, &root.root, "dir soon gone"), NFS3_OK);
	return fh;
}

/* ---- GETATTR ---- */
static void getattr_tells_type_size_and_owner(void **state)
{
	(void)state;
	fattr3 a;
	struct fh fh = path(&root, "hello");
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.type, NF3REG);
	assert_int_equal(a.mode, 0644);
	assert_int_equal(a.size, strlen("hello from below"));
	assert_int_equal(a.uid, 0);
	assert_true(a.fileid && a.fsid);
	fh = path(&root, "fifo");
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.type, NF3FIFO);
}

static void handles_that_were_not_made_here_are_bad(void **state)
{
	(void)state;
	struct fh fh = bad_handle();
	assert_nfs(client_getattr(&root, &fh, NULL), NFS3ERR_BADHANDLE);
	fh = root.root;
	fh.len = 31;
	assert_nfs(client_getattr(&root, &fh, NULL), NFS3ERR_BADHANDLE);
	fh.len = 0;
	assert_nfs(client_getattr(&root, &fh, NULL), NFS3ERR_BADHANDLE);
	fh = reader.root; /* another server's */
	assert_nfs(client_getattr(&root, &fh, NULL), NFS3ERR_BADHANDLE);
}

static void what_is_gone_is_stale(void **state)
{
	(void)state;
	struct fh fh = stale_handle(), made;
	uint32_t got;
	bool eof;
	char buf[8];
	sattr3 s = { 0 };
	assert_nfs(client_getattr(&root, &fh, NULL), NFS3ERR_STALE);
	assert_nfs(client_setattr(&root, &fh, &s, NULL, NULL), NFS3ERR_STALE);
	assert_nfs(client_read(&root, &fh, 0, 8, buf, &got, &eof), NFS3ERR_STALE);
	assert_nfs(client_write(&root, &fh, 0, "x", 1, UNSTABLE, NULL), NFS3ERR_STALE);
	assert_nfs(client_commit(&root, &fh, NULL), NFS3ERR_STALE);
	assert_nfs(client_link(&root, &fh, &root.root, "relinked"), NFS3ERR_STALE);
	fh = stale_dir();
	assert_nfs(client_lookup(&root, &fh, "x", &made, NULL), NFS3ERR_STALE);
	assert_nfs(client_create(&root, &fh, "x", UNCHECKED, 0644, &made), NFS3ERR_STALE);
	assert_nfs(client_mkdir(&root, &fh, "x", 0755, &made), NFS3ERR_STALE);
	assert_nfs(client_remove(&root, &fh, "x"), NFS3ERR_STALE);
	assert_nfs(client_rename(&root, &fh, "x", &root.root, "y"), NFS3ERR_STALE);
	assert_int_equal(client_list(&root, &fh, 4096, NULL, NULL), -NFS3ERR_STALE);
	assert_int_equal(client_listplus(&root, &fh, 4096, NULL, NULL), -NFS3ERR_STALE);
}

/* ---- SETATTR ---- */
static void setattr_sets_all_and_answers_with_wcc(void **state)
{
	(void)state;
	struct fh fh;
	fattr3 a, before;
	wcc_data w;
	sattr3 s = { 0 };
	assert_nfs(client_create(&root, &root.root, "set", GUARDED, 0644, &fh), NFS3_OK);
	assert_nfs(client_getattr(&root, &fh, &before), NFS3_OK);
	s.mode = (set_uint32){ .set_it = TRUE, .set_uint32_u.value = 04750 };
	s.uid = (set_uint32){ .set_it = TRUE, .set_uint32_u.value = 7 };
	s.gid = (set_uint32){ .set_it = TRUE, .set_uint32_u.value = 8 };
	s.size = (set_uint64){ .set_it = TRUE, .set_uint64_u.value = 10000 };
	s.mtime = (set_time){ .set_it = SET_TO_CLIENT_TIME, .set_time_u.value = { 1000000000, 123456789 } };
	assert_nfs(client_setattr(&root, &fh, &s, NULL, &w), NFS3_OK);
	assert_true(w.before.attributes_follow && w.after.attributes_follow);
	assert_memory_equal(&w.before.pre_op_attr_u.attributes.ctime, &before.ctime, sizeof before.ctime);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.mode, 04750);
	assert_int_equal(a.uid, 7);
	assert_int_equal(a.gid, 8);
	assert_int_equal(a.size, 10000);
	assert_int_equal(a.mtime.seconds, 1000000000);
	assert_int_equal(a.mtime.nseconds, 123456789);
	assert_memory_equal(&w.after.post_op_attr_u.attributes, &a, sizeof a);
}

static void setattr_compares_the_guard_exactly(void **state)
{
	(void)state;
	struct fh fh;
	fattr3 a;
	sattr3 s = { .mode = { .set_it = TRUE, .set_uint32_u.value = 0600 } };
	assert_nfs(client_create(&root, &root.root, "guarded", GUARDED, 0644, &fh), NFS3_OK);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	nfstime3 wrong = { a.ctime.seconds, a.ctime.nseconds ^ 1 };
	assert_nfs(client_setattr(&root, &fh, &s, &wrong, NULL), NFS3ERR_NOT_SYNC);
	assert_nfs(client_setattr(&root, &fh, &s, &a.ctime, NULL), NFS3_OK);
	assert_nfs(client_setattr(&root, &fh, &s, &a.ctime, NULL), NFS3ERR_NOT_SYNC);
}

static void setattr_is_the_owners(void **state)
{
	(void)state;
	struct fh fh = path(&user, "hello"), mine = path(&user, "mine"), open;
	sattr3 mode = { .mode = { .set_it = TRUE, .set_uint32_u.value = 0666 } };
	sattr3 give = { .uid = { .set_it = TRUE, .set_uint32_u.value = 1001 } };
	sattr3 size = { .size = { .set_it = TRUE } };
	sattr3 now = { .mtime = { .set_it = SET_TO_SERVER_TIME } }, then = { .mtime = { .set_it = SET_TO_CLIENT_TIME } };
	assert_nfs(client_setattr(&user, &fh, &mode, NULL, NULL), NFS3ERR_PERM);
	assert_nfs(client_setattr(&user, &fh, &size, NULL, NULL), NFS3ERR_ACCES);
	assert_nfs(client_setattr(&user, &fh, &then, NULL, NULL), NFS3ERR_PERM);
	assert_nfs(client_setattr(&user, &mine, &give, NULL, NULL), NFS3ERR_PERM);
	assert_nfs(client_setattr(&user, &mine, &mode, NULL, NULL), NFS3_OK);
	assert_nfs(client_create(&root, &root.root, "open file", GUARDED, 0666, &open), NFS3_OK);
	assert_nfs(client_setattr(&user, &open, &now, NULL, NULL), NFS3_OK); /* a writer may touch */
	assert_nfs(client_setattr(&user, &open, &then, NULL, NULL), NFS3ERR_PERM);
}

static void setattr_refuses_what_makes_no_sense(void **state)
{
	(void)state;
	struct fh fh = path(&root, "d"), ro = path(&reader, "hello"), bad = bad_handle();
	sattr3 size = { .size = { .set_it = TRUE } }, huge = { .size = { .set_it = TRUE, .set_uint64_u.value = 1ull << 63 } };
	sattr3 time = { .mtime = { .set_it = SET_TO_CLIENT_TIME, .set_time_u.value = { 1, 1000000000 } } };
	assert_nfs(client_setattr(&root, &fh, &size, NULL, NULL), NFS3ERR_INVAL);
	assert_nfs(client_setattr(&root, &fh, &time, NULL, NULL), NFS3ERR_INVAL);
	fh = path(&root, "deep");
	assert_int_not_equal(client_setattr(&root, &fh, &huge, NULL, NULL), NFS3_OK);
	assert_nfs(client_setattr(&reader, &ro, &size, NULL, NULL), NFS3ERR_ROFS);
	assert_nfs(client_setattr(&root, &bad, &size, NULL, NULL), NFS3ERR_BADHANDLE);
}

/* ---- LOOKUP ---- */
static void lookup_finds_in_all_layers(void **state)
{
	(void)state;
	fattr3 a, b;
	struct fh fh, up;
	char *s = client_content(&root, "hello");
	assert_string_equal(s, "hello from below"); /* the topmost lower's */
	free(s);
	assert_nfs(client_path(&root, "deep", NULL, NULL), NFS3_OK);
	assert_nfs(client_path(&root, "d/a", NULL, NULL), NFS3_OK);
	assert_nfs(client_path(&root, "d/c", NULL, NULL), NFS3_OK);
	fh = path(&root, "d");
	assert_nfs(client_lookup(&root, &fh, ".", &up, &a), NFS3_OK);
	assert_memory_equal(&up, &fh, sizeof fh.len + fh.len);
	assert_nfs(client_lookup(&root, &fh, "..", &up, &a), NFS3_OK);
	assert_nfs(client_lookup(&root, &root.root, "..", &up, &b), NFS3_OK); /* of the root: itself */
	assert_int_equal(a.fileid, b.fileid);
}

static void lookup_refuses(void **state)
{
	(void)state;
	struct fh fh, dir = path(&root, "d"), file = path(&root, "hello"), closed = path(&root, "closed"), bad = bad_handle();
	assert_nfs(client_lookup(&root, &dir, "nothing", &fh, NULL), NFS3ERR_NOENT);
	assert_nfs(client_lookup(&root, &file, "x", &fh, NULL), NFS3ERR_NOTDIR);
	assert_nfs(client_lookup(&root, &dir, long_name, &fh, NULL), NFS3ERR_NAMETOOLONG);
	assert_nfs(client_lookup(&root, &dir, "", &fh, NULL), NFS3ERR_ACCES);
	assert_nfs(client_lookup(&root, &dir, "../hello", &fh, NULL), NFS3ERR_ACCES);
	assert_nfs(client_lookup(&user, &closed, "in", &fh, NULL), NFS3ERR_ACCES);
	assert_nfs(client_lookup(&root, &bad, "x", &fh, NULL), NFS3ERR_BADHANDLE);
}

/* ---- ACCESS ---- */
static void access_answers_each_bit(void **state)
{
	(void)state;
	struct fh fh = path(&root, "private"), d = path(&root, "d"), run = path(&root, "run"), grp = path(&root, "group"), ro = path(&reader, "hello");
	assert_int_equal(client_access(&root, &fh, 63), ACCESS3_READ | ACCESS3_MODIFY | ACCESS3_EXTEND);
	assert_int_equal(client_access(&user, &fh, 63), 0);
	assert_int_equal(client_access(&user, &d, 63), ACCESS3_READ | ACCESS3_LOOKUP);
	assert_int_equal(client_access(&root, &d, 63), ACCESS3_READ | ACCESS3_LOOKUP | ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE);
	assert_int_equal(client_access(&root, &d, ACCESS3_LOOKUP), ACCESS3_LOOKUP); /* no more than was asked */
	assert_int_equal(client_access(&user, &run, 63), ACCESS3_EXECUTE);
	assert_int_equal(client_access(&user, &grp, 63), 0);
	user.ngroups = 1;
	user.groups[0] = 500;
	assert_int_equal(client_access(&user, &grp, 63), ACCESS3_READ);
	user.ngroups = 0;
	assert_int_equal(client_access(&reader, &ro, 63), ACCESS3_READ);
}

/* A diskless client's root may be read-only, with its devices on it: Linux's client opens none for writing that ACCESS does not let it. */
static void devices_and_pipes_of_a_read_only_tree_may_be_written_to(void **state)
{
	(void)state;
	static const char *const names[] = { "null", "disk", "pipe" };
	struct client c;
	stack_sh(&frozen, "cd lower1; mknod null c 1 3; mknod disk b 8 0; mkfifo pipe; chmod 666 null disk pipe; mknod shut c 1 3; chmod 644 shut");
	client_open(&c, &frozen, 1000, 1000);
	for (int i = 0; i < 3; i++) {
		struct fh fh = path(&c, names[i]);
		assert_int_equal(client_access(&c, &fh, 63), ACCESS3_READ | ACCESS3_MODIFY | ACCESS3_EXTEND);
	}
	struct fh shut = path(&c, "shut"), hello = path(&reader, "hello"), d = path(&reader, "d");
	assert_int_equal(client_access(&c, &shut, 63), ACCESS3_READ);
	assert_int_equal(client_access(&reader, &hello, 63), ACCESS3_READ);
	assert_int_equal(client_access(&reader, &d, 63), ACCESS3_READ | ACCESS3_LOOKUP);
	client_close(&c);
}

static void access_reports_bad_handles(void **state)
{
	(void)state;
	struct fh bad = bad_handle();
	ACCESS3args a = { fh3(&bad), 63 };
	ACCESS3res r = { 0 };
	CALL(&root, 4, ACCESS3args, &a, ACCESS3res, &r);
	assert_nfs(r.status, NFS3ERR_BADHANDLE);
}

/* ---- READLINK ---- */
static void readlink_reads_symlinks_alone(void **state)
{
	(void)state;
	char target[4097];
	struct fh fh = path(&root, "link"), file = path(&root, "hello"), bad = bad_handle();
	assert_nfs(client_readlink(&root, &fh, target, sizeof target), NFS3_OK);
	assert_string_equal(target, "hello");
	assert_nfs(client_readlink(&root, &file, target, sizeof target), NFS3ERR_INVAL);
	assert_nfs(client_readlink(&root, &bad, target, sizeof target), NFS3ERR_BADHANDLE);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(getattr_tells_type_size_and_owner),
		cmocka_unit_test(handles_that_were_not_made_here_are_bad),
		cmocka_unit_test(what_is_gone_is_stale),
		cmocka_unit_test(setattr_sets_all_and_answers_with_wcc),
		cmocka_unit_test(setattr_compares_the_guard_exactly),
		cmocka_unit_test(setattr_is_the_owners),
		cmocka_unit_test(setattr_refuses_what_makes_no_sense),
		cmocka_unit_test(lookup_finds_in_all_layers),
		cmocka_unit_test(lookup_refuses),
		cmocka_unit_test(access_answers_each_bit),
		cmocka_unit_test(devices_and_pipes_of_a_read_only_tree_may_be_written_to),
		cmocka_unit_test(access_reports_bad_handles),
		cmocka_unit_test(readlink_reads_symlinks_alone),
	};
	return SAMPLE_RUN(tests);
}
