/* rpc/ under a toy program: the records that calls come in, whole, in pieces, too long, and what is no call at all. */
#include "toy.h"

static void a_record_may_come_in_fragments_of_any_size(void **state)
{
	(void)state;
	int fd = connected();
	char text[100];
	memset(text, 'x', sizeof text);
	for (size_t size = 1; size <= 150; size++) {
		echo_call((uint32_t)size, text, sizeof text);
		for (size_t at = 0; at < m.len; at += size) {
			size_t n = m.len - at < size ? m.len - at : size;
			if (at % 3 == 0)
				assert_true(send_fragment(fd, NULL, 0, false));
			assert_true(send_fragment(fd, m.data + at, n, at + n == m.len && size % 2));
		}
		if (size % 2 == 0) /* the last one may be empty */
			assert_true(send_fragment(fd, NULL, 0, true));
		assert_true(recv_message(fd, &r));
		struct answer a = answer_of(&r);
		assert_int_equal(a.xid, size);
		assert_int_equal(a.stat, 0);
		assert_int_equal(word_at(r.data, a.results), sizeof text);
		assert_memory_equal(r.data + a.results + 4, text, sizeof text);
	}
	close(fd);
}

static void a_call_may_be_split_at_every_byte(void **state)
{
	(void)state;
	int fd = connected();
	uint8_t stream[256];
	echo_call(1, "some bytes", 10);
	for (size_t at = 1; at < m.len + 4; at++) {
		size_t len = 4 + m.len;
		memcpy(m.data, &(uint32_t){ htonl((uint32_t)at) }, 4); /* xid */
		memcpy(stream, &(uint32_t){ htonl(1u << 31 | (uint32_t)m.len) }, 4);
		memcpy(stream + 4, m.data, m.len);
		assert_true(wire_send(fd, stream, at));
		usleep(500); /* so that most are read in two parts; right in either case */
		assert_true(wire_send(fd, stream + at, len - at));
		assert_true(recv_message(fd, &r));
		assert_int_equal(answer_of(&r).xid, at);
		assert_int_equal(answer_of(&r).stat, 0);
	}
	close(fd);
}

static void many_calls_in_one_segment_are_all_answered(void **state)
{
	(void)state;
	enum { CALLS = 500 };
	static uint8_t stream[CALLS * 64], seen[CALLS];
	size_t len = 0;
	int fd = connected();
	memset(seen, 0, sizeof seen);
	for (uint32_t i = 0; i < CALLS; i++) {
		echo_call(i, &i, 4);
		memcpy(stream + len, &(uint32_t){ htonl(1u << 31 | (uint32_t)m.len) }, 4);
		memcpy(stream + len + 4, m.data, m.len);
		len += 4 + m.len;
	}
	assert_true(wire_send(fd, stream, len));
	for (int i = 0; i < CALLS; i++) {
		assert_true(recv_message(fd, &r));
		struct answer a = answer_of(&r);
		assert_true(a.xid < CALLS && !seen[a.xid]++);
		uint32_t v;
		memcpy(&v, r.data + a.results + 4, 4);
		assert_int_equal(v, a.xid);
	}
	close(fd);
}

static void the_longest_record_is_taken_and_a_longer_one_closes_its_connection_alone(void **state)
{
	(void)state;
	int fd = connected(), other = connected();
	static char data[MIB + 8192];
	size_t most = MIB + 8192 - 44;
	echo_call(1, data, most);
	assert_int_equal(m.len, MIB + 8192);
	assert_int_equal(ask(fd).stat, 0);
	assert_true(send_fragment(fd, m.data, MIB, false));
	assert_true(send_fragment(fd, m.data, 8193, true) || true); /* the sum is too long; the server may be gone before all is sent */
	assert_true(is_closed(fd));
	close(fd);
	for (uint32_t mark = 0x7fffffff;; mark = 0xffffffff) { /* 31 bits of length, with either last bit */
		fd = connected();
		assert_true(wire_send(fd, &(uint32_t){ htonl(mark) }, 4));
		assert_true(is_closed(fd));
		close(fd);
		if (mark == 0xffffffff)
			break;
	}
	put_call(&m, 5, PROG, 3, 0);
	assert_int_equal(ask(other).xid, 5);
	close(other);
}

static void what_is_no_call_closes_its_connection_alone(void **state)
{
	(void)state;
	int other = connected();
	static const char *const garbage[] = { "", "abc", "GET / HTTP/1.1\r\n\r\n", "\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" /* a reply */,
					       "\0\0\0\1\0\0\0\0\0\0\0\2" /* a call cut short */ };
	static const size_t lengths[] = { 0, 3, 18, 24, 12 };
	for (int i = 0; i < 5; i++) {
		int fd = connected();
		assert_true(send_fragment(fd, garbage[i], lengths[i], true));
		assert_true(is_closed(fd));
		close(fd);
	}
	int fd = connected();
	assert_true(wire_send(fd, garbage[2], lengths[2])); /* not even a record: "GET " is a length of 1.2 GB */
	assert_true(is_closed(fd));
	close(fd);
	put_call(&m, 5, PROG, 3, 0);
	assert_int_equal(ask(other).xid, 5);
	close(other);
}

static void a_million_empty_fragments_cost_nothing(void **state)
{
	(void)state;
	int fd = connected();
	enum { EMPTY = 1000000 };
	static uint8_t nothing[40000];
	size_t before = rss_mib();
	for (int i = 0; i < EMPTY / 10000; i++)
		assert_true(wire_send(fd, nothing, 40000));
	echo_call(9, "end", 3);
	struct answer a = ask(fd);
	assert_int_equal(a.xid, 9);
	assert_int_equal(a.stat, 0);
	assert_true(rss_mib() <= before + 8 || SANITIZED);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TOY_TEST(a_record_may_come_in_fragments_of_any_size),
		TOY_TEST(a_call_may_be_split_at_every_byte),
		TOY_TEST(many_calls_in_one_segment_are_all_answered),
		TOY_TEST(the_longest_record_is_taken_and_a_longer_one_closes_its_connection_alone),
		TOY_TEST(what_is_no_call_closes_its_connection_alone),
		TOY_TEST(a_million_empty_fragments_cost_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
