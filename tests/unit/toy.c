/* toy.c: see toy.h. */
#include "toy.h"

#include <stdio.h>

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

bool_t xdr_word(XDR *x, ...)
{
	va_list ap;
	va_start(ap, x);
	uint32_t *v = va_arg(ap, uint32_t *);
	va_end(ap);
	return xdr_u_int(x, v);
}

bool_t xdr_never(XDR *x, ...)
{
	return x->x_op == XDR_FREE;
}

sem_t entered, leave;
atomic_uint ran, big_ran;
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

struct rpc_server *server;
uint16_t port;
struct message m, r;

void start_with(const struct rpc_config *config, const struct rpc_program *more)
{
	char err[256] = "";
	port = 0;
	sem_init(&entered, 0, 0);
	sem_init(&leave, 0, 0);
	ran = 0;
	assert_int_equal(rpc_server_create(config, &server), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(rpc_server_add(server, &programs[i]), 0);
	if (more)
		assert_int_equal(rpc_server_add(server, more), 0);
	assert_int_equal(rpc_server_listen(server, "127.0.0.1", &port, err, sizeof err), 0);
	assert_int_equal(rpc_server_start(server), 0);
}

void start(const struct rpc_config *config)
{
	start_with(config, NULL);
}

int setup(void **state)
{
	(void)state;
	start(&(struct rpc_config){ .threads = 8, .max_record = MIB + 8192 });
	return 0;
}

void stop(void)
{
	if (server)
		rpc_server_stop(server);
	server = NULL;
}

int teardown(void **state)
{
	(void)state;
	stop();
	return 0;
}

int connected(void)
{
	int fd = wire_connect("127.0.0.1", port);
	assert_true(fd >= 0);
	return fd;
}

void word_call(uint32_t xid, uint32_t proc, uint32_t word)
{
	put_call(&m, xid, PROG, 3, proc);
	put_word(&m, word);
}

void echo_call(uint32_t xid, const void *data, size_t len)
{
	put_call(&m, xid, PROG, 3, ECHO);
	put_opaque(&m, data, len);
}

struct answer ask(int fd)
{
	assert_true(send_message(fd, &m));
	assert_true(recv_message(fd, &r));
	return answer_of(&r);
}

uint32_t ask_word(int fd, uint32_t xid, uint32_t proc, uint32_t word)
{
	word_call(xid, proc, word);
	struct answer a = ask(fd);
	assert_int_equal(a.xid, xid);
	assert_int_equal(a.denied, 0);
	assert_int_equal(a.stat, 0);
	assert_int_equal(r.len, a.results + 4);
	return word_at(r.data, a.results);
}

void still_serves(void)
{
	int fd = connected();
	put_call(&m, 77, PROG, 3, 0);
	assert_int_equal(ask(fd).stat, 0);
	close(fd);
}

size_t rss_mib(void)
{
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	assert_int_equal(fscanf(f, "%*d %ld", &pages), 1);
	fclose(f);
	return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE) / MIB;
}
