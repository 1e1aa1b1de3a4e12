/* Uppers and work directories that are in use, or that carry what we do not know, are refused at start, by name; others go on. */
#include "trees.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The server must not start, and say so in words. layers: options, relative to the stack. */
static void refused(const struct stack *s, const char *layers, const char *words)
{
	char cmd[2048];
	const char *server = getenv("OVERNFSD");
	char *path = realpath(server ? server : "build/overnfsd", NULL);
	assert_non_null(path);
	snprintf(cmd, sizeof cmd,
		 "set -- %s; o=; while [ $# -gt 0 ]; do o=\"$o $1 $PWD/$2\"; shift 2; done;"
		 "timeout 20 %s --foreground --json --port 0 --no-rpcbind $o >/dev/null 2>err && exit 1; test $? = 1; grep -q -e '%s' err || { cat err >&2; exit 1; }",
		 layers, path, words);
	free(path);
	stack_sh(s, cmd);
}
#define ALL_LAYERS "--lower lower1 --lower lower2 --upper upper --work work"

static void starts(struct stack *s)
{
	server_start(s, NULL);
	server_stop(s);
}

static void a_volatile_leftover(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "touch lower2/f");
	linux_mount(&s, "lower1:lower2", true, "volatile");
	stack_sh(&s, "touch m/g");
	linux_unmount(&s);
	refused(&s, ALL_LAYERS, "work/incompat/volatile: a volatile mount crashed here");
	stack_sh(&s, "test -d work/work/incompat/volatile; test ! -e work/overnfsd; rm -r work/work/incompat/volatile; mkdir work/work/incompat/future");
	refused(&s, ALL_LAYERS, "work/incompat/future: a feature that overnfsd does not know");
	stack_sh(&s, "rmdir work/work/incompat/future");
	starts(&s);
	stack_remove(&s);
}

static void a_mounted_overlay(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "mkdir 'up,per x' work2; touch lower2/f");
	linux_mount(&s, "lower1:lower2", true, NULL);
	refused(&s, ALL_LAYERS, "/upper is in use by a mounted Linux overlay");
	refused(&s, "--lower lower2 --upper work2 --work work", "/work is in use by a mounted Linux overlay");
	stack_sh(&s, "test ! -e work/overnfsd; umount m");
	starts(&s);
	/* a name that both mountinfo and overlayfs write with escapes */
	stack_sh(&s, "mount -t overlay overlay -o 'lowerdir=lower2,upperdir=up\\,per x,workdir=work2' m; mv work work.old; mkdir work; ln -s 'up,per x' link");
	refused(&s, "--lower lower2 --upper link --work work", "link is in use by a mounted Linux overlay");
	linux_unmount(&s);
	stack_remove(&s);
}

static void another_server(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "mkdir work2 upper2");
	server_start(&s, NULL);
	refused(&s, ALL_LAYERS, "in use by another overnfsd");
	refused(&s, "--lower lower1 --upper upper --work work2", "/upper is in use by another overnfsd");
	refused(&s, "--lower lower1 --upper upper2 --work work", "/work is in use by another overnfsd");
	server_kill(&s);
	starts(&s);
	stack_remove(&s);
}

static void an_index_that_is_not_known(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "mkdir work/index; touch work/index/#temp work/index/0123");
	refused(&s, ALL_LAYERS, "index/0123: a kind of entry that overnfsd does not know");
	stack_sh(&s, "mv work/index/0123 work/index/01fb1d00010000000000000000000000000000000075eba800a8218cdb"); /* a version to come */
	refused(&s, ALL_LAYERS, "index/01fb1d.*: a kind of entry");
	stack_sh(&s, "rm work/index/*");
	starts(&s);
	stack_remove(&s);
}

static void an_upper_over_other_lowers(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "echo x >lower2/a; ln lower2/a lower2/b; mkdir lower3");
	linux_mount(&s, "lower2", true, "index=on");
	stack_sh(&s, "chmod 600 m/a; umount m");
	refused(&s, "--lower lower1 --upper upper --work work", "used over other lower directories");
	refused(&s, "--lower lower1 --upper upper --work work", "setfattr -x trusted.overlay.origin"); /* it says the way out */
	/* one more on top, or below: the same files */
	server_start_with(&s, "--lower %s/lower1 --lower %s/lower2 --upper %s/upper --work %s/work", NULL);
	server_stop(&s);
	linux_mount(&s, "lower1:lower2", true, "index=on"); /* Linux goes by the topmost alone, and we told it */
	linux_unmount(&s);
	stack_remove(&s);
}

static void an_index_of_another_upper(void **state)
{
	struct stack s;
	struct client c;
	struct fh a;
	(void)state;
	stack_make(&s, NULL, "echo x >lower2/a; ln lower2/a lower2/b");
	server_start(&s, "--no-root-squash");
	client_open(&c, &s, 0, 0);
	assert_int_equal(client_path(&c, "a", &a, NULL), NFS3_OK);
	assert_int_equal(client_write(&c, &a, 0, "y", 1, FILE_SYNC, NULL), NFS3_OK);
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, "mv upper old; cp -a old upper");
	refused(&s, ALL_LAYERS, "index was made for another upper");
	stack_sh(&s, "rm -r upper; mv old upper");
	starts(&s);
	linux_mount(&s, "lower1:lower2", true, "index=on");
	stack_sh(&s, "test $(cat m/b) = y; umount m; touch -m -d @0 lower2/other; setfattr -x trusted.overlay.upper work/index");
	starts(&s);
	stack_sh(&s, "getfattr -n trusted.overlay.upper work/index >/dev/null 2>&1");
	stack_remove(&s);
}

static uint64_t fsid_of(struct stack *s)
{
	struct client c;
	fattr3 a;
	server_start(s, NULL);
	client_open(&c, s, 0, 0);
	assert_int_equal(client_getattr(&c, &c.root, &a), NFS3_OK);
	client_close(&c);
	server_stop(s);
	return a.fsid;
}

static void the_overlays_uuid_gives_the_file_system_id(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "touch lower2/f");
	linux_mount(&s, "lower1:lower2", true, "uuid=on");
	linux_unmount(&s);
	stack_sh(&s, "getfattr -d -m uuid upper >uuid 2>/dev/null; test -s uuid");
	uint64_t first = fsid_of(&s);
	stack_sh(&s, "getfattr -d -m uuid upper 2>/dev/null | cmp - uuid; rm -r work; mkdir work");
	assert_int_equal(fsid_of(&s), first);
	/* where there is none it is made, and Linux takes it over */
	stack_sh(&s, "rm -r upper work; mkdir upper work");
	uint64_t second = fsid_of(&s);
	assert_int_not_equal(first, second);
	stack_sh(&s, "getfattr -d -m uuid upper >uuid 2>/dev/null; test -s uuid");
	linux_mount(&s, "lower1:lower2", true, "uuid=on");
	linux_unmount(&s);
	stack_sh(&s, "getfattr -d -m uuid upper 2>/dev/null | cmp - uuid; rm -r work; mkdir work");
	assert_int_equal(fsid_of(&s), second);
	stack_remove(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_volatile_leftover),
		cmocka_unit_test(a_mounted_overlay),
		cmocka_unit_test(another_server),
		cmocka_unit_test(an_index_that_is_not_known),
		cmocka_unit_test(an_upper_over_other_lowers),
		cmocka_unit_test(an_index_of_another_upper),
		cmocka_unit_test(the_overlays_uuid_gives_the_file_system_id),
	};
	mounts_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
