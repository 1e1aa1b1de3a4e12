/* What is gone is stale, for good: at once, after a restart, without the map. And its inode number, given to another, never reaches that (promise I2). */
#include "handles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEPT = 4096 /* handles of removed files that are asked again and again */ };

static struct stack stack;
static struct client client;

static int setup(void **state)
{
	(void)state;
	memset(&client, 0, sizeof client);
	client.fd = -1;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (client.fd >= 0)
		client_close(&client);
	client.fd = -1;
	if (stack.pid)
		server_kill(&stack);
	stack_remove(&stack);
	return 0;
}

static void restart(bool kill, const char *between)
{
	client_close(&client);
	if (kill)
		server_kill(&stack);
	else
		server_stop(&stack);
	if (between)
		stack_sh(&stack, between);
	server_start(&stack, "--no-root-squash");
	client_open(&client, &stack, 0, 0);
}

static void all_are_stale(const struct fh *fh, size_t n, const char *when)
{
	fattr3 a;
	for (size_t i = 0; i < n; i++) {
		nfsstat3 st = patient_getattr(&client, &fh[i], &a);
		if (st != NFS3ERR_STALE)
			fail_msg("handle %zu %s: status %d", i, when, st);
	}
}

static void what_was_removed_is_stale_for_good(void **state)
{
	(void)state;
	static const char *const removed[] = { "file", "copied", "link", "fifo", "born", "replaced", "bornreplaced" };
	struct fh fh[10], by[2];
	stack_make(&stack, NULL, "cd lower2; echo a >file; echo b >copied; ln -s x link; mkfifo fifo; mkdir dir; echo c >replaced; echo h >h1; ln h1 h2; echo by >by");
	server_start(&stack, "--no-root-squash");
	client_open(&client, &stack, 0, 0);
	struct client *c = &client;
	assert_nfs(client_create(c, &c->root, "born", GUARDED, 0644, NULL), NFS3_OK);
	assert_nfs(client_create(c, &c->root, "bornreplaced", GUARDED, 0644, NULL), NFS3_OK);
	assert_nfs(client_create(c, &c->root, "by2", GUARDED, 0644, &by[1]), NFS3_OK);
	for (int i = 0; i < 7; i++)
		fh[i] = handle_of(c, removed[i]);
	fh[7] = handle_of(c, "dir");
	fh[8] = handle_of(c, "h1");
	by[0] = handle_of(c, "by");
	assert_nfs(client_write(c, &fh[1], 0, "x", 1, FILE_SYNC, NULL), NFS3_OK);
	for (int i = 0; i < 5; i++)
		assert_nfs(client_remove(c, &c->root, removed[i]), NFS3_OK);
	assert_nfs(client_rmdir(c, &c->root, "dir"), NFS3_OK);
	assert_nfs(client_rename(c, &c->root, "by", &c->root, "replaced"), NFS3_OK);
	assert_nfs(client_rename(c, &c->root, "by2", &c->root, "bornreplaced"), NFS3_OK);
	all_are_stale(fh, 8, "after its removal");
	assert_nfs(client_remove(c, &c->root, "h1"), NFS3_OK);
	assert_true(reads(c, &fh[8], "h\n")); /* it has another name */
	restart(false, NULL);
	all_are_stale(fh, 8, "after a restart");
	assert_true(reads(c, &fh[8], "h\n"));
	assert_true(reads(c, &by[0], "by\n"));
	restart(true, "rm work/overnfsd/map.mdb");
	all_are_stale(fh, 8, "without the map");
	assert_true(reads(c, &fh[8], "h\n"));
	assert_true(reads(c, &by[0], "by\n"));
	assert_nfs(client_remove(c, &c->root, "h2"), NFS3_OK);
	restart(false, NULL);
	all_are_stale(fh, 9, "after its last name went");
}

/* The names of one object in several directories; those that it is known by go one by one, also while its other parents are not in memory. */
static void a_file_is_reached_as_long_as_it_has_a_name(void **state)
{
	(void)state;
	char dir[40], name[40];
	struct fh fh, parents[20];
	stack_make(&stack, NULL, NULL);
	server_start(&stack, "--no-root-squash --max-objects 16");
	client_open(&client, &stack, 0, 0);
	struct client *c = &client;
	assert_nfs(client_create(c, &c->root, "first", GUARDED, 0644, &fh), NFS3_OK);
	assert_nfs(client_write(c, &fh, 0, "linked", 6, FILE_SYNC, NULL), NFS3_OK);
	for (int i = 0; i < 20; i++) {
		struct fh deeper;
		snprintf(dir, sizeof dir, "dir%d", i);
		assert_nfs(client_mkdir(c, &c->root, dir, 0755, &deeper), NFS3_OK);
		assert_nfs(client_mkdir(c, &deeper, "sub", 0755, &parents[i]), NFS3_OK);
		assert_nfs(client_link(c, &fh, &parents[i], "name"), NFS3_OK);
	}
	assert_nfs(client_remove(c, &c->root, "first"), NFS3_OK);
	for (int i = 0; i < 20; i++) {
		fattr3 a;
		if (!reads(c, &fh, "linked"))
			fail_msg("with %d names left", 20 - i);
		assert_nfs(patient_getattr(c, &fh, &a), NFS3_OK);
		assert_int_equal(a.nlink, 20 - i);
		snprintf(name, sizeof name, "dir%d/sub", (i * 7) % 20);
		struct fh parent = handle_of(c, name);
		assert_nfs(client_remove(c, &parent, "name"), NFS3_OK);
	}
	all_are_stale(&fh, 1, "after its last name went");
}

static void reuse(const char *base, const char *what)
{
	static struct fh kept[KEPT];
	unsigned long rounds = amount("REUSE_ROUNDS", base ? 25000 : 5000), reused = 0;
	static uint64_t inos[KEPT];
	fattr3 a;
	stack_make(&stack, base, NULL);
	server_start(&stack, "--no-root-squash --async");
	client_open(&client, &stack, 0, 0);
	double start = seconds();
	for (unsigned long i = 0; i < rounds; i++) {
		struct fh fh;
		size_t slot = i % KEPT, old = (i * 2654435761u) % (i < KEPT ? i + 1 : KEPT);
		assert_nfs(client_create(&client, &client.root, "file", GUARDED, 0644, &fh), NFS3_OK);
		if (i) { /* the file before this one, and one of those before */
			size_t last = (i - 1) % KEPT;
			assert_false(same_handle(&kept[last], &fh));
			assert_nfs(patient_getattr(&client, &kept[last], &a), NFS3ERR_STALE);
			if (old != slot && old < i)
				assert_nfs(patient_getattr(&client, &kept[old], &a), NFS3ERR_STALE);
		}
		assert_nfs(client_getattr(&client, &fh, &a), NFS3_OK);
		for (size_t k = 0; k < 8 && k < i; k++)
			reused += inos[(i - 1 - k) % KEPT] == a.fileid;
		kept[slot] = fh;
		inos[slot] = a.fileid;
		assert_nfs(client_remove(&client, &client.root, "file"), NFS3_OK);
	}
	restart(true, NULL);
	all_are_stale(kept, rounds < KEPT ? rounds : KEPT, "after kill -9 and restart");
	printf("| inode reuse on %s: %lu rounds of create and remove, %lu times one of the last 8 inode numbers came back, no old handle reached a file; %.1f s\n", what,
	       rounds, reused, seconds() - start);
}

static void an_inode_number_that_is_reused_gives_another_handle(void **state)
{
	(void)state;
	reuse(NULL, "the disk");
}

static void an_inode_number_that_is_reused_gives_another_handle_on_tmpfs(void **state)
{
	(void)state;
	if (access("/dev/shm", W_OK)) {
		puts("skipped: there is no /dev/shm");
		skip();
	}
	reuse("/dev/shm", "tmpfs");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_was_removed_is_stale_for_good),
		TEST(a_file_is_reached_as_long_as_it_has_a_name),
		TEST(an_inode_number_that_is_reused_gives_another_handle),
		TEST(an_inode_number_that_is_reused_gives_another_handle_on_tmpfs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
