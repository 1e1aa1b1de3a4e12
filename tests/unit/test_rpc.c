/* rpc/ by its parts, without a socket: credentials, one call, the reply cache. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../rpc/internal.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <rpc/auth.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint8_t buf[4096];
static size_t len;

static void put(uint32_t v)
{
	put_be32(buf + len, v);
	len += 4;
}

/* ---- auth.c ---- */
static uint32_t decode(struct rpc_call *call, size_t *used)
{
	const uint8_t *p = buf;
	/* a copy of the exact size: reading beyond it is found by AddressSanitizer */
	uint8_t *exact = malloc(len ? len : 1);
	memcpy(exact, buf, len);
	p = exact;
	uint32_t stat = auth_decode(&p, exact + len, call);
	*used = (size_t)(p - exact);
	free(exact);
	return stat;
}

static void begin_sys(uint32_t body)
{
	len = 0;
	put(AUTH_SYS);
	put(body);
}

static void credentials_are_read_whole(void **state)
{
	struct rpc_call call = { .proc = 1 };
	size_t used;
	(void)state;
	begin_sys(4 + 4 + 8 + 12 + 8);
	put(0);
	put(5);
	memcpy(buf + len, "hello\0\0\0", 8);
	len += 8;
	put(1000), put(100), put(2), put(7), put(8);
	put(AUTH_NONE), put(0);
	assert_int_equal(decode(&call, &used), AUTH_OK);
	assert_int_equal(used, len);
	assert_true(call.flavor == AUTH_SYS && call.uid == 1000 && call.gid == 100 && call.ngroups == 2 && call.groups[0] == 7 && call.groups[1] == 8);
	assert_string_equal(call.machine, "hello");
	len = 0;
	put(AUTH_NONE), put(0), put(AUTH_NONE), put(0);
	assert_int_equal(decode(&call, &used), AUTH_OK);
	assert_true(call.flavor == AUTH_NONE && call.uid == 65534 && call.gid == 65534 && call.ngroups == 0 && !*call.machine);
}

static void credentials_that_are_cut_anywhere_are_refused(void **state)
{
	struct rpc_call call = { .proc = 1 };
	size_t used;
	(void)state;
	begin_sys(4 + 4 + 4 + 12 + 4);
	put(0), put(4), put(0x61626364), put(1), put(2), put(1), put(9), put(AUTH_NONE), put(0);
	size_t whole = len;
	for (len = 0; len < whole; len++)
		assert_true(decode(&call, &used) != AUTH_OK);
	assert_int_equal(decode(&call, &used), AUTH_OK);
	for (uint32_t body = 0; body < 28; body++) { /* a body that ends too early, by its own word */
		put_be32(buf + 4, body);
		assert_int_equal(decode(&call, &used) == AUTH_OK, false);
	}
	static const uint32_t lengths[] = { 401, 0x7fffffff, 0xfffffffc, 0xffffffff };
	for (int i = 0; i < 4; i++) {
		put_be32(buf + 4, lengths[i]);
		assert_int_equal(decode(&call, &used), AUTH_BADCRED);
	}
	put_be32(buf + 4, 28);
	for (int i = 0; i < 4; i++) { /* the name's length, the number of groups */
		put_be32(buf + 12, lengths[i]);
		assert_int_equal(decode(&call, &used), AUTH_BADCRED);
		put_be32(buf + 12, 4);
		put_be32(buf + 28, lengths[i]);
		assert_int_equal(decode(&call, &used), AUTH_BADCRED);
		put_be32(buf + 28, 1);
	}
	put_be32(buf + 28, 17);
	assert_int_equal(decode(&call, &used), AUTH_BADCRED);
}

/* ---- drc.c ---- */
static uint8_t out[65536];
static struct rpc_call caller(uint32_t xid, const char *address, uint16_t port)
{
	struct rpc_call c = { .xid = xid, .prog = 1, .vers = 2, .proc = 3, .uid = 4, .gid = 5 };
	if (strchr(address, ':')) {
		struct sockaddr_in6 *a = (struct sockaddr_in6 *)&c.peer;
		a->sin6_family = AF_INET6;
		a->sin6_port = htons(port);
		inet_pton(AF_INET6, address, &a->sin6_addr);
	} else {
		struct sockaddr_in *a = (struct sockaddr_in *)&c.peer;
		a->sin_family = AF_INET;
		a->sin_port = htons(port);
		inet_pton(AF_INET, address, &a->sin_addr);
	}
	return c;
}

static enum drc_answer ask(struct drc *d, const struct rpc_call *c, const char *args, void **entry, long *n)
{
	return drc_begin(d, c, (const uint8_t *)args, strlen(args), out, sizeof out, n, entry);
}

static void answer(struct drc *d, const struct rpc_call *c, const char *args, const char *reply)
{
	void *entry;
	long n;
	assert_int_equal(ask(d, c, args, &entry, &n), DRC_NEW);
	drc_finish(d, entry, (const uint8_t *)reply, (long)strlen(reply));
}

static void assert_known(struct drc *d, const struct rpc_call *c, const char *args, const char *reply)
{
	void *entry;
	long n = 0;
	assert_int_equal(ask(d, c, args, &entry, &n), DRC_DONE);
	assert_int_equal(n, strlen(reply));
	assert_memory_equal(out, reply, strlen(reply));
}

static void assert_new(struct drc *d, const struct rpc_call *c, const char *args)
{
	void *entry;
	long n;
	assert_int_equal(ask(d, c, args, &entry, &n), DRC_NEW);
	drc_finish(d, entry, NULL, 0); /* forgotten again */
}

static void a_call_is_known_by_who_asks_what(void **state)
{
	(void)state;
	struct drc *d = drc_new(64, 0);
	struct rpc_call c = caller(1, "10.0.0.1", 700), other;
	answer(d, &c, "args", "reply");
	assert_known(d, &c, "args", "reply");
	other = caller(1, "10.0.0.1", 800); /* another port: it connected again */
	assert_known(d, &other, "args", "reply");
	other = caller(1, "10.0.0.2", 700);
	assert_new(d, &other, "args");
	other = caller(1, "::1", 700);
	assert_new(d, &other, "args");
	assert_new(d, &c, "argz");
	assert_new(d, &c, "args2");
	assert_new(d, &c, "");
	uint32_t *const words[] = { &c.xid, &c.prog, &c.vers, &c.proc, &c.uid, &c.gid };
	for (int i = 0; i < 6; i++) {
		++*words[i];
		assert_new(d, &c, "args");
		--*words[i];
	}
	assert_known(d, &c, "args", "reply");
	drc_free(d);
}

/* As of a client that counts its xids from the same number after each start. */
static void a_reply_is_known_for_a_time_alone(void **state)
{
	(void)state;
	struct drc *d = drc_new(64, 1);
	struct rpc_call c = caller(1, "10.0.0.1", 700);
	void *entry, *second;
	long n;
	answer(d, &c, "args", "reply");
	usleep(1);
	assert_int_equal(ask(d, &c, "args", &entry, &n), DRC_NEW);
	usleep(1);
	assert_int_equal(ask(d, &c, "args", &second, &n), DRC_BUSY); /* while it is at work, for as long as that takes */
	drc_finish(d, entry, (const uint8_t *)"again", 5);
	drc_free(d);
}

static void a_call_at_work_is_busy_until_it_is_done(void **state)
{
	(void)state;
	struct drc *d = drc_new(64, 0);
	struct rpc_call c = caller(1, "10.0.0.1", 700);
	void *entry, *second;
	long n;
	assert_int_equal(ask(d, &c, "args", &entry, &n), DRC_NEW);
	assert_int_equal(ask(d, &c, "args", &second, &n), DRC_BUSY);
	drc_finish(d, entry, (const uint8_t *)"done", 4);
	assert_known(d, &c, "args", "done");
	drc_free(d);
}

static void a_reply_that_could_not_be_made_is_not_remembered(void **state)
{
	(void)state;
	struct drc *d = drc_new(64, 0);
	struct rpc_call c = caller(1, "10.0.0.1", 700);
	void *entry;
	long n;
	static const char big[8192];
	assert_int_equal(ask(d, &c, "a", &entry, &n), DRC_NEW);
	drc_finish(d, entry, (const uint8_t *)"x", 0);
	assert_new(d, &c, "a");
	assert_int_equal(ask(d, &c, "b", &entry, &n), DRC_NEW);
	drc_finish(d, entry, (const uint8_t *)big, sizeof big); /* longer than what is kept */
	assert_new(d, &c, "b");
	drc_finish(d, NULL, (const uint8_t *)"x", 1); /* no place was free: nothing to do */
	drc_free(d);
}

static void the_oldest_is_forgotten_first_and_none_at_work(void **state)
{
	(void)state;
	enum { ENTRIES = 32 };
	struct drc *d = drc_new(ENTRIES, 0);
	struct rpc_call c;
	void *at_work[ENTRIES], *none;
	long n;
	char text[16];
	for (uint32_t i = 0; i < 1000; i++) {
		c = caller(i, "10.0.0.1", 700);
		snprintf(text, sizeof text, "reply %u", i);
		answer(d, &c, "args", text);
	}
	for (uint32_t i = 1000 - ENTRIES; i < 1000; i++) {
		c = caller(i, "10.0.0.1", 700);
		snprintf(text, sizeof text, "reply %u", i);
		assert_known(d, &c, "args", text);
	}
	c = caller(1000 - ENTRIES - 1, "10.0.0.1", 700);
	assert_new(d, &c, "args");
	for (uint32_t i = 0; i < ENTRIES; i++) {
		c = caller(2000 + i, "10.0.0.1", 700);
		assert_int_equal(ask(d, &c, "args", &at_work[i], &n), DRC_NEW);
		assert_non_null(at_work[i]);
	}
	c = caller(3000, "10.0.0.1", 700); /* all are at work: run, but not remembered */
	assert_int_equal(ask(d, &c, "args", &none, &n), DRC_NEW);
	assert_null(none);
	drc_finish(d, at_work[5], (const uint8_t *)"five", 4);
	answer(d, &c, "args", "takes its place");
	c = caller(2005, "10.0.0.1", 700);
	assert_new(d, &c, "args"); /* which it had to give up; at work they stay */
	for (uint32_t i = 0; i < ENTRIES; i++) {
		c = caller(2000 + i, "10.0.0.1", 700);
		if (i != 5)
			assert_int_equal(ask(d, &c, "args", &none, &n), DRC_BUSY);
	}
	drc_free(d);
}

static int setup(void **state)
{
	(void)state;
	return sodium_init() < 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(credentials_are_read_whole),
		cmocka_unit_test(credentials_that_are_cut_anywhere_are_refused),
		cmocka_unit_test(a_call_is_known_by_who_asks_what),
		cmocka_unit_test(a_reply_is_known_for_a_time_alone),
		cmocka_unit_test(a_call_at_work_is_busy_until_it_is_done),
		cmocka_unit_test(a_reply_that_could_not_be_made_is_not_remembered),
		cmocka_unit_test(the_oldest_is_forgotten_first_and_none_at_work),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
