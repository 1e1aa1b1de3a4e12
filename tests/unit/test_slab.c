/* slab.c: blocks of several sizes, given back and taken again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../overlay/internal.h"

#include <string.h>

enum { BLOCKS = 40000, GRANULE = 64, LARGEST = GRANULE * (SLAB_SIZES - 1) }; /* together some 30 MiB: many chunks */

static uint8_t *blocks[BLOCKS];

static size_t size_of(size_t i)
{
	return 1 + i * 7919 % LARGEST;
}

static uint8_t mark_of(size_t i)
{
	return (uint8_t)(1 + i % 251);
}

static bool all(const uint8_t *p, uint8_t value, size_t size)
{
	return p[0] == value && !memcmp(p, p + 1, size - 1);
}

static void take(struct slab *s, size_t i)
{
	blocks[i] = slab_alloc(s, size_of(i));
	assert_non_null(blocks[i]);
	assert_true(all(blocks[i], 0, size_of(i)));
	memset(blocks[i], mark_of(i), size_of(i));
}

static void every_block_is_empty_at_first_and_its_owner_s_alone(void **state)
{
	struct slab s;
	(void)state;
	slab_init(&s, GRANULE);
	for (size_t i = 0; i < BLOCKS; i++)
		take(&s, i);
	for (size_t i = 0; i < BLOCKS; i += 2)
		slab_free(&s, blocks[i], size_of(i));
	for (size_t i = 0; i < BLOCKS; i += 2)
		take(&s, i);
	for (size_t i = 0; i < BLOCKS; i++) {
		assert_true(all(blocks[i], mark_of(i), size_of(i)));
		slab_free(&s, blocks[i], size_of(i));
	}
	slab_destroy(&s);
}

static void what_was_given_back_is_used_before_anything_new(void **state)
{
	struct slab s;
	(void)state;
	slab_init(&s, GRANULE);
	slab_free(&s, slab_alloc(&s, 300), 300);
	const char *at = s.at;
	for (int i = 0; i < 100000; i++)
		slab_free(&s, slab_alloc(&s, 270), 270); /* as many granules */
	assert_ptr_equal(s.at, at);
	slab_destroy(&s);
}

static void blocks_stand_at_multiples_of_the_granule(void **state)
{
	struct slab s;
	(void)state;
	slab_init(&s, GRANULE);
	for (size_t i = 0; i < 100; i++) {
		take(&s, i);
		if (s.chunks) /* else each is malloc's, for AddressSanitizer */
			assert_int_equal((uintptr_t)blocks[i] % GRANULE, 0);
	}
	for (size_t i = 0; i < 100; i++)
		slab_free(&s, blocks[i], size_of(i));
	slab_destroy(&s);
}

static void a_size_that_it_does_not_have_is_refused(void **state)
{
	struct slab s;
	(void)state;
	slab_init(&s, GRANULE);
	assert_null(slab_alloc(&s, LARGEST + 1));
	void *p = slab_alloc(&s, LARGEST);
	assert_non_null(p);
	slab_free(&s, p, LARGEST);
	slab_free(&s, NULL, 1);
	slab_destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_block_is_empty_at_first_and_its_owner_s_alone),
		cmocka_unit_test(what_was_given_back_is_used_before_anything_new),
		cmocka_unit_test(blocks_stand_at_multiples_of_the_granule),
		cmocka_unit_test(a_size_that_it_does_not_have_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
