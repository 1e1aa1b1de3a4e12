/* place.c and fds.c: places and the cache of their descriptors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../overlay/internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILES = 200, MOST = 16 };

static char dir[64];
static struct overlay *ov;
static struct layer *layer;

static void sh(const char *script)
{
	char cmd[1000];
	snprintf(cmd, sizeof cmd, "set -e; cd %s; %s", dir, script);
	assert_int_equal(system(cmd), 0);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/overnfsd-layer-XXXXXX");
	assert_non_null(mkdtemp(dir));
	sh("mkdir lower outside; cd lower; mkdir -p a/b; echo text >a/b/file; for i in $(seq 0 199); do echo $i >f$i; done; ln -s ../outside out; ln -s a/b inside;"
	   "echo secret >../outside/secret; ln -s ../outside/secret leak");
	char lower[80], err[256];
	snprintf(lower, sizeof lower, "%s/lower", dir);
	const char *lowers[] = { lower };
	struct overlay_config c = { .lowers = lowers, .nlowers = 1, .name = "/overlay", .max_fds = MOST };
	assert_int_equal(overlay_open(&c, &ov, err, sizeof err), 0);
	layer = &ov->layers[0];
	return 0;
}

static int teardown(void **state)
{
	char cmd[100];
	(void)state;
	overlay_close(ov);
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	return system(cmd);
}

static int open_descriptors(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/fd");
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static struct place *place(const char *name)
{
	struct place *p = place_new(ov, layer, layer->root, name);
	assert_non_null(p);
	return p;
}

static void reads(struct place *p, const char *text)
{
	struct fdent *ent;
	char buf[64];
	assert_int_equal(place_pin(ov, p, FD_READ, &ent), 0);
	ssize_t n = pread(ent->fd, buf, sizeof buf, 0);
	assert_int_equal(n, strlen(text));
	assert_memory_equal(buf, text, (size_t)n);
	place_unpin(ov, ent);
}

static void a_place_is_found_below_its_parents(void **state)
{
	(void)state;
	struct place *a = place("a"), *b = place_new(ov, layer, a, "b"), *file = place_new(ov, layer, b, "file");
	struct statx st;
	reads(file, "text\n");
	assert_int_equal(place_statx(ov, file, &st), 0);
	assert_int_equal(st.stx_size, 5);
	place_put(ov, a); /* the children hold their parents */
	place_put(ov, b);
	reads(file, "text\n");
	place_put(ov, file);
}

static void descriptors_stay_within_their_bound(void **state)
{
	(void)state;
	static struct place *p[FILES];
	char name[16], text[16];
	int before = open_descriptors();
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof name, "f%d", i);
		p[i] = place(name);
	}
	for (int round = 0; round < 3; round++) /* each is closed long before it comes again, and opened again */
		for (int i = 0; i < FILES; i++) {
			snprintf(text, sizeof text, "%d\n", i);
			reads(p[i], text);
			assert_true(ov->fds.count <= MOST);
			assert_true(open_descriptors() <= before + MOST);
		}
	for (int i = 0; i < FILES; i++)
		place_put(ov, p[i]);
	assert_true(open_descriptors() <= before); /* they go with their places */
}

static void what_is_in_use_is_not_closed_and_the_bound_holds_again_afterwards(void **state)
{
	(void)state;
	struct place *p[4 * MOST];
	struct fdent *ent[4 * MOST];
	char name[16], buf[16];
	for (int i = 0; i < 4 * MOST; i++) { /* all pinned at once */
		snprintf(name, sizeof name, "f%d", i);
		p[i] = place(name);
		assert_int_equal(place_pin(ov, p[i], FD_READ, &ent[i]), 0);
	}
	for (int i = 0; i < 4 * MOST; i++) {
		ssize_t n = pread(ent[i]->fd, buf, sizeof buf - 1, 0);
		assert_true(n > 0);
		buf[n] = 0;
		assert_int_equal(atoi(buf), i);
		place_unpin(ov, ent[i]);
	}
	for (int i = 0; i < 4 * MOST; i++) {
		place_close(ov, p[i]);
		place_put(ov, p[i]);
	}
	for (int i = 0; i < 4 * MOST; i++) {
		snprintf(name, sizeof name, "f%d", i + 100);
		p[i] = place(name);
		assert_int_equal(place_pin(ov, p[i], FD_READ, &ent[i]), 0);
		place_unpin(ov, ent[i]);
	}
	assert_true(ov->fds.count <= MOST);
	for (int i = 0; i < 4 * MOST; i++)
		place_put(ov, p[i]);
}

static void a_crowd_of_users_does_not_raise_the_bound_for_good(void **state)
{
	(void)state;
	struct place *p[4 * MOST];
	struct fdent *ent[4 * MOST];
	char name[16];
	for (int i = 0; i < 4 * MOST; i++) {
		snprintf(name, sizeof name, "f%d", i);
		p[i] = place(name);
		assert_int_equal(place_pin(ov, p[i], FD_READ, &ent[i]), 0);
	}
	for (int i = 0; i < 4 * MOST; i++)
		place_unpin(ov, ent[i]);
	struct place *others[4 * MOST];
	for (int i = 0; i < 4 * MOST; i++) { /* as others come, and stay */
		snprintf(name, sizeof name, "f%d", i + 100);
		others[i] = place(name);
		assert_int_equal(place_pin(ov, others[i], FD_READ, &ent[0]), 0);
		place_unpin(ov, ent[0]);
	}
	assert_true(ov->fds.count <= MOST);
	for (int i = 0; i < 4 * MOST; i++) {
		place_put(ov, p[i]);
		place_put(ov, others[i]);
	}
}

/* More in use at the old end than an eviction looks at. */
static void many_slow_users_do_not_lift_the_bound(void **state)
{
	(void)state;
	struct place *slow[100], *others[90];
	struct fdent *ent[100], *one;
	char name[16];
	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof name, "f%d", i);
		slow[i] = place(name);
		assert_int_equal(place_pin(ov, slow[i], FD_READ, &ent[i]), 0);
	}
	for (int i = 0; i < 90; i++) {
		snprintf(name, sizeof name, "f%d", i + 100);
		others[i] = place(name);
		assert_int_equal(place_pin(ov, others[i], FD_READ, &one), 0);
		place_unpin(ov, one);
	}
	assert_true(ov->fds.count <= 100 + MOST);
	for (int i = 0; i < 100; i++) {
		place_unpin(ov, ent[i]);
		place_put(ov, slow[i]);
	}
	for (int i = 0; i < 90; i++)
		place_put(ov, others[i]);
}

static void a_descriptor_outlives_its_place_while_it_is_used(void **state)
{
	(void)state;
	struct place *p = place("f7");
	struct fdent *ent;
	char buf[8];
	assert_int_equal(place_pin(ov, p, FD_READ, &ent), 0);
	place_put(ov, p);
	assert_int_equal(pread(ent->fd, buf, sizeof buf, 0), 2);
	place_unpin(ov, ent);
}

static void nothing_leads_out_of_a_layer(void **state)
{
	(void)state;
	static const char *const names[] = { "..", "out", "leak", "inside", "../outside/secret", "a/../../outside/secret", "/etc/passwd", "out/secret" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct place *p = place(names[i]);
		struct fdent *ent;
		int rc = place_pin(ov, p, FD_READ, &ent);
		if (!rc)
			fail_msg("%s was opened", names[i]);
		assert_true(rc == -ELOOP || rc == -EXDEV || rc == -ENOENT || rc == -ENOTDIR);
		place_put(ov, p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_place_is_found_below_its_parents),
		cmocka_unit_test(descriptors_stay_within_their_bound),
		cmocka_unit_test(what_is_in_use_is_not_closed_and_the_bound_holds_again_afterwards),
		cmocka_unit_test(a_crowd_of_users_does_not_raise_the_bound_for_good),
		cmocka_unit_test(many_slow_users_do_not_lift_the_bound),
		cmocka_unit_test(a_descriptor_outlives_its_place_while_it_is_used),
		cmocka_unit_test(nothing_leads_out_of_a_layer),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
