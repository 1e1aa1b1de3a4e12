/*
 * sendfile: the limit for READ. Answers NFSv3 READ calls on 127.0.0.1:PORT with sendfile(2) from one file, whatever their handle, and
 * nothing else; a thread a connection.
 *   sendfile PORT FILE
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IN = 1 << 16, HEADER = 4 + 24 + 20 };
static int file;
static uint64_t size;

static uint32_t word(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, 4);
	return be32toh(v);
}

static int answer(int fd, const uint8_t *rec)
{
	const uint8_t *p = rec + 24;
	p += 8 + ((word(p + 4) + 3) & ~3u); /* credentials */
	p += 8 + ((word(p + 4) + 3) & ~3u); /* verifier */
	p += 4 + ((word(p) + 3) & ~3u); /* handle */
	uint64_t offset = (uint64_t)word(p) << 32 | word(p + 4), count = word(p + 8);
	if (offset > size)
		offset = size;
	if (count > size - offset)
		count = size - offset;
	uint32_t n = (uint32_t)count, padded = (n + 3) & ~3u;
	uint32_t h[HEADER / 4] = { htobe32(0x80000000u | (HEADER - 4 + padded)), 0, htobe32(1) };
	memcpy(&h[1], rec, 4);
	h[9] = htobe32(n);
	h[10] = htobe32(offset + count == size);
	h[11] = htobe32(n);
	if (send(fd, h, sizeof h, n ? MSG_MORE : 0) != sizeof h)
		return -1;
	off_t at = (off_t)offset;
	while (n) {
		ssize_t sent = sendfile(fd, file, &at, n);
		if (sent <= 0)
			return -1;
		n -= (uint32_t)sent;
	}
	return padded == count || send(fd, "\0\0\0", padded - count, 0) > 0 ? 0 : -1;
}

static void *serve(void *arg)
{
	int fd = (int)(intptr_t)arg;
	uint8_t *in = malloc(IN);
	size_t have = 0;
	for (ssize_t n; in && (n = read(fd, in + have, IN - have)) > 0;) {
		size_t used = 0;
		have += (size_t)n;
		while (have - used >= 4) {
			size_t len = word(in + used) & 0x7fffffff;
			if (have - used < 4 + len)
				break;
			if (answer(fd, in + used + 4))
				have = used = 0;
			else
				used += 4 + len;
		}
		memmove(in, in + used, have - used);
		have -= used;
	}
	free(in);
	close(fd);
	return NULL;
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct stat st;
	int one = 1, l = socket(AF_INET, SOCK_STREAM, 0);
	if (argc != 3 || (file = open(argv[2], O_RDONLY)) < 0 || fstat(file, &st)) {
		fprintf(stderr, "usage: sendfile PORT FILE\n");
		return 2;
	}
	size = (uint64_t)st.st_size;
	a.sin_port = htons((uint16_t)atoi(argv[1]));
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(l, (void *)&a, sizeof a) || listen(l, 1024)) {
		perror("sendfile");
		return 1;
	}
	for (int fd; (fd = accept(l, NULL, NULL)) >= 0;) {
		pthread_t t;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		if (pthread_create(&t, NULL, serve, (void *)(intptr_t)fd))
			close(fd);
		else
			pthread_detach(t);
	}
	return 0;
}
