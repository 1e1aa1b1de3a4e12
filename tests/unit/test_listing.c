/* Listings of directories that are bigger than a window: complete, steady and bounded in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../overlay/internal.h" /* how much is kept is nobody else's business */

enum { NAMES = 1500, SMALL = 300, LARGE = 15000 /* of more than one getdents */, LISTING_BYTES = 16384 }; /* a window of 2 KiB is some 60 names: SMALL's windows are all kept, NAMES's are not */

struct stack {
	char dir[64];
	struct overlay *ov;
	struct object *big;
};
static const struct overlay_cred root_cred;

static void (*on_block)(void); /* what a call is to do before it waits for the disk */
static void before_block(void)
{
	if (on_block)
		on_block();
}

static void sh(const char *dir, const char *script)
{
	char cmd[1024];
	snprintf(cmd, sizeof cmd, "set -e; cd %s; %s", dir, script);
	assert_int_equal(system(cmd), 0);
}

/* Even names in the upper one of the lowers, those that 3 divides in the lowest. */
static int setup_with(void **state, int names)
{
	struct stack *s = calloc(1, sizeof *s);
	char upper[96], lower1[96], lower2[96], work[96], script[256], err[256] = "";
	const char *lowers[] = { lower1, lower2 };
	strcpy(s->dir, "/tmp/overnfsd-unit-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(upper, sizeof upper, "%s/upper", s->dir);
	snprintf(lower1, sizeof lower1, "%s/lower1", s->dir);
	snprintf(lower2, sizeof lower2, "%s/lower2", s->dir);
	snprintf(work, sizeof work, "%s/work", s->dir);
	snprintf(script, sizeof script, "mkdir -p upper work lower1/big lower2/big; cd lower1/big; seq -f n%%g 0 2 %d | xargs touch; cd ../../lower2/big;"
		 "seq -f n%%g 0 3 %d | xargs touch", names - 1, names - 1);
	sh(s->dir, script);
	struct overlay_config c = { .lowers = lowers, .nlowers = 2, .upper = upper, .work = work, .name = "/overlay", .listing_bytes = LISTING_BYTES, .before_block = before_block };
	if (overlay_open(&c, &s->ov, err, sizeof err))
		fail_msg("%s", err);
	struct object *root = overlay_root(s->ov);
	assert_int_equal(overlay_lookup(s->ov, &root_cred, root, "big", &s->big, NULL), 0);
	overlay_put(s->ov, root);
	*state = s;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, NAMES);
}

static int setup_small(void **state)
{
	return setup_with(state, SMALL);
}

static int setup_large(void **state)
{
	return setup_with(state, LARGE);
}

static int teardown(void **state)
{
	on_block = NULL;
	struct stack *s = *state;
	overlay_put(s->ov, s->big);
	overlay_close(s->ov);
	sh(s->dir, "cd /; rm -rf $OLDPWD");
	free(s);
	return 0;
}

static bool in_lowers(int i)
{
	return i % 2 == 0 || i % 3 == 0;
}

struct scan {
	struct stack *s;
	uint64_t cookie;
	int left; /* entries that this call may take */
	bool eof;
	uint8_t seen[LARGE + 1];
};

static bool take(void *arg, const struct overlay_entry *e, struct object *o, const struct overlay_attr *attr)
{
	struct scan *scan = arg;
	(void)o;
	(void)attr;
	if (!scan->left)
		return false;
	scan->left--;
	assert_true(e->cookie > scan->cookie);
	scan->cookie = e->cookie;
	if (*e->name == 'n')
		scan->seen[atoi(e->name + 1)]++;
	return true;
}

static void scan_some(struct scan *scan, int n)
{
	scan->left = n;
	assert_int_equal(overlay_readdir(scan->s->ov, &root_cred, scan->s->big, scan->cookie, false, take, scan, &scan->eof), 0);
	assert_true(scan->s->ov->listings_bytes <= LISTING_BYTES);
}

static void add(struct stack *s, int i)
{
	struct object *o;
	struct overlay_attr a;
	struct overlay_wcc wcc;
	char name[16];
	snprintf(name, sizeof name, "n%d", i);
	assert_int_equal(overlay_create(s->ov, &root_cred, s->big, name, CREATE_GUARDED, NULL, NULL, &o, &a, &wcc), 0);
	overlay_put(s->ov, o);
}

static void drop(struct stack *s, int i)
{
	struct overlay_wcc wcc;
	char name[16];
	snprintf(name, sizeof name, "n%d", i);
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->big, name, &wcc), 0);
}

static void every_name_of_a_merged_directory_shows_once_through_many_windows(void **state)
{
	for (int chunk = 1; chunk <= 5000; chunk = chunk * 5 + 2) {
		struct scan scan = { .s = *state };
		while (!scan.eof)
			scan_some(&scan, chunk);
		for (int i = 0; i < NAMES; i++)
			assert_int_equal(scan.seen[i], in_lowers(i));
	}
}

static void names_that_stay_show_once_while_others_come_and_go(void **state)
{
	struct stack *s = *state;
	for (unsigned round = 0; round < 2; round++) {
		struct scan scan = { .s = s };
		uint8_t there[NAMES], changed[NAMES] = { 0 };
		srandom(round);
		struct scan before = { .s = s };
		while (!before.eof)
			scan_some(&before, 1000);
		memcpy(there, before.seen, sizeof there);
		while (!scan.eof) {
			scan_some(&scan, (int)(random() % 90) + 1);
			for (int k = 0; k < 5; k++) {
				int i = (int)(random() % NAMES);
				if (there[i])
					drop(s, i);
				else
					add(s, i);
				there[i] = !there[i];
				changed[i] = 1;
			}
		}
		for (int i = 0; i < NAMES; i++)
			if (!changed[i])
				assert_int_equal(scan.seen[i], there[i]);
			else
				assert_true(scan.seen[i] <= 1);
	}
}

static void a_scan_sees_all_that_was_there_when_it_began_whatever_another_scan_left_in_memory(void **state)
{
	struct stack *s = *state;
	for (int i = 1; i < SMALL; i += 6) { /* 1, 7, 13...: in no lower */
		struct scan old = { .s = s }, new = { .s = s };
		while (!old.eof)
			scan_some(&old, 50);
		add(s, i);
		while (!new.eof)
			scan_some(&new, 50);
		assert_int_equal(new.seen[i], 1);
	}
}

static void a_directory_is_empty_when_each_of_its_names_is_hidden(void **state)
{
	struct stack *s = *state;
	struct object *root = overlay_root(s->ov);
	struct overlay_wcc wcc;
	for (int i = 0; i < NAMES; i++) {
		if (!in_lowers(i))
			continue;
		if (i % 500 == 0)
			assert_int_equal(overlay_rmdir(s->ov, &root_cred, root, "big", &wcc), -ENOTEMPTY);
		drop(s, i);
	}
	add(s, 1);
	assert_int_equal(overlay_rmdir(s->ov, &root_cred, root, "big", &wcc), -ENOTEMPTY);
	drop(s, 1);
	assert_int_equal(overlay_rmdir(s->ov, &root_cred, root, "big", &wcc), 0);
	overlay_put(s->ov, root);
}

static bool same_as_looked_up(void *arg, const struct overlay_entry *e, struct object *unused, const struct overlay_attr *attr)
{
	struct object **dir_and_ov = arg, *o;
	struct overlay *ov = (void *)dir_and_ov[1];
	struct overlay_attr a;
	(void)unused;
	(void)attr;
	assert_int_equal(overlay_lookup(ov, &root_cred, dir_and_ov[0], e->name, &o, &a), 0);
	if (a.fileid != e->fileid)
		fail_msg("%s is listed with another file id than it has", e->name);
	overlay_put(ov, o);
	return true;
}

static struct overlay *listed;
static unsigned looks, free_looks;

static void could_a_rename_begin(void)
{
	looks++;
	if (pthread_rwlock_trywrlock(&listed->rename_lock))
		return;
	free_looks++;
	pthread_rwlock_unlock(&listed->rename_lock);
}

static void renames_go_on_while_a_large_directory_is_read(void **state)
{
	struct scan scan = { .s = *state };
	listed = scan.s->ov;
	on_block = could_a_rename_begin;
	scan_some(&scan, 10);
	assert_true(looks > 0);
	assert_int_equal(free_looks, looks);
}

static void file_ids_are_right(struct stack *s, struct object *dir)
{
	bool eof;
	void *arg[] = { dir, s->ov };
	assert_int_equal(overlay_readdir(s->ov, &root_cred, dir, 0, false, same_as_looked_up, arg, &eof), 0);
}

static void file_ids_in_a_listing_are_those_of_lookups(void **state)
{
	struct stack *s = *state;
	struct object *root = overlay_root(s->ov), *born, *o;
	struct overlay_attr a;
	struct overlay_wcc wcc, wcc2;
	struct overlay_setattr set = { .set_mode = true, .mode = 0600 };
	assert_int_equal(overlay_mkdir(s->ov, &root_cred, root, "born", NULL, &born, &a, &wcc), 0);
	assert_int_equal(overlay_create(s->ov, &root_cred, born, "file", CREATE_GUARDED, NULL, NULL, &o, &a, &wcc), 0);
	overlay_put(s->ov, o);
	assert_int_equal(overlay_symlink(s->ov, &root_cred, born, "link", "to", NULL, &o, &a, &wcc), 0);
	overlay_put(s->ov, o);
	file_ids_are_right(s, born); /* all born there */
	assert_int_equal(overlay_lookup(s->ov, &root_cred, s->big, "n2", &o, NULL), 0);
	assert_int_equal(overlay_link(s->ov, &root_cred, o, born, "linked", &a, &wcc), 0); /* a lower's, copied up */
	overlay_put(s->ov, o);
	file_ids_are_right(s, born);
	file_ids_are_right(s, s->big);
	assert_int_equal(overlay_mkdir(s->ov, &root_cred, root, "other", NULL, &o, &a, &wcc), 0);
	assert_int_equal(overlay_rename(s->ov, &root_cred, s->big, "n4", o, "moved", &wcc, &wcc2), 0);
	file_ids_are_right(s, o);
	overlay_put(s->ov, o);
	assert_int_equal(overlay_lookup(s->ov, &root_cred, s->big, "n6", &o, NULL), 0);
	assert_int_equal(overlay_setattr(s->ov, &root_cred, o, &set, NULL, &wcc), 0);
	overlay_put(s->ov, o);
	file_ids_are_right(s, s->big);
	file_ids_are_right(s, root);
	overlay_put(s->ov, born);
	overlay_put(s->ov, root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_name_of_a_merged_directory_shows_once_through_many_windows, setup, teardown),
		cmocka_unit_test_setup_teardown(names_that_stay_show_once_while_others_come_and_go, setup, teardown),
		cmocka_unit_test_setup_teardown(a_scan_sees_all_that_was_there_when_it_began_whatever_another_scan_left_in_memory, setup_small, teardown),
		cmocka_unit_test_setup_teardown(file_ids_in_a_listing_are_those_of_lookups, setup_small, teardown),
		cmocka_unit_test_setup_teardown(renames_go_on_while_a_large_directory_is_read, setup_large, teardown),
		cmocka_unit_test_setup_teardown(a_directory_is_empty_when_each_of_its_names_is_hidden, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
