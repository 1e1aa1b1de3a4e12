/* Each procedure of NFS version 3 and MOUNT version 3 over the wire: its success, and each error of RFC 1813 that can be provoked. */
#include "client.h"
#include "mount3.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char tree[] = "cd lower1; printf 'hello from below' >hello; ln -s hello link; mkfifo fifo; mkdir d closed sticky open;"
			   "echo a >d/a; echo b >d/b; echo secret >private; chmod 600 private; echo mine >mine; chown 1000:1000 mine; chmod 400 mine;"
			   "chmod 700 closed; echo in >closed/in; chmod 1777 sticky; chmod 777 open; touch sticky/roots; printf '#!/bin/sh\\n' >run; chmod 711 run;"
			   "echo group >group; chown 0:500 group; chmod 640 group; cd ../lower2; mkdir d; echo c >d/c; echo deep >deep; echo hidden >hello";

static struct stack stack, frozen; /* writable, without squashing; and one without an upper */
static struct client root, user, reader;

static int setup(void **state)
{
	(void)state;
	stack_make(&stack, NULL, tree);
	server_start(&stack, "--no-root-squash");
	stack_make(&frozen, NULL, tree);
	server_start_with(&frozen, "--lower %s/lower1 --lower %s/lower2", "--no-root-squash");
	client_open(&root, &stack, 0, 0);
	client_open(&user, &stack, 1000, 1000);
	client_open(&reader, &frozen, 0, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	client_close(&root);
	client_close(&user);
	client_close(&reader);
	stack_remove(&stack);
	stack_remove(&frozen);
	return 0;
}

static struct fh path(struct client *c, const char *name)
{
	struct fh fh;
	assert_nfs(client_path(c, name, &fh, NULL), NFS3_OK);
	return fh;
}

static char long_name[300];
static struct fh bad_handle(void)
{
	struct fh fh = root.root;
	fh.data[9] ^= 1;
	return fh;
}

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

/* ---- READ ---- */
static void read_knows_the_end(void **state)
{
	(void)state;
	struct fh fh = path(&root, "hello");
	char buf[100];
	uint32_t got;
	bool eof;
	assert_nfs(client_read(&root, &fh, 0, 5, buf, &got, &eof), NFS3_OK);
	assert_int_equal(got, 5);
	assert_false(eof);
	assert_memory_equal(buf, "hello", 5);
	assert_nfs(client_read(&root, &fh, 6, 10, buf, &got, &eof), NFS3_OK);
	assert_int_equal(got, 10);
	assert_true(eof); /* with the last byte */
	assert_nfs(client_read(&root, &fh, 6, 100, buf, &got, &eof), NFS3_OK);
	assert_int_equal(got, 10);
	assert_true(eof);
	assert_nfs(client_read(&root, &fh, 1000, 10, buf, &got, &eof), NFS3_OK);
	assert_int_equal(got, 0);
	assert_true(eof);
	assert_nfs(client_read(&root, &fh, 0, 0, buf, &got, &eof), NFS3_OK);
	assert_int_equal(got, 0);
	assert_false(eof);
}

static void read_refuses(void **state)
{
	(void)state;
	struct fh dir = path(&root, "d"), fifo = path(&root, "fifo"), private = path(&root, "private"), bad = bad_handle(), run = path(&user, "run");
	char buf[100];
	uint32_t got;
	bool eof;
	assert_nfs(client_read(&root, &dir, 0, 10, buf, &got, &eof), NFS3ERR_INVAL);
	assert_nfs(client_read(&root, &fifo, 0, 10, buf, &got, &eof), NFS3ERR_INVAL);
	assert_nfs(client_read(&user, &private, 0, 10, buf, &got, &eof), NFS3ERR_ACCES);
	assert_nfs(client_read(&root, &bad, 0, 10, buf, &got, &eof), NFS3ERR_BADHANDLE);
	assert_nfs(client_read(&user, &run, 0, 10, buf, &got, &eof), NFS3_OK); /* whoever may execute may read */
}

/* ---- WRITE, COMMIT ---- */
static void write_extends_and_keeps_its_verifier(void **state)
{
	(void)state;
	struct fh fh = path(&root, "hello"), same;
	uint64_t v1, v2, v3;
	fattr3 a, b;
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_nfs(client_write(&root, &fh, 16, " and above", 10, UNSTABLE, &v1), NFS3_OK);
	assert_nfs(client_write(&root, &fh, 26, "!", 1, FILE_SYNC, &v2), NFS3_OK);
	assert_nfs(client_commit(&root, &fh, &v3), NFS3_OK);
	assert_true(v1 == v2 && v2 == v3);
	assert_nfs(client_write(&root, &fh, 0, "", 0, DATA_SYNC, NULL), NFS3_OK);
	char *s = client_content(&root, "hello");
	assert_string_equal(s, "hello from below and above!");
	free(s);
	same = path(&root, "hello");
	assert_memory_equal(&same, &fh, sizeof fh.len + fh.len); /* copied up: the same handle, the same file id */
	assert_nfs(client_getattr(&root, &fh, &b), NFS3_OK);
	assert_int_equal(a.fileid, b.fileid);
	stack_sh(&stack, "test \"$(cat lower1/hello)\" = 'hello from below'; test \"$(cat upper/hello)\" = 'hello from below and above!'");
}

static void an_owner_writes_whatever_the_mode(void **state)
{
	(void)state;
	struct fh fh;
	uint32_t got;
	bool eof;
	char buf[8];
	struct fh open = path(&user, "open");
	assert_nfs(client_create(&user, &open, "owned", GUARDED, 0, &fh), NFS3_OK);
	assert_nfs(client_write(&user, &fh, 0, "x", 1, UNSTABLE, NULL), NFS3_OK);
	assert_nfs(client_read(&user, &fh, 0, 1, buf, &got, &eof), NFS3_OK);
}

static void write_refuses(void **state)
{
	(void)state;
	struct fh dir = path(&root, "d"), file = path(&root, "deep"), ro = path(&reader, "hello"), bad = bad_handle();
	WRITE3args a = { .file = fh3(&file), .count = 5, .data = { 3, "abc" } };
	WRITE3res r = { 0 };
	assert_nfs(client_write(&root, &dir, 0, "x", 1, UNSTABLE, NULL), NFS3ERR_INVAL);
	assert_nfs(client_write(&user, &file, 0, "x", 1, UNSTABLE, NULL), NFS3ERR_ACCES);
	assert_nfs(client_write(&root, &file, ~0ull - 10, "x", 1, UNSTABLE, NULL), NFS3ERR_FBIG);
	assert_nfs(client_write(&reader, &ro, 0, "x", 1, UNSTABLE, NULL), NFS3ERR_ROFS);
	assert_nfs(client_write(&root, &bad, 0, "x", 1, UNSTABLE, NULL), NFS3ERR_BADHANDLE);
	assert_nfs(client_commit(&root, &bad, NULL), NFS3ERR_BADHANDLE);
	assert_nfs(client_commit(&root, &dir, NULL), NFS3ERR_INVAL);
	CALL(&root, 7, WRITE3args, &a, WRITE3res, &r); /* count is not the length of the data */
	assert_nfs(r.status, NFS3ERR_INVAL);
	assert_true(r.WRITE3res_u.file_wcc.after.attributes_follow);
}

static void write_takes_set_id_bits_away(void **state)
{
	(void)state;
	struct fh fh;
	fattr3 a;
	assert_nfs(client_create(&root, &root.root, "setid", GUARDED, 06777, &fh), NFS3_OK);
	assert_nfs(client_write(&user, &fh, 0, "x", 1, UNSTABLE, NULL), NFS3_OK);
	assert_nfs(client_getattr(&root, &fh, &a), NFS3_OK);
	assert_int_equal(a.mode, 0777);
}

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

/* ---- READDIR READDIRPLUS ---- */
struct seen {
	int n, dots;
	uint64_t fileid[2100];
	char name[2100][16];
};

static void see(void *arg, const char *name, uint64_t fileid)
{
	struct seen *s = arg;
	assert_true(s->n < 2100);
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		s->dots++;
	snprintf(s->name[s->n], sizeof s->name[0], "%s", name);
	s->fileid[s->n++] = fileid;
}

static void see_plus(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh)
{
	fattr3 a;
	struct fh h = { .len = fh ? fh->data.data_len : 0 };
	assert_non_null(attr);
	assert_non_null(fh);
	memcpy(h.data, fh->data.data_val, h.len);
	assert_nfs(client_getattr(&root, &h, &a), NFS3_OK);
	assert_int_equal(a.fileid, fileid);
	assert_int_equal(attr->fileid, fileid);
	assert_int_equal(attr->type, a.type);
	see(arg, name, fileid);
}

static void listings_are_complete_at_any_count(void **state)
{
	(void)state;
	static struct seen s;
	static const uint32_t counts[] = { 512, 1024, 4096, 65536, 1 << 20 };
	stack_sh(&stack, "mkdir lower1/big lower2/big; cd lower1/big; seq -f 'n%.0f' 1000 | xargs touch; cd ../../lower2/big; seq -f 'n%.0f' 500 1500 | xargs touch");
	struct fh big = path(&root, "big"), fh;
	assert_nfs(client_remove(&root, &big, "n700"), NFS3_OK);
	assert_nfs(client_create(&root, &big, "above", GUARDED, 0600, &fh), NFS3_OK);
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		memset(&s, 0, sizeof s);
		assert_int_equal(client_list(&root, &big, counts[i], see, &s), 1502);
		assert_int_equal(s.dots, 2);
		for (int j = 0; j < s.n; j += 97) { /* the file id is GETATTR's */
			fattr3 a;
			assert_nfs(client_lookup(&root, &big, s.name[j], &fh, &a), NFS3_OK);
			assert_int_equal(a.fileid, s.fileid[j]);
		}
		memset(&s, 0, sizeof s);
		assert_int_equal(client_listplus(&root, &big, counts[i], see_plus, &s), 1502);
		assert_int_equal(s.dots, 2);
	}
}

static void listings_refuse(void **state)
{
	(void)state;
	struct fh file = path(&root, "hello"), closed = path(&root, "closed"), bad = bad_handle();
	assert_int_equal(client_list(&root, &file, 4096, NULL, NULL), -NFS3ERR_NOTDIR);
	assert_int_equal(client_listplus(&root, &file, 4096, NULL, NULL), -NFS3ERR_NOTDIR);
	assert_int_equal(client_list(&user, &closed, 4096, NULL, NULL), -NFS3ERR_ACCES);
	assert_int_equal(client_list(&root, &root.root, 10, NULL, NULL), -NFS3ERR_TOOSMALL);
	assert_int_equal(client_list(&root, &root.root, 110, NULL, NULL), -NFS3ERR_TOOSMALL);
	assert_int_equal(client_listplus(&root, &root.root, 110, NULL, NULL), -NFS3ERR_TOOSMALL);
	assert_int_equal(client_list(&root, &bad, 4096, NULL, NULL), -NFS3ERR_BADHANDLE);
	assert_int_equal(client_listplus(&root, &bad, 4096, NULL, NULL), -NFS3ERR_BADHANDLE);
}

static void a_listing_is_steady_while_entries_come_and_go(void **state)
{
	(void)state;
	struct fh dir, fh;
	char name[32];
	int seen[200] = { 0 };
	assert_nfs(client_mkdir(&root, &root.root, "steady", 0755, &dir), NFS3_OK);
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof name, "stays%d", i);
		assert_nfs(client_create(&root, &dir, name, GUARDED, 0600, &fh), NFS3_OK);
	}
	READDIR3args a = { .dir = fh3(&dir), .count = 300 };
	bool eof = false;
	for (int round = 0; !eof; round++) {
		READDIR3res r = { 0 };
		CALL(&root, 16, READDIR3args, &a, READDIR3res, &r);
		assert_nfs(r.status, NFS3_OK);
		for (entry3 *e = r.READDIR3res_u.resok.reply.entries; e; e = e->nextentry) {
			int i;
			if (sscanf(e->name, "stays%d", &i) == 1)
				seen[i]++;
			a.cookie = e->cookie;
		}
		eof = r.READDIR3res_u.resok.reply.eof;
		xdr_free((xdrproc_t)xdr_READDIR3res, (char *)&r);
		snprintf(name, sizeof name, "comes%d", round);
		assert_nfs(client_create(&root, &dir, name, GUARDED, 0600, &fh), NFS3_OK);
		if (round % 2)
			assert_nfs(client_remove(&root, &dir, name), NFS3_OK);
	}
	for (int i = 0; i < 200; i++)
		assert_int_equal(seen[i], 1);
}

/* ---- FSSTAT FSINFO PATHCONF ---- */
static void the_file_system_describes_itself(void **state)
{
	(void)state;
	struct fh bad = bad_handle();
	GETATTR3args a = { fh3(&root.root) }, b = { fh3(&bad) };
	FSSTAT3res st = { 0 };
	FSINFO3res info = { 0 };
	PATHCONF3res conf = { 0 };
	CALL(&root, 18, GETATTR3args, &a, FSSTAT3res, &st);
	assert_nfs(st.status, NFS3_OK);
	assert_true(st.FSSTAT3res_u.resok.tbytes >= st.FSSTAT3res_u.resok.fbytes && st.FSSTAT3res_u.resok.fbytes >= st.FSSTAT3res_u.resok.abytes);
	CALL(&root, 19, GETATTR3args, &a, FSINFO3res, &info);
	assert_nfs(info.status, NFS3_OK);
	assert_int_equal(info.FSINFO3res_u.resok.rtmax, 1 << 20);
	assert_int_equal(info.FSINFO3res_u.resok.wtmax, 1 << 20);
	assert_int_equal(info.FSINFO3res_u.resok.properties, FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME);
	CALL(&root, 20, GETATTR3args, &a, PATHCONF3res, &conf);
	assert_nfs(conf.status, NFS3_OK);
	assert_int_equal(conf.PATHCONF3res_u.resok.name_max, 255);
	assert_true(conf.PATHCONF3res_u.resok.no_trunc && conf.PATHCONF3res_u.resok.chown_restricted && conf.PATHCONF3res_u.resok.case_preserving);
	assert_false(conf.PATHCONF3res_u.resok.case_insensitive);
	CALL(&root, 18, GETATTR3args, &b, FSSTAT3res, &st);
	CALL(&root, 19, GETATTR3args, &b, FSINFO3res, &info);
	CALL(&root, 20, GETATTR3args, &b, PATHCONF3res, &conf);
	assert_nfs(st.status, NFS3ERR_BADHANDLE);
	assert_nfs(info.status, NFS3ERR_BADHANDLE);
	assert_nfs(conf.status, NFS3ERR_BADHANDLE);
}

/* ---- MOUNT ---- */
static mountstat3 mount_path(struct client *c, char *dir, struct fh *fh)
{
	dirpath p = dir;
	mountres3 r = { 0 };
	assert_int_equal(client_call(c, 100005, 3, 1, (xdrproc_t)xdr_dirpath, &p, (xdrproc_t)xdr_mountres3, &r), 0);
	mountstat3 st = r.fhs_status;
	if (!st) {
		fh->len = r.mountres3_u.mountinfo.fhandle.fhandle3_len;
		memcpy(fh->data, r.mountres3_u.mountinfo.fhandle.fhandle3_val, fh->len);
		assert_true(r.mountres3_u.mountinfo.auth_flavors.auth_flavors_len > 0);
	}
	xdr_free((xdrproc_t)xdr_mountres3, (char *)&r);
	return st;
}

static void mount_gives_the_root_and_what_is_below(void **state)
{
	(void)state;
	struct fh fh, d = path(&root, "d");
	assert_int_equal(mount_path(&root, "/overlay", &fh), MNT3_OK);
	assert_memory_equal(&fh, &root.root, sizeof fh.len + fh.len);
	assert_int_equal(mount_path(&root, "/overlay/d", &fh), MNT3_OK);
	assert_memory_equal(&fh, &d, sizeof fh.len + fh.len);
	assert_int_equal(mount_path(&root, "/overlay/d/", &fh), MNT3_OK);
	assert_int_equal(mount_path(&root, "/overlay/nothing", &fh), MNT3ERR_NOENT);
	assert_int_equal(mount_path(&root, "/overlay/hello", &fh), MNT3ERR_NOTDIR);
	assert_int_equal(mount_path(&root, "/elsewhere", &fh), MNT3ERR_NOENT);
	assert_int_equal(mount_path(&root, "/overlay/../..", &fh), MNT3_OK); /* ".." of the root is the root */
	assert_memory_equal(&fh, &root.root, sizeof fh.len + fh.len);
}

static int count_mounts(struct client *c)
{
	mountlist list = NULL;
	int n = 0;
	assert_int_equal(client_call(c, 100005, 3, 2, NULL, NULL, (xdrproc_t)xdr_mountlist, &list), 0);
	for (mountlist m = list; m; m = m->ml_next)
		n++;
	xdr_free((xdrproc_t)xdr_mountlist, (char *)&list);
	return n;
}

static void mount_keeps_its_list_for_humans(void **state)
{
	(void)state;
	struct fh fh;
	dirpath d = "/overlay/d";
	exports list = NULL;
	assert_int_equal(mount_path(&root, "/overlay", &fh), MNT3_OK);
	assert_int_equal(mount_path(&root, "/overlay/d", &fh), MNT3_OK);
	int before = count_mounts(&root);
	assert_true(before >= 2);
	assert_int_equal(client_call(&root, 100005, 3, 3, (xdrproc_t)xdr_dirpath, &d, NULL, NULL), 0);
	assert_int_equal(count_mounts(&root), before - 1);
	assert_int_equal(client_call(&root, 100005, 3, 4, NULL, NULL, NULL, NULL), 0);
	assert_int_equal(count_mounts(&root), 0);
	for (uint32_t vers = 1; vers <= 3; vers += 2) { /* showmount asks version 3, then 1 */
		assert_int_equal(client_call(&root, 100005, vers, 5, NULL, NULL, (xdrproc_t)xdr_exports, &list), 0);
		assert_string_equal(list->ex_dir, "/overlay");
		assert_non_null(list->ex_groups);
		assert_null(list->ex_next);
		xdr_free((xdrproc_t)xdr_exports, (char *)&list);
		list = NULL;
	}
}

/* ---- callers ---- */
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

static void the_reserved_directory_is_neither_seen_nor_named(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	struct fh fh;
	static struct seen seen;
	stack_make(&s, NULL, tree);
	server_start_with(&s, "--lower %s/lower1 --upper %s/upper", "--no-root-squash");
	client_open(&c, &s, 0, 0);
	memset(&seen, 0, sizeof seen);
	assert_true(client_list(&c, &c.root, 4096, see, &seen) > 5);
	for (int i = 0; i < seen.n; i++)
		assert_string_not_equal(seen.name[i], ".overnfsd");
	stack_sh(&s, "test -d upper/.overnfsd");
	assert_nfs(client_lookup(&c, &c.root, ".overnfsd", &fh, NULL), NFS3ERR_NOENT);
	assert_nfs(client_mkdir(&c, &c.root, ".overnfsd", 0755, &fh), NFS3ERR_ACCES);
	assert_int_not_equal(client_rename(&c, &c.root, "hello", &c.root, ".overnfsd"), NFS3_OK);
	assert_int_not_equal(client_rmdir(&c, &c.root, ".overnfsd"), NFS3_OK);
	client_close(&c);
	stack_remove(&s);
}

int main(void)
{
	if (geteuid()) {
		puts("skipped: making files of several owners needs root");
		return 0;
	}
	umask(022);
	memset(long_name, 'n', sizeof long_name - 1);
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
		cmocka_unit_test(access_reports_bad_handles),
		cmocka_unit_test(readlink_reads_symlinks_alone),
		cmocka_unit_test(read_knows_the_end),
		cmocka_unit_test(read_refuses),
		cmocka_unit_test(write_extends_and_keeps_its_verifier),
		cmocka_unit_test(an_owner_writes_whatever_the_mode),
		cmocka_unit_test(write_refuses),
		cmocka_unit_test(write_takes_set_id_bits_away),
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
		cmocka_unit_test(listings_are_complete_at_any_count),
		cmocka_unit_test(listings_refuse),
		cmocka_unit_test(a_listing_is_steady_while_entries_come_and_go),
		cmocka_unit_test(the_file_system_describes_itself),
		cmocka_unit_test(mount_gives_the_root_and_what_is_below),
		cmocka_unit_test(mount_keeps_its_list_for_humans),
		cmocka_unit_test(root_is_squashed_by_default),
		cmocka_unit_test(root_of_some_clients_alone_acts_as_root),
		cmocka_unit_test(nobody_reads_what_all_may_read),
		cmocka_unit_test(acls_decide_who_may),
		cmocka_unit_test(the_reserved_directory_is_neither_seen_nor_named),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
