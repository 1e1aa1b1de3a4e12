/* Layers as tools and Linux make them, served, and compared with Linux overlayfs over the same layers. */
#include "trees.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK "mark() { setfattr -n trusted.overlay.$1 -v \"$2\" $3; }; gone() { mknod $1 c 0 0; };"

static void whiteouts_and_opaque_directories(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, MARK
		   "mkdir -p lower1/a lower1/new lower2/a/sub lower2/new lower1/deep/er lower2/deep/er/est; touch lower2/a/kept lower2/a/gone lower2/new/old lower1/new/new;"
		   "gone lower1/a/gone; gone lower1/nothing; gone lower2/lowest; gone lower2/deep/er/lowest; touch lower2/file; gone lower1/file; mark opaque y lower1/new;"
		   "mkdir lower2/dir; touch lower1/dir; touch lower2/wasfile; mkdir lower1/wasfile; touch lower1/wasfile/x; ln -s x lower2/link; mkfifo lower1/fifo;"
		   "mknod lower2/null c 1 3; mark opaque y lower2/a; touch lower2/" "long$(printf %0240d 0)");
	compare_with_linux(&s, READ_ONLY, NULL, "lower1:lower2", false, NULL);
	stack_sh(&s, MARK "gone upper/deep; mkdir upper/a; mark opaque y upper/a; touch upper/a/mine; gone upper/new; gone upper/null");
	compare_with_linux(&s, READ_WRITE, NULL, "lower1:lower2", true, NULL);
	stack_remove(&s);
}

static void a_root_that_was_opaque_still_merges(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, MARK "touch lower1/one lower2/two; mark opaque y lower1; mark opaque y upper");
	compare_with_linux(&s, READ_ONLY, NULL, "lower1:lower2", false, NULL);
	compare_with_linux(&s, READ_WRITE, NULL, "lower1:lower2", true, NULL);
	stack_remove(&s);
}

static void whiteouts_as_xattrs(void **state)
{
	struct stack s;
	struct client c;
	(void)state;
	stack_make(&s, NULL, MARK
		   "mkdir -p lower1/x/sub lower2/x/sub; touch lower2/x/gone lower2/x/kept lower2/x/sub/gone lower1/x/gone lower1/x/nothing lower1/x/empty;"
		   "mark whiteout y lower1/x/gone; mark whiteout y lower1/x/nothing; mark opaque x lower1/x; echo text >lower1/x/full; mark whiteout y lower1/x/full;"
		   "touch lower1/x/sub/gone; mark whiteout y lower1/x/sub/gone; mark opaque x lower1/x/sub; touch lower1/atroot lower2/atroot; mark whiteout y lower1/atroot; mark opaque x lower1");
	compare_with_linux(&s, READ_ONLY, NULL, "lower1:lower2", false, NULL);
	/* what Linux lists there, though it can't be looked up: an unmarked directory, and the lowest layer */
	stack_sh(&s, MARK "touch lower2/x/lowest; mark whiteout y lower2/x/lowest; mark opaque x lower2/x");
	server_start_with(&s, READ_ONLY, NULL);
	client_open(&c, &s, 0, 0);
	char *tree = tree_over_nfs(&c);
	assert_null(strstr(tree, "lowest"));
	assert_non_null(strstr(tree, "/x/kept"));
	free(tree);
	client_close(&c);
	server_stop(&s);
	stack_remove(&s);
}

static void redirects(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, MARK
		   "mkdir -p lower2/old/sub lower2/p/q lower1/new lower1/p/r lower1/dangling lower1/tofile; touch lower2/old/f lower2/old/sub/g lower2/p/q/h lower1/tofile/own;"
		   "echo file >lower2/file; mark redirect /old lower1/new; gone lower1/old; mark redirect q lower1/p/r; gone lower1/p/q;"
		   "mark redirect /nowhere lower1/dangling; touch lower1/dangling/own; mark redirect /file lower1/tofile");
	compare_with_linux(&s, READ_ONLY, NULL, "lower1:lower2", false, "redirect_dir=follow");
	/* chains: the upper's redirect leads to a directory that the middle layer has moved, by name and by path */
	stack_sh(&s, MARK "mkdir -p upper/top upper/p/rr upper/x/y; mark redirect /new upper/top; gone upper/new; mark redirect r upper/p/rr; gone upper/p/r; mark redirect /new/sub upper/x/y; gone upper/top/sub; touch upper/x/y/own");
	compare_with_linux(&s, READ_WRITE, NULL, "lower1:lower2", true, "redirect_dir=on");
	stack_remove(&s);
}

static void redirects_past_opaque_ancestors(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, MARK
		   "mkdir -p lower2/a/b lower1/a/c lower2/a/plain lower1/m; touch lower2/a/b/low lower1/a/c/mid lower2/a/plain/low; mark opaque y lower1/a; mark redirect /a/b lower1/a/c;"
		   "mark redirect /a/plain lower1/m; mkdir -p upper/up upper/up2 upper/a; gone upper/a/c; mark redirect /a/c upper/up; mark redirect /a/plain upper/up2");
	compare_with_linux(&s, READ_WRITE, NULL, "lower1:lower2", true, "redirect_dir=on");
	stack_remove(&s);
}

static void a_malformed_redirect_is_an_error_for_that_directory_alone(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, MARK
		   "mkdir -p lower1/double lower1/slash lower1/empty lower1/rel lower2/old lower1/good; touch lower2/old/f; mark redirect //old lower1/double; mark redirect old/x lower1/rel;"
		   "setfattr -n trusted.overlay.redirect lower1/empty; mark redirect /old/ lower1/slash; mark redirect /old lower1/good");
	compare_with_linux(&s, READ_ONLY, NULL, "lower1:lower2", false, "redirect_dir=follow");
	stack_remove(&s);
}

static void metacopies_made_by_tools(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, MARK
		   "meta() { truncate -s $(stat -c %s $2) $1; setfattr -n trusted.overlay.metacopy $1; }; mkdir -p lower1/d lower2/d lower2/store;"
		   "echo same >lower2/d/same; meta lower1/d/same lower2/d/same; chmod 600 lower1/d/same; echo moved >lower2/store/m; meta lower1/moved lower2/store/m; mark redirect /store/m lower1/moved;"
		   "echo bare >lower2/d/bare; meta lower1/d/b lower2/d/bare; mark redirect bare lower1/d/b; echo x >lower1/nodata; setfattr -n trusted.overlay.metacopy lower1/nodata;"
		   "echo y >lower2/lowest; setfattr -n trusted.overlay.metacopy lower2/lowest; mkdir lower2/isdir; truncate -s 5 lower1/isdir; setfattr -n trusted.overlay.metacopy lower1/isdir;"
		   "echo v >lower2/v; meta lower1/v lower2/v; setfattr -n trusted.overlay.metacopy -v 0x00040000 lower1/v; echo short >lower2/short; meta lower1/short lower2/short;"
		   "setfattr -n trusted.overlay.metacopy -v 0x0003 lower1/short");
	compare_with_linux(&s, READ_ONLY, NULL, "lower1:lower2", false, "metacopy=on");
	/* three layers: the attributes of the first, the data of the last */
	stack_sh(&s, MARK "mkdir upper/d; truncate -s 6 upper/top; setfattr -n trusted.overlay.metacopy upper/top; mark redirect /moved upper/top; gone upper/moved; chmod 640 upper/top;"
			  "truncate -s 5 upper/d/same; setfattr -n trusted.overlay.metacopy upper/d/same; chmod 604 upper/d/same");
	compare_with_linux(&s, READ_WRITE, NULL, "lower1:lower2", true, "metacopy=on,redirect_dir=on");
	stack_remove(&s);
}

static void a_metacopy_of_a_version_to_come_is_an_error_for_that_file_alone(void **state)
{
	struct stack s;
	struct client c;
	struct fh fh;
	(void)state;
	stack_make(&s, NULL, "echo data >lower2/f; truncate -s 5 lower1/f; setfattr -n trusted.overlay.metacopy -v 0x01040000 lower1/f; echo other >lower2/g");
	server_start_with(&s, READ_ONLY, NULL);
	client_open(&c, &s, 0, 0);
	assert_int_equal(client_path(&c, "f", &fh, NULL), NFS3ERR_IO);
	assert_int_equal(client_path(&c, "g", &fh, NULL), NFS3_OK);
	client_close(&c);
	server_stop(&s);
	stack_remove(&s);
}

static void data_only_layers(void **state)
{
	struct stack s;
	struct client c;
	struct fh fh, data;
	char buf[64];
	uint32_t got;
	bool eof;
	(void)state;
	stack_make(&s, NULL, MARK
		   "meta() { truncate -s $2 lower1/$1; setfattr -n trusted.overlay.metacopy lower1/$1; mark redirect $3 lower1/$1; };"
		   "mkdir -p data1/objects data2/objects data2/dir; echo first >data1/objects/1; echo second >data2/objects/2; echo hidden >data2/objects/1; ln -s 1 data1/objects/link;"
		   "meta a 6 /objects/1; meta b 7 /objects/2; meta missing 3 /objects/3; meta tolink 6 /objects/link; meta todir 1 /dir; mkdir lower1/d; meta d/bare 6 1; truncate -s 9 lower1/plain;"
		   "echo lower >lower2/inlower; meta viapath 6 /inlower; chmod 400 lower1/a");
	compare_with_linux(&s, "--lower %s/lower1 --lower %s/lower2 --data-lower %s/data1 --data-lower %s/data2", NULL, "lower1:lower2::data1::data2", false, "metacopy=on");
	/* changed and completed, then by Linux again */
	char more[256];
	snprintf(more, sizeof more, "--no-root-squash --data-lower %s/data2", s.dir);
	server_start_with(&s, "--lower %s/lower1 --upper %s/upper --work %s/work --data-lower %s/data1", more);
	client_open(&c, &s, 0, 0);
	assert_int_equal(client_path(&c, "a", &fh, NULL), NFS3_OK);
	assert_int_equal(client_path(&c, "objects", &data, NULL), NFS3ERR_NOENT);
	sattr3 mode = { .mode = { true, { 0640 } } };
	assert_int_equal(client_setattr(&c, &fh, &mode, NULL, NULL), NFS3_OK);
	assert_int_equal(client_path(&c, "b", &fh, NULL), NFS3_OK);
	assert_int_equal(client_write(&c, &fh, 2, "XY", 2, FILE_SYNC, NULL), NFS3_OK);
	assert_int_equal(client_read(&c, &fh, 0, sizeof buf, buf, &got, &eof), NFS3_OK);
	assert_int_equal(got, 7);
	assert_memory_equal(buf, "seXYnd\n", 7);
	assert_int_equal(client_path(&c, "missing", &fh, NULL), NFS3_OK);
	assert_int_equal(client_read(&c, &fh, 0, sizeof buf, buf, &got, &eof), NFS3ERR_IO);
	assert_int_equal(client_write(&c, &fh, 0, "X", 1, FILE_SYNC, NULL), NFS3ERR_IO);
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "grep -q second data2/objects/2");
	compare_with_linux(&s, "--lower %s/lower1 --upper %s/upper --work %s/work --data-lower %s/data1", more, "lower1::data1::data2", true, "metacopy=on,redirect_dir=on");
	stack_remove(&s);
}

static void user_xattrs(void **state)
{
	struct stack s;
	struct client c;
	struct fh fh;
	char buf[64];
	uint32_t got;
	bool eof;
	(void)state;
	stack_make(&s, NULL,
		   "mkdir -p lower1/d lower2/d lower1/x lower2/x lower1/r lower2/old; touch lower2/d/hidden lower1/d/own lower2/x/gone lower1/x/gone lower2/old/f; echo data >lower2/m; truncate -s 5 lower1/m;"
		   "setfattr -n user.overlay.opaque -v y lower1/d; setfattr -n user.overlay.opaque -v x lower1/x; setfattr -n user.overlay.whiteout -v y lower1/x/gone; setfattr -n trusted.overlay.opaque -v y lower1/x;"
		   /* what any owner of a file could set is no way to another file */
		   "setfattr -n user.overlay.metacopy lower1/m; setfattr -n user.overlay.redirect -v /old lower1/r");
	compare_with_linux(&s, READ_ONLY, "--userxattr", "lower1:lower2", false, "userxattr");
	compare_with_linux(&s, READ_ONLY, NULL, "lower1:lower2", false, "metacopy=on"); /* none of it means a thing there */
	stack_sh(&s, "truncate -s 5 lower1/composed; setfattr -n user.overlay.metacopy lower1/composed; setfattr -n user.overlay.redirect -v /object lower1/composed; mkdir data; echo blob >data/object");
	server_start_with(&s, "--lower %s/lower1 --lower %s/lower2 --data-lower %s/data", "--userxattr"); /* Linux so too, from 6.16 or so */
	client_open(&c, &s, 0, 0);
	assert_int_equal(client_path(&c, "composed", &fh, NULL), NFS3_OK);
	assert_int_equal(client_read(&c, &fh, 0, sizeof buf, buf, &got, &eof), NFS3_OK);
	assert_int_equal(got, 5);
	assert_memory_equal(buf, "blob\n", 5);
	assert_int_equal(client_path(&c, "m", &fh, NULL), NFS3ERR_ACCES);
	client_close(&c);
	server_stop(&s);
	stack_remove(&s);
}

/* An overlay whose lowers stand on an overlay: what the outer one must not take for its own is escaped, and what the inner one shows is one escape less. */
static void nested_overlays_and_their_escaped_marks(void **state)
{
	struct stack s;
	struct client c;
	struct fh fh;
	(void)state;
	stack_make(&s, NULL, MARK
		   "mkdir -p lower1/inner/d lower1/base/d; touch lower1/base/d/gone lower1/base/d/kept lower1/inner/d/gone; mark overlay.whiteout y lower1/inner/d/gone; mark overlay.opaque x lower1/inner/d;"
		   "mkdir lower1/inner/o lower1/base/o; touch lower1/base/o/hidden; mark overlay.opaque y lower1/inner/o");
	/* to the outer overlay these are plain files and directories */
	compare_with_linux(&s, READ_ONLY, NULL, "lower1:lower2", false, NULL);
	/* seen through Linux's overlay, they are marks for us */
	linux_mount(&s, "lower1:lower2", false, NULL);
	server_start_with(&s, "--lower %s/m/inner --lower %s/m/base", NULL);
	client_open(&c, &s, 0, 0);
	assert_int_equal(client_path(&c, "d/kept", &fh, NULL), NFS3_OK);
	assert_int_equal(client_path(&c, "d/gone", &fh, NULL), NFS3ERR_NOENT);
	assert_int_equal(client_path(&c, "o/hidden", &fh, NULL), NFS3ERR_NOENT);
	client_close(&c);
	server_stop(&s);
	linux_unmount(&s);
	/* copied up they stay what they are: escaped, so that the next one in sees them; our own marks never come along */
	stack_sh(&s, MARK "setfattr -n trusted.overlay.overlay.redirect -v /x lower1/inner/d/gone; mark nlink U+7 lower1/inner/d/gone; mark protattr i lower1/inner/d/gone; mark overnfsd zz lower1/inner/d/gone; setfattr -n user.overlay.opaque -v y lower1/inner/d/gone");
	server_start_with(&s, READ_WRITE, "--no-root-squash");
	client_open(&c, &s, 0, 0);
	assert_int_equal(client_path(&c, "inner/d/gone", &fh, NULL), NFS3_OK);
	assert_int_equal(client_write(&c, &fh, 0, "x", 1, FILE_SYNC, NULL), NFS3_OK);
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "test \"$(getfattr --only-values -n trusted.overlay.overlay.whiteout upper/inner/d/gone)\" = y; getfattr -n trusted.overlay.overlay.redirect upper/inner/d/gone >/dev/null;"
		     "test \"$(getfattr --only-values -n user.overlay.opaque upper/inner/d/gone)\" = y; ! getfattr -n trusted.overlay.nlink upper/inner/d/gone 2>/dev/null;"
		     "! getfattr -n trusted.overlay.protattr upper/inner/d/gone 2>/dev/null; test \"$(getfattr --only-values -n trusted.overlay.overnfsd upper/inner/d/gone)\" != zz");
	stack_remove(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whiteouts_and_opaque_directories),
		cmocka_unit_test(a_root_that_was_opaque_still_merges),
		cmocka_unit_test(whiteouts_as_xattrs),
		cmocka_unit_test(redirects),
		cmocka_unit_test(redirects_past_opaque_ancestors),
		cmocka_unit_test(a_malformed_redirect_is_an_error_for_that_directory_alone),
		cmocka_unit_test(metacopies_made_by_tools),
		cmocka_unit_test(a_metacopy_of_a_version_to_come_is_an_error_for_that_file_alone),
		cmocka_unit_test(data_only_layers),
		cmocka_unit_test(user_xattrs),
		cmocka_unit_test(nested_overlays_and_their_escaped_marks),
	};
	mounts_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
