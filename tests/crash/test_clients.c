/* Clients that die: in the middle of a request, of a reply, between the two. A call is done whole or not at all; done, it is answered again when it is
 * asked again; and the server keeps nothing of those who went. */
#include "client.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { ROUNDS = 40, STEP = 23 };
#else
enum { ROUNDS = 300, STEP = 3 };
#endif

static struct stack stack;
static struct client client;

static int setup(void **state)
{
	(void)state;
	stack_make(&stack, NULL, "dd if=/dev/zero of=lower1/big bs=1M count=4 status=none; cd lower1; mkdir wide; cd wide; seq 3000 | sed 's/^/a long name for one of many files /' | tr '\\n' '\\0' | xargs -0 touch");
	server_start(&stack, "--no-root-squash");
	client_open(&client, &stack, 0, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	client_close(&client);
	stack_remove(&stack);
	return 0;
}

/* ---- calls as bytes ---- */
struct bytes {
	uint8_t data[8192];
	size_t len;
};

static void put(struct bytes *b, uint32_t v)
{
	v = htonl(v);
	memcpy(b->data + b->len, &v, 4);
	b->len += 4;
}

static void make_call(struct bytes *b, uint32_t xid, uint32_t proc, xdrproc_t xdr_args, void *args)
{
	XDR x;
	b->len = 4;
	const uint32_t words[] = { xid, 0, 2, 100003, 3, proc, 1, 24, 0, 4, 0x74657374, 0, 0, 0, 0, 0 }; /* AUTH_SYS, "test", root */
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		put(b, words[i]);
	xdrmem_create(&x, (char *)b->data + b->len, (u_int)(sizeof b->data - b->len), XDR_ENCODE);
	assert_true(xdr_args(&x, args));
	b->len += xdr_getpos(&x);
	uint32_t mark = htonl(0x80000000u | (uint32_t)(b->len - 4));
	memcpy(b->data, &mark, 4);
}

static void make_create(struct bytes *b, uint32_t xid, const char *name)
{
	CREATE3args a = { .where = { fh3(&client.root), (char *)(uintptr_t)name }, .how = { .mode = GUARDED } };
	make_call(b, xid, 8, (xdrproc_t)xdr_CREATE3args, &a);
}

static int connect_raw(int receive_buffer)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(stack.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (receive_buffer)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

/* By a reset, or in good order. */
static void cut(int fd, bool reset)
{
	struct linger l = { 1, 0 };
	if (reset)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
	close(fd);
}

static void send_raw(int fd, const void *data, size_t len)
{
	assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), len);
}

/* The status of the NFS result in a reply. */
static uint32_t read_status(int fd)
{
	uint8_t reply[4096];
	size_t n = 0;
	for (ssize_t got; n < 32 && (got = recv(fd, reply + n, sizeof reply - n, 0)) > 0;)
		n += (size_t)got;
	assert_true(n >= 32);
	uint32_t status;
	memcpy(&status, reply + 28, 4);
	return ntohl(status);
}

static unsigned descriptors(void)
{
	char path[64];
	unsigned n = 0;
	snprintf(path, sizeof path, "/proc/%d/fd", (int)stack.pid);
	DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));) {
		char target[64] = "";
		if (readlinkat(dirfd(d), e->d_name, target, sizeof target - 1) > 0)
			n += !strncmp(target, "socket:", 7);
	}
	closedir(d);
	return n;
}

static unsigned at_rest; /* descriptors of the server with one client */

/* The server sees that a peer went in its own time; and connections that it did not take yet have no descriptor yet, so one more comes behind them. */
static void wait_for_descriptors(void)
{
	struct client last;
	client_open(&last, &stack, 0, 0);
	client_close(&last);
	while (descriptors() > at_rest)
		usleep(2000);
	assert_int_equal(descriptors(), at_rest);
}

static int setup_at_rest(void **state)
{
	int rc = setup(state);
	at_rest = rc ? 0 : descriptors();
	return rc;
}

/* ---- tests ---- */
static void a_request_that_is_cut_anywhere_does_nothing(void **state)
{
	struct bytes b;
	unsigned cuts = 0;
	(void)state;
	make_create(&b, 77, "never");
	for (size_t at = 0; at < b.len; at += STEP, cuts++) {
		int fd = connect_raw(0);
		if (at)
			send_raw(fd, b.data, at);
		cut(fd, cuts & 1);
	}
	wait_for_descriptors();
	assert_nfs(client_lookup(&client, &client.root, "never", NULL, NULL), NFS3ERR_NOENT);
	printf("| requests cut | %u places | none done, no descriptor left |\n", cuts);
}

static void a_call_whose_client_died_is_done_whole_and_answered_when_asked_again(void **state)
{
	struct bytes b;
	char name[32];
	(void)state;
	for (unsigned i = 0; i < ROUNDS; i++) {
		snprintf(name, sizeof name, "once%u", i);
		make_create(&b, 1000 + i, name);
		int fd = connect_raw(0);
		send_raw(fd, b.data, b.len);
		if (i % 3 == 1)
			shutdown(fd, SHUT_WR);
		cut(fd, i % 3 == 0);
		fd = connect_raw(0);
		send_raw(fd, b.data, b.len); /* over another connection, with the same xid, as a client does that lost its own */
		struct pollfd p = { .fd = fd, .events = POLLIN };
		/* where the first is still at work, it is dropped, and a client asks again */
		while (poll(&p, 1, 50) == 0)
			send_raw(fd, b.data, b.len);
		assert_int_equal(read_status(fd), NFS3_OK); /* not EXIST */
		cut(fd, false);
		assert_nfs(client_lookup(&client, &client.root, name, NULL, NULL), NFS3_OK);
	}
	wait_for_descriptors();
	printf("| calls whose client died | %u | each done once, and answered again |\n", (unsigned)ROUNDS);
}

static void replies_that_nobody_reads_are_dropped_with_their_client(void **state)
{
	struct bytes b;
	struct fh big, wide;
	(void)state;
	assert_nfs(client_lookup(&client, &client.root, "big", &big, NULL), NFS3_OK);
	assert_nfs(client_lookup(&client, &client.root, "wide", &wide, NULL), NFS3_OK);
	for (unsigned i = 0; i < ROUNDS / 10; i++) {
		int fd = connect_raw(4096);
		for (uint32_t j = 0; j < 12; j++) {
			READ3args r = { fh3(&big), 0, 1 << 20 };
			READDIRPLUS3args d = { .dir = fh3(&wide), .dircount = 1 << 20, .maxcount = 1 << 20 };
			make_call(&b, j, j & 1 ? 6 : 17, j & 1 ? (xdrproc_t)xdr_READ3args : (xdrproc_t)xdr_READDIRPLUS3args, j & 1 ? (void *)&r : (void *)&d);
			send_raw(fd, b.data, b.len);
		}
		char some[1000];
		if (i % 2)
			assert_true(recv(fd, some, sizeof some, 0) > 0); /* the middle of a reply */
		assert_nfs(client_getattr(&client, &big, NULL), NFS3_OK); /* others are served meanwhile */
		cut(fd, i & 2);
	}
	wait_for_descriptors();
	printf("| replies cut | %u connections, 12 MiB of replies each | others served, no descriptor left |\n", (unsigned)ROUNDS / 10);
}

static void a_write_that_is_cut_leaves_the_file_as_it_was(void **state)
{
	static char data[6000];
	struct bytes b;
	struct fh fh;
	fattr3 a;
	unsigned cuts = 0;
	(void)state;
	assert_nfs(client_create(&client, &client.root, "whole", GUARDED, 0644, &fh), NFS3_OK);
	assert_nfs(client_write(&client, &fh, 0, "as it was", 9, FILE_SYNC, NULL), NFS3_OK);
	memset(data, 'x', sizeof data);
	WRITE3args w = { fh3(&fh), 0, sizeof data, FILE_SYNC, { sizeof data, data } };
	make_call(&b, 99, 7, (xdrproc_t)xdr_WRITE3args, &w);
	for (size_t at = 1; at < b.len; at += 97 * STEP, cuts++) {
		int fd = connect_raw(0);
		send_raw(fd, b.data, at);
		usleep(1000); /* a part is read */
		cut(fd, cuts & 1);
	}
	wait_for_descriptors();
	assert_nfs(client_getattr(&client, &fh, &a), NFS3_OK);
	assert_int_equal(a.size, 9);
	char *content = client_content(&client, "whole");
	assert_string_equal(content, "as it was");
	free(content);
	printf("| writes cut | %u places | none done, no descriptor left |\n", cuts);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_that_is_cut_anywhere_does_nothing),
		cmocka_unit_test(a_write_that_is_cut_leaves_the_file_as_it_was),
		cmocka_unit_test(a_call_whose_client_died_is_done_whole_and_answered_when_asked_again),
		cmocka_unit_test(replies_that_nobody_reads_are_dropped_with_their_client),
	};
	return cmocka_run_group_tests(tests, setup_at_rest, teardown);
}
