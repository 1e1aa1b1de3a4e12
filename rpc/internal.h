/*
 * internal.h: what the files of rpc/ share.
 *
 * A shard is an epoll set with its connections. One worker at a time leads it: it waits, reads, runs the calls and sends the
 * replies, with no hand-off. Before a call blocks (rpc_blocking(), or the watchdog saw it stuck) the lead passes to a
 * spare worker, which goes on with the rest; the blocked one sends its own reply when it is done and becomes a spare.
 *
 * A client that does not read: replies that its socket does not take are queued at its connection. From OUT_QUEUE_MAX bytes on, its calls are neither
 * read nor run; where all queues together pass config.max_queued, the connection that would add to them is closed. So it is with what came of calls that
 * are not whole yet.
 *
 * Replies that wait for a flush are parked (park.c).
 *
 * Lock order: server.lock > conn.lock. parking.lock stands alone, and so does the reply cache's.
 */
#ifndef OVERNFSD_RPC_INTERNAL_H
#define OVERNFSD_RPC_INTERNAL_H

#include "rpc.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <time.h>

enum { MAX_SHARDS = 8, MAX_LISTENERS = 64, MAX_PROGRAMS = 8, DEFAULT_THREADS = 64, OUT_QUEUE_MAX = 1 << 18, REPLY_SLACK = 1 << 16 };

/* What epoll's data points to. */
struct source {
	enum { SOURCE_WAKE, SOURCE_LISTEN, SOURCE_UDP, SOURCE_CONN } kind;
	int fd;
	struct shard *shard; /* of a listener */
	atomic_bool resting; /* a listener, out of descriptors: the watchdog turns it on again */
};

struct conn {
	struct source source; /* first: epoll's data */
	struct shard *shard;
	struct sockaddr_storage peer;
	atomic_int refs; /* one of the shard's list, one of each worker that will still reply */
	struct conn *prev, *next; /* in the shard's list; server.lock */
	struct conn *resume_next; /* leader of the shard */
	bool resuming; /* leader of the shard */
	/* Input: the shard's leader alone. A partial record, and calls that a former leader left. */
	uint8_t *in;
	size_t in_len, in_size;
	bool drained; /* server_drain() */
	bool paused; /* whole calls wait in it until the output is taken */
	/* Output */
	atomic_size_t queued; /* out_len - out_at; changed with lock held */
	pthread_mutex_t lock; /* guards all below */
	uint8_t *out; /* what the socket did not take yet */
	size_t out_at, out_len, out_size;
	uint32_t events; /* as epoll has them */
	bool ended; /* its client sends no more (shutdown(2)), and replies are still to go: the watchdog ends it when they are gone */
	bool closed;
};

struct worker {
	struct rpc_server *server;
	pthread_t thread;
	struct shard *shard; /* that it leads or, while stolen, led */
	struct worker *next_spare;
	pthread_cond_t wake; /* with server.lock */
	/* sequence << 2 | one of these. IN_CALL -> STOLEN by compare-and-swap: who does it takes over the rest, then says TAKEN */
	atomic_ulong state;
	uint8_t *in, *out;
	size_t in_size, out_size;
	uint8_t *owned; /* a connection's buffer that the calls at hand stand in */
	size_t owned_size;
	uint8_t *kept; /* such a buffer whose calls are done, for the next large record: or each would come anew from the kernel, page by page */
	size_t kept_size; /* 0: none */
	/* The batch at hand; read by who steals it, after the swap. */
	struct conn *conn; /* NULL: UDP */
	const uint8_t *rest;
	size_t rest_len; /* bytes read but not run */
	size_t out_ready; /* bytes of finished replies in out */
};
enum { RUNNING = 0, IN_CALL = 1, STOLEN = 2, TAKEN = 3, STATE_MASK = 3 };

struct shard {
	struct rpc_server *server;
	int epoll;
	struct source wake; /* eventfd: stop, or calls to resume */
	struct worker *leader; /* server.lock */
	struct conn *conns; /* server.lock */
	struct conn *resume; /* leader only; passed on under server.lock */
	bool lone; /* leader only: no more than one call came last */
	uint64_t gap_ns; /* leader only: for how long it waits for an event, an average that follows */
	struct shard *next_orphan;
	unsigned long seen_state; /* watchdog only */
};

struct rpc_server {
	struct rpc_config config;
	const struct rpc_program *programs[MAX_PROGRAMS];
	int nprograms;
	struct shard shards[MAX_SHARDS];
	int nshards;
	_Atomic uint64_t poll_ns; /* for which a leader looks for events before it sleeps; 0 until the watchdog has found out */
	struct source listeners[MAX_LISTENERS];
	int nlisteners;
	struct drc *drc[2]; /* of RPC_ONCE and RPC_ONCE_BULK */
	pthread_t watchdog;
	bool started;
	atomic_bool stopping;
	atomic_uint next_shard;
	atomic_uint refused_at; /* seconds: when a refusal was last told */
	atomic_size_t nconns;
	atomic_size_t queued; /* of all connections */
	atomic_size_t held; /* their in_len */
	atomic_size_t nended; /* connections that are ended and not closed */
	struct registration {
		uint32_t prog, vers;
		uint16_t port;
		unsigned netids; /* bits: rpcbind.c */
	} registered[16];
	int nregistered;
	struct parking {
		pthread_mutex_t lock; /* guards all; nothing is taken under it */
		struct parked *list, **tail; /* oldest first */
		unsigned settlers; /* workers that settle for those that were parked */
		atomic_uint n; /* in the list; may be looked at without */
	} parking;
	pthread_mutex_t lock; /* guards all below, and what says so above */
	struct worker *spares;
	struct worker *workers[1024];
	int nworkers;
	struct shard *orphans; /* shards that wait for a worker */
};

/* ---- call.c: one call. rec is the whole record; the reply (without its mark) goes to out. Its length; 0: no reply; -1: not a call. ---- */
long call_run(struct rpc_server *server, struct rpc_call *call, const uint8_t *rec, size_t len, uint8_t *out, size_t room);
long call_fail(uint8_t *reply, long len, uint32_t status, uint32_t failure_words); /* makes it one that says just this. Its length, no longer than it was */
/* ---- auth.c ---- */
/* Decodes credentials at *p (they end before end). 0, or an auth_stat. */
uint32_t auth_decode(const uint8_t **p, const uint8_t *end, struct rpc_call *call);
/* ---- drc.c: the reply cache ---- */
struct drc *drc_new(size_t entries, uint64_t life_ns); /* life_ns: for which a reply is known, from when it was given last. 0: a default, each */
void drc_free(struct drc *drc);
enum drc_answer { DRC_NEW, DRC_BUSY, DRC_DONE };
/* DRC_DONE: the reply was copied to out, *len bytes. DRC_NEW: now being answered; drc_finish must follow.
 * DRC_BUSY: the first is still at work; its reply will go to call->conn too, where there is one. */
enum drc_answer drc_begin(struct drc *drc, const struct rpc_call *call, const uint8_t *args, size_t args_len, uint8_t *out,
			  size_t room, long *len, void **entry);
void drc_finish(struct drc *drc, void *entry, const uint8_t *reply, long len); /* len <= 0: forget the call; entry may be NULL */
/* ---- record.c ---- */
/* One record at data: 1 whole (*rec, *rec_len, *used), 0 not yet (*want: bytes that it needs at the least), -1 too long. Joins fragments in place;
 * where it is not whole, *len shrinks by that. */
int record_next(uint8_t *data, size_t *len, size_t max, uint8_t **rec, size_t *rec_len, size_t *used, size_t *want);
/* ---- send.c ---- */
bool conn_is_full(struct conn *c); /* so much output waits that its calls are neither read nor run */
void conn_watch(struct conn *c); /* conn.lock held. Has epoll look for what the connection can go on with */
/* Sends, or queues what the socket does not take at once. Negative errno: the connection is on its way to be closed. Takes conn.lock. */
int conn_send(struct conn *c, const uint8_t *data, size_t len);
size_t file_padded(const struct rpc_file *file); /* bytes that the file's part is sent as */
int conn_send_file(struct conn *c, const uint8_t *data, size_t len, const struct rpc_file *file); /* data, then the file's part; calls file->done */
int conn_send_record(struct conn *c, const uint8_t *reply, size_t len); /* with its mark */
bool conn_flush(struct conn *c); /* false: broken */
void conn_writable(struct worker *w, struct conn *c); /* sends what is queued, then runs the calls that waited for that */
/* ---- conn.c ---- */
struct conn *conn_new(struct shard *shard, int fd, const struct sockaddr_storage *peer); /* takes over fd, closed where it fails: NULL and errno */
void conn_put(struct conn *c); /* the last one closes the descriptor and frees */
void conn_close(struct conn *c); /* out of epoll and the shard's list */
void conn_reap(struct rpc_server *s); /* shuts down the ended connections whose replies are gone: their leaders close them */
void conn_serve(struct worker *w, struct conn *c, bool readable);
int conn_keep(struct conn *c, const uint8_t *data, size_t len); /* puts unrun bytes before what is there */
/* ---- park.c ---- */
/* Of a call with something deferred: a copy of its reply for park_add. NULL: without memory for it, it was settled at once, and *len is the reply's. */
struct parked *park_new(struct rpc_server *server, struct rpc_call *call, uint8_t *reply, long *len);
void park_add(struct rpc_server *server, struct parked *p);
/* Settles what is parked and sends it, unless others are at it already. Blocks; a leader may lose the lead by it. */
void park_settle(struct worker *w);
void park_init(struct parking *parking);
void park_destroy(struct parking *parking); /* empty */
/* ---- poll.c ---- */
struct epoll_event;
int poll_events(struct shard *sh, struct epoll_event *events, int max); /* waits for events. Their number, or -1 with errno */
uint64_t poll_worth_ns(void); /* for how long to look before sleeping is worth its while here: ten times what waking takes. Takes some 5 ms to find out */
int poll_processors(void); /* that the server may run on */
/* ---- cgroup.c ---- */
/* The least that this file of our control group, or of one above it, allows; v2, v1: its name in either version. UINT64_MAX: there is no limit. */
uint64_t cgroup_limit(const char *controller, const char *v2, const char *v1);
/* ---- udp.c ---- */
int udp_open(const struct sockaddr *address, socklen_t len);
void udp_serve(struct worker *w, int fd);
/* ---- listen.c ---- */
void listen_accept(struct rpc_server *s, struct source *listener); /* takes who waits there; out of descriptors or memory, the listener rests */
void listen_wake(struct rpc_server *s); /* those that rest */
/* ---- worker.c ---- */
void worker_free(struct worker *w); /* its thread is joined, or never was */
/* server.lock held. Gives the shard a leader: a spare, a new thread, or (all are busy) the next that is free. */
void worker_find_leader(struct rpc_server *s, struct shard *sh);
bool worker_leads(struct worker *w);
void worker_enter(struct worker *w); /* before a call */
bool worker_leave(struct worker *w); /* after it; false: the rest was taken over */
void *worker_watch(void *server); /* the watchdog: sees a leader that is in the same call as a tick ago, and takes the rest from it */
/* ---- rpcbind.c ---- */
void rpcbind_unregister(struct rpc_server *s); /* once the listeners are closed: where another still has the port, it has the registration too */
/* ---- drain.c ---- */
void server_drain(struct rpc_server *s); /* once the workers are gone, sends what is queued, and closes the connections */
/* ---- server.c ---- */
void rpc_log(struct rpc_server *server, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static inline uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint32_t get_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline void put_be32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

#endif
