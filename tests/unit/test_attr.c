/* attr.c: for how long attributes are kept without a look at the layer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../overlay/internal.h"

#include <sys/stat.h>

enum { NOW = 1000000000 };

static time_t life(mode_t mode, time_t modified, time_t changed)
{
	struct overlay_attr a = { .mode = mode | 0644, .mtime.tv_sec = NOW - modified, .ctime.tv_sec = NOW - changed };
	return attr_life(&a, NOW);
}

static void what_changes_now_is_looked_at_each_second(void **state)
{
	(void)state;
	assert_int_equal(life(S_IFREG, 0, 0), 1);
	assert_int_equal(life(S_IFREG, 10, 19), 1);
	assert_int_equal(life(S_IFLNK, 3, 3), 1);
}

static void what_has_not_changed_for_long_is_kept_longer(void **state)
{
	(void)state;
	assert_int_equal(life(S_IFREG, 100, 100), 10);
	assert_int_equal(life(S_IFREG, 300, 300), 30);
	assert_int_equal(life(S_IFREG, 400000, 300000), 30);
}

static void the_later_of_both_times_counts(void **state)
{
	(void)state;
	assert_int_equal(life(S_IFREG, 500000, 0), 1); /* chmod, or an old time that was set */
	assert_int_equal(life(S_IFREG, 0, 500000), 1);
}

static void a_directory_is_looked_at_each_second(void **state)
{
	(void)state;
	assert_int_equal(life(S_IFDIR, 500000, 500000), 1);
}

static void a_time_to_come_is_as_now(void **state)
{
	(void)state;
	assert_int_equal(life(S_IFREG, -500000, 500000), 1);
	assert_int_equal(life(S_IFREG, 500000, -500000), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_changes_now_is_looked_at_each_second),
		cmocka_unit_test(what_has_not_changed_for_long_is_kept_longer),
		cmocka_unit_test(the_later_of_both_times_counts),
		cmocka_unit_test(a_directory_is_looked_at_each_second),
		cmocka_unit_test(a_time_to_come_is_as_now),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
