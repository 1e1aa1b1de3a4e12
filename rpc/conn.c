/* conn.c: a TCP connection: record marking (RFC 5531 11), reading, writing. */
#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

struct conn *conn_new(struct shard *shard, int fd, const struct sockaddr_storage *peer)
{
	struct conn *c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	c->source = (struct source){ .kind = SOURCE_CONN, .fd = fd };
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
		conn_close(c);
		return NULL;
	}
	return c;
}

void conn_put(struct conn *c)
{
	if (atomic_fetch_sub(&c->refs, 1) != 1)
		return;
	close(c->source.fd);
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

/* c->lock held. A reader that does not read is not read from either. */
static void watch(struct conn *c)
{
	size_t queued = c->out_len - c->out_at;
	uint32_t events = (queued ? EPOLLOUT : 0) | (queued < OUT_QUEUE_MAX ? EPOLLIN : 0);
	struct epoll_event e = { .events = events, .data.ptr = &c->source };
	if (events == c->events || c->closed)
		return;
	c->events = events;
	epoll_ctl(c->shard->epoll, EPOLL_CTL_MOD, c->source.fd, &e);
}

static int enqueue(struct conn *c, const uint8_t *data, size_t len)
{
	if (c->out_at && c->out_at == c->out_len)
		c->out_at = c->out_len = 0;
	if (c->out_len + len > c->out_size) {
		size_t size = (c->out_len + len) * 2;
		uint8_t *more = realloc(c->out, size);
		if (!more)
			return -ENOMEM;
		c->out = more;
		c->out_size = size;
	}
	memcpy(c->out + c->out_len, data, len);
	c->out_len += len;
	return 0;
}

int conn_send(struct conn *c, const uint8_t *data, size_t len)
{
	int rc = 0;
	pthread_mutex_lock(&c->lock);
	if (!c->closed && c->out_at == c->out_len) {
		ssize_t n;
		while (len && ((n = send(c->source.fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL)) > 0 || (n < 0 && errno == EINTR)))
			if (n > 0) {
				data += n;
				len -= (size_t)n;
			}
		if (len && errno != EAGAIN)
			rc = -errno;
	}
	if (len && !rc && !c->closed) {
		rc = enqueue(c, data, len);
		watch(c);
	}
	pthread_mutex_unlock(&c->lock);
	return rc;
}

void conn_writable(struct conn *c)
{
	bool broken = false;
	pthread_mutex_lock(&c->lock);
	while (c->out_at < c->out_len) {
		ssize_t n = send(c->source.fd, c->out + c->out_at, c->out_len - c->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		broken = n < 0 && errno != EAGAIN;
		if (n <= 0)
			break;
		c->out_at += (size_t)n;
	}
	if (c->out_at == c->out_len) {
		free(c->out); /* rare: a connection at rest holds no buffer */
		c->out = NULL;
		c->out_at = c->out_len = c->out_size = 0;
	}
	watch(c);
	pthread_mutex_unlock(&c->lock);
	if (broken)
		conn_close(c);
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
	c->in = in;
	c->in_len = c->in_size = size;
	return 0;
}

/* One record at data: 1 whole (*rec, *rec_len, *used), 0 not yet (*want: bytes that it needs at the least), -1 too long. Several fragments are
 * moved together in place. */
static int next_record(uint8_t *data, size_t len, size_t max, uint8_t **rec, size_t *rec_len, size_t *used, size_t *want)
{
	size_t at = 0, total = 0;
	for (bool last = false; !last;) {
		*want = at + 4;
		if (len - at < 4)
			return 0;
		uint32_t mark = get_be32(data + at);
		size_t frag = mark & 0x7fffffff;
		last = mark >> 31;
		total += frag;
		if (total > max || at > 2 * max + 65536)
			return -1;
		at += 4;
		*want = at + frag;
		if (len - at < frag)
			return 0;
		at += frag;
	}
	*used = at;
	*rec_len = total;
	*rec = data + 4;
	if (at == total + 4)
		return 1;
	for (size_t from = 0, to = 4; from < at;) { /* only now that all are there */
		size_t frag = get_be32(data + from) & 0x7fffffff;
		memmove(data + to, data + from + 4, frag);
		from += 4 + frag;
		to += frag;
	}
	return 1;
}

static int flush(struct worker *w, struct conn *c)
{
	size_t n = w->out_ready;
	w->out_ready = 0;
	return n ? conn_send(c, w->out, n) : 0;
}

/* Runs the whole calls in data. 1: all done, *left bytes remain, *want are needed. 0: the rest was taken over. -1: close. */
static int run_calls(struct worker *w, struct conn *c, uint8_t *data, size_t len, size_t *left, size_t *want)
{
	struct rpc_call call;
	size_t room_for_one = w->server->config.max_record + REPLY_SLACK;
	uint8_t *rec;
	size_t rec_len, used;
	int rc;
	call.peer = c->peer;
	call.udp = false;
	while ((rc = next_record(data, len, w->server->config.max_record, &rec, &rec_len, &used, want)) > 0) {
		size_t at = w->out_ready;
		data += used;
		len -= used;
		w->conn = c;
		w->rest = data;
		w->rest_len = len;
		worker_enter(w);
		long n = call_run(w->server, &call, rec, rec_len, w->out + at + 4, w->out_size - at - 4);
		if (n > 0)
			put_be32(w->out + at, 0x80000000u | (uint32_t)n);
		if (!worker_leave(w)) { /* what was ready before is sent; this reply is ours */
			if (n > 0)
				conn_send(c, w->out + at, (size_t)n + 4);
			w->out_ready = 0;
			return 0;
		}
		if (n < 0)
			return -1;
		if (n > 0)
			w->out_ready = at + 4 + (size_t)n;
		if (w->out_size - w->out_ready < room_for_one && flush(w, c))
			return -1;
	}
	*left = len;
	return rc < 0 ? -1 : 1;
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

/* Partial record: its own buffer, as long as the record is going to be. */
static int keep_partial(struct conn *c, const uint8_t *data, size_t len, size_t want)
{
	size_t size = want > len + 4096 ? want : len + 4096;
	uint8_t *in = len ? malloc(size) : NULL;
	if (len && !in)
		return -1;
	if (len)
		memcpy(in, data, len);
	c->in = in;
	c->in_len = len;
	c->in_size = in ? size : 0;
	return 0;
}

void conn_serve(struct worker *w, struct conn *c, bool readable)
{
	size_t have, room, left = 0, want = 4;
	uint8_t *data = read_space(w, c, &have, &room);
	ssize_t n = 0;
	if (readable && room) {
		n = recv(c->source.fd, data + have, room, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			conn_close(c);
			return;
		}
	}
	size_t len = have + (n > 0 ? (size_t)n : 0);
	if (data == c->in) { /* the calls stand in it: it is the worker's until they are done */
		w->owned = c->in;
		c->in = NULL;
		c->in_len = c->in_size = 0;
	}
	atomic_fetch_add(&c->refs, 1);
	int rc = run_calls(w, c, data, len, &left, &want);
	if (rc > 0) {
		if (w->owned && left && left == len && want <= have + room) {
			c->in = w->owned; /* nothing ran, and the rest will fit */
			c->in_len = left;
			c->in_size = have + room;
			w->owned = NULL;
		} else if (keep_partial(c, data + len - left, left, want)) {
			rc = -1;
		}
		if (flush(w, c))
			rc = -1;
	}
	free(w->owned);
	w->owned = NULL;
	if (rc < 0) {
		flush(w, c);
		conn_close(c);
	}
	w->conn = NULL;
	conn_put(c); /* NOLINT(clang-analyzer-unix.Malloc): the reference taken above keeps it; the analyzer does not count */
}
