/* rpcbind.c: tells rpcbind where the programs are (RFC 1833), where one runs. Never fatal. */
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <rpc/pmap_clnt.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>


/* A refused connection says at once that none runs; libtirpc would try for a minute. */
static bool rpcbind_runs(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(111), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool runs = fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof a);
	if (fd >= 0)
		close(fd);
	return runs;
}

int rpc_server_register(struct rpc_server *s, uint32_t prog, uint32_t vers, uint16_t port)
{
	if (s->nregistered == 16)
		return -ENOSPC;
	if (!rpcbind_runs())
		return -ECONNREFUSED;
	pmap_unset(prog, vers);
	if (!pmap_set(prog, vers, IPPROTO_TCP, port) || !pmap_set(prog, vers, IPPROTO_UDP, port))
		return -EACCES;
	s->registered[s->nregistered].prog = prog;
	s->registered[s->nregistered++].vers = vers;
	return 0;
}

void rpcbind_unregister(struct rpc_server *s)
{
	if (s->nregistered && rpcbind_runs())
		while (s->nregistered) {
			s->nregistered--;
			pmap_unset(s->registered[s->nregistered].prog, s->registered[s->nregistered].vers);
		}
}
