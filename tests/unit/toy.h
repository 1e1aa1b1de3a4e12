/* toy.h: a toy program served by rpc/ alone, and a client of its own by hand (tests/rpc/wire.h), for the tests of the server. */
#ifndef OVERNFSD_TESTS_TOY_H
#define OVERNFSD_TESTS_TOY_H

#include "../rpc/wire.h"
#include "rpc.h"

#include <semaphore.h>
#include <stdatomic.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
enum { PROG = 200001, ECHO = 1, BIG = 2, BLOCK = 3, ONCE = 4, ONCE_BLOCK = 5, BULK = 6, UNENCODABLE = 7, ABSENT = 8, STUCK = 9, PROCS = 10, MIB = 1 << 20 };

/* ---- the server ---- */
extern struct rpc_server *server;
extern sem_t entered, leave; /* a call that blocks posts the one and waits for the other */
extern atomic_uint ran, big_ran; /* calls of the procedures that run once; of BIG */
void start(const struct rpc_config *config);
void start_with(const struct rpc_config *config, const struct rpc_program *more); /* another program besides the toy; or NULL */
void stop(void);
int setup(void **state);
int teardown(void **state);
#define TOY_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
bool_t xdr_word(XDR *x, ...); /* for a program's arguments or results: one word */
bool_t xdr_never(XDR *x, ...); /* what can't be encoded */

/* ---- the client ---- */
extern uint16_t port;
extern struct message m, r; /* what goes out, what comes back */
int connected(void);
void word_call(uint32_t xid, uint32_t proc, uint32_t word); /* into m, as the next */
void echo_call(uint32_t xid, const void *data, size_t len);
struct answer ask(int fd); /* sends m; the reply is in r */
uint32_t ask_word(int fd, uint32_t xid, uint32_t proc, uint32_t word);
void still_serves(void); /* the server lives, and answers others */
size_t rss_mib(void);

#endif
