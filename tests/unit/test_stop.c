/* rpc/ under a toy program: the end of a server. */
#include "toy.h"

#include <dlfcn.h>
#include <pthread.h>
#include <time.h>

static _Thread_local time_t flooded_until; /* whose thread reads: it gets more each time, as of a client that sends faster than the server reads */

ssize_t recv(int fd, void *data, size_t len, int flags)
{
	ssize_t (*real)(int, void *, size_t, int) = (ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
	return flooded_until ? time(NULL) < flooded_until ? (ssize_t)len : 0 : real(fd, data, len, flags);
}

static void *stopper(void *arg)
{
	(void)arg;
	stop();
	return NULL;
}

static void a_stop_finishes_the_calls_at_work_and_cuts_no_reply(void **state)
{
	(void)state;
	enum { CLIENTS = 6 };
	pthread_t thread;
	int fd[CLIENTS];
	size_t whole = 0;
	for (int i = 0; i < CLIENTS; i++) {
		fd[i] = connected();
		for (uint32_t j = 0; j < 40; j++) { /* replies that wait in a queue, and calls that are not read */
			word_call(j, BIG, MIB);
			assert_true(send_message(fd[i], &m));
		}
	}
	int blocked = connected();
	word_call(99, BLOCK, 7);
	assert_true(send_message(blocked, &m));
	sem_wait(&entered);
	pthread_create(&thread, NULL, stopper, NULL);
	usleep(50000);
	sem_post(&leave);
	assert_true(recv_message(blocked, &r)); /* it was in flight */
	assert_int_equal(word_at(r.data, 24), 7);
	for (int i = 0; i < CLIENTS; i++) {
		bool cut = false;
		while (recv_message_cut(fd[i], &r, &cut)) {
			struct answer a = answer_of(&r);
			assert_int_equal(a.stat, 0);
			assert_int_equal(r.len, a.results + 4 + MIB);
			whole++;
		}
		assert_false(cut);
		close(fd[i]);
	}
	assert_true(whole >= CLIENTS);
	assert_false(recv_message(blocked, &r));
	close(blocked);
	pthread_join(thread, NULL);
}

static void a_stop_does_not_wait_for_clients_that_do_not_read(void **state)
{
	(void)state;
	int fd[20];
	for (int i = 0; i < 20; i++) {
		fd[i] = connected();
		for (uint32_t j = 0; j < 10; j++) {
			word_call(j, BIG, MIB);
			assert_true(send_message(fd[i], &m));
		}
	}
	usleep(50000);
	stop(); /* comes back */
	for (int i = 0; i < 20; i++)
		close(fd[i]);
}

static void *flooded_stopper(void *arg)
{
	flooded_until = time(NULL) + 20;
	stop();
	*(bool *)arg = time(NULL) < flooded_until;
	return NULL;
}

static void a_stop_does_not_wait_for_clients_that_send_without_end(void **state)
{
	(void)state;
	pthread_t thread;
	bool in_time;
	stop();
	start(&(struct rpc_config){ .threads = 1, .max_record = MIB });
	int fd = connected();
	word_call(1, BLOCK, 7);
	assert_true(send_message(fd, &m));
	sem_wait(&entered);
	word_call(2, ECHO, 0); /* nobody is left to read it */
	assert_true(send_message(fd, &m));
	pthread_create(&thread, NULL, flooded_stopper, &in_time);
	usleep(50000);
	sem_post(&leave);
	pthread_join(thread, NULL);
	assert_true(in_time);
	assert_true(recv_message(fd, &r)); /* and its reply is not cut */
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TOY_TEST(a_stop_finishes_the_calls_at_work_and_cuts_no_reply),
		TOY_TEST(a_stop_does_not_wait_for_clients_that_do_not_read),
		TOY_TEST(a_stop_does_not_wait_for_clients_that_send_without_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
