/* wire.h: RPC by hand, for the tests of the wire itself: calls made of words, records made of fragments, replies taken apart.
 * What can't work fails the test at once. */
#ifndef OVERNFSD_TESTS_WIRE_H
#define OVERNFSD_TESTS_WIRE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WIRE_MAX = (1 << 20) + 16384 };

struct message {
	size_t len;
	uint8_t data[WIRE_MAX];
};

static inline void put_word(struct message *m, uint32_t v)
{
	v = htonl(v);
	assert_true(m->len + 4 <= sizeof m->data);
	memcpy(m->data + m->len, &v, 4);
	m->len += 4;
}

/* Padded to four bytes, with its length before it. */
static inline void put_opaque(struct message *m, const void *data, size_t len)
{
	put_word(m, (uint32_t)len);
	assert_true(m->len + len + 3 <= sizeof m->data);
	memcpy(m->data + m->len, data, len);
	memset(m->data + m->len + len, 0, 3);
	m->len += (len + 3) & ~(size_t)3;
}

static inline uint32_t word_at(const uint8_t *data, size_t at)
{
	uint32_t v;
	memcpy(&v, data + at, 4);
	return ntohl(v);
}

/* A call up to its arguments, by AUTH_NONE. */
static inline void put_call(struct message *m, uint32_t xid, uint32_t prog, uint32_t vers, uint32_t proc)
{
	const uint32_t words[] = { xid, 0, 2, prog, vers, proc, 0, 0, 0, 0 };
	m->len = 0;
	for (int i = 0; i < 10; i++)
		put_word(m, words[i]);
}

/* By AUTH_SYS. */
static inline void put_call_as(struct message *m, uint32_t xid, uint32_t prog, uint32_t vers, uint32_t proc, uint32_t uid, uint32_t gid)
{
	const uint32_t words[] = { xid, 0, 2, prog, vers, proc, 1, 24, 0, 4, 0x68656c6f, uid, gid, 0, 0, 0 };
	m->len = 0;
	for (int i = 0; i < 16; i++)
		put_word(m, words[i]);
}

static inline int wire_connect(const char *host, uint16_t port)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	bool v6 = strchr(host, ':') != NULL;
	int on = 1, fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (v6)
		assert_int_equal(inet_pton(AF_INET6, host, &in6.sin6_addr), 1);
	else
		assert_int_equal(inet_pton(AF_INET, host, &in.sin_addr), 1);
	if (connect(fd, v6 ? (struct sockaddr *)&in6 : (struct sockaddr *)&in, v6 ? sizeof in6 : sizeof in)) {
		close(fd);
		return -1;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

static inline bool wire_send(int fd, const void *data, size_t len)
{
	const uint8_t *p = data;
	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static inline bool wire_recv(int fd, void *data, size_t len)
{
	uint8_t *p = data;
	while (len) {
		ssize_t n = recv(fd, p, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static inline bool send_fragment(int fd, const void *data, size_t len, bool last)
{
	uint32_t mark = htonl((uint32_t)len | (last ? 1u << 31 : 0));
	return wire_send(fd, &mark, 4) && wire_send(fd, data, len);
}

static inline bool send_message(int fd, const struct message *m)
{
	return send_fragment(fd, m->data, m->len, true);
}

/* One record into m; false: the connection ended (between records; *cut says whether in the middle of one). */
static inline bool recv_message_cut(int fd, struct message *m, bool *cut)
{
	uint8_t mark[4];
	size_t at = 0;
	ssize_t n;
	*cut = false;
	while (at < 4 && ((n = recv(fd, mark + at, 4 - at, 0)) > 0 || (n < 0 && errno == EINTR)))
		at += n > 0 ? (size_t)n : 0;
	if (at < 4) {
		*cut = at > 0;
		return false;
	}
	m->len = word_at(mark, 0) & 0x7fffffff;
	assert_true(word_at(mark, 0) >> 31);
	assert_true(m->len <= sizeof m->data);
	*cut = !wire_recv(fd, m->data, m->len);
	return !*cut;
}

static inline bool recv_message(int fd, struct message *m)
{
	bool cut;
	return recv_message_cut(fd, m, &cut);
}

/* Has the server closed it? Waits for that. What was sent before is passed over. */
static inline bool is_closed(int fd)
{
	char away[4096];
	ssize_t n;
	while ((n = recv(fd, away, sizeof away, 0)) > 0 || (n < 0 && errno == EINTR))
		;
	return true;
}

/* The reply's words, as RFC 5531 9 has them. */
struct answer {
	uint32_t xid, denied, stat, low, high; /* stat: accept_stat, or reject_stat; low: of a mismatch, or the auth_stat */
	size_t results; /* where they begin */
};

static inline struct answer answer_of(const struct message *m)
{
	struct answer a = { 0 };
	assert_true(m->len >= 20);
	a.xid = word_at(m->data, 0);
	assert_int_equal(word_at(m->data, 4), 1);
	a.denied = word_at(m->data, 8);
	assert_true(a.denied <= 1);
	if (a.denied) {
		a.stat = word_at(m->data, 12);
		assert_int_equal(m->len, a.stat ? 20 : 24);
		a.low = word_at(m->data, 16);
		a.high = a.stat ? 0 : word_at(m->data, 20);
		return a;
	}
	assert_int_equal(word_at(m->data, 12), 0); /* AUTH_NONE, */
	assert_int_equal(word_at(m->data, 16), 0); /* without a body */
	assert_true(m->len >= 24);
	a.stat = word_at(m->data, 20);
	a.results = 24;
	if (a.stat == 2) {
		assert_int_equal(m->len, 32);
		a.low = word_at(m->data, 24);
		a.high = word_at(m->data, 28);
	} else if (a.stat) {
		assert_int_equal(m->len, 24);
	}
	return a;
}

#endif
