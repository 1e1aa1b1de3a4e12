/* udp.c: calls in datagrams. The reply goes out from the address that the call was sent to. */
#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

enum { MAX_DATAGRAM = 65507, BATCH = 16 };

int udp_open(const struct sockaddr *address, socklen_t len)
{
	int on = 1, fd = socket(address->sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (address->sa_family == AF_INET6) {
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
		setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
	} else {
		setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
	}
	if (bind(fd, address, len)) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

/* Keeps of the control data what says our address; the interface it came by is not where the reply must go, unless the address is one of a link. */
static void answer_from(struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		struct in6_pktinfo *v6 = (struct in6_pktinfo *)CMSG_DATA(c);
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO)
			((struct in_pktinfo *)CMSG_DATA(c))->ipi_ifindex = 0;
		else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO && !IN6_IS_ADDR_LINKLOCAL(&v6->ipi6_addr))
			v6->ipi6_ifindex = 0;
	}
}

void udp_serve(struct worker *w, int fd)
{
	struct rpc_call call;
	union {
		char buf[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo))];
		struct cmsghdr align;
	} control;
	for (int i = 0; i < BATCH; i++) {
		struct iovec iov = { w->in, w->in_size };
		struct msghdr m = { .msg_name = &call.peer, .msg_namelen = sizeof call.peer, .msg_iov = &iov, .msg_iovlen = 1,
				    .msg_control = &control, .msg_controllen = sizeof control };
		ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
		if (n < 0)
			return;
		if (m.msg_flags & MSG_TRUNC || (w->server->config.allow && !w->server->config.allow(&call.peer)))
			continue;
		call.udp = true;
		call.lone = false;
		call.conn = NULL;
		w->conn = NULL;
		w->rest_len = 0;
		worker_enter(w);
		long len = call_run(w->server, &call, w->in, (size_t)n, w->out, MAX_DATAGRAM);
		bool leads = worker_leave(w);
		if (len > 0) {
			iov = (struct iovec){ w->out, (size_t)len };
			m.msg_flags = 0;
			answer_from(&m);
			sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL); /* lost datagrams are sent again by the client */
		}
		if (!leads)
			return;
	}
}
