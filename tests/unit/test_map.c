/* What the handle map's writer makes of a batch: of each place the last that was said of it, in whatever order the places came. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../overlay/internal.h" /* what is in the file is nobody else's business */

static const struct overlay_id dir = { .layer = 1, .ino = 2 }, other_dir = { .layer = 1, .ino = 3 };
static struct map *map;

static int setup(void **state)
{
	(void)state;
	return map_open_private(NULL, &map);
}

static int teardown(void **state)
{
	(void)state;
	map_close(map);
	return 0;
}

static struct overlay_id object(uint64_t number)
{
	return (struct overlay_id){ .layer = 1, .ino = 100 + number };
}

static bool written(uint64_t number, const struct overlay_id *parent, const char *name)
{
	struct overlay_id id = object(number);
	struct map_place place = { .parent = id_fileid(parent) };
	strcpy(place.name, name);
	return map_has(map, id_fileid(&id), &place);
}

static void put(uint64_t number, const char *name)
{
	struct overlay_id id = object(number);
	map_put_place(map, &id, &dir, name);
}

static void del(uint64_t number, const char *name)
{
	struct overlay_id id = object(number);
	map_del_place(map, &id, &dir, name);
}

static void what_was_said_last_of_a_place_holds(void **state)
{
	(void)state;
	put(1, "stays");
	put(1, "went");
	del(1, "went");
	put(2, "came back");
	del(2, "came back");
	put(2, "came back");
	struct overlay_id three = object(3);
	put(3, "in two");
	map_put_place(map, &three, &other_dir, "in two");
	del(3, "in two");
	assert_int_equal(map_sync(map), 0);
	assert_true(written(1, &dir, "stays"));
	assert_false(written(1, &dir, "went"));
	assert_true(written(2, &dir, "came back"));
	assert_false(written(3, &dir, "in two"));
	assert_true(written(3, &other_dir, "in two"));
	del(1, "stays"); /* in a batch of its own, of what is on disk */
	assert_int_equal(map_sync(map), 0);
	assert_false(written(1, &dir, "stays"));
}

/* More than a batch, of one object among others: each time it has one place. */
static void one_object_renamed_over_and_over_has_the_last_place(void **state)
{
	enum { RENAMES = 20001, OTHERS = 50 };
	struct map_place places[MAP_PLACES];
	struct overlay_id id = object(0);
	(void)state;
	put(0, "a");
	for (int i = 0; i < RENAMES; i++) {
		put(0, i % 2 ? "a" : "b");
		del(0, i % 2 ? "b" : "a");
		if (i < OTHERS)
			put(1 + (uint64_t)i, "other");
		map_wait_for_room(map);
	}
	assert_int_equal(map_places(map, id_fileid(&id), places), 1); /* pending or written */
	assert_string_equal(places[0].name, "b");
	assert_int_equal(map_sync(map), 0);
	assert_true(written(0, &dir, "b"));
	assert_false(written(0, &dir, "a"));
	for (uint64_t i = 1; i <= OTHERS; i++)
		assert_true(written(i, &dir, "other"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_said_last_of_a_place_holds, setup, teardown),
		cmocka_unit_test_setup_teardown(one_object_renamed_over_and_over_has_the_last_place, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
