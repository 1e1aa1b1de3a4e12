/* rpc/ under a toy program: a call that comes again is answered with the first reply. */
#include "toy.h"

enum { MACHINE = 40 /* where a call has the name of the caller's machine */ };

static void a_repeated_call_gets_the_first_reply(void **state)
{
	(void)state;
	int fd = connected(), other = connected();
	uint32_t first = ask_word(fd, 10, ONCE, 5);
	assert_int_equal(ask_word(fd, 10, ONCE, 5), first);
	assert_int_equal(ask_word(other, 10, ONCE, 5), first); /* over another connection */
	close(fd);
	fd = connected();
	assert_int_equal(ask_word(fd, 10, ONCE, 5), first); /* after a reconnect */
	assert_int_equal(ask_word(fd, 10, ONCE, 6), first + 1); /* other arguments: another call */
	assert_int_equal(ask_word(fd, 11, ONCE, 5), first + 2);
	assert_int_equal(ask_word(fd, 10, ONCE, 5), first);
	put_call_as(&m, 10, PROG, 3, ONCE, 1, 1); /* another user */
	put_word(&m, 5);
	assert_int_equal(ask(fd).stat, 0);
	assert_int_equal(word_at(r.data, 24), first + 3);
	put_call(&m, 10, PROG, 2, ONCE); /* another version */
	put_word(&m, 5);
	assert_int_equal(ask(fd).stat, 0);
	assert_int_equal(word_at(r.data, 24), first + 4);
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	word_call(10, ONCE, 5);
	assert_int_equal(sendto(udp, m.data, m.len, 0, (struct sockaddr *)&to, sizeof to), m.len);
	assert_int_equal(recv(udp, r.data, sizeof r.data, 0), 28);
	assert_int_equal(word_at(r.data, 24), first); /* by UDP too */
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000005) };
	close(udp);
	udp = socket(AF_INET, SOCK_DGRAM, 0);
	assert_int_equal(bind(udp, (struct sockaddr *)&from, sizeof from), 0);
	word_call(10, ONCE, 5);
	assert_int_equal(sendto(udp, m.data, m.len, 0, (struct sockaddr *)&to, sizeof to), m.len);
	assert_int_equal(recv(udp, r.data, sizeof r.data, 0), 28);
	assert_int_equal(word_at(r.data, 24), first + 5); /* from another machine */
	put_call_as(&m, 10, PROG, 3, ONCE, 1, 1);
	put_word(&m, 5);
	memcpy(m.data + MACHINE, "elho", 4);
	assert_int_equal(ask(fd).stat, 0);
	assert_int_equal(word_at(r.data, 24), first + 6); /* from another machine behind the same address */
	close(udp);
	close(fd);
	close(other);
}

static void a_repeated_write_is_told_from_another_by_its_beginning_and_its_end(void **state)
{
	(void)state;
	int fd = connected();
	static char data[5000];
	uint32_t got[5];
	for (int i = 0; i < 5; i++) {
		static const size_t changed[] = { 0, 0, 0, sizeof data - 1, 0 };
		memset(data, 'a', sizeof data);
		if (changed[i])
			data[changed[i]] = 'b';
		if (i == 4)
			data[0] = 'c';
		put_call(&m, 20, PROG, 3, BULK);
		put_opaque(&m, data, i == 2 ? sizeof data - 4 : sizeof data);
		assert_int_equal(ask(fd).stat, 0);
		got[i] = word_at(r.data, 24);
	}
	assert_int_equal(got[1], got[0]);
	assert_int_equal(got[2], got[0] + 1);
	assert_int_equal(got[3], got[0] + 2);
	assert_int_equal(got[4], got[0] + 3);
	close(fd);
}

static void a_call_repeated_while_the_first_is_at_work_runs_once_and_answers_both(void **state)
{
	(void)state;
	int fd = connected(), other = connected();
	word_call(30, ONCE_BLOCK, 1);
	assert_true(send_message(fd, &m));
	sem_wait(&entered);
	close(fd); /* its connection breaks, the client comes again */
	word_call(30, ONCE_BLOCK, 1);
	assert_true(send_message(other, &m));
	put_call(&m, 31, PROG, 3, 0);
	assert_int_equal(ask(other).xid, 31); /* it was read by now */
	sem_post(&leave);
	assert_true(recv_message(other, &r));
	assert_int_equal(answer_of(&r).xid, 30);
	assert_int_equal(word_at(r.data, 24), 1);
	assert_int_equal(ran, 1);
	close(other);
}

static void a_call_at_work_keeps_its_place_in_a_full_cache(void **state)
{
	(void)state;
	stop();
	start(&(struct rpc_config){ .threads = 8, .max_record = MIB, .drc_entries = 8 });
	int fd = connected(), other = connected();
	word_call(1, ONCE_BLOCK, 1);
	assert_true(send_message(fd, &m));
	sem_wait(&entered);
	for (uint32_t i = 0; i < 500; i++)
		ask_word(other, 1000 + i, ONCE, i);
	uint32_t before = ran;
	word_call(1, ONCE_BLOCK, 1);
	assert_true(send_message(other, &m)); /* would run again, were it forgotten, and block */
	assert_int_equal(ask_word(other, 1499, ONCE, 499), before); /* the youngest are kept */
	assert_true(ask_word(other, 1000, ONCE, 0) > before); /* the oldest are not */
	sem_post(&leave);
	assert_true(recv_message(other, &r));
	assert_int_equal(answer_of(&r).xid, 1);
	assert_true(recv_message(fd, &r));
	assert_int_equal(answer_of(&r).xid, 1);
	assert_int_equal(sem_trywait(&entered), -1);
	close(fd);
	close(other);
}

static void more_calls_at_work_than_the_cache_holds_are_still_answered(void **state)
{
	(void)state;
	stop();
	start(&(struct rpc_config){ .threads = 16, .max_record = MIB, .drc_entries = 4 });
	int fd = connected();
	for (uint32_t i = 0; i < 12; i++) {
		word_call(i, ONCE_BLOCK, i);
		assert_true(send_message(fd, &m));
	}
	for (int i = 0; i < 12; i++)
		sem_wait(&entered);
	for (int i = 0; i < 12; i++)
		sem_post(&leave);
	for (int i = 0; i < 12; i++)
		assert_true(recv_message(fd, &r));
	assert_int_equal(ran, 12);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TOY_TEST(a_repeated_call_gets_the_first_reply),
		TOY_TEST(a_repeated_write_is_told_from_another_by_its_beginning_and_its_end),
		TOY_TEST(a_call_repeated_while_the_first_is_at_work_runs_once_and_answers_both),
		TOY_TEST(a_call_at_work_keeps_its_place_in_a_full_cache),
		TOY_TEST(more_calls_at_work_than_the_cache_holds_are_still_answered),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
