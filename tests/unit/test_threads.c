/* rpc/ under a toy program: calls that block, and who goes on meanwhile. */
#include "toy.h"

static void a_blocked_call_holds_up_neither_its_connection_nor_others(void **state)
{
	(void)state;
	int fd = connected();
	for (uint32_t i = 0; i < 5; i++) { /* all in the same stream, before and behind quick ones */
		word_call(i, BLOCK, i);
		assert_true(send_message(fd, &m));
		put_call(&m, 100 + i, PROG, 3, 0);
		assert_true(send_message(fd, &m));
	}
	for (int i = 0; i < 5; i++) {
		assert_true(recv_message(fd, &r));
		assert_true(answer_of(&r).xid >= 100); /* the quick ones alone */
	}
	for (int i = 0; i < 5; i++)
		sem_wait(&entered);
	still_serves();
	for (int i = 0; i < 5; i++)
		sem_post(&leave);
	for (int i = 0, seen = 0; i < 5; i++) {
		assert_true(recv_message(fd, &r));
		struct answer a = answer_of(&r);
		assert_true(a.xid < 5 && !(seen >> a.xid & 1));
		assert_int_equal(word_at(r.data, a.results), a.xid);
		seen |= 1 << a.xid;
	}
	close(fd);
}

static void a_call_that_blocks_without_a_word_holds_up_nobody_for_long(void **state)
{
	(void)state;
	int fd = connected();
	for (uint32_t i = 0; i < 3; i++) { /* the watchdog sees each, and gives the rest of the stream to another worker */
		word_call(i, STUCK, i);
		assert_true(send_message(fd, &m));
	}
	put_call(&m, 100, PROG, 3, 0);
	assert_true(send_message(fd, &m));
	assert_true(recv_message(fd, &r));
	assert_int_equal(answer_of(&r).xid, 100);
	for (int i = 0; i < 3; i++)
		sem_wait(&entered);
	still_serves();
	for (int i = 0; i < 3; i++)
		sem_post(&leave);
	for (int i = 0; i < 3; i++)
		assert_true(recv_message(fd, &r));
	close(fd);
}

static void more_blocked_calls_than_threads_wait_their_turn(void **state)
{
	(void)state;
	enum { CALLS = 30 };
	int fd = connected();
	for (uint32_t i = 0; i < CALLS; i++) {
		word_call(i, BLOCK, i);
		assert_true(send_message(fd, &m));
	}
	for (int i = 0; i < 5; i++) /* of 8 threads, each shard has one that waits */
		sem_wait(&entered);
	for (int i = 0; i < CALLS; i++)
		sem_post(&leave);
	uint32_t seen = 0;
	for (int i = 0; i < CALLS; i++) {
		assert_true(recv_message(fd, &r));
		seen |= 1u << answer_of(&r).xid;
	}
	assert_int_equal(seen, (1u << CALLS) - 1);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TOY_TEST(a_blocked_call_holds_up_neither_its_connection_nor_others),
		TOY_TEST(a_call_that_blocks_without_a_word_holds_up_nobody_for_long),
		TOY_TEST(more_blocked_calls_than_threads_wait_their_turn),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
