/* rpcbind.c: tells rpcbind where the programs are (RFC 1833), where one runs. Never fatal, and never a wait for long. */
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netconfig.h>
#include <rpc/pmap_prot.h>
#include <rpc/rpc.h>
#include <rpc/rpcb_clnt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { PORT = 111, PATIENCE_S = 2 };

/* Each is one registration: clients ask for the one of the transport that they use. */
static const struct {
	const char *name, *any;
	int family, kind;
} netids[] = {
	{ "tcp", "0.0.0.0", AF_INET, SOURCE_LISTEN },
	{ "udp", "0.0.0.0", AF_INET, SOURCE_UDP },
	{ "tcp6", "::", AF_INET6, SOURCE_LISTEN },
	{ "udp6", "::", AF_INET6, SOURCE_UDP },
};
enum { NETIDS = sizeof netids / sizeof *netids };

/* A NULL call, as libtirpc would try a silent rpcbind for minutes. */
static bool answers(int fd)
{
	static const uint32_t call[] = { 0x80000028, 1, CALL, RPC_MSG_VERSION, PMAPPROG, PMAPVERS, 0, 0, 0, 0, 0 };
	uint32_t words[11];
	struct timeval patience = { .tv_sec = PATIENCE_S };
	for (int i = 0; i < 11; i++)
		words[i] = htonl(call[i]);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	return send(fd, words, sizeof words, MSG_NOSIGNAL) == sizeof words && recv(fd, words, 8, MSG_WAITALL) == 8 && words[1] == htonl(1);
}

static int connected(const struct sockaddr *address, socklen_t len)
{
	struct timeval patience = { .tv_sec = PATIENCE_S };
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience); /* bounds connect() */
	if (!connect(fd, address, len))
		return fd;
	close(fd);
	return -1;
}

static bool answers_at(const struct sockaddr *address, socklen_t len)
{
	int fd = connected(address, len);
	bool there = fd >= 0 && answers(fd);
	if (fd >= 0)
		close(fd);
	return there;
}

/* By the local socket, which it knows root by, or by TCP. */
static bool rpcbind_runs(void)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "/run/rpcbind.sock" };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	return answers_at((struct sockaddr *)&un, sizeof un) || answers_at((struct sockaddr *)&in, sizeof in);
}

/* Does anybody listen at this port (TCP, in network order), at whatever address? Then nobody else may have it at all of them. */
static bool is_taken(int family, in_port_t port)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6; /* its port is at the same place */
	} a = { .in6 = { 0 } };
	int on = 1, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	a.any.sa_family = (sa_family_t)family;
	a.in.sin_port = port;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* connections that are left of a server that is gone do not count */
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	bool taken = bind(fd, &a.any, family == AF_INET ? sizeof a.in : sizeof a.in6) && errno == EADDRINUSE;
	close(fd);
	return taken;
}

static bool listens(const struct rpc_server *s, int kind, int family, uint16_t port)
{
	for (int i = 0; i < s->nlisteners; i++) {
		union {
			struct sockaddr any;
			struct sockaddr_in in;
			struct sockaddr_in6 in6; /* its port is at the same place */
		} a = { .in6 = { 0 } };
		socklen_t len = sizeof a;
		if ((int)s->listeners[i].kind == kind && !getsockname(s->listeners[i].fd, &a.any, &len) && a.any.sa_family == family && ntohs(a.in.sin_port) == port)
			return true;
	}
	return false;
}

/* The universal address (RFC 5665 5.2.3.3) of a port: "0.0.0.0.8.1". */
static struct netbuf *universal(const struct netconfig *nc, const char *any, uint16_t port)
{
	char text[64];
	snprintf(text, sizeof text, "%s.%d.%d", any, port >> 8, port & 255);
	return uaddr2taddr(nc, text);
}

static void netbuf_free(struct netbuf *b)
{
	if (b)
		free(b->buf);
	free(b);
}

/* Whoever has the program now: does it live? After a crash of ours, nobody is there. */
static bool other_lives(const struct netconfig *nc, uint32_t prog, uint32_t vers)
{
	struct sockaddr_storage space = { 0 };
	struct netbuf b = { .maxlen = sizeof space, .len = sizeof space, .buf = &space };
	struct sockaddr_in *in = (struct sockaddr_in *)&space;
	bool v6 = !strcmp(nc->nc_protofmly, NC_INET6);
	if (!rpcb_getaddr(prog, vers, nc, &b, v6 ? "::1" : "127.0.0.1")) /* "localhost" is not in every machine's hosts, in both families */
		return false;
	return nc->nc_semantics != NC_TPI_CLTS && is_taken(v6 ? AF_INET6 : AF_INET, in->sin_port);
}

static int register_at(const char *netid, const char *any, uint32_t prog, uint32_t vers, uint16_t port)
{
	struct netconfig *nc = getnetconfigent(netid);
	struct netbuf *address = nc ? universal(nc, any, port) : NULL;
	int rc = address ? 0 : -EPROTONOSUPPORT;
	if (!rc && !rpcb_set(prog, vers, nc, address)) { /* refused to us, or another address is known */
		rc = other_lives(nc, prog, vers) ? -EADDRINUSE : -EACCES;
		if (rc == -EACCES && rpcb_unset(prog, vers, nc) && rpcb_set(prog, vers, nc, address))
			rc = 0;
	}
	netbuf_free(address);
	if (nc)
		freenetconfigent(nc);
	return rc;
}

int rpc_server_register(struct rpc_server *s, uint32_t prog, uint32_t vers, uint16_t port)
{
	struct registration *r = &s->registered[s->nregistered];
	int rc = 0;
	if (s->nregistered == sizeof s->registered / sizeof *s->registered)
		return -ENOSPC;
	if (!rpcbind_runs())
		return -ECONNREFUSED;
	*r = (struct registration){ .prog = prog, .vers = vers, .port = port };
	for (unsigned i = 0; i < NETIDS && rc != -EADDRINUSE; i++) {
		int one = listens(s, netids[i].kind, netids[i].family, port) ? register_at(netids[i].name, netids[i].any, prog, vers, port) : -ENOENT;
		if (!one)
			r->netids |= 1u << i;
		else if (one != -ENOENT && !rc)
			rc = one;
	}
	if (!r->netids)
		return rc ? rc : -EACCES;
	s->nregistered++;
	return 0;
}

void rpcbind_unregister(struct rpc_server *s)
{
	bool runs = s->nregistered && rpcbind_runs();
	for (; s->nregistered; s->nregistered--) {
		const struct registration *r = &s->registered[s->nregistered - 1];
		for (unsigned i = 0; runs && i < NETIDS; i++) {
			bool ours = r->netids >> i & 1 && !is_taken(netids[i].family, htons(r->port));
			struct netconfig *nc = ours ? getnetconfigent(netids[i].name) : NULL;
			if (nc)
				rpcb_unset(r->prog, r->vers, nc);
			if (nc)
				freenetconfigent(nc);
		}
	}
}
