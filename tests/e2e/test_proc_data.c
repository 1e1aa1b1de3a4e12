/* READ WRITE COMMIT over the wire: their success, and each error of RFC 1813 that can be provoked. */
#include "sample.h"

#include <stdlib.h>

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

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(read_knows_the_end),
		cmocka_unit_test(read_refuses),
		cmocka_unit_test(write_extends_and_keeps_its_verifier),
		cmocka_unit_test(an_owner_writes_whatever_the_mode),
		cmocka_unit_test(write_refuses),
		cmocka_unit_test(write_takes_set_id_bits_away),
	};
	return SAMPLE_RUN(tests);
}
