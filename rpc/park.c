/*
 * park.c: replies that wait for what calls can share: a flush of the disk. They are parked, and their worker goes on with the next call. When it
 * has run all that it read, it becomes the settler: it hands over its shard, has all settled that is parked, sends the replies, and goes on as long as
 * others were parked meanwhile. So there is one flush at a time, for all calls that ran during the one before.
 */
#include "internal.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { GAP_NS = 20000, PARKED_MAX = 1024 }; /* from PARKED_MAX on the leader settles as well, and runs no further calls before it is done */

struct parked {
	struct parked *next;
	struct conn *conn; /* counted; NULL: it was sent */
	struct drc *drc;
	void *entry;
	struct rpc_deferred deferred;
	uint32_t failure_words;
	long len;
	uint8_t reply[]; /* without its mark */
};

struct parked *park_new(struct rpc_server *server, struct rpc_call *call, uint8_t *reply, long *len)
{
	struct rpc_deferred d = { .what = call->deferred };
	struct parked *p = malloc(sizeof *p + (size_t)*len);
	if (!p) {
		server->config.settle(&d, 1);
		if (d.status)
			*len = call_fail(reply, *len, d.status, call->failure_words);
		drc_finish(call->drc, call->entry, reply, *len);
		return NULL;
	}
	*p = (struct parked){ .conn = call->conn, .drc = call->drc, .entry = call->entry, .deferred = d, .failure_words = call->failure_words, .len = *len };
	memcpy(p->reply, reply, (size_t)*len);
	atomic_fetch_add(&call->conn->refs, 1);
	return p;
}

void park_init(struct parking *parking)
{
	pthread_mutex_init(&parking->lock, NULL);
	parking->tail = &parking->list;
}

void park_destroy(struct parking *parking)
{
	pthread_mutex_destroy(&parking->lock);
}

void park_add(struct rpc_server *server, struct parked *p)
{
	struct parking *k = &server->parking;
	pthread_mutex_lock(&k->lock);
	*k->tail = p;
	k->tail = &p->next;
	atomic_fetch_add(&k->n, 1);
	pthread_mutex_unlock(&k->lock);
}

/* All that are parked, n of them. NULL: none, or another settles them; then the caller, if it was a settler, is none any more. */
static struct parked *take(struct parking *k, bool *settler, size_t *n)
{
	pthread_mutex_lock(&k->lock);
	struct parked *list = k->list;
	k->settlers -= *settler;
	*settler = list && (!k->settlers || atomic_load(&k->n) >= PARKED_MAX);
	k->settlers += *settler;
	if (*settler) {
		*n = atomic_exchange(&k->n, 0);
		k->list = NULL;
		k->tail = &k->list;
	}
	pthread_mutex_unlock(&k->lock);
	return *settler ? list : NULL;
}

static void settle(struct rpc_server *server, struct parked *list, size_t n)
{
	struct rpc_deferred *d = malloc(n * sizeof *d);
	size_t i = 0;
	for (struct parked *p = list; p && d; p = p->next)
		d[i++] = p->deferred;
	if (d)
		server->config.settle(d, n);
	i = 0;
	for (struct parked *p = list; p; p = p->next) {
		if (d)
			p->deferred = d[i++];
		else
			server->config.settle(&p->deferred, 1);
		if (p->deferred.status)
			p->len = call_fail(p->reply, p->len, p->deferred.status, p->failure_words);
		drc_finish(p->drc, p->entry, p->reply, p->len);
	}
	free(d);
}

/* Together, what goes to the connection of the first. */
static void send_to_one(struct worker *w, struct parked *first)
{
	struct conn *c = first->conn;
	size_t n = 0, refs = 0;
	for (struct parked *p = first; p; p = p->next) {
		if (p->conn != c)
			continue;
		if (n + 4 + (size_t)p->len > w->out_size) {
			conn_send(c, w->out, n);
			n = 0;
		}
		put_be32(w->out + n, 0x80000000u | (uint32_t)p->len);
		memcpy(w->out + n + 4, p->reply, (size_t)p->len);
		n += 4 + (size_t)p->len;
		p->conn = NULL;
		refs++;
	}
	conn_send(c, w->out, n);
	while (refs--)
		conn_put(c);
}

static void send_all(struct worker *w, struct parked *list)
{
	for (struct parked *p = list; p; p = p->next)
		if (p->conn)
			send_to_one(w, p);
	for (struct parked *next; list; list = next) {
		next = list->next;
		free(list);
	}
}

/*
 * What was just answered brings the next calls. They take longer while a flush is under way, as the file system's journal is busy with it, so
 * the settler lets them come, as long as they do: for no longer than a flush takes.
 */
static void gather(struct parking *k, uint64_t most_ns)
{
	uint64_t start = now_ns(), last = start, now = start;
	unsigned seen = 0;
	while (now - last < GAP_NS && now - start < most_ns) {
		sched_yield();
		now = now_ns();
		unsigned n = atomic_load(&k->n);
		if (n != seen)
			last = now;
		seen = n;
	}
}

void park_settle(struct worker *w)
{
	struct parking *k = &w->server->parking;
	bool settler = false;
	size_t n;
	struct parked *list = atomic_load(&k->n) ? take(k, &settler, &n) : NULL;
	if (!list)
		return;
	bool leads = worker_leads(w);
	struct conn *c = list->conn;
	atomic_fetch_add(&c->refs, 1);
	if (leads) { /* as in a call: what settles says when it will block, and the lead goes to another then */
		w->conn = c;
		w->rest_len = 0;
		worker_enter(w);
	}
	for (; list; list = take(k, &settler, &n)) {
		uint64_t took = now_ns();
		settle(w->server, list, n);
		took = now_ns() - took;
		send_all(w, list);
		if (!worker_leads(w))
			gather(k, took);
	}
	if (leads)
		worker_leave(w);
	w->conn = NULL;
	conn_put(c);
}
