/* The table of objects keeps to its bound, and comes back to it where it had to be exceeded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../overlay/internal.h" /* how many there are is nobody else's business */

enum { NAMES = 3000, OTHERS = 1000, BOUND = 100 };

static const struct overlay_cred root_cred;

static bool take(void *arg, const struct overlay_entry *e, struct object *o, const struct overlay_attr *attr)
{
	struct overlay *ov = arg;
	(void)attr;
	if (*e->name != '.')
		assert_non_null(o);
	assert_true(ov->table.count <= BOUND + BOUND / 10); /* second chance: the first round finds all in use */
	return true;
}

static void the_table_keeps_to_its_bound_and_comes_back_to_it(void **state)
{
	char dir[] = "/tmp/overnfsd-unit-XXXXXX", lower[64], cmd[256], name[24], err[256] = "";
	const char *lowers[] = { lower };
	struct overlay_config c = { .lowers = lowers, .nlowers = 1, .name = "/overlay", .max_objects = BOUND };
	struct overlay *ov;
	struct object *root, *held[NAMES];
	bool eof;
	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(lower, sizeof lower, "%s/lower", dir);
	snprintf(cmd, sizeof cmd, "mkdir %s; cd %s; seq -f n%%g 0 %d | xargs touch", lower, lower, NAMES + OTHERS - 1);
	assert_int_equal(system(cmd), 0);
	if (overlay_open(&c, &ov, err, sizeof err))
		fail_msg("%s", err);
	root = overlay_root(ov);
	for (int i = 0; i < 3; i++)
		assert_int_equal(overlay_readdir(ov, &root_cred, root, 0, true, take, ov, &eof), 0);
	for (int i = 0; i < NAMES; i++) { /* in use by somebody: nothing can go */
		snprintf(name, sizeof name, "n%d", i);
		assert_int_equal(overlay_lookup(ov, &root_cred, root, name, &held[i], NULL), 0);
	}
	assert_true(ov->table.count >= NAMES);
	for (int i = 0; i < NAMES; i++)
		overlay_put(ov, held[i]);
	for (int i = NAMES; i < NAMES + OTHERS; i++) { /* others come: for each, more than one goes */
		struct object *o;
		snprintf(name, sizeof name, "n%d", i);
		assert_int_equal(overlay_lookup(ov, &root_cred, root, name, &o, NULL), 0);
		overlay_put(ov, o);
	}
	assert_int_equal(overlay_readdir(ov, &root_cred, root, 0, true, take, ov, &eof), 0);
	overlay_put(ov, root);
	overlay_close(ov);
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	assert_int_equal(system(cmd), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(the_table_keeps_to_its_bound_and_comes_back_to_it) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
