/* rpc/ by itself, under a toy program: records, replies, slow and dead clients, blocked handlers, the reply cache, the end. */
#include "../rpc/wire.h"
#include "rpc.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
enum { PROG = 200001, ECHO = 1, BIG = 2, BLOCK = 3, ONCE = 4, ONCE_BLOCK = 5, BULK = 6, UNENCODABLE = 7, ABSENT = 8, STUCK = 9, PROCS = 10, MIB = 1 << 20 };

/* ---- the program ---- */
struct bytes {
	u_int len;
	char *at;
};
static bool_t xdr_data(XDR *x, ...)
{
	va_list ap;
	va_start(ap, x);
	struct bytes *b = va_arg(ap, struct bytes *);
	va_end(ap);
	return xdr_bytes(x, &b->at, &b->len, WIRE_MAX);
}
static bool_t xdr_word(XDR *x, ...)
{
	va_list ap;
	va_start(ap, x);
	uint32_t *v = va_arg(ap, uint32_t *);
	va_end(ap);
	return xdr_u_int(x, v);
}
static bool_t xdr_never(XDR *x, ...)
{
	return x->x_op == XDR_FREE;
}

static sem_t entered, leave;
static atomic_uint ran, big_ran;
static char zeros[MIB];

static void run_echo(struct rpc_call *call, void *args, void *res)
{
	(void)call;
	*(struct bytes *)res = *(struct bytes *)args;
}
static void run_big(struct rpc_call *call, void *args, void *res)
{
	(void)call;
	big_ran++;
	*(struct bytes *)res = (struct bytes){ *(uint32_t *)args, zeros };
}
static void block(void)
{
	sem_post(&entered);
	while (sem_wait(&leave) && errno == EINTR)
		;
}
static void run_stuck(struct rpc_call *call, void *args, void *res)
{
	(void)call;
	block();
	*(uint32_t *)res = *(uint32_t *)args;
}
static void run_block(struct rpc_call *call, void *args, void *res)
{
	(void)call;
	rpc_blocking();
	block();
	*(uint32_t *)res = *(uint32_t *)args;
}
static void run_once(struct rpc_call *call, void *args, void *res)
{
	(void)call;
	(void)args;
	*(uint32_t *)res = ++ran;
}
static void run_once_block(struct rpc_call *call, void *args, void *res)
{
	rpc_blocking();
	block();
	run_once(call, args, res);
}
static void run_bulk(struct rpc_call *call, void *args, void *res)
{
	run_once(call, args, res);
}

#define WORDS .xdr_args = xdr_word, .args_size = 4, .xdr_res = xdr_word, .res_size = 4
static const struct rpc_proc procs[PROCS] = {
	[0] = { .name = "NULL" },
	[ECHO] = { .name = "ECHO", .xdr_args = xdr_data, .args_size = sizeof(struct bytes), .xdr_res = xdr_data, .res_size = sizeof(struct bytes), .run = run_echo },
	[BIG] = { .name = "BIG", .xdr_args = xdr_word, .args_size = 4, .xdr_res = xdr_data, .res_size = sizeof(struct bytes), .run = run_big },
	[BLOCK] = { .name = "BLOCK", WORDS, .run = run_block },
	[ONCE] = { .name = "ONCE", WORDS, .run = run_once, .repeat = RPC_ONCE },
	[ONCE_BLOCK] = { .name = "ONCE_BLOCK", WORDS, .run = run_once_block, .repeat = RPC_ONCE },
	[BULK] = { .name = "BULK", .xdr_args = xdr_data, .args_size = sizeof(struct bytes), .xdr_res = xdr_word, .res_size = 4, .run = run_bulk,
		   .repeat = RPC_ONCE_BULK },
	[STUCK] = { .name = "STUCK", WORDS, .run = run_stuck },
	[UNENCODABLE] = { .name = "UNENCODABLE", .xdr_args = xdr_word, .args_size = 4, .xdr_res = xdr_never, .res_size = 4, .run = run_block },
};
static const struct rpc_program programs[] = {
	{ .prog = PROG, .vers_low = 2, .vers_high = 3, .procs = procs, .nprocs = PROCS },
	{ .prog = PROG, .vers_low = 7, .vers_high = 7, .procs = procs, .nprocs = 2 },
};

static struct rpc_server *server;
static uint16_t port;
static struct message m, r; /* what goes out, what comes back */

static void start(const struct rpc_config *config)
{
	char err[256] = "";
	port = 0;
	sem_init(&entered, 0, 0);
	sem_init(&leave, 0, 0);
	ran = 0;
	assert_int_equal(rpc_server_create(config, &server), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(rpc_server_add(server, &programs[i]), 0);
	assert_int_equal(rpc_server_listen(server, "127.0.0.1", &port, err, sizeof err), 0);
	assert_int_equal(rpc_server_start(server), 0);
}
static int setup(void **state)
{
	(void)state;
	start(&(struct rpc_config){ .threads = 8, .max_record = MIB + 8192 });
	return 0;
}
static void stop(void)
{
	if (server)
		rpc_server_stop(server);
	server = NULL;
}
static int teardown(void **state)
{
	(void)state;
	stop();
	return 0;
}

static int connected(void)
{
	int fd = wire_connect("127.0.0.1", port);
	assert_true(fd >= 0);
	return fd;
}
static void word_call(uint32_t xid, uint32_t proc, uint32_t word)
{
	put_call(&m, xid, PROG, 3, proc);
	put_word(&m, word);
}
static void echo_call(uint32_t xid, const void *data, size_t len)
{
	put_call(&m, xid, PROG, 3, ECHO);
	put_opaque(&m, data, len);
}
static struct answer ask(int fd)
{
	assert_true(send_message(fd, &m));
	assert_true(recv_message(fd, &r));
	return answer_of(&r);
}
static uint32_t ask_word(int fd, uint32_t xid, uint32_t proc, uint32_t word)
{
	word_call(xid, proc, word);
	struct answer a = ask(fd);
	assert_int_equal(a.xid, xid);
	assert_int_equal(a.denied, 0);
	assert_int_equal(a.stat, 0);
	assert_int_equal(r.len, a.results + 4);
	return word_at(r.data, a.results);
}
/* The server lives, and answers others. */
static void still_serves(void)
{
	int fd = connected();
	put_call(&m, 77, PROG, 3, 0);
	assert_int_equal(ask(fd).stat, 0);
	close(fd);
}
static size_t rss_mib(void)
{
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	assert_int_equal(fscanf(f, "%*d %ld", &pages), 1);
	fclose(f);
	return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE) / MIB;
}

/* ---- records ---- */
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

/* ---- errors of RFC 5531 ---- */
static void errors_are_told_as_the_rfc_says(void **state)
{
	(void)state;
	int fd = connected();
	struct answer a;
	put_call(&m, 1, PROG + 1, 3, 0);
	assert_int_equal(ask(fd).stat, 1); /* PROG_UNAVAIL */
	for (uint32_t vers = 0; vers < 9; vers++) {
		put_call(&m, 2, PROG, vers, 0);
		a = ask(fd);
		assert_int_equal(a.stat, vers == 2 || vers == 3 || vers == 7 ? 0 : 2); /* PROG_MISMATCH */
		if (a.stat) {
			assert_int_equal(a.low, 2);
			assert_int_equal(a.high, 7);
		}
	}
	put_call(&m, 3, PROG, 3, ABSENT);
	assert_int_equal(ask(fd).stat, 3); /* PROC_UNAVAIL */
	put_call(&m, 3, PROG, 3, PROCS); /* the first behind the table */
	assert_int_equal(ask(fd).stat, 3);
	put_call(&m, 3, PROG, 3, UINT32_MAX);
	assert_int_equal(ask(fd).stat, 3);
	put_call(&m, 3, PROG, 7, BIG);
	assert_int_equal(ask(fd).stat, 3);
	put_call(&m, 4, PROG, 3, 0);
	memcpy(m.data + 8, &(uint32_t){ htonl(3) }, 4);
	a = ask(fd); /* RPC_MISMATCH */
	assert_true(a.denied && a.stat == 0 && a.low == 2 && a.high == 2 && a.xid == 4);
	sem_post(&leave);
	word_call(5, UNENCODABLE, 0);
	assert_int_equal(ask(fd).stat, 5); /* SYSTEM_ERR */
	close(fd);
}

static void arguments_must_be_whole_and_nothing_more(void **state)
{
	(void)state;
	int fd = connected();
	put_call(&m, 1, PROG, 3, ECHO);
	assert_int_equal(ask(fd).stat, 4); /* GARBAGE_ARGS */
	static const uint32_t lengths[] = { 1, 5, 100, MIB, WIRE_MAX, WIRE_MAX + 1, 0x7fffffff, 0xfffffffc, 0xfffffffd, 0xffffffff };
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		put_call(&m, 2, PROG, 3, ECHO);
		put_word(&m, lengths[i]);
		assert_int_equal(ask(fd).stat, 4);
	}
	echo_call(3, "abcd", 4);
	put_word(&m, 0);
	assert_int_equal(ask(fd).stat, 4); /* something behind them */
	echo_call(3, "abcd", 4);
	m.data[m.len++] = 0;
	assert_int_equal(ask(fd).stat, 4);
	echo_call(3, "abc", 3);
	m.len--; /* the padding is cut */
	assert_int_equal(ask(fd).stat, 4);
	echo_call(3, "abc", 3);
	assert_int_equal(ask(fd).stat, 0);
	close(fd);
}

/* ---- credentials ---- */
static struct answer with_cred(int fd, uint32_t proc, uint32_t flavor, const struct message *cred)
{
	const uint32_t words[] = { 1, 0, 2, PROG, 3, proc, flavor };
	m.len = 0;
	for (int i = 0; i < 7; i++)
		put_word(&m, words[i]);
	put_opaque(&m, cred->data, cred->len);
	put_word(&m, 0);
	put_word(&m, 0);
	if (proc)
		put_word(&m, 0); /* ECHO of nothing */
	return ask(fd);
}
static struct message cred;
static void sys_cred(size_t name, uint32_t groups)
{
	static const char names[300];
	cred.len = 0;
	put_word(&cred, 0);
	put_opaque(&cred, names, name);
	put_word(&cred, 1000);
	put_word(&cred, 1000);
	put_word(&cred, groups);
	for (uint32_t i = 0; i < groups && i < 20; i++)
		put_word(&cred, i);
}

static void bad_credentials_are_refused_with_their_reason(void **state)
{
	(void)state;
	int fd = connected();
	struct answer a;
	sys_cred(255, 16);
	assert_int_equal(with_cred(fd, ECHO, 1, &cred).denied, 0);
	static const struct { size_t name; uint32_t groups; } bad[] = { { 4, 17 }, { 256, 0 }, { 4, 0xffffffff }, { 4, 0x40000001 } };
	for (size_t i = 0; i < 4; i++) {
		sys_cred(bad[i].name, bad[i].groups);
		a = with_cred(fd, ECHO, 1, &cred);
		assert_true(a.denied && a.stat == 1 && a.low == 1); /* AUTH_BADCRED */
	}
	sys_cred(8, 3);
	for (size_t len = cred.len; cred.len; cred.len = --len & ~(size_t)3) { /* cut everywhere */
		len = cred.len - 1;
		cred.len = len;
		a = with_cred(fd, ECHO, 1, &cred);
		assert_true(a.denied && a.stat == 1 && a.low == 1);
		cred.len = len + 1;
	}
	cred.len = 400;
	assert_int_equal(with_cred(fd, 0, 0, &cred).denied, 0);
	cred.len = 401; /* RFC 5531 8.2: at most 400 */
	a = with_cred(fd, 0, 0, &cred);
	assert_true(a.denied && a.stat == 1 && a.low == 1);
	cred.len = 8;
	for (uint32_t flavor = 2; flavor < 9; flavor++) {
		a = with_cred(fd, ECHO, flavor, &cred);
		assert_true(a.denied && a.stat == 1 && a.low == 2); /* AUTH_REJECTEDCRED */
		a = with_cred(fd, 0, flavor, &cred);
		assert_int_equal(a.denied, flavor == 6); /* NULL answers whoever asks; RPCSEC_GSS would make a context by it */
	}
	put_call(&m, 1, PROG, 3, 0);
	memcpy(m.data + 36, &(uint32_t){ htonl(8) }, 4); /* a verifier that is not there */
	a = ask(fd);
	assert_true(a.denied && a.stat == 1 && a.low == 3); /* AUTH_BADVERF */
	close(fd);
}

/* ---- threads ---- */
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

/* ---- clients that do not read ---- */
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

static void many_clients_that_do_not_read_take_bounded_memory(void **state)
{
	(void)state;
	enum { CLIENTS = 60, LIMIT = 48 };
	int fd[CLIENTS], closed = 0;
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
	for (int i = 0; i < CLIENTS; i++) {
		struct pollfd p = { .fd = fd[i], .events = POLLRDHUP };
		closed += poll(&p, 1, 0) == 1 && p.revents & (POLLRDHUP | POLLHUP);
	}
	printf("| %d clients that ask for 10 MiB each and do not read: %zu MiB of memory (limit %d), %d of them closed\n", CLIENTS, grown, LIMIT, closed);
	assert_true(grown < LIMIT + 40 || SANITIZED);
	still_serves();
	for (int i = 0; i < CLIENTS; i++)
		close(fd[i]);
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

/* ---- the reply cache ---- */
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

/* ---- connections ---- */
static void connections_beyond_the_limit_are_closed_and_later_ones_taken(void **state)
{
	(void)state;
	stop();
	start(&(struct rpc_config){ .threads = 4, .max_record = MIB, .max_connections = 10 });
	int fd[10];
	for (int i = 0; i < 10; i++) {
		fd[i] = connected();
		put_call(&m, 1, PROG, 3, 0);
		assert_int_equal(ask(fd[i]).stat, 0);
	}
	for (int i = 0; i < 50; i++) {
		int more = connected();
		assert_true(is_closed(more));
		close(more);
	}
	put_call(&m, 2, PROG, 3, 0);
	assert_int_equal(ask(fd[9]).xid, 2);
	for (int i = 0; i < 10; i++)
		close(fd[i]);
	for (bool taken = false; !taken;) { /* once the server has seen that they are gone */
		int again = connected();
		put_call(&m, 3, PROG, 3, 0);
		taken = send_message(again, &m) && recv_message(again, &r);
		close(again);
	}
}

static void out_of_descriptors_connections_wait_and_are_served_later(void **state)
{
	(void)state;
	struct rlimit old, low;
	int mine[40], spare = dup(0), n;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	int held = connected();
	put_call(&m, 1, PROG, 3, 0);
	assert_int_equal(ask(held).stat, 0);
	for (n = 0; n < 40; n++) /* made before there is a limit: what is scarce is the server's end */
		mine[n] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	low = old;
	low.rlim_cur = (rlim_t)mine[39] + 1;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	for (n = 0; n < 40; n++)
		assert_int_equal(connect(mine[n], (struct sockaddr *)&to, sizeof to), 0);
	struct rusage a, b;
	getrusage(RUSAGE_SELF, &a);
	usleep(300000);
	getrusage(RUSAGE_SELF, &b);
	long cpu_ms = (b.ru_utime.tv_sec - a.ru_utime.tv_sec + b.ru_stime.tv_sec - a.ru_stime.tv_sec) * 1000 +
		      (b.ru_utime.tv_usec - a.ru_utime.tv_usec + b.ru_stime.tv_usec - a.ru_stime.tv_usec) / 1000;
	assert_true(cpu_ms < 150); /* it does not spin */
	put_call(&m, 2, PROG, 3, 0);
	assert_int_equal(ask(held).xid, 2); /* who is connected is served */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	for (n = 0; n < 40; n++) {
		put_call(&m, 3, PROG, 3, 0);
		assert_int_equal(ask(mine[n]).xid, 3);
		close(mine[n]);
	}
	close(spare);
	close(held);
}

static bool nobody(const struct sockaddr_storage *peer)
{
	(void)peer;
	return false;
}

static void who_may_not_connect_is_closed_and_gets_no_answer_by_udp(void **state)
{
	(void)state;
	stop();
	start(&(struct rpc_config){ .threads = 4, .max_record = MIB, .allow = nobody });
	int fd = connected();
	assert_true(is_closed(fd));
	close(fd);
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	put_call(&m, 1, PROG, 3, 0);
	assert_int_equal(sendto(udp, m.data, m.len, 0, (struct sockaddr *)&to, sizeof to), m.len);
	fd = connected();
	assert_true(is_closed(fd)); /* the datagram came before */
	usleep(50000);
	assert_int_equal(recv(udp, r.data, sizeof r.data, MSG_DONTWAIT), -1);
	close(fd);
	close(udp);
}

/* ---- the end ---- */
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

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_record_may_come_in_fragments_of_any_size),
		T(a_call_may_be_split_at_every_byte),
		T(many_calls_in_one_segment_are_all_answered),
		T(the_longest_record_is_taken_and_a_longer_one_closes_its_connection_alone),
		T(what_is_no_call_closes_its_connection_alone),
		T(a_million_empty_fragments_cost_nothing),
		T(errors_are_told_as_the_rfc_says),
		T(arguments_must_be_whole_and_nothing_more),
		T(bad_credentials_are_refused_with_their_reason),
		T(a_blocked_call_holds_up_neither_its_connection_nor_others),
		T(a_call_that_blocks_without_a_word_holds_up_nobody_for_long),
		T(more_blocked_calls_than_threads_wait_their_turn),
		T(a_client_that_does_not_read_takes_bounded_memory),
		T(a_slow_reader_whose_queue_is_never_empty_takes_bounded_memory),
		T(many_clients_that_do_not_read_take_bounded_memory),
		T(a_client_that_takes_nothing_for_long_is_gone),
		T(a_repeated_call_gets_the_first_reply),
		T(a_repeated_write_is_told_from_another_by_its_beginning_and_its_end),
		T(a_call_repeated_while_the_first_is_at_work_runs_once_and_answers_both),
		T(a_call_at_work_keeps_its_place_in_a_full_cache),
		T(more_calls_at_work_than_the_cache_holds_are_still_answered),
		T(connections_beyond_the_limit_are_closed_and_later_ones_taken),
		T(out_of_descriptors_connections_wait_and_are_served_later),
		T(who_may_not_connect_is_closed_and_gets_no_answer_by_udp),
		T(a_stop_finishes_the_calls_at_work_and_cuts_no_reply),
		T(a_stop_does_not_wait_for_clients_that_do_not_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
