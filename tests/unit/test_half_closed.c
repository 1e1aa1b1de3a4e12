/* rpc/ under a toy program: clients that send no more (shutdown(2)) and still read. */
#include "toy.h"

#include "../../rpc/internal.h" /* that nothing is left of them */

static void nothing_is_left(void)
{
	for (int i = 0; i < 500 && (atomic_load(&server->nconns) || atomic_load(&server->nended)); i++)
		usleep(10000);
	assert_int_equal(atomic_load(&server->nconns), 0);
	assert_int_equal(atomic_load(&server->nended), 0);
	assert_int_equal(atomic_load(&server->queued), 0);
}

static void who_has_nothing_to_get_is_closed(void **state)
{
	(void)state;
	int fd = connected();
	put_call(&m, 1, PROG, 3, 0);
	assert_true(send_message(fd, &m));
	shutdown(fd, SHUT_WR);
	assert_true(recv_message(fd, &r));
	assert_false(recv_message(fd, &r));
	close(fd);
	nothing_is_left();
}

static void a_call_at_work_is_answered_and_then_the_connection_closed(void **state)
{
	static const uint32_t procs[] = { BLOCK, STUCK, ONCE_BLOCK };
	(void)state;
	for (size_t i = 0; i < sizeof procs / sizeof *procs; i++) {
		int fd = connected();
		word_call(5, procs[i], 7);
		assert_true(send_message(fd, &m));
		sem_wait(&entered);
		shutdown(fd, SHUT_WR);
		for (int j = 0; j < 5; j++, usleep(20000))
			still_serves();
		sem_post(&leave);
		assert_true(recv_message(fd, &r));
		assert_int_equal(answer_of(&r).xid, 5);
		assert_false(recv_message(fd, &r));
		close(fd);
		nothing_is_left();
	}
}

static void what_is_queued_is_sent(void **state)
{
	enum { CALLS = 30 };
	(void)state;
	int fd = connected();
	for (uint32_t i = 0; i < CALLS; i++) {
		word_call(i, BIG, MIB);
		assert_true(send_message(fd, &m));
	}
	shutdown(fd, SHUT_WR);
	usleep(200000);
	for (int i = 0; i < CALLS; i++)
		assert_true(recv_message(fd, &r));
	assert_false(recv_message(fd, &r));
	close(fd);
	nothing_is_left();
}

static void who_leaves_altogether_is_closed_when_its_call_is_done(void **state)
{
	(void)state;
	int fd = connected();
	word_call(5, BLOCK, 7);
	assert_true(send_message(fd, &m));
	sem_wait(&entered);
	close(fd);
	usleep(50000);
	sem_post(&leave);
	nothing_is_left();
	still_serves();
}

static void many_at_once_are_answered(void **state)
{
	enum { CLIENTS = 6 };
	int fd[CLIENTS];
	(void)state;
	for (int round = 0; round < 20; round++) {
		for (uint32_t i = 0; i < CLIENTS; i++) {
			fd[i] = connected();
			word_call(i, BLOCK, i);
			assert_true(send_message(fd[i], &m));
			sem_wait(&entered);
		}
		for (int i = 0; i < CLIENTS; i++) {
			shutdown(fd[i], SHUT_WR);
			sem_post(&leave); /* about when the end is read */
		}
		for (int i = 0; i < CLIENTS; i++) {
			assert_true(recv_message(fd[i], &r));
			assert_false(recv_message(fd[i], &r));
			close(fd[i]);
		}
		nothing_is_left();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TOY_TEST(who_has_nothing_to_get_is_closed),
		TOY_TEST(a_call_at_work_is_answered_and_then_the_connection_closed),
		TOY_TEST(what_is_queued_is_sent),
		TOY_TEST(who_leaves_altogether_is_closed_when_its_call_is_done),
		TOY_TEST(many_at_once_are_answered),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
