/*
 * Valid calls of all 28 procedures, mutated at random by bytes and by XDR words, over TCP and UDP, and streams that are no records at all. The server
 * must stay alive and answer a NULL call behind each; in the end the tree must be one that a fresh server shows whole. SEED= and COUNT= choose the run.
 */
#include "../rpc/wire.h"
#include "client.h"
#include "mount3.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NFS = 100003, MOUNT = 100005, SEEDS = 64, SEED_MAX = 1400 };

static struct stack stack;
static struct client client;
static struct message m, r;
static struct {
	size_t len;
	uint8_t data[SEED_MAX];
} corpus[SEEDS];
static size_t ncorpus;
static uint64_t state64;

static uint32_t random32(void) /* splitmix64 */
{
	uint64_t z = state64 += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (uint32_t)(z >> 32);
}
static uint32_t below(uint32_t n)
{
	return random32() % n;
}

/* ---- the corpus ---- */
static void keep(void)
{
	assert_true(ncorpus < SEEDS && m.len <= SEED_MAX);
	corpus[ncorpus].len = m.len;
	memcpy(corpus[ncorpus++].data, m.data, m.len);
}

static void call(uint32_t proc, const struct fh *fh)
{
	put_call_as(&m, 1, NFS, 3, proc, 0, 0);
	put_opaque(&m, fh->data, fh->len);
}

static void words(int n, ...)
{
	va_list ap;
	va_start(ap, n);
	while (n--)
		put_word(&m, va_arg(ap, uint32_t));
	va_end(ap);
}

static void put_text(const char *s)
{
	put_opaque(&m, s, strlen(s));
}

/* All of sattr3 set. */
static void attributes(void)
{
	words(15, 1u, 0755u, 1u, 1000u, 1u, 1000u, 1u, 0u, 100u, 2u, 1u, 2u, 2u, 3u, 4u);
}

static void make_corpus(void)
{
	struct fh root = client.root, file, dir;
	assert_nfs(client_path(&client, "file", &file, NULL), NFS3_OK);
	assert_nfs(client_path(&client, "dir", &dir, NULL), NFS3_OK);
	for (uint32_t proc = 0; proc < 22; proc++) { /* those that take a handle and words */
		const struct fh *fh = proc >= 16 && proc <= 17 ? &dir : &file;
		switch (proc) {
		case 1: case 5: case 18: case 19: case 20: call(proc, fh); break;
		case 4: call(proc, fh), words(1, 63u); break;
		case 6: case 21: call(proc, fh), words(3, 0u, 0u, 65536u); break;
		case 16: call(proc, fh), words(5, 0u, 0u, 0u, 0u, 4096u); break;
		case 17: call(proc, fh), words(6, 0u, 0u, 0u, 0u, 1000u, 8192u); break;
		default: put_call_as(&m, 1, NFS, 3, 0, 0, 0);
		}
		keep();
	}
	call(2, &file), attributes(), words(3, 1u, 5u, 6u), keep();
	call(2, &file), words(6, 0u, 0u, 0u, 0u, 0u, 0u), words(1, 0u), keep();
	call(3, &root), put_text("dir"), keep();
	call(3, &dir), put_text(".."), keep();
	call(7, &file), words(4, 0u, 100u, 8u, 2u), put_opaque(&m, "12345678", 8), keep();
	call(8, &root), put_text("new"), words(1, 0u), attributes(), keep();
	call(8, &root), put_text("new"), words(3, 2u, 77u, 88u), keep();
	call(9, &dir), put_text("new dir"), attributes(), keep();
	call(10, &dir), put_text("new link"), attributes(), put_text("target"), keep();
	call(11, &dir), put_text("fifo"), words(1, 7u), attributes(), keep();
	call(11, &dir), put_text("device"), words(1, 4u), attributes(), words(2, 1u, 3u), keep();
	call(12, &root), put_text("new"), keep();
	call(13, &dir), put_text("new dir"), keep();
	call(14, &root), put_text("new"), put_opaque(&m, dir.data, dir.len), put_text("moved"), keep();
	call(14, &dir), put_text("sub"), put_opaque(&m, root.data, root.len), put_text("sub2"), keep();
	call(14, &root), put_text("sub2"), put_opaque(&m, dir.data, dir.len), put_text("sub"), keep();
	call(15, &file), put_opaque(&m, dir.data, dir.len), put_text("linked"), keep();
	for (uint32_t proc = 0; proc < 6; proc++) {
		put_call_as(&m, 1, MOUNT, 3, proc, 0, 0);
		if (proc == 1 || proc == 3)
			put_text("/overlay/dir");
		keep();
	}
	put_call(&m, 1, MOUNT, 1, 5), keep();
}

/* ---- mutation ---- */
static void mutate_word(void)
{
	static const uint32_t values[] = { 0, 1, 2, 3, 4, 7, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1024, 4095, 4096, 4097, 8192, 65535, 65536, 1 << 20, 1 << 22,
					   0x7ffffffe, 0x7fffffff, 0x80000000, 0xfffffffb, 0xfffffffc, 0xfffffffe, 0xffffffff };
	size_t at = below((uint32_t)(m.len / 4)) * 4;
	uint32_t v = word_at(m.data, at);
	switch (below(4)) {
	case 0: v += below(9) - 4; break;
	case 1: v = random32(); break;
	default: v = values[below(sizeof values / sizeof *values)];
	}
	memcpy(m.data + at, &(uint32_t){ htonl(v) }, 4);
}

static void mutate(void)
{
	size_t at = m.len ? below((uint32_t)m.len) : 0, n;
	switch (below(9)) {
	case 0: case 1: case 2: case 3:
		if (m.len >= 4)
			mutate_word();
		break;
	case 4: m.data[at] ^= (uint8_t)(1u << below(8)); break;
	case 5: m.data[at] = (uint8_t)random32(); break;
	case 6: m.len = at; break; /* cut */
	case 7: /* something put in */
		n = 4 * (1 + below(8));
		memmove(m.data + at + n, m.data + at, m.len - at);
		for (size_t i = 0; i < n; i++)
			m.data[at + i] = (uint8_t)random32();
		m.len += n;
		break;
	default: /* something taken out */
		n = 4 * (1 + below(4));
		if (at + n <= m.len) {
			memmove(m.data + at, m.data + at + n, m.len - at - n);
			m.len -= n;
		}
	}
}

static void next_message(uint32_t xid)
{
	uint32_t which = below((uint32_t)ncorpus);
	m.len = corpus[which].len;
	memcpy(m.data, corpus[which].data, m.len);
	memcpy(m.data, &(uint32_t){ htonl(xid) }, 4);
	if (below(8)) /* mostly the arguments: a call by AUTH_SYS begins with 64 bytes of header */
		for (uint32_t n = 1 + below(3); n && m.len > 64; n--) {
			static struct message head;
			memcpy(&head, &m, sizeof head.len + 64);
			memmove(m.data, m.data + 64, m.len -= 64);
			mutate();
			memmove(m.data + 64, m.data, m.len);
			memcpy(m.data, head.data, 64);
			m.len += 64;
		}
	else
		for (uint32_t n = 1 + below(4); n; n--)
			mutate();
}

/* ---- the server's part ---- */
static int connected(void)
{
	int fd = wire_connect("127.0.0.1", stack.port);
	if (fd < 0)
		fail_msg("the server is gone");
	return fd;
}

static void must_live(void)
{
	int status, fd;
	if (waitpid(stack.pid, &status, WNOHANG) != 0) {
		stack.pid = 0;
		fail_msg("the server died");
	}
	fd = connected();
	put_call(&m, 7, NFS, 3, 0);
	assert_true(send_message(fd, &m));
	assert_true(recv_message(fd, &r));
	assert_int_equal(answer_of(&r).xid, 7);
	close(fd);
}

/* A message, then NULL: all replies up to NULL's are well made. A connection that the server closes is made anew. */
static void by_tcp(int *fd, uint32_t xid)
{
	next_message(xid);
	bool sent = send_message(*fd, &m);
	put_call(&m, 0xfeedface, NFS, 3, 0);
	if (sent && send_message(*fd, &m))
		while (recv_message(*fd, &r))
			if (answer_of(&r).xid == 0xfeedface)
				return;
	close(*fd);
	*fd = connected();
}

static void by_udp(int udp, uint32_t xid)
{
	next_message(xid);
	(void)send(udp, m.data, m.len, 0);
	while (recv(udp, r.data, sizeof r.data, MSG_DONTWAIT) > 0)
		;
}

/* Marks and bytes at random, then the end: read whatever comes. */
static void by_stream(void)
{
	int fd = connected();
	for (uint32_t n = below(6); n; n--) {
		next_message(random32());
		switch (below(3)) {
		case 0: send_message(fd, &m); break;
		case 1: send_fragment(fd, m.data, below((uint32_t)m.len + 1), below(2)); break;
		default: wire_send(fd, m.data, m.len);
		}
	}
	shutdown(fd, SHUT_WR);
	is_closed(fd);
	close(fd);
}

static unsigned number(const char *variable, unsigned plain)
{
	const char *value = getenv(variable);
	return value ? (unsigned)strtoul(value, NULL, 0) : plain;
}

static const char tree[] = "cd lower1; echo text >file; mkdir -p dir/sub; echo a >dir/a; echo b >dir/sub/b; ln -s file link; ln file linked; mkfifo fifo;"
			   "cd ../lower2; mkdir -p dir/sub/deep; echo c >dir/c; cd ..; find lower1 lower2 -printf '%p %y %i %m %s %T@ %C@\\n' | sort >before";

static void show_all(struct client *c, const struct fh *dir, int depth);
static struct {
	char name[4096][256];
	int n;
} listed;

static void collect(void *arg, const char *entry, uint64_t fileid)
{
	(void)arg;
	assert_true(fileid != 0);
	if (strcmp(entry, ".") && strcmp(entry, "..") && listed.n < 4096)
		snprintf(listed.name[listed.n++], 256, "%s", entry);
}

static void show_all(struct client *c, const struct fh *dir, int depth)
{
	assert_true(depth < 100);
	listed.n = 0;
	assert_true(client_list(c, dir, 8192, collect, NULL) >= 2);
	int n = listed.n;
	char(*names)[256] = malloc((size_t)n * 256 + 1);
	memcpy(names, listed.name, (size_t)n * 256);
	for (int i = 0; i < n; i++) {
		struct fh fh;
		fattr3 a;
		assert_nfs(client_lookup(c, dir, names[i], &fh, &a), NFS3_OK);
		if (a.type == NF3DIR)
			show_all(c, &fh, depth + 1);
	}
	free(names);
}

static void mutated_calls_leave_a_live_server_and_a_sound_tree(void **state)
{
	(void)state;
	const char *build = getenv("BUILD");
	unsigned seed = number("SEED", 1), count = number("COUNT", !build || !strstr(build, "san") ? 30000 : strstr(build, "tsan") ? 3000 : 8000);
	stack_make(&stack, NULL, tree);
	server_start(&stack, "--no-root-squash --async --log-level error");
	client_open(&client, &stack, 0, 0);
	make_corpus();
	state64 = seed;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(stack.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = connected(), udp = socket(AF_INET, SOCK_DGRAM, 0);
	assert_int_equal(connect(udp, (struct sockaddr *)&to, sizeof to), 0);
	for (unsigned i = 0; i < count; i++) {
		uint32_t how = below(20);
		if (how == 0)
			by_stream();
		else if (how < 4)
			by_udp(udp, i);
		else
			by_tcp(&fd, i);
		if (i % 500 == 0)
			must_live();
	}
	must_live();
	printf("| fuzz of the wire: %u messages, SEED=%u\n", count, seed);
	close(fd);
	close(udp);
	client_close(&client);
	server_stop(&stack);
	stack_sh(&stack, "test -z \"$(ls -A work/work)\"; find lower1 lower2 -printf '%p %y %i %m %s %T@ %C@\\n' | sort | cmp - before");
	server_start(&stack, "--no-root-squash");
	client_open(&client, &stack, 0, 0);
	show_all(&client, &client.root, 0);
	client_close(&client);
	server_stop(&stack);
	stack_remove(&stack);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(mutated_calls_leave_a_live_server_and_a_sound_tree) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
