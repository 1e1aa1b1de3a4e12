/*
 * rpc.h: ONC RPC (RFC 5531) over TCP and UDP, all that the rest of the daemon sees of it.
 * Knows no NFS. Failing functions return a negative errno.
 */
#ifndef OVERNFSD_RPC_H
#define OVERNFSD_RPC_H

#include <rpc/types.h>
#include <rpc/xdr.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct rpc_server;

/* The end of a reply that stands in a file: sent from there, padded to a multiple of four, without a copy of ours. */
struct rpc_file {
	int fd;
	off_t offset;
	uint32_t len; /* bytes */
	void (*done)(void *arg); /* NULL: there is none */
	void *arg;
};

/* One call, as the handler sees it. Valid until the handler returns. */
struct rpc_call {
	uint32_t xid, prog, vers, proc;
	uint32_t flavor; /* AUTH_NONE or AUTH_SYS */
	uint32_t uid, gid, ngroups, groups[16]; /* AUTH_SYS; 65534 for AUTH_NONE */
	char machine[256];
	struct sockaddr_storage peer; /* IPv4-mapped addresses come as AF_INET */
	bool udp;
	void *user; /* rpc_program.user */
	bool lone; /* over TCP, and neither do other calls wait behind it nor other replies before its own */
	struct rpc_file file; /* for fast() to set, of a lone call: follows what it returns; done is called when it was sent */
	bool may_defer; /* the handler may set deferred */
	void *deferred; /* what config.settle is to be called with before the reply goes; NULL: nothing */
	/* rpc/'s own */
	struct conn *conn; /* NULL: UDP */
	struct drc *drc; /* that entry is of */
	void *entry; /* of the reply cache, while the call is being answered; or NULL */
	uint32_t failure_words; /* of its rpc_proc */
};

/* A reply that waits for what many can share, like a flush: config.settle is called with those that came meanwhile. */
struct rpc_deferred {
	void *what; /* rpc_call.deferred */
	uint32_t status; /* for settle to set. Not 0: the call failed after all; its results are this word, and as many zero words behind it as the procedure says */
};

/* What a call that comes again (the reply was lost, the connection broke) may do: */
enum rpc_repeat {
	RPC_REPEATABLE = 0, /* run again */
	RPC_ONCE, /* be answered with the first reply: names and attributes change by it */
	RPC_ONCE_BULK, /* the same, and there are so many that they would push the others out of the cache: data that is written.
			* A late copy of a WRITE would else put old data over new. */
};

/* A procedure. run() gets zeroed space for res, and args decoded into zeroed space; what
 * args hold is freed after it with xdr_free, then (after encoding) free_res(res) if not NULL. */
struct rpc_proc {
	const char *name; /* NULL: PROC_UNAVAIL */
	xdrproc_t xdr_args, xdr_res;
	size_t args_size, res_size; /* bytes */
	void (*run)(struct rpc_call *call, void *args, void *res);
	void (*free_res)(void *res);
	enum rpc_repeat repeat;
	uint32_t failure_words; /* of results that say only that it failed: how many follow the status, all zero */
	/* Optional shortcut for the hottest calls, tried first: decodes the len bytes of arguments at args itself and writes
	 * the encoded results at out (room bytes). Returns their length, or -1 to be served the ordinary way (it must then have changed nothing). */
	long (*fast)(struct rpc_call *call, const uint8_t *args, size_t len, uint8_t *out, size_t room);
};

struct rpc_program {
	uint32_t prog, vers_low, vers_high; /* served with the same table */
	const struct rpc_proc *procs;
	uint32_t nprocs;
	void *user;
};

struct rpc_config {
	int threads; /* the most workers; 0: a default */
	size_t max_record; /* bytes of one call; a longer one closes its connection */
	size_t max_connections; /* 0: a default under RLIMIT_NOFILE */
	size_t drc_entries; /* calls that each of the two reply caches remembers; 0: a default */
	size_t max_queued; /* bytes of replies that wait for slow readers, of all connections; one that would add more is closed. The same for calls that slow
			    * writers did not send whole. 0: an eighth of rpc_memory() */
	int busy_poll_us; /* microseconds for which a worker that was asked one call at a time looks for the next before it sleeps; 0: sleeps at once; -1: ten times
			   * what it takes to be woken, 1,000 at most, and 0 on one processor, or where a control group limits the server's time on it */
	unsigned dead_after; /* seconds after which a peer that takes nothing, or answers no probe, is gone; 0: a default */
	void (*settle)(struct rpc_deferred d[], size_t n); /* n > 0; may block, and call rpc_blocking(). What the handlers deferred is its own to free */
	bool (*allow)(const struct sockaddr_storage *peer); /* NULL: everybody; false closes or ignores */
	void (*log)(int level, const char *fmt, ...);
};

int rpc_server_create(const struct rpc_config *config, struct rpc_server **server); /* *server is NULL where it fails */
int rpc_server_add(struct rpc_server *server, const struct rpc_program *program); /* before start; program is kept by reference */
/* Listens on TCP and UDP at address (numeric, v4 or v6) and port (0: any; the port got is stored in *port). The programs all answer on every port. */
int rpc_server_listen(struct rpc_server *server, const char *address, uint16_t *port, char *err, size_t errlen);
/* Tells rpcbind that prog/vers is on port, for TCP and UDP of each family that is listened on there. Never fatal: 0, or -errno; -ECONNREFUSED: none
 * runs; -EADDRINUSE: another server that is alive has that program. rpc_server_stop unregisters. */
int rpc_server_register(struct rpc_server *server, uint32_t prog, uint32_t vers, uint16_t port);
int rpc_server_start(struct rpc_server *server); /* starts the workers and returns */
/* Finishes calls in flight, sends their replies (a client that takes none has a few seconds), joins the workers, frees. */
void rpc_server_stop(struct rpc_server *server);
/* Called by a handler's thread before it waits for a disk: another worker takes over its connections. Cheap when called again in one call; no-op on other threads,
 * and where the call is all that the only connection brought. */
void rpc_blocking(void);
size_t rpc_memory(void); /* bytes that the server may use: the machine's, or fewer where a control group limits it */

#endif
