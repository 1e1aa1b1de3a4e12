/* Many clients at once whose replies wait for what they share (rpc/park.c), under a toy program: each gets its own, and one settling runs at a time. */
#include "toy.h"

#include <pthread.h>
#include <sched.h>

enum { CROWDED = 200003, DEFER = 1, DEFER_ONCE = 2, CLIENTS = 12, ROUNDS = 60, AHEAD = 10, FAILS = 7 };

static atomic_uint deferred, settled, settlings, running, most_running;
static atomic_bool takes_long; /* a settling: then one is nearly always under way, else hardly ever */

static void settle(struct rpc_deferred d[], size_t n)
{
	unsigned now = atomic_fetch_add(&running, 1) + 1, most = atomic_load(&most_running);
	while (now > most && !atomic_compare_exchange_weak(&most_running, &most, now))
		;
	atomic_fetch_add(&settlings, 1);
	if (takes_long)
		rpc_blocking();
	for (int i = 0; takes_long && i < 20; i++)
		sched_yield(); /* others come meanwhile */
	for (size_t i = 0; i < n; i++) {
		uint32_t *word = d[i].what;
		d[i].status = *word % FAILS ? 0 : FAILS;
		free(word);
	}
	atomic_fetch_add(&settled, (unsigned)n);
	atomic_fetch_sub(&running, 1);
}

static bool_t xdr_two(XDR *x, ...)
{
	va_list ap;
	va_start(ap, x);
	uint32_t *v = va_arg(ap, uint32_t *);
	va_end(ap);
	return xdr_u_int(x, v) && xdr_u_int(x, v + 1);
}

static void run_defer(struct rpc_call *call, void *args, void *res)
{
	uint32_t *word = malloc(sizeof *word), *results = res;
	*word = *(uint32_t *)args;
	results[1] = *word;
	call->deferred = word;
	atomic_fetch_add(&deferred, 1);
}

#define DEFERS .xdr_args = xdr_word, .args_size = 4, .xdr_res = xdr_two, .res_size = 8, .run = run_defer, .failure_words = 1
static const struct rpc_proc procs[] = {
	[0] = { .name = "NULL" },
	[DEFER] = { .name = "DEFER", DEFERS },
	[DEFER_ONCE] = { .name = "DEFER_ONCE", DEFERS, .repeat = RPC_ONCE },
};
static const struct rpc_program crowded = { .prog = CROWDED, .vers_low = 1, .vers_high = 1, .procs = procs, .nprocs = 3 };

static int setup_crowd(void **state)
{
	(void)state;
	deferred = settled = settlings = most_running = 0;
	start_with(&(struct rpc_config){ .threads = 8, .max_record = 8192, .settle = settle }, &crowded);
	return 0;
}

struct member {
	pthread_t thread;
	int fd;
	uint32_t first; /* xid */
	unsigned answered;
	bool cut; /* the connection ended in the middle of a reply */
	struct message out, in;
};
static struct member members[CLIENTS];

/* Two put-off calls to one that is not. */
static bool send_one(struct member *c, uint32_t xid)
{
	if (xid % 3)
		put_call(&c->out, xid, CROWDED, 1, xid % 3);
	else
		put_call(&c->out, xid, PROG, 3, ECHO);
	put_word(&c->out, xid % 3 ? xid : 0);
	return send_message(c->fd, &c->out);
}

/* Its place among the calls that are on their way. */
static uint32_t take_one(const struct member *c, uint32_t from)
{
	struct answer a = answer_of(&c->in);
	assert_int_equal(a.stat, 0);
	assert_true(a.xid - from < AHEAD);
	if (a.xid % 3) {
		bool fails = a.xid % FAILS == 0;
		assert_int_equal(c->in.len, a.results + 8);
		assert_int_equal(word_at(c->in.data, a.results), fails ? FAILS : 0);
		assert_int_equal(word_at(c->in.data, a.results + 4), fails ? 0 : a.xid);
	}
	return a.xid - from;
}

static void ask_and_read(struct member *c)
{
	for (uint32_t from = c->first; from < c->first + ROUNDS * AHEAD; from += AHEAD) {
		bool seen[AHEAD] = { false };
		for (uint32_t i = 0; i < AHEAD; i++)
			if (!send_one(c, from + i))
				break; /* the server stops; what is on its way is read */
		for (uint32_t i = 0; i < AHEAD; i++) {
			if (!recv_message_cut(c->fd, &c->in, &c->cut))
				return;
			uint32_t which = take_one(c, from);
			assert_false(seen[which]);
			seen[which] = true;
			c->answered++;
		}
	}
}

static void *be_member(void *arg)
{
	struct member *c = arg;
	ask_and_read(c);
	close(c->fd); /* a server that stops waits for it */
	return NULL;
}

static void begin_crowd(void)
{
	for (uint32_t i = 0; i < CLIENTS; i++) {
		members[i].fd = connected();
		members[i].first = 1 + i * 100000;
		members[i].answered = 0;
		assert_int_equal(pthread_create(&members[i].thread, NULL, be_member, &members[i]), 0);
	}
}

static unsigned end_crowd(void)
{
	unsigned answered = 0;
	for (int i = 0; i < CLIENTS; i++) {
		pthread_join(members[i].thread, NULL);
		assert_false(members[i].cut);
		answered += members[i].answered;
	}
	return answered;
}

static void each_of_a_crowd_gets_its_own_replies_of_shared_settlings(void **state)
{
	(void)state;
	takes_long = true;
	begin_crowd();
	assert_int_equal(end_crowd(), CLIENTS * ROUNDS * AHEAD);
	assert_int_equal(deferred, settled);
	assert_true(settlings < deferred);
	assert_int_equal(most_running, 1); /* there are never as many that another would have to help */
}

static void a_stop_amid_a_crowd_settles_all_that_ran_and_cuts_no_reply(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 2000; after += 100) {
		takes_long = after % 200;
		begin_crowd();
		while (atomic_load(&settled) < after)
			sched_yield();
		stop();
		end_crowd();
		assert_int_equal(deferred, settled);
		setup_crowd(NULL);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup_crowd, teardown)
	const struct CMUnitTest tests[] = {
		T(each_of_a_crowd_gets_its_own_replies_of_shared_settlings),
		T(a_stop_amid_a_crowd_settles_all_that_ran_and_cuts_no_reply),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
