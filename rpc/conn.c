/* conn.c: a TCP connection: its life, and how its calls are read and run. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

struct conn *conn_new(struct shard *shard, int fd, const struct sockaddr_storage *peer)
{
	struct conn *c = calloc(1, sizeof *c);
	if (!c) {
		close(fd);
		return NULL;
	}
	c->source.kind = SOURCE_CONN;
	c->source.fd = fd;
	c->shard = shard;
	c->peer = *peer;
	atomic_store(&c->refs, 1);
	pthread_mutex_init(&c->lock, NULL);
	c->events = EPOLLIN;
	pthread_mutex_lock(&shard->server->lock);
	if ((c->next = shard->conns))
		c->next->prev = c;
	shard->conns = c;
	pthread_mutex_unlock(&shard->server->lock);
	atomic_fetch_add(&shard->server->nconns, 1);
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = &c->source };
	if (epoll_ctl(shard->epoll, EPOLL_CTL_ADD, fd, &e)) {
		int why = errno;
		conn_close(c);
		errno = why;
		return NULL;
	}
	return c;
}

static void set_input(struct conn *c, uint8_t *in, size_t len, size_t size)
{
	if (len != c->in_len) /* mostly both are 0: a counter of all is not touched for nothing */
		atomic_fetch_add_explicit(&c->shard->server->held, len - c->in_len, memory_order_relaxed);
	c->in = in;
	c->in_len = len;
	c->in_size = size;
}

void conn_put(struct conn *c)
{
	if (atomic_fetch_sub(&c->refs, 1) != 1)
		return;
	close(c->source.fd);
	atomic_fetch_sub(&c->shard->server->queued, c->out_len - c->out_at);
	atomic_fetch_sub(&c->shard->server->held, c->in_len);
	pthread_mutex_destroy(&c->lock);
	free(c->in);
	free(c->out);
	free(c);
}

void conn_close(struct conn *c)
{
	pthread_mutex_lock(&c->lock);
	bool already = c->closed;
	c->closed = true;
	pthread_mutex_unlock(&c->lock);
	if (already)
		return;
	struct rpc_server *server = c->shard->server;
	if (c->ended)
		atomic_fetch_sub(&server->nended, 1);
	epoll_ctl(c->shard->epoll, EPOLL_CTL_DEL, c->source.fd, NULL);
	shutdown(c->source.fd, SHUT_RDWR);
	pthread_mutex_lock(&server->lock);
	*(c->prev ? &c->prev->next : &c->shard->conns) = c->next;
	if (c->next)
		c->next->prev = c->prev;
	pthread_mutex_unlock(&server->lock);
	atomic_fetch_sub(&server->nconns, 1);
	conn_put(c);
}

/* Nothing but the list holds it, and nothing is queued: nothing will be sent any more. */
static bool is_done(struct conn *c)
{
	return atomic_load(&c->refs) == 1 && !atomic_load(&c->queued);
}

/* The leader read the end of what the client sends. False: nothing is left to do for it. */
static bool end_input(struct conn *c)
{
	if (c->ended || is_done(c)) /* ended: both sides are */
		return false;
	atomic_fetch_add(&c->shard->server->nended, 1);
	pthread_mutex_lock(&c->lock);
	c->ended = true;
	conn_watch(c);
	pthread_mutex_unlock(&c->lock);
	return true;
}

void conn_reap(struct rpc_server *s)
{
	if (!atomic_load(&s->nended))
		return;
	pthread_mutex_lock(&s->lock); /* what is in the lists stays */
	for (int i = 0; i < s->nshards; i++)
		for (struct conn *c = s->shards[i].conns; c; c = c->next) {
			if (pthread_mutex_trylock(&c->lock)) /* somebody sends, perhaps from a slow disk: not now */
				continue;
			if (c->ended && is_done(c))
				shutdown(c->source.fd, SHUT_RDWR);
			pthread_mutex_unlock(&c->lock);
		}
	pthread_mutex_unlock(&s->lock);
}

int conn_keep(struct conn *c, const uint8_t *data, size_t len)
{
	size_t size = len + c->in_len;
	if (!len)
		return 0;
	uint8_t *in = malloc(size);
	if (!in)
		return -ENOMEM;
	memcpy(in, data, len);
	if (c->in_len)
		memcpy(in + len, c->in, c->in_len);
	free(c->in);
	set_input(c, in, size, size);
	return 0;
}

static int flush(struct worker *w, struct conn *c)
{
	size_t n = w->out_ready;
	w->out_ready = 0;
	return n ? conn_send(c, w->out, n) : 0;
}

/* The leader goes on when the output is taken: conn_writable(). */
static void pause_reading(struct conn *c)
{
	c->paused = true;
	pthread_mutex_lock(&c->lock);
	conn_watch(c);
	pthread_mutex_unlock(&c->lock);
}

/* What is left of a batch. */
struct rest {
	uint8_t *data;
	size_t len, want; /* bytes; bytes that the next record needs at the least */
};

/* Runs one call. 1: go on, 0: the rest was taken over, -1: close. */
static int run_one(struct worker *w, struct conn *c, struct rpc_call *call, const uint8_t *rec, size_t len, const struct rest *rest)
{
	size_t at = w->out_ready;
	w->conn = c;
	w->rest = rest->data;
	w->rest_len = rest->len;
	worker_enter(w);
	call->lone = !rest->len && !atomic_load_explicit(&c->queued, memory_order_relaxed);
	long n = call_run(w->server, call, rec, len, w->out + at + 4, w->out_size - at - 4);
	struct parked *parked = call->deferred ? park_new(w->server, call, w->out + at + 4, &n) : NULL;
	bool file = call->file.done;
	if (parked)
		n = 0;
	if (n > 0)
		put_be32(w->out + at, 0x80000000u | (uint32_t)((size_t)n + (file ? file_padded(&call->file) : 0)));
	bool leads = worker_leave(w);
	if (parked)
		park_add(w->server, parked);
	if (!leads) { /* what was ready before is sent; this reply is ours */
		if (parked)
			park_settle(w);
		else if (file)
			conn_send_file(c, w->out + at, (size_t)n + 4, &call->file);
		else if (n > 0)
			conn_send(c, w->out + at, (size_t)n + 4);
		else if (n < 0)
			shutdown(c->source.fd, SHUT_RDWR); /* the leader sees it */
		w->out_ready = 0;
		return 0;
	}
	if (n > 0)
		w->out_ready = at + 4 + (size_t)n;
	if (file) {
		size_t ready = w->out_ready;
		w->out_ready = 0;
		return conn_send_file(c, w->out, ready, &call->file) ? -1 : 1;
	}
	return n < 0 ? -1 : 1;
}

/* Runs the whole calls of the rest. 1: all done, or c is full and paused. 0: the rest was taken over. -1: close. */
static int run_calls(struct worker *w, struct conn *c, struct rest *rest)
{
	struct rpc_call call;
	size_t max = w->server->config.max_record, rec_len, used;
	uint8_t *rec;
	int rc;
	call.peer = c->peer;
	call.udp = false;
	call.conn = c;
	c->paused = false;
	while (true) {
		if (conn_is_full(c)) {
			pause_reading(c);
			return 1;
		}
		if ((rc = record_next(rest->data, &rest->len, max, &rec, &rec_len, &used, &rest->want)) <= 0)
			return rc < 0 ? -1 : 1;
		rest->data += used;
		rest->len -= used;
		rest->want = 4;
		if ((rc = run_one(w, c, &call, rec, rec_len, rest)) <= 0)
			return rc;
		if (w->out_size - w->out_ready < max + REPLY_SLACK && flush(w, c))
			return -1;
	}
}

/* Where to read to: behind a partial record, or into the worker's own buffer. */
static uint8_t *read_space(struct worker *w, struct conn *c, size_t *have, size_t *room)
{
	if (!c->in) {
		*have = 0;
		*room = w->in_size;
		return w->in;
	}
	*have = c->in_len;
	*room = c->in_size - c->in_len;
	return c->in;
}

enum { HELD_FREE = 1 << 12 }; /* bytes: so much any connection may */
enum { LARGE = 1 << 16 }; /* bytes: smaller buffers are malloc's to recycle */

static uint8_t *take_buffer(struct worker *w, size_t *size)
{
	if (*size < LARGE || *size > w->kept_size)
		return malloc(*size);
	uint8_t *kept = w->kept;
	*size = w->kept_size;
	w->kept = NULL;
	w->kept_size = 0;
	return kept;
}

/* The larger of the two is kept. */
static void give_back_owned(struct worker *w)
{
	if (w->owned && w->owned_size >= LARGE && w->owned_size > w->kept_size) {
		free(w->kept);
		w->kept = w->owned;
		w->kept_size = w->owned_size;
	} else {
		free(w->owned);
	}
	w->owned = NULL;
}

/* Partial record: its own buffer, as long as the record is going to be. */
static int keep_partial(struct worker *w, struct conn *c, const uint8_t *data, size_t len, size_t want)
{
	size_t size = want > len + 4096 ? want : len + 4096;
	uint8_t *in = len ? take_buffer(w, &size) : NULL;
	if (len && !in)
		return -1;
	if (len)
		memcpy(in, data, len);
	set_input(c, in, len, in ? size : 0);
	return 0;
}

/* Parts of large records, and calls of who does not read, wait in memory: all connections' together no more than their replies may. */
static bool is_too_much(struct conn *c)
{
	struct rpc_server *s = c->shard->server;
	if (c->in_len < HELD_FREE || atomic_load_explicit(&s->held, memory_order_relaxed) <= s->config.max_queued)
		return false;
	rpc_log(s, 4, "a connection is closed: its client did not send its call whole, and too many such wait");
	return true;
}

void conn_serve(struct worker *w, struct conn *c, bool readable)
{
	size_t have, room;
	uint8_t *data = read_space(w, c, &have, &room);
	ssize_t n = 0;
	if (readable && room) {
		n = recv(c->source.fd, data + have, room, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			if (n < 0 || !end_input(c))
				conn_close(c);
			return;
		}
	}
	struct rest rest = { .data = data, .len = have + (n > 0 ? (size_t)n : 0), .want = 4 };
	if (data == c->in) { /* the calls stand in it: it is the worker's until they are done */
		w->owned = c->in;
		w->owned_size = c->in_size;
		set_input(c, NULL, 0, 0);
	}
	atomic_fetch_add(&c->refs, 1);
	int rc = run_calls(w, c, &rest);
	if (rc > 0) {
		if (w->owned && rest.len && rest.data == data && rest.want <= have + room) {
			set_input(c, w->owned, rest.len, have + room); /* nothing ran, and the rest will fit */
			w->owned = NULL;
		} else if (keep_partial(w, c, rest.data, rest.len, rest.want)) {
			rc = -1;
		}
		if (is_too_much(c))
			rc = -1;
		if (flush(w, c))
			rc = -1;
	}
	give_back_owned(w);
	if (rc < 0) {
		flush(w, c);
		conn_close(c);
	}
	w->conn = NULL;
	conn_put(c); /* NOLINT(clang-analyzer-unix.Malloc): the reference taken above keeps it; the analyzer does not count */
}
