/* listen.c: where the server can be reached, and who may connect. */
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* ::ffff:1.2.3.4 is 1.2.3.4 */
static void plain_address(struct sockaddr_storage *a)
{
	struct sockaddr_in6 v6;
	memcpy(&v6, a, sizeof v6);
	if (a->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr))
		return;
	struct sockaddr_in *v4 = (void *)a;
	memset(a, 0, sizeof *a);
	v4->sin_family = AF_INET;
	v4->sin_port = v6.sin6_port;
	memcpy(&v4->sin_addr, v6.sin6_addr.s6_addr + 12, 4);
}

static int parse_address(const char *address, uint16_t port, struct sockaddr_storage *out, socklen_t *len)
{
	struct sockaddr_in *v4 = (void *)out;
	struct sockaddr_in6 *v6 = (void *)out;
	memset(out, 0, sizeof *out);
	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		*len = sizeof *v4;
		return 0;
	}
	if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		plain_address(out);
		*len = out->ss_family == AF_INET ? sizeof *v4 : sizeof *v6;
		return 0;
	}
	return -EINVAL;
}

static int tcp_open(struct sockaddr *address, socklen_t len)
{
	int on = 1, fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (address->sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	if (bind(fd, address, len) || listen(fd, 1024) || getsockname(fd, address, &len)) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

static int add_listener(struct rpc_server *s, int kind, int fd)
{
	struct source *src = &s->listeners[s->nlisteners++];
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = src };
	src->kind = kind;
	src->fd = fd;
	src->shard = &s->shards[s->nlisteners % s->nshards];
	return epoll_ctl(src->shard->epoll, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

/* Of the same family: an address given twice, or one beside 0.0.0.0. */
static bool is_ours(struct rpc_server *s, int family, uint16_t port)
{
	for (int i = 0; i < s->nlisteners; i++) {
		struct sockaddr_storage a = { 0 };
		socklen_t len = sizeof a;
		if (!getsockname(s->listeners[i].fd, (struct sockaddr *)&a, &len) && a.ss_family == family && ntohs(((struct sockaddr_in *)&a)->sin_port) == port)
			return true;
	}
	return false;
}

int rpc_server_listen(struct rpc_server *s, const char *address, uint16_t *port, char *err, size_t errlen)
{
	struct sockaddr_storage a;
	socklen_t len;
	int rc = -EADDRINUSE, tcp = -1, udp = -1;
	if (parse_address(address, *port, &a, &len)) {
		snprintf(err, errlen, "%s is not an address; write one like 127.0.0.1 or ::1", address);
		return -EINVAL;
	}
	if (s->nlisteners + 2 > MAX_LISTENERS) {
		snprintf(err, errlen, "too many addresses to listen on; at most %d", MAX_LISTENERS / 2);
		return -ENOSPC;
	}
	for (int tries = 0; tries < 20 && rc == -EADDRINUSE; tries++) { /* with port 0, the one that TCP got may be taken for UDP */
		tcp = tcp_open((struct sockaddr *)&a, len);
		rc = tcp < 0 ? tcp : 0;
		udp = rc ? -1 : udp_open((struct sockaddr *)&a, len);
		if (!rc && udp < 0) {
			rc = udp;
			close(tcp);
		}
		if (rc && *port)
			break;
		if (rc)
			parse_address(address, 0, &a, &len);
	}
	if (rc) {
		const char *advice = rc == -EADDRINUSE && is_ours(s, a.ss_family, *port) ?
					     "; unless another server has that port, two of the addresses given are one: 0.0.0.0 and :: hold all others" :
				     rc == -EADDRINUSE	    ? "; another server has that port: stop it, or take another one"
				     : rc == -EADDRNOTAVAIL ? "; it must be an address of this machine"
				     : rc == -EACCES	    ? "; ports below 1024 need root"
							    : "";
		snprintf(err, errlen, "can't listen on %s port %u: %s%s", address, *port, strerror(-rc), advice);
		return rc;
	}
	*port = ntohs(((struct sockaddr_in *)&a)->sin_port); /* at the same place in both families */
	rc = add_listener(s, SOURCE_LISTEN, tcp);
	return rc ? rc : add_listener(s, SOURCE_UDP, udp);
}

/* Clients that vanished, or take nothing, must not hold connections and replies for ever: the kernel ends those (TCP_USER_TIMEOUT, tcp(7)). */
static void set_up_connection(struct rpc_server *s, int fd)
{
	int on = 1, idle = (int)s->config.dead_after, interval = idle / 4 ? idle / 4 : 1, probes = 4;
	unsigned timeout = s->config.dead_after * 1000;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
}

/* Out of descriptors: connections wait in the backlog until the watchdog turns the listener on again. Level-triggered, it would else be told again and again. */
static void rest_listener(struct source *src)
{
	struct epoll_event e = { .events = 0, .data.ptr = src };
	epoll_ctl(src->shard->epoll, EPOLL_CTL_MOD, src->fd, &e);
	atomic_store(&src->resting, true);
}

void listen_wake(struct rpc_server *s)
{
	for (int i = 0; i < s->nlisteners; i++) {
		struct source *src = &s->listeners[i];
		struct epoll_event e = { .events = EPOLLIN, .data.ptr = src };
		if (atomic_exchange(&src->resting, false))
			epoll_ctl(src->shard->epoll, EPOLL_CTL_MOD, src->fd, &e);
	}
}

/* For whoever wonders why a client can't mount. At most one a second, as anybody may knock. */
static void tell_refused(struct rpc_server *s, const struct sockaddr_storage *peer, const char *why)
{
	char address[INET6_ADDRSTRLEN] = "?";
	unsigned now = (unsigned)(now_ns() / 1000000000u);
	if (atomic_exchange(&s->refused_at, now) == now)
		return;
	const void *ip = peer->ss_family == AF_INET ? (const void *)&((const struct sockaddr_in *)peer)->sin_addr : &((const struct sockaddr_in6 *)peer)->sin6_addr;
	inet_ntop(peer->ss_family, ip, address, sizeof address);
	rpc_log(s, 5, "a connection from %s is refused: %s", address, why);
}

void listen_accept(struct rpc_server *s, struct source *listener)
{
	for (int i = 0; i < 64; i++) {
		struct sockaddr_storage peer = { 0 };
		socklen_t len = sizeof peer;
		int fd = accept4(listener->fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
				rest_listener(listener);
			return;
		}
		plain_address(&peer);
		const char *why = s->config.allow && !s->config.allow(&peer) ? "it is not among the clients that may connect" :
				  atomic_load(&s->nconns) >= s->config.max_connections ? "there are too many" : NULL;
		if (why) {
			tell_refused(s, &peer, why);
			close(fd);
			continue;
		}
		set_up_connection(s, fd);
		struct shard *sh = &s->shards[atomic_fetch_add(&s->next_shard, 1) % (unsigned)s->nshards];
		if (!conn_new(sh, fd, &peer))
			tell_refused(s, &peer, strerror(errno));
	}
}
