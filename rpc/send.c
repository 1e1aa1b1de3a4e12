/*
 * send.c: what goes out on a connection. A socket takes what it has room for; the rest is queued at the connection, and goes when epoll says that
 * there is room again.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <unistd.h>

/* A reader that does not read is not read from either. Where many are slow at once, sooner. */
bool conn_is_full(struct conn *c)
{
	struct rpc_server *s = c->shard->server;
	size_t queued = atomic_load_explicit(&c->queued, memory_order_relaxed);
	return queued >= OUT_QUEUE_MAX || (queued && atomic_load_explicit(&s->queued, memory_order_relaxed) > s->config.max_queued / 2);
}

void conn_watch(struct conn *c)
{
	uint32_t events = (c->out_len > c->out_at ? EPOLLOUT : 0) | (c->ended || conn_is_full(c) ? 0 : EPOLLIN);
	struct epoll_event e = { .events = events, .data.ptr = &c->source };
	if (events == c->events || c->closed)
		return;
	c->events = events;
	epoll_ctl(c->shard->epoll, EPOLL_CTL_MOD, c->source.fd, &e);
}

/* c->lock held, as below. n: bytes more, or fewer, in the queue. */
static void count_queued(struct conn *c, ssize_t n)
{
	atomic_store_explicit(&c->queued, c->out_len - c->out_at, memory_order_relaxed);
	atomic_fetch_add(&c->shard->server->queued, (size_t)n);
}

static int enqueue(struct conn *c, const uint8_t *data, size_t len)
{
	struct rpc_server *s = c->shard->server;
	if (atomic_load(&s->queued) + len > s->config.max_queued)
		return -ENOBUFS;
	if (c->out_len + len > c->out_size && c->out_at) { /* a slow reader may never empty it: what was taken makes room */
		memmove(c->out, c->out + c->out_at, c->out_len - c->out_at);
		c->out_len -= c->out_at;
		c->out_at = 0;
	}
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
	count_queued(c, (ssize_t)len);
	return 0;
}

static ssize_t send_some(struct conn *c, const uint8_t *data, size_t len, int flags)
{
	ssize_t n;
	do
		n = send(c->source.fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL | flags);
	while (n < 0 && errno == EINTR);
	return n < 0 ? (errno == EAGAIN ? 0 : -errno) : n;
}

/* What the socket does not take at once is queued. Whoever sends may not be the shard's leader, who alone closes: it sees the shutdown. */
static int send_flags(struct conn *c, const uint8_t *data, size_t len, int flags)
{
	ssize_t n = 1;
	while (len && n > 0 && c->out_at == c->out_len && (n = send_some(c, data, len, flags)) > 0) {
		data += n;
		len -= (size_t)n;
	}
	int rc = n < 0 ? (int)n : len ? enqueue(c, data, len) : 0;
	if (rc)
		shutdown(c->source.fd, SHUT_RDWR);
	else
		conn_watch(c);
	return rc;
}

static int send_locked(struct conn *c, const uint8_t *data, size_t len)
{
	return send_flags(c, data, len, 0);
}

int conn_send(struct conn *c, const uint8_t *data, size_t len)
{
	pthread_mutex_lock(&c->lock);
	int rc = c->closed ? -EPIPE : send_locked(c, data, len);
	pthread_mutex_unlock(&c->lock);
	if (rc == -ENOBUFS)
		rpc_log(c->shard->server, 4, "a connection is closed: its client does not read, and too many replies wait");
	return rc;
}

size_t file_padded(const struct rpc_file *file)
{
	return ((size_t)file->len + 3) & ~(size_t)3;
}

/* What the file has no more is zeros: how many bytes come was said already. NULL: no memory, or they can't be read. */
static uint8_t *read_part(const struct rpc_file *file, off_t from)
{
	size_t len = (size_t)(file->offset + file->len - from), got = 0;
	uint8_t *part = calloc(1, len + 4);
	while (part && got < len) {
		ssize_t n = pread(file->fd, part + got, len - got, from + (off_t)got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			free(part);
			return NULL;
		}
		if (!n)
			break;
		got += (size_t)n;
	}
	return part;
}

/* Some file systems' files can only be read (sendfile(2)), and a sandbox may not know the call. */
static bool cannot_send_files(int error)
{
	return error == EINVAL || error == EOPNOTSUPP || error == ENOSYS;
}

/* c->lock held. What the socket does not take at once is read, and queued as any reply. */
static int send_part(struct conn *c, const struct rpc_file *file)
{
	off_t at = file->offset, end = at + file->len;
	ssize_t n = 1;
	while (at < end && n > 0 && c->out_at == c->out_len) {
		do
			n = sendfile(c->source.fd, file->fd, &at, (size_t)(end - at));
		while (n < 0 && errno == EINTR);
	}
	if (n < 0 && errno != EAGAIN && !cannot_send_files(errno))
		return -errno;
	size_t left = file_padded(file) - (size_t)(at - file->offset);
	uint8_t *part = left ? read_part(file, at) : NULL;
	int rc = left ? part ? send_locked(c, part, left) : -EIO : 0;
	free(part);
	return rc;
}

int conn_send_file(struct conn *c, const uint8_t *data, size_t len, const struct rpc_file *file)
{
	pthread_mutex_lock(&c->lock);
	int rc = c->closed ? -EPIPE : send_flags(c, data, len, file->len ? MSG_MORE : 0); /* what nothing follows would be held back, for 200 ms */
	if (!rc)
		rc = send_part(c, file);
	if (rc)
		shutdown(c->source.fd, SHUT_RDWR);
	pthread_mutex_unlock(&c->lock);
	file->done(file->arg);
	return rc;
}

int conn_send_record(struct conn *c, const uint8_t *reply, size_t len)
{
	uint8_t mark[4];
	put_be32(mark, 0x80000000u | (uint32_t)len);
	pthread_mutex_lock(&c->lock); /* over both */
	int rc = c->closed ? -EPIPE : send_locked(c, mark, 4);
	if (!rc)
		rc = send_locked(c, reply, len);
	pthread_mutex_unlock(&c->lock);
	return rc;
}

bool conn_flush(struct conn *c)
{
	ssize_t n = 1;
	pthread_mutex_lock(&c->lock);
	while (c->out_at < c->out_len && (n = send_some(c, c->out + c->out_at, c->out_len - c->out_at, 0)) > 0) {
		c->out_at += (size_t)n;
		count_queued(c, -n);
	}
	if (c->out_at == c->out_len) {
		free(c->out); /* rare: a connection at rest holds no buffer */
		c->out = NULL;
		c->out_at = c->out_len = c->out_size = 0;
	}
	conn_watch(c);
	pthread_mutex_unlock(&c->lock);
	return n >= 0;
}

void conn_writable(struct worker *w, struct conn *c)
{
	if (!conn_flush(c))
		conn_close(c);
	else if (c->paused && !conn_is_full(c))
		conn_serve(w, c, false);
}
