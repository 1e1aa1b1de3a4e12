/*
 * drain.c: the end of the connections when the server stops. A reply must not be cut, and a connection that is closed while bytes of its client are
 * unread is reset, which takes replies on their way along: so what is queued is sent, then the end is said, then what still comes is read away.
 */
#include "internal.h"

#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { DRAIN_MS = 3000, STEP_MS = 5, READS = 64 };

static long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Nothing on its way in either direction: closing it loses nothing. */
static bool at_rest(struct conn *c)
{
	int in = 0, out = 0;
	return !ioctl(c->source.fd, SIOCINQ, &in) && !ioctl(c->source.fd, SIOCOUTQ, &out) && !in && !out;
}

/* READS at a time: who sends faster than we read must not hold up the others, nor the end. */
static bool peer_is_done(struct conn *c)
{
	char away[4096];
	ssize_t n = 1;
	for (int i = 0; i < READS && n > 0; i++)
		n = recv(c->source.fd, away, sizeof away, MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

/* True: it was closed. */
static bool drain(struct conn *c)
{
	if (atomic_load(&c->queued)) {
		if (conn_flush(c))
			return false;
		conn_close(c);
		return true;
	}
	if (!c->drained) {
		c->drained = true;
		if (!at_rest(c)) {
			shutdown(c->source.fd, SHUT_WR);
			return false;
		}
	} else if (!peer_is_done(c)) {
		return false;
	}
	conn_close(c);
	return true;
}

void server_drain(struct rpc_server *s)
{
	long until = now_ms() + DRAIN_MS;
	for (bool more = true; more && now_ms() < until;) {
		more = false;
		for (int i = 0; i < s->nshards; i++)
			for (struct conn *c = s->shards[i].conns, *next; c; c = next) {
				next = c->next;
				more |= !drain(c);
			}
		if (more)
			usleep(STEP_MS * 1000);
	}
	for (int i = 0; i < s->nshards; i++)
		while (s->shards[i].conns)
			conn_close(s->shards[i].conns);
}
