/* Replies that wait for what they share (rpc/park.c), under a toy program: its hook settles when the test lets it. */
#include "toy.h"

#include "../../rpc/internal.h" /* when a call is parked is nobody else's business */

#include <pthread.h>
#include <sched.h>
#include <stdio.h>

enum { PARKING = 200002, DEFER = 1, DEFER_ONCE = 2, DEFER_UNENCODABLE = 3, BATCHES = 8, RESULTS = 5, FAILURE_WORDS = 2, BROKEN = 1u << 31, STATUS = 5 };

/* ---- the hook: each settling waits to be let through ---- */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct hook {
	unsigned begun, allowed, settled; /* settlings; those that may go on; calls */
	size_t batch[BATCHES]; /* how many calls each was of */
} hook;

static void settle(struct rpc_deferred d[], size_t n)
{
	rpc_blocking();
	pthread_mutex_lock(&lock);
	unsigned mine = hook.begun++;
	hook.batch[mine < BATCHES ? mine : BATCHES - 1] = n;
	pthread_cond_broadcast(&changed);
	while (hook.allowed <= mine)
		pthread_cond_wait(&changed, &lock);
	hook.settled += (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		uint32_t *word = d[i].what;
		d[i].status = *word & BROKEN ? STATUS : 0;
		free(word);
	}
	pthread_mutex_unlock(&lock);
}

static struct hook look(void)
{
	pthread_mutex_lock(&lock);
	struct hook now = hook;
	pthread_mutex_unlock(&lock);
	return now;
}

static void wait_begun(unsigned settlings)
{
	pthread_mutex_lock(&lock);
	while (hook.begun < settlings)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void allow(unsigned settlings)
{
	pthread_mutex_lock(&lock);
	hook.allowed = settlings;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

enum { ALL = UINT32_MAX };

/* ---- the program: RESULTS words, of which the second is the argument and the last says whether the call could be put off ---- */
static bool_t xdr_results(XDR *x, ...)
{
	va_list ap;
	va_start(ap, x);
	uint32_t *v = va_arg(ap, uint32_t *);
	va_end(ap);
	for (int i = 0; i < RESULTS; i++)
		if (!xdr_u_int(x, &v[i]))
			return FALSE;
	return TRUE;
}

static void run_defer(struct rpc_call *call, void *args, void *res)
{
	uint32_t *word = malloc(sizeof *word), results[RESULTS] = { 0, *(uint32_t *)args, 17, 18, call->may_defer };
	*word = *(uint32_t *)args;
	ran++;
	memcpy(res, results, sizeof results);
	if (call->may_defer)
		call->deferred = word;
	else
		free(word);
}

#define DEFERS .xdr_args = xdr_word, .args_size = 4, .xdr_res = xdr_results, .res_size = 4 * RESULTS, .run = run_defer, .failure_words = FAILURE_WORDS
static const struct rpc_proc procs[] = {
	[0] = { .name = "NULL" },
	[DEFER] = { .name = "DEFER", DEFERS },
	[DEFER_ONCE] = { .name = "DEFER_ONCE", DEFERS, .repeat = RPC_ONCE },
	[DEFER_UNENCODABLE] = { .name = "DEFER_UNENCODABLE", .xdr_args = xdr_word, .args_size = 4, .xdr_res = xdr_never, .res_size = 4 * RESULTS,
				.run = run_defer, .failure_words = FAILURE_WORDS },
};
static const struct rpc_program parking = { .prog = PARKING, .vers_low = 1, .vers_high = 1, .procs = procs, .nprocs = 4 };

static void start_parking(int threads)
{
	memset(&hook, 0, sizeof hook);
	start_with(&(struct rpc_config){ .threads = threads, .max_record = 8192, .settle = settle }, &parking);
}

static int setup_parking(void **state)
{
	(void)state;
	start_parking(8);
	return 0;
}

/* A test that fails half-way must not keep the server from its end. */
static int teardown_parking(void **state)
{
	allow(ALL);
	return teardown(state);
}

/* ---- the client ---- */
static void send_deferring(int fd, uint32_t proc, uint32_t xid, uint32_t word)
{
	put_call(&m, xid, PARKING, 1, proc);
	put_word(&m, word);
	assert_true(send_message(fd, &m));
}

static void wait_parked(unsigned calls)
{
	while (atomic_load(&server->parking.n) != calls)
		sched_yield();
}

/* One settling is under way, of one call of its own connection: what comes now is parked. Its xid is 0. */
static int block_settler(void)
{
	int fd = connected();
	send_deferring(fd, DEFER, 0, 0);
	wait_begun(1);
	assert_int_equal(look().batch[0], 1);
	return fd;
}

static uint32_t expect_reply(int fd)
{
	assert_true(recv_message(fd, &r));
	struct answer a = answer_of(&r);
	assert_int_equal(a.denied, 0);
	assert_int_equal(a.stat, 0);
	return a.xid;
}

/* Of a call whose word is its xid. */
static uint32_t expect_success(int fd)
{
	uint32_t xid = expect_reply(fd);
	const uint32_t wanted[RESULTS] = { 0, xid, 17, 18, true };
	assert_int_equal(r.len, 24 + 4 * RESULTS);
	for (size_t i = 0; i < RESULTS; i++)
		assert_int_equal(word_at(r.data, 24 + 4 * i), wanted[i]);
	return xid;
}

static uint32_t expect_failure(int fd)
{
	uint32_t xid = expect_reply(fd);
	assert_int_equal(r.len, 24 + 4 + 4 * FAILURE_WORDS);
	assert_int_equal(word_at(r.data, 24), STATUS);
	for (size_t i = 1; i <= FAILURE_WORDS; i++)
		assert_int_equal(word_at(r.data, 24 + 4 * i), 0);
	return xid;
}

/* The replies to the calls from, from + 1 ... from + n - 1, each once. They may come in any order: a call that takes its time is left behind. */
static void expect_successes(int fd, uint32_t from, uint32_t n)
{
	static uint8_t seen[1000];
	assert_true(n <= sizeof seen);
	memset(seen, 0, sizeof seen);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t which = expect_success(fd) - from;
		assert_true(which < n && !seen[which]++);
	}
}

/* Nothing else was on its way: the reply to a call that is made now comes next. */
static void expect_nothing_more(int fd)
{
	put_call(&m, 4711, PROG, 3, 0);
	assert_int_equal(ask(fd).xid, 4711);
}

/* ---- what is shared ---- */
static void calls_that_were_parked_during_a_settling_share_the_next(void **state)
{
	enum { CLIENTS = 3, CALLS = 20 };
	int first = block_settler(), fd[CLIENTS];
	(void)state;
	for (uint32_t i = 0; i < CLIENTS; i++)
		fd[i] = connected();
	for (uint32_t j = 0; j < CALLS; j++)
		for (uint32_t i = 0; i < CLIENTS; i++)
			send_deferring(fd[i], j % 2 ? DEFER : DEFER_ONCE, 100 * i + j, 100 * i + j);
	wait_parked(CLIENTS * CALLS);
	assert_int_equal(look().begun, 1);
	allow(1);
	assert_int_equal(expect_success(first), 0); /* its own was settled; those that came later were not */
	wait_begun(2);
	assert_int_equal(look().settled, 1);
	allow(ALL);
	for (uint32_t i = 0; i < CLIENTS; i++) { /* each connection gets its own */
		expect_successes(fd[i], 100 * i, CALLS);
		expect_nothing_more(fd[i]);
		close(fd[i]);
	}
	assert_int_equal(look().begun, 2);
	assert_int_equal(look().batch[1], CLIENTS * CALLS);
	close(first);
}

static void other_calls_are_answered_during_a_settling(void **state)
{
	(void)state;
	int fd = block_settler();
	for (uint32_t i = 1; i < 50; i++) { /* of the same connection, which is the only one */
		send_deferring(fd, DEFER, i, i);
		expect_nothing_more(fd);
	}
	still_serves();
	allow(ALL);
	expect_successes(fd, 0, 50);
	close(fd);
}

static void more_calls_than_should_wait_are_settled_by_others_too(void **state)
{
	enum { CLIENTS = 4, CALLS = 400, PARKED_MAX = 1024 };
	int first = block_settler(), fd[CLIENTS];
	(void)state;
	for (uint32_t i = 0; i < CLIENTS; i++) {
		fd[i] = connected();
		for (uint32_t j = 0; j < CALLS; j++)
			send_deferring(fd[i], DEFER, CALLS * i + j, CALLS * i + j);
	}
	wait_begun(2); /* though the first goes on */
	assert_true(look().batch[1] >= PARKED_MAX);
	wait_parked(CLIENTS * CALLS - (unsigned)look().batch[1]);
	allow(ALL);
	for (uint32_t i = 0; i < CLIENTS; i++) {
		expect_successes(fd[i], CALLS * i, CALLS);
		expect_nothing_more(fd[i]);
		close(fd[i]);
	}
	assert_int_equal(expect_success(first), 0);
	assert_int_equal(look().settled, 1 + CLIENTS * CALLS);
	close(first);
}

/* ---- what failed ---- */
static void a_call_that_failed_to_settle_says_its_status_alone(void **state)
{
	(void)state;
	int first = block_settler(), fd = connected();
	for (uint32_t i = 1; i <= 9; i++) { /* well and broken ones in one settling */
		send_deferring(fd, i % 2 ? DEFER : DEFER_ONCE, i, i % 3 ? i : i | BROKEN);
		wait_parked(i);
	}
	allow(ALL);
	for (uint32_t i = 1; i <= 9; i++)
		assert_int_equal(i % 3 ? expect_success(fd) : expect_failure(fd), i);
	send_deferring(fd, DEFER_ONCE, 6, 6 | BROKEN);
	assert_int_equal(expect_failure(fd), 6); /* and again, from the reply cache */
	assert_int_equal(ran, 10);
	close(fd);
	close(first);
}

static void a_reply_without_results_stays_what_it_is_when_settling_fails(void **state)
{
	(void)state;
	int fd = connected();
	allow(ALL);
	send_deferring(fd, DEFER_UNENCODABLE, 1, BROKEN);
	assert_true(recv_message(fd, &r));
	assert_int_equal(r.len, 24); /* there is no room for more */
	assert_int_equal(answer_of(&r).stat, 5); /* SYSTEM_ERR */
	assert_int_equal(look().settled, 1);
	close(fd);
}

/* ---- what comes again ---- */
static void a_parked_call_that_comes_again_runs_once_and_gets_its_reply_once(void **state)
{
	(void)state;
	int first = block_settler(), fd = connected();
	send_deferring(fd, DEFER_ONCE, 7, 7);
	wait_parked(1);
	send_deferring(fd, DEFER_ONCE, 7, 7);
	expect_nothing_more(fd);
	allow(ALL);
	assert_int_equal(expect_success(fd), 7);
	assert_int_equal(expect_success(fd), 7); /* one for each time that it was asked */
	expect_nothing_more(fd);
	send_deferring(fd, DEFER_ONCE, 7, 7);
	assert_int_equal(expect_success(fd), 7);
	assert_int_equal(ran, 2); /* with the first */
	assert_int_equal(look().settled, 2);
	close(fd);
	close(first);
}

/* Whose clients are there. */
static void wait_connections(size_t n)
{
	while (atomic_load(&server->nconns) - atomic_load(&server->nended) != n)
		sched_yield();
}

static void a_parked_call_that_comes_again_after_its_connection_broke_is_answered_there(void **state)
{
	(void)state;
	int first = block_settler(), fd = connected(), other = connected();
	send_deferring(fd, DEFER_ONCE, 7, 7);
	wait_parked(1);
	close(fd);
	wait_connections(2);
	send_deferring(other, DEFER_ONCE, 7, 7);
	expect_nothing_more(other);
	allow(ALL);
	assert_int_equal(expect_success(other), 7);
	expect_nothing_more(other);
	assert_int_equal(ran, 2);
	close(other);
	close(first);
}

static void clients_that_left_while_their_calls_were_parked_do_no_harm(void **state)
{
	enum { GONE = 5 };
	int first = block_settler(), stays = connected();
	(void)state;
	for (uint32_t i = 0; i < GONE; i++) {
		int fd = connected();
		send_deferring(fd, DEFER, 10 + i, 10 + i);
		send_deferring(fd, DEFER_ONCE, 20 + i, 20 + i);
		send_deferring(stays, DEFER, i, i);
		wait_parked(3 * (i + 1));
		close(fd);
	}
	close(first); /* its call is being settled */
	wait_connections(1);
	allow(ALL);
	expect_successes(stays, 0, GONE);
	expect_nothing_more(stays);
	assert_int_equal(look().settled, 1 + 3 * GONE);
	close(stays);
}

static void a_client_that_sends_no_more_gets_its_parked_replies(void **state)
{
	int first = block_settler(), fd = connected();
	(void)state;
	for (uint32_t i = 1; i <= 3; i++)
		send_deferring(fd, DEFER, i, i);
	wait_parked(3);
	shutdown(first, SHUT_WR);
	shutdown(fd, SHUT_WR);
	usleep(100000);
	allow(ALL);
	assert_int_equal(expect_success(first), 0);
	expect_successes(fd, 1, 3);
	assert_false(recv_message(first, &r));
	assert_false(recv_message(fd, &r));
	close(first);
	close(fd);
}

/* ---- what is never parked ---- */
static void calls_by_udp_are_never_put_off(void **state)
{
	(void)state;
	int first = block_settler(), udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	put_call(&m, 1, PARKING, 1, DEFER_ONCE);
	put_word(&m, 1);
	assert_int_equal(sendto(udp, m.data, m.len, 0, (struct sockaddr *)&to, sizeof to), m.len);
	assert_int_equal(recv(udp, r.data, sizeof r.data, 0), 24 + 4 * RESULTS);
	assert_int_equal(word_at(r.data, 24 + 4 * (RESULTS - 1)), false);
	close(udp);
	close(first);
}

static void without_a_hook_nothing_is_put_off(void **state)
{
	(void)state;
	stop();
	start_with(&(struct rpc_config){ .threads = 8, .max_record = 8192 }, &parking);
	int fd = connected();
	send_deferring(fd, DEFER, 1, 1);
	assert_int_equal(expect_reply(fd), 1);
	assert_int_equal(word_at(r.data, 24 + 4 * (RESULTS - 1)), false);
	close(fd);
}

/* ---- the end ---- */
static void *stopper(void *arg)
{
	rpc_server_stop(arg);
	return NULL;
}

/* Returns once it has begun. The server is the thread's from here on. */
static pthread_t begin_stop(void)
{
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, stopper, server), 0);
	while (!atomic_load(&server->stopping))
		sched_yield();
	server = NULL;
	return thread;
}

static void a_stop_settles_and_answers_what_is_parked(void **state)
{
	enum { CLIENTS = 3, CALLS = 10 };
	int first = block_settler(), fd[CLIENTS];
	(void)state;
	for (uint32_t i = 0; i < CLIENTS; i++) {
		fd[i] = connected();
		for (uint32_t j = 0; j < CALLS; j++)
			send_deferring(fd[i], DEFER_ONCE, 100 * i + j, 100 * i + j);
	}
	wait_parked(CLIENTS * CALLS);
	pthread_t thread = begin_stop();
	allow(ALL);
	for (uint32_t i = 0; i < CLIENTS; i++) {
		expect_successes(fd[i], 100 * i, CALLS);
		assert_false(recv_message(fd[i], &r));
		close(fd[i]);
	}
	assert_int_equal(expect_success(first), 0);
	close(first);
	pthread_join(thread, NULL);
	assert_int_equal(look().settled, 1 + CLIENTS * CALLS);
}

/* Whoever ran it lost the lead in a later call of the same batch, and there was nobody left to take it. */
static void a_stop_answers_what_was_parked_by_a_worker_that_blocks(void **state)
{
	enum { THREADS = 4 };
	static struct message stream;
	(void)state;
	stop();
	start_parking(THREADS);
	allow(ALL);
	int other = connected(), fd = connected(); /* of an only connection, the lead is not given up at once */
	expect_nothing_more(other);
	stream.len = 0;
	for (uint32_t i = 0; i <= THREADS; i++) {
		put_call(&m, i, i ? PROG : PARKING, i ? 3 : 1, i ? BLOCK : DEFER);
		put_word(&m, i);
		put_word(&stream, 1u << 31 | (uint32_t)m.len);
		memcpy(stream.data + stream.len, m.data, m.len);
		stream.len += m.len;
	}
	assert_true(wire_send(fd, stream.data, stream.len));
	for (int i = 0; i < THREADS; i++)
		sem_wait(&entered);
	pthread_t thread = begin_stop();
	for (int i = 0; i < THREADS; i++)
		sem_post(&leave);
	bool seen[THREADS + 1] = { false };
	for (int i = 0; i <= THREADS; i++) {
		uint32_t xid = expect_reply(fd);
		assert_true(xid <= THREADS && !seen[xid]);
		seen[xid] = true;
	}
	assert_false(recv_message(fd, &r));
	close(fd);
	close(other);
	pthread_join(thread, NULL);
	assert_int_equal(look().settled, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup_parking, teardown_parking)
	const struct CMUnitTest tests[] = {
		T(calls_that_were_parked_during_a_settling_share_the_next),
		T(other_calls_are_answered_during_a_settling),
		T(more_calls_than_should_wait_are_settled_by_others_too),
		T(a_call_that_failed_to_settle_says_its_status_alone),
		T(a_reply_without_results_stays_what_it_is_when_settling_fails),
		T(a_parked_call_that_comes_again_runs_once_and_gets_its_reply_once),
		T(a_parked_call_that_comes_again_after_its_connection_broke_is_answered_there),
		T(clients_that_left_while_their_calls_were_parked_do_no_harm),
		T(a_client_that_sends_no_more_gets_its_parked_replies),
		T(calls_by_udp_are_never_put_off),
		T(without_a_hook_nothing_is_put_off),
		T(a_stop_settles_and_answers_what_is_parked),
		T(a_stop_answers_what_was_parked_by_a_worker_that_blocks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
