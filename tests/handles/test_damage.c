/* Damage: to the handle map, to the file of identities, to both; and a full disk. Handles stay good, and one line says what happened. */
#include "handles.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES = 40 };

static struct stack stack;
static struct client client;
static struct {
	char path[48];
	struct fh fh;
	uint64_t fileid;
} known[FILES + 4];
static size_t nknown;

static void serve(const char *args)
{
	char all[300];
	snprintf(all, sizeof all, "--no-root-squash --max-objects 64 %s 2>>%s/log", args, stack.dir);
	server_start(&stack, all);
	client_open(&client, &stack, 0, 0);
}

static void stop(void)
{
	client_close(&client);
	client.fd = -1;
	server_stop(&stack);
}

static void know(const char *path)
{
	fattr3 a;
	snprintf(known[nknown].path, sizeof known[0].path, "%s", path);
	assert_nfs(patient_path(&client, path, &known[nknown].fh, &a), NFS3_OK);
	known[nknown++].fileid = a.fileid;
}

static int setup_with(const char *base, const char *args)
{
	char name[32];
	struct fh fh;
	memset(&client, 0, sizeof client);
	client.fd = -1;
	nknown = 0;
	stack_make(&stack, base, "cd lower2; mkdir d; ln -s target link; for i in $(seq 0 19); do echo $i >d/low$i; done");
	serve(args);
	know("d");
	know("link");
	for (int i = 0; i < FILES / 2; i++) {
		snprintf(name, sizeof name, "d/low%d", i);
		know(name);
	}
	struct fh d = handle_of(&client, "d");
	for (int i = 0; i < FILES / 2; i++) {
		snprintf(name, sizeof name, "born%d", i);
		assert_nfs(client_create(&client, &d, name, GUARDED, 0644, &fh), NFS3_OK);
		snprintf(name, sizeof name, "d/born%d", i);
		know(name);
	}
	sattr3 set = { .uid = { .set_it = true, .set_uint32_u.value = 7 } }; /* the link comes up: its identity can't stand on it under user.* */
	assert_nfs(client_setattr(&client, &known[1].fh, &set, NULL, NULL), NFS3_OK);
	stop();
	return 0;
}

static int setup(void **state)
{
	(void)state;
	return setup_with(NULL, "");
}

static int setup_userxattr(void **state)
{
	(void)state;
	return setup_with(NULL, "--userxattr");
}

static int teardown(void **state)
{
	(void)state;
	if (client.fd >= 0)
		client_close(&client);
	if (stack.pid)
		server_kill(&stack);
	stack_says(&stack, "tail -n 5 log | sed 's/^/log: /'");
	unmount_all(&stack);
	stack_remove(&stack);
	return 0;
}

/* By handle first; then the names must lead to the same handles. */
static void all_is_right(const char *after)
{
	fattr3 a;
	for (size_t i = 0; i < nknown; i++) {
		nfsstat3 st = patient_getattr(&client, &known[i].fh, &a);
		if (st || a.fileid != known[i].fileid)
			fail_msg("%s, %s: status %d", known[i].path, after, st);
	}
	for (size_t i = 0; i < nknown; i++) {
		struct fh fh = handle_of(&client, known[i].path);
		if (!same_handle(&fh, &known[i].fh))
			fail_msg("%s, %s: LOOKUP gives another handle", known[i].path, after);
	}
}

static void a_damaged_map_is_set_aside_and_made_anew(void **state)
{
	(void)state;
	static const char *const damages[] = {
		"truncate -s 5000 $m", "truncate -s 1 $m", "truncate -s 12288 $m", "dd if=/dev/zero of=$m bs=4096 count=8 conv=notrunc status=none",
		"head -c 40000 /dev/zero >$m", "head -c 40000 /dev/urandom >$m", "echo this is no map >$m", "mkdir sub && mv $m sub && ln -s sub/map.mdb $m && echo x >sub/map.mdb",
	};
	for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
		char script[300];
		snprintf(script, sizeof script, "rm -f log work/overnfsd/map.mdb.bad-*; rm -rf sub; m=work/overnfsd/map.mdb; %s", damages[i]);
		stack_sh(&stack, script);
		serve("");
		all_is_right(damages[i]);
		stop();
		stack_sh(&stack, "test -e work/overnfsd/map.mdb.bad-1 || test -L work/overnfsd/map.mdb.bad-1; test $(grep -c 'damaged or foreign' log) = 1");
	}
}

/* Pages inside, where no check at the start looks: whatever they say, the server lives and finds what it should. */
static void a_map_that_is_wrong_inside_ends_no_server(void **state)
{
	(void)state;
	unsigned long rounds = amount("DAMAGES", 40);
	stack_sh(&stack, "cp work/overnfsd/map.mdb good.mdb");
	for (unsigned long i = 0; i < rounds; i++) {
		char script[500];
		/* a page from the third on is zeroed, filled with noise, or gets another's content */
		snprintf(script, sizeof script,
			 "m=work/overnfsd/map.mdb; cp good.mdb $m; pages=$(($(stat -c %%s $m) / 4096)); p=$((2 + %lu %% (pages - 2)));"
			 "dd if=%s of=$m bs=4096 count=1 seek=$p skip=%d conv=notrunc status=none; rm -f work/overnfsd/map.mdb.bad-*",
			 i * 7 + 1, i % 3 == 0 ? "/dev/zero" : i % 3 == 1 ? "/dev/urandom" : "good.mdb", i % 3 == 2 ? 2 + (int)(i % 5) : 0);
		stack_sh(&stack, script);
		serve("");
		all_is_right(script);
		struct fh fh;
		char name[32];
		snprintf(name, sizeof name, "after%lu", i);
		assert_nfs(client_create(&client, &client.root, name, GUARDED, 0644, &fh), NFS3_OK);
		stop();
	}
}

static void damaged_identities_cost_no_handle_where_objects_carry_them(void **state)
{
	(void)state;
	static const char *const damages[] = { "truncate -s 5000 $i", "head -c 40000 /dev/urandom >$i", "rm $i", "rm -r work/overnfsd" };
	for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
		char script[200];
		snprintf(script, sizeof script, "i=work/overnfsd/identity.mdb; %s", damages[i]);
		stack_sh(&stack, script);
		serve("");
		all_is_right(damages[i]);
		stop();
	}
}

static void the_map_may_go_where_no_xattr_can_stand(void **state)
{
	(void)state;
	stack_sh(&stack, "rm work/overnfsd/map.mdb");
	serve("--userxattr");
	all_is_right("map removed");
	stop();
}

/* A file system without any. */
static void the_map_may_go_where_no_file_can_hold_an_xattr(void **state)
{
	(void)state;
	static const char layers[] = "--lower %s/lower2 --upper %s/disk/upper --work %s/disk/work";
	if (!mount_in(&stack, "mkdir disk; mount -t ramfs none disk; mkdir disk/upper disk/work"))
		skip();
	server_start_with(&stack, layers, "--no-root-squash");
	client_open(&client, &stack, 0, 0);
	nknown = 0;
	know("d");
	know("link");
	know("d/low3");
	sattr3 set = { .uid = { .set_it = true, .set_uint32_u.value = 7 } };
	for (size_t i = 0; i < nknown; i++)
		assert_nfs(client_setattr(&client, &known[i].fh, &set, NULL, NULL), NFS3_OK);
	stop();
	stack_sh(&stack, "rm disk/work/overnfsd/map.mdb");
	server_start_with(&stack, layers, "--no-root-squash");
	client_open(&client, &stack, 0, 0);
	all_is_right("map removed, on ramfs");
	stop();
}

/* Whichever of its directories it is that can't be read. */
static void a_file_of_two_names_is_reached_by_the_one_that_can_be(void **state)
{
	(void)state;
	stack_sh(&stack, "mkdir lower2/one lower2/two upper/one upper/two; echo linked >lower2/one/name; ln lower2/one/name lower2/two/name");
	serve("");
	struct fh fh = handle_of(&client, "one/name"), same = handle_of(&client, "two/name");
	assert_true(same_handle(&fh, &same));
	stop();
	static const char *const dirs[] = { "one", "two" };
	for (int i = 0; i < 2; i++) {
		char script[200];
		snprintf(script, sizeof script, "setfattr -n trusted.overlay.redirect -v ../bad upper/%s", dirs[i]);
		stack_sh(&stack, script);
		serve("");
		assert_true(reads(&client, &fh, "linked\n"));
		stop();
		stack_sh(&stack, "setfattr -x trusted.overlay.redirect upper/one || setfattr -x trusted.overlay.redirect upper/two");
	}
}

/* Upper and work directory on a small file system that is filled to the last byte. */
static void a_full_disk_stops_changes_but_not_reads(void **state)
{
	(void)state;
	struct fh fh, up, link;
	char content[] = "0123456789abcdef", name[48];
	fattr3 a;
	if (!mount_in(&stack, "truncate -s 8M disk.img; mkfs.ext4 -q -m 0 -N 400 disk.img; mkdir disk; mount -o loop disk.img disk; mkdir disk/upper disk/work"))
		skip();
	char args[200];
	snprintf(args, sizeof args, "--no-root-squash --userxattr --max-objects 64 2>>%s/log", stack.dir);
	static const char layers[] = "--lower %s/lower2 --upper %s/disk/upper --work %s/disk/work";
	server_start_with(&stack, layers, args);
	client_open(&client, &stack, 0, 0);
	assert_nfs(client_create(&client, &client.root, "early", GUARDED, 0644, &fh), NFS3_OK);
	assert_nfs(client_write(&client, &fh, 0, content, 16, FILE_SYNC, NULL), NFS3_OK);
	link = handle_of(&client, "link");
	up = handle_of(&client, "d/low5");
	nknown = 0;
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof name, "d/low%d", i);
		know(name);
	}
	stack_says(&stack, "dd if=/dev/zero of=disk/upper/filler bs=4096 status=none 2>dd.log; dd if=/dev/zero of=disk/upper/filler2 bs=1 count=4096 status=none 2>>dd.log");
	nfsstat3 st = NFS3_OK;
	struct fh dir = client.root, new;
	for (int i = 0; i < 2000 && !st; i++) { /* the last inodes and directory blocks */
		snprintf(name, sizeof name, "more-with-a-long-name%d", i);
		st = client_create(&client, &dir, name, GUARDED, 0644, &new);
	}
	assert_nfs(st, NFS3ERR_NOSPC);
	static uint8_t big[65536];
	assert_nfs(client_write(&client, &fh, 0, big, sizeof big, FILE_SYNC, NULL), NFS3ERR_NOSPC);
	assert_nfs(client_write(&client, &up, 0, "x", 1, FILE_SYNC, NULL), NFS3ERR_NOSPC); /* a copy-up */
	sattr3 set = { .uid = { .set_it = true, .set_uint32_u.value = 7 } };
	assert_nfs(client_setattr(&client, &link, &set, NULL, NULL), NFS3ERR_NOSPC);
	assert_true(reads(&client, &up, "5\n"));
	client_close(&client);
	server_kill(&stack);
	server_start_with(&stack, layers, args); /* starts on the full disk, and finds what clients hold */
	client_open(&client, &stack, 0, 0);
	assert_nfs(patient_getattr(&client, &fh, &a), NFS3_OK);
	assert_true(reads(&client, &up, "5\n"));
	assert_nfs(patient_getattr(&client, &link, &a), NFS3_OK);
	all_is_right("on a full disk");
	client_close(&client);
	server_kill(&stack);
	stack_sh(&stack, "rm -f disk/work/overnfsd/map.mdb*; dd if=/dev/zero of=disk/upper/filler3 bs=1 count=1000000 status=none 2>dd.log || true");
	server_start_with(&stack, layers, args); /* there is no room for a map either */
	client_open(&client, &stack, 0, 0);
	all_is_right("on a full disk without a map");
	assert_true(reads(&client, &up, "5\n"));
	stack_sh(&stack, "rm -f disk/upper/filler*");
	assert_nfs(client_write(&client, &up, 0, "6", 1, FILE_SYNC, NULL), NFS3_OK);
	assert_true(reads(&client, &up, "6\n"));
	struct fh again = handle_of(&client, "d/low5");
	assert_true(same_handle(&again, &up));
	stop();
}

/* A snapshot of an upper, mounted read-only. */
static void an_upper_on_a_read_only_file_system_is_served_read_only(void **state)
{
	(void)state;
	struct fh fh;
	if (!mount_in(&stack, "truncate -s 8M disk.img; mkfs.ext4 -q -m 0 -N 400 disk.img; mkdir disk; mount -o loop disk.img disk; mkdir disk/upper disk/work"))
		skip();
	static const char layers[] = "--lower %s/lower2 --upper %s/disk/upper --work %s/disk/work";
	server_start_with(&stack, layers, "--no-root-squash");
	client_open(&client, &stack, 0, 0);
	assert_nfs(client_create(&client, &client.root, "early", GUARDED, 0644, &fh), NFS3_OK);
	nknown = 0;
	know("early");
	know("link");
	know("d/low3");
	client_close(&client);
	server_kill(&stack);
	stack_sh(&stack, "touch disk/work/work/litter; mount -o remount,ro disk");
	server_start_with(&stack, layers, "--no-root-squash --ro");
	client_open(&client, &stack, 0, 0);
	all_is_right("on a read-only disk");
	assert_nfs(client_create(&client, &client.root, "late", GUARDED, 0644, &fh), NFS3ERR_ROFS);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_damaged_map_is_set_aside_and_made_anew, setup, teardown),
		cmocka_unit_test_setup_teardown(a_map_that_is_wrong_inside_ends_no_server, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged_identities_cost_no_handle_where_objects_carry_them, setup, teardown),
		cmocka_unit_test_setup_teardown(the_map_may_go_where_no_xattr_can_stand, setup_userxattr, teardown),
		cmocka_unit_test_setup_teardown(the_map_may_go_where_no_file_can_hold_an_xattr, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_of_two_names_is_reached_by_the_one_that_can_be, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_disk_stops_changes_but_not_reads, setup, teardown),
		cmocka_unit_test_setup_teardown(an_upper_on_a_read_only_file_system_is_served_read_only, setup, teardown),
	};
	if (geteuid()) {
		puts("only root can set trusted xattrs and mount a disk to fill");
		return 77;
	}
	name_programs();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
