/* rpc/ under a toy program: clients that do not read what they asked for. */
#include "toy.h"

#include <poll.h>
#include <stdio.h>

static void a_client_that_does_not_read_takes_bounded_memory(void **state)
{
	(void)state;
	enum { CALLS = 600 };
	int fd = connected();
	size_t before = rss_mib();
	static uint8_t stream[CALLS * 48];
	size_t len = 0;
	big_ran = 0;
	for (uint32_t i = 0; i < CALLS; i++) { /* 600 MB of replies, asked for in one go */
		word_call(i, BIG, MIB);
		memcpy(stream + len, &(uint32_t){ htonl(1u << 31 | (uint32_t)m.len) }, 4);
		memcpy(stream + len + 4, m.data, m.len);
		len += 4 + m.len;
	}
	assert_true(wire_send(fd, stream, len));
	for (int i = 0; i < 20; i++)
		still_serves();
	usleep(100000);
	size_t grown = rss_mib() - before;
	printf("| a client that asks for %d MiB and does not read: %zu MiB of memory, %u calls run\n", CALLS, grown, big_ran);
	assert_true(grown < 40 || SANITIZED);
	assert_true(big_ran < 100);
	uint8_t seen[CALLS] = { 0 };
	for (int i = 0; i < CALLS; i++) { /* and when it reads, it gets all */
		assert_true(recv_message(fd, &r));
		struct answer a = answer_of(&r);
		assert_true(a.xid < CALLS && !seen[a.xid]++);
		assert_int_equal(word_at(r.data, a.results), MIB);
	}
	assert_int_equal(big_ran, CALLS);
	close(fd);
}

static void a_slow_reader_whose_queue_is_never_empty_takes_bounded_memory(void **state)
{
	(void)state;
	int fd = connected(), small = 1 << 16;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
	size_t before = rss_mib();
	enum { AHEAD = 8, CALLS = 300 };
	for (uint32_t i = 0; i < CALLS + AHEAD; i++) { /* always some replies behind */
		if (i < CALLS) {
			word_call(i, BIG, MIB / 2);
			assert_true(send_message(fd, &m));
		}
		if (i >= AHEAD)
			assert_true(recv_message(fd, &r));
	}
	size_t grown = rss_mib() - before;
	assert_true(grown < 40 || SANITIZED);
	close(fd);
}

static int count_closed(const int *fd, int n)
{
	int closed = 0;
	for (int i = 0; i < n; i++) {
		struct pollfd p = { .fd = fd[i], .events = POLLRDHUP };
		closed += poll(&p, 1, 0) == 1 && p.revents & (POLLRDHUP | POLLHUP);
	}
	return closed;
}

static void many_clients_that_do_not_read_take_bounded_memory(void **state)
{
	(void)state;
	enum { CLIENTS = 60, LIMIT = 48 };
	int fd[CLIENTS];
	stop();
	start(&(struct rpc_config){ .threads = 4, .max_record = MIB + 8192, .max_queued = (size_t)LIMIT * MIB });
	size_t before = rss_mib();
	for (int i = 0; i < CLIENTS; i++) {
		int small = 1 << 16;
		fd[i] = connected();
		setsockopt(fd[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
		for (uint32_t j = 0; j < 10; j++) {
			word_call(j, BIG, MIB);
			(void)send_message(fd[i], &m);
		}
	}
	usleep(200000);
	size_t grown = rss_mib() - before;
	int closed = count_closed(fd, CLIENTS);
	printf("| %d clients that ask for 10 MiB each and do not read: %zu MiB of memory (limit %d), %d of them closed\n", CLIENTS, grown, LIMIT, closed);
	assert_true(grown < LIMIT + 40 || SANITIZED);
	still_serves();
	for (int i = 0; i < CLIENTS; i++)
		close(fd[i]);
}

static void many_clients_that_send_no_call_whole_take_bounded_memory(void **state)
{
	(void)state;
	enum { CLIENTS = 150, LIMIT = 24 };
	static uint8_t part[MIB];
	int fd[CLIENTS], closed;
	stop();
	start(&(struct rpc_config){ .threads = 4, .max_record = MIB + 8192, .max_queued = (size_t)LIMIT * MIB });
	size_t before = rss_mib();
	for (int i = 0; i < CLIENTS; i++) { /* each lacks one byte */
		fd[i] = connected();
		(void)(wire_send(fd[i], &(uint32_t){ htonl(1u << 31 | (MIB + 1)) }, 4) && wire_send(fd[i], part, MIB));
	}
	for (int tries = 0; (closed = count_closed(fd, CLIENTS)) < CLIENTS - LIMIT - 1 && tries < 1000; tries++)
		usleep(20000); /* what was sent is still being read */
	size_t grown = rss_mib() - before;
	printf("| %d clients that lack a byte of a MiB: %zu MiB of memory (limit %d), %d of them closed\n", CLIENTS, grown, LIMIT, closed);
	assert_true(grown < LIMIT + 70 || SANITIZED);
	assert_true(closed >= CLIENTS - LIMIT - 1 && closed < CLIENTS);
	still_serves();
	for (int i = 0; i < CLIENTS; i++)
		close(fd[i]);
	echo_call(1, part, MIB); /* what they held is given back */
	for (int tries = 0;; tries++) {
		int again = connected();
		bool taken = send_message(again, &m) && recv_message(again, &r);
		close(again);
		if (taken)
			break;
		assert_true(tries < 100);
		usleep(20000);
	}
}

static void a_client_that_takes_nothing_for_long_is_gone(void **state)
{
	(void)state;
	stop();
	start(&(struct rpc_config){ .threads = 4, .max_record = MIB + 8192, .dead_after = 1 });
	int fd = connected();
	for (uint32_t i = 0; i < 20; i++) {
		word_call(i, BIG, MIB);
		assert_true(send_message(fd, &m));
	}
	while (send(fd, "\0\0\0", 4, MSG_NOSIGNAL) == 4) /* until the server's kernel, which gave the connection up, answers with a reset */
		usleep(100000);
	assert_true(errno == ECONNRESET || errno == EPIPE);
	close(fd);
	still_serves();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TOY_TEST(a_client_that_does_not_read_takes_bounded_memory),
		TOY_TEST(a_slow_reader_whose_queue_is_never_empty_takes_bounded_memory),
		TOY_TEST(many_clients_that_do_not_read_take_bounded_memory),
		TOY_TEST(many_clients_that_send_no_call_whole_take_bounded_memory),
		TOY_TEST(a_client_that_takes_nothing_for_long_is_gone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
