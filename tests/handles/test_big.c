/* A big tree: the map's size, a start with it, the first request of each old handle, and the search without it. OBJECTS=1000000 for the long run. */
#include "handles.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PER_DIRECTORY = 200, PICKED = 500 };

static struct stack stack;
static struct client client;
static unsigned long objects;
static struct {
	char path[96];
	struct fh fh;
	uint64_t fileid;
} picked[PICKED];

static void make_tree(void)
{
	char path[160];
	for (unsigned long i = 0; i < objects; i += PER_DIRECTORY) {
		snprintf(path, sizeof path, "%s/lower1/d%03lu", stack.dir, i / 40000);
		mkdir(path, 0755);
		snprintf(path, sizeof path, "%s/lower1/d%03lu/sub%05lu", stack.dir, i / 40000, i / PER_DIRECTORY);
		assert_int_equal(mkdir(path, 0755), 0);
		int dir = open(path, O_RDONLY | O_DIRECTORY);
		assert_true(dir >= 0);
		for (unsigned long j = i; j < i + PER_DIRECTORY; j++) {
			snprintf(path, sizeof path, "file-%07lu.dat", j);
			int fd = openat(dir, path, O_CREAT | O_WRONLY, 0644);
			assert_true(fd >= 0);
			close(fd);
		}
		close(dir);
	}
}

static void serve(const char *args)
{
	server_start_with(&stack, "--lower %s/lower1 --upper %s/upper --work %s/work", args);
	client_open(&client, &stack, 0, 0);
}

static void stop(void)
{
	client_close(&client);
	client.fd = -1;
	server_stop(&stack);
}

static int setup(void **state)
{
	(void)state;
	client.fd = -1;
	objects = amount("OBJECTS", 100000) / PER_DIRECTORY * PER_DIRECTORY;
	stack_make(&stack, access("/dev/shm", W_OK) ? NULL : "/dev/shm", NULL);
	make_tree();
	serve("--no-root-squash --max-objects 1000");
	for (int i = 0; i < PICKED; i++) {
		unsigned long n = (unsigned long)i * 7919 * 104729 % objects;
		fattr3 a;
		snprintf(picked[i].path, sizeof picked[i].path, "d%03lu/sub%05lu/file-%07lu.dat", n / 40000, n / PER_DIRECTORY, n);
		assert_nfs(patient_path(&client, picked[i].path, &picked[i].fh, &a), NFS3_OK);
		picked[i].fileid = a.fileid;
	}
	stop();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (client.fd >= 0)
		client_close(&client);
	if (stack.pid)
		server_kill(&stack);
	stack_remove(&stack);
	return 0;
}

/* Every call is answered within the second that a search may hold it, with JUKEBOX while it goes on; other calls are not held up. */
static void without_a_map_one_search_finds_all(void **state)
{
	(void)state;
	unsigned long jukebox = 0;
	double longest = 0, start;
	stack_sh(&stack, "rm work/overnfsd/map.mdb*");
	serve("--no-root-squash --max-objects 1000");
	start = seconds();
	for (int i = 0; i < PICKED; i++) {
		fattr3 a;
		nfsstat3 st;
		do {
			double before = seconds();
			st = client_getattr(&client, &picked[i].fh, &a);
			double took = seconds() - before;
			longest = took > longest ? took : longest;
			jukebox += st == NFS3ERR_JUKEBOX;
		} while (st == NFS3ERR_JUKEBOX);
		if (st || a.fileid != picked[i].fileid)
			fail_msg("%s: status %d", picked[i].path, st);
	}
	printf("| %lu objects, map deleted: %d old handles found in %.2f s, longest call %.2f s, %lu times JUKEBOX\n", objects, PICKED, seconds() - start, longest, jukebox);
	stop();
}

/* The search put everything into the map. */
static void the_map_takes_at_most_100_bytes_an_object(void **state)
{
	(void)state;
	unsigned long entries = 0, bytes = 0;
	char script[400], text[4096] = "";
	snprintf(script, sizeof script, "$OVERNFSCTL check --json --lower %s/lower1 --upper %s/upper --work %s/work >report", stack.dir, stack.dir, stack.dir);
	stack_sh(&stack, script);
	snprintf(script, sizeof script, "%s/report", stack.dir);
	FILE *f = fopen(script, "r");
	assert_non_null(f);
	assert_true(fread(text, 1, sizeof text - 1, f) > 0);
	fclose(f);
	const char *e = strstr(text, "\"entries\":"), *b = strstr(text, "\"bytes\":");
	assert_non_null(e);
	assert_non_null(b);
	entries = strtoul(e + 10, NULL, 10);
	bytes = strtoul(b + 8, NULL, 10);
	printf("| map of %lu entries: %lu bytes, %lu an object\n", entries, bytes, bytes / entries);
	assert_true(entries > objects);
	assert_true(bytes / entries <= 100);
	assert_non_null(strstr(text, "\"missing\":0,\"stale\":0"));
}

static void a_start_with_the_map_is_at_once_and_old_handles_need_few_lookups(void **state)
{
	(void)state;
	fattr3 a;
	double start = seconds();
	stack_sh(&stack, "find lower1 >/dev/null");
	double find = seconds() - start;
	start = seconds();
	server_start_with(&stack, "--lower %s/lower1 --upper %s/upper --work %s/work", "--no-root-squash");
	double ready = seconds() - start;
	client_open(&client, &stack, 0, 0);
	start = seconds();
	for (int i = 0; i < PICKED; i++) {
		assert_nfs(client_getattr(&client, &picked[i].fh, &a), NFS3_OK); /* at once: no JUKEBOX */
		assert_true(a.fileid == picked[i].fileid);
	}
	double first = (seconds() - start) / PICKED;
	start = seconds();
	for (int i = 0; i < PICKED; i++)
		assert_nfs(client_getattr(&client, &picked[i].fh, &a), NFS3_OK);
	double again = (seconds() - start) / PICKED;
	printf("| start with a map of %lu objects: ready in %.3f s, find takes %.3f s; the first request of an old handle %.0f us, the second %.0f us\n", objects, ready, find,
	       first * 1e6, again * 1e6);
	stop();
}

/* A handle that is gone: the first costs a search, all others a look into the map. */
static void asking_for_what_is_gone_is_cheap(void **state)
{
	(void)state;
	static struct fh gone[200];
	char name[24];
	fattr3 a;
	serve("--no-root-squash");
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof name, "gone%d", i);
		assert_nfs(client_create(&client, &client.root, name, GUARDED, 0644, &gone[i]), NFS3_OK);
		assert_nfs(client_remove(&client, &client.root, name), NFS3_OK);
	}
	double start = seconds();
	assert_nfs(patient_getattr(&client, &gone[0], &a), NFS3ERR_STALE);
	double first = seconds() - start;
	start = seconds();
	for (int i = 1; i < 200; i++)
		assert_nfs(client_getattr(&client, &gone[i], &a), NFS3ERR_STALE); /* without a JUKEBOX on the way */
	printf("| handles of what is gone among %lu objects: the first is stale after %.3f s, the next 199 after %.0f us each\n", objects, first, (seconds() - start) / 199 * 1e6);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_map_one_search_finds_all),
		cmocka_unit_test(the_map_takes_at_most_100_bytes_an_object),
		cmocka_unit_test(a_start_with_the_map_is_at_once_and_old_handles_need_few_lookups),
		cmocka_unit_test(asking_for_what_is_gone_is_cheap),
	};
	name_programs();
	return cmocka_run_group_tests(tests, setup, teardown);
}
