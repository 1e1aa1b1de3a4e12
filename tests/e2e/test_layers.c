/* test_layers.c: what is and what is not part of a layer. */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void what_is_mounted_inside_a_lower_is_not_part_of_it(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	fattr3 a, b;
	struct fh fh;
	if (geteuid()) {
		puts("skipped: mounting a file system inside a layer takes root");
		skip();
	}
	stack_make(&s, NULL, "mkdir lower1/sub; echo below >lower1/sub/file; echo beside >lower1/file");
	stack_sh(&s, "mount -t tmpfs none lower1/sub; echo on top >lower1/sub/file; echo more >lower1/sub/more");
	server_start(&s, "--no-root-squash");
	client_open(&c, &s, 0, 0);
	char *text = client_content(&c, "sub/file");
	nfsstat3 more = client_path(&c, "sub/more", &fh, NULL);
	nfsstat3 st = client_path(&c, "sub", &fh, &a);
	nfsstat3 moved = client_rename(&c, &c.root, "sub", &c.root, "moved");
	client_path(&c, "moved", &fh, &b);
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "umount lower1/sub; test -d upper/moved");
	stack_remove(&s);
	assert_non_null(text);
	assert_string_equal(text, "below\n");
	assert_nfs(more, NFS3ERR_NOENT);
	assert_nfs(st, NFS3_OK);
	assert_nfs(moved, NFS3_OK);
	assert_int_equal(a.fileid, b.fileid);
	free(text);
}

static void what_is_mounted_inside_the_upper_is_an_error_for_that_name_alone(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	struct fh fh;
	if (geteuid()) {
		puts("skipped: mounting a file system inside a layer takes root");
		skip();
	}
	stack_make(&s, NULL, "mkdir upper/sub; echo beside >upper/file");
	stack_sh(&s, "mount -t tmpfs none upper/sub; echo on top >upper/sub/file");
	server_start(&s, "--no-root-squash");
	client_open(&c, &s, 0, 0);
	char *beside = client_content(&c, "file");
	nfsstat3 sub = client_path(&c, "sub", &fh, NULL), inside = client_path(&c, "sub/file", &fh, NULL);
	long n = client_list(&c, &c.root, 4096, NULL, NULL);
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "umount upper/sub");
	stack_remove(&s);
	assert_non_null(beside);
	assert_nfs(sub, NFS3ERR_IO);
	assert_nfs(inside, NFS3ERR_IO);
	assert_true(n >= 3); /* ".", "..", file */
	free(beside);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_mounted_inside_a_lower_is_not_part_of_it),
		cmocka_unit_test(what_is_mounted_inside_the_upper_is_an_error_for_that_name_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
