/* The daemon's wire: both programs over TCP and UDP, both families, its ports, the reply cache under real procedures, names with NULs, its end under load. */
#include "client.h"
#include "mount3.h"
#include "wire.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NFS = 100003, MOUNT = 100005 };

static struct stack stack;
static struct client client; /* root */
static struct message m, r;

static int setup(void **state)
{
	(void)state;
	stack_make(&stack, NULL, "echo text >lower1/file; mkdir lower1/dir lower1/closed; chmod 700 lower1/closed; mkdir lower1/closed/open;"
				 "head -c 200000 /dev/zero >lower1/big; for i in $(seq 400); do touch lower1/dir/a-name-that-is-rather-long-$i; done");
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

static int connected(void)
{
	int fd = wire_connect("127.0.0.1", stack.port);
	assert_true(fd >= 0);
	return fd;
}

static struct answer ask(int fd)
{
	assert_true(send_message(fd, &m));
	assert_true(recv_message(fd, &r));
	return answer_of(&r);
}

static void put_fh(const struct fh *fh)
{
	put_opaque(&m, fh->data, fh->len);
}

static nfsstat3 status(void)
{
	struct answer a = answer_of(&r);
	assert_int_equal(a.denied, 0);
	assert_int_equal(a.stat, 0);
	return (nfsstat3)word_at(r.data, a.results);
}

/* ---- programs and versions ---- */
static void each_program_says_which_versions_it_has(void **state)
{
	(void)state;
	int fd = connected();
	static const struct { uint32_t prog, vers, stat, low, high; } cases[] = {
		{ NFS, 3, 0, 0, 0 }, { NFS, 2, 2, 3, 3 }, { NFS, 4, 2, 3, 3 }, { MOUNT, 3, 0, 0, 0 }, { MOUNT, 1, 0, 0, 0 }, { MOUNT, 2, 0, 0, 0 },
		{ MOUNT, 4, 2, 1, 3 }, { MOUNT, 0, 2, 1, 3 }, { 100021, 4, 1, 0, 0 } /* NLM */, { 100227, 3, 1, 0, 0 } /* NFS_ACL */ };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		put_call(&m, 1, cases[i].prog, cases[i].vers, 0);
		struct answer a = ask(fd);
		assert_int_equal(a.stat, cases[i].stat);
		assert_int_equal(a.low, cases[i].low);
		assert_int_equal(a.high, cases[i].high);
	}
	put_call(&m, 2, NFS, 3, 22);
	assert_int_equal(ask(fd).stat, 3);
	put_call(&m, 2, MOUNT, 3, 6);
	assert_int_equal(ask(fd).stat, 3);
	close(fd);
}

static void every_procedure_refuses_arguments_that_are_cut_or_too_long(void **state)
{
	(void)state;
	int fd = connected();
	for (uint32_t proc = 1; proc < 22; proc++) {
		put_call(&m, proc, NFS, 3, proc);
		assert_int_equal(ask(fd).stat, 4);
		put_call(&m, proc, NFS, 3, proc);
		put_word(&m, 65); /* a handle has 64 bytes at the most */
		for (int i = 0; i < 60; i++)
			put_word(&m, 0);
		assert_int_equal(ask(fd).stat, 4);
		put_call(&m, proc, NFS, 3, proc);
		put_fh(&client.root);
		for (int i = 0; i < 200; i++)
			put_word(&m, 0);
		assert_int_equal(ask(fd).stat, 4);
	}
	close(fd);
}

/* ---- names with a NUL inside ---- */
static void a_name_with_a_nul_inside_is_refused(void **state)
{
	(void)state;
	int fd = connected();
	assert_nfs(client_create(&client, &client.root, "victim", GUARDED, 0644, NULL), NFS3_OK);
	static const uint32_t procs[] = { 3, 8, 9, 12, 13 };
	for (size_t i = 0; i < sizeof procs / sizeof *procs; i++) {
		put_call_as(&m, 1, NFS, 3, procs[i], 0, 0);
		put_fh(&client.root);
		put_opaque(&m, "victim\0x", 8);
		for (int w = procs[i] == 8 ? 7 : procs[i] == 9 ? 6 : 0; w; w--)
			put_word(&m, 0); /* CREATE UNCHECKED, MKDIR: attributes not set */
		ask(fd);
		assert_nfs(status(), NFS3ERR_ACCES);
	}
	for (int which = 0; which < 2; which++) { /* RENAME, either name */
		put_call_as(&m, 1, NFS, 3, 14, 0, 0);
		put_fh(&client.root);
		put_opaque(&m, "victim\0x", which ? 6 : 8);
		put_fh(&client.root);
		put_opaque(&m, "moved\0x", which ? 7 : 5);
		ask(fd);
		assert_nfs(status(), NFS3ERR_ACCES);
	}
	put_call_as(&m, 1, NFS, 3, 10, 0, 0); /* SYMLINK: the target */
	put_fh(&client.root);
	put_opaque(&m, "link", 4);
	for (int i = 0; i < 6; i++)
		put_word(&m, 0);
	put_opaque(&m, "tar\0get", 7);
	ask(fd);
	assert_nfs(status(), NFS3ERR_INVAL);
	put_call_as(&m, 1, MOUNT, 3, 1, 0, 0);
	put_opaque(&m, "/overlay\0/dir", 13);
	ask(fd);
	assert_int_equal(word_at(r.data, 24), MNT3ERR_NOENT);
	struct fh fh;
	assert_nfs(client_path(&client, "victim", &fh, NULL), NFS3_OK);
	assert_nfs(client_path(&client, "moved", &fh, NULL), NFS3ERR_NOENT);
	assert_nfs(client_path(&client, "link", &fh, NULL), NFS3ERR_NOENT);
	assert_nfs(client_remove(&client, &client.root, "victim"), NFS3_OK);
	close(fd);
}

static void a_mount_leads_nowhere_that_its_caller_cannot_go(void **state)
{
	(void)state;
	int fd = connected();
	for (uint32_t uid = 0; uid < 2000; uid += 1000) {
		put_call_as(&m, 1 + uid, MOUNT, 3, 1, uid, uid);
		put_opaque(&m, "/overlay/closed/open", 20);
		ask(fd);
		assert_int_equal(word_at(r.data, 24), uid ? MNT3ERR_ACCES : MNT3_OK);
	}
	close(fd);
}

/* ---- the reply cache ---- */
/* Sends the call in m twice over two connections, and over UDP: all replies are the same bytes. */
static void comes_again(nfsstat3 wanted)
{
	static struct message first;
	int fd = connected(), other = connected(), udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(stack.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	ask(fd);
	assert_nfs(status(), wanted);
	memcpy(&first, &r, sizeof r.len + r.len + 8);
	for (int i = 0; i < 2; i++) {
		ask(i ? other : fd);
		assert_int_equal(r.len, first.len);
		assert_memory_equal(r.data, first.data, r.len);
	}
	close(fd);
	assert_int_equal(sendto(udp, m.data, m.len, 0, (struct sockaddr *)&to, sizeof to), m.len);
	assert_int_equal(recv(udp, r.data, sizeof r.data, 0), first.len);
	assert_memory_equal(r.data, first.data, first.len);
	close(other);
	close(udp);
}

static uint32_t xid = 50000;
static void begin(uint32_t proc)
{
	put_call_as(&m, xid++, NFS, 3, proc, 0, 0);
}
static void put_name(const char *name)
{
	put_fh(&client.root);
	put_opaque(&m, name, strlen(name));
}
static void put_words(int n)
{
	while (n--)
		put_word(&m, 0);
}

static void a_change_that_comes_again_gets_its_first_reply(void **state)
{
	(void)state;
	struct fh fh;
	begin(8); /* CREATE, GUARDED */
	put_name("once");
	put_word(&m, GUARDED);
	put_words(6);
	comes_again(NFS3_OK);
	begin(8);
	put_name("once");
	put_word(&m, GUARDED);
	put_words(6);
	comes_again(NFS3ERR_EXIST); /* another call */
	assert_nfs(client_path(&client, "once", &fh, NULL), NFS3_OK);
	begin(15); /* LINK */
	put_fh(&fh);
	put_name("twice");
	comes_again(NFS3_OK);
	begin(2); /* SETATTR with a guard that holds once */
	fattr3 a;
	assert_nfs(client_getattr(&client, &fh, &a), NFS3_OK);
	put_fh(&fh);
	put_word(&m, 1);
	put_word(&m, 0600);
	put_words(5);
	put_word(&m, 1);
	put_word(&m, a.ctime.seconds);
	put_word(&m, a.ctime.nseconds);
	comes_again(NFS3_OK);
	begin(14); /* RENAME */
	put_name("twice");
	put_name("thrice");
	comes_again(NFS3_OK);
	begin(12); /* REMOVE */
	put_name("thrice");
	comes_again(NFS3_OK);
	begin(9); /* MKDIR */
	put_name("d");
	put_words(6);
	comes_again(NFS3_OK);
	begin(13); /* RMDIR */
	put_name("d");
	comes_again(NFS3_OK);
	begin(10); /* SYMLINK */
	put_name("s");
	put_words(6);
	put_opaque(&m, "target", 6);
	comes_again(NFS3_OK);
	begin(11); /* MKNOD of a FIFO */
	put_name("p");
	put_word(&m, NF3FIFO);
	put_words(6);
	comes_again(NFS3_OK);
}

static void a_late_copy_of_a_write_does_not_undo_the_next(void **state)
{
	(void)state;
	struct fh fh;
	static struct message old;
	int fd = connected();
	assert_nfs(client_create(&client, &client.root, "late", GUARDED, 0644, &fh), NFS3_OK);
	begin(7);
	put_fh(&fh);
	put_words(2);
	put_word(&m, 3);
	put_word(&m, FILE_SYNC);
	put_opaque(&m, "old", 3);
	memcpy(&old, &m, sizeof m.len + m.len + 8);
	ask(fd);
	assert_nfs(status(), NFS3_OK);
	assert_nfs(client_write(&client, &fh, 0, "new", 3, FILE_SYNC, NULL), NFS3_OK);
	assert_true(send_message(fd, &old)); /* it was on its way still */
	assert_true(recv_message(fd, &r));
	assert_nfs(status(), NFS3_OK);
	char *text = client_content(&client, "late");
	assert_string_equal(text, "new");
	free(text);
	close(fd);
}

/* ---- UDP ---- */
static int udp_to(const char *host, uint16_t port)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	bool v6 = strchr(host, ':') != NULL;
	int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(inet_pton(v6 ? AF_INET6 : AF_INET, host, v6 ? (void *)&in6.sin6_addr : (void *)&in.sin_addr), 1);
	assert_int_equal(connect(fd, v6 ? (struct sockaddr *)&in6 : (struct sockaddr *)&in, v6 ? sizeof in6 : sizeof in), 0);
	return fd;
}

static void udp_ask(int fd)
{
	assert_int_equal(send(fd, m.data, m.len, 0), m.len);
	ssize_t n = recv(fd, r.data, sizeof r.data, 0);
	assert_true(n > 0);
	r.len = (size_t)n;
}

static void transfers_over_udp_are_capped(void **state)
{
	(void)state;
	struct fh fh;
	int fd = udp_to("127.0.0.1", stack.port);
	assert_nfs(client_path(&client, "big", &fh, NULL), NFS3_OK);
	begin(6);
	put_fh(&fh);
	put_words(2);
	put_word(&m, 1 << 20);
	udp_ask(fd);
	assert_nfs(status(), NFS3_OK);
	assert_int_equal(word_at(r.data, 24 + 4 + 88), 32768); /* count; a short read that is not at the end: */
	assert_int_equal(word_at(r.data, 24 + 4 + 88 + 4), 0); /* eof is false */
	begin(19); /* FSINFO tells so */
	put_fh(&fh);
	udp_ask(fd);
	assert_nfs(status(), NFS3_OK);
	for (int i = 0; i < 2; i++) /* rtmax, rtpref; wtmax, wtpref */
		for (int j = 0; j < 2; j++)
			assert_int_equal(word_at(r.data, 24 + 4 + 88 + 12 * (size_t)i + 4 * (size_t)j), 32768);
	assert_nfs(client_path(&client, "dir", &fh, NULL), NFS3_OK);
	begin(17); /* READDIRPLUS of more than fits */
	put_fh(&fh);
	put_words(4);
	put_word(&m, 1 << 20);
	put_word(&m, 1 << 20);
	udp_ask(fd);
	assert_nfs(status(), NFS3_OK);
	assert_true(r.len <= 32768 + 64);
	assert_int_equal(word_at(r.data, r.len - 4), 0); /* not the end */
	close(fd);
}

static void datagrams_that_are_no_calls_are_passed_over(void **state)
{
	(void)state;
	int fd = udp_to("127.0.0.1", stack.port);
	static char big[60000];
	assert_int_equal(send(fd, "", 0, 0), 0);
	assert_int_equal(send(fd, "abc", 3, 0), 3);
	memset(big, 0xff, sizeof big);
	assert_int_equal(send(fd, big, sizeof big, 0), sizeof big);
	put_call(&m, 1, NFS, 3, 0);
	m.data[7] = 1; /* a reply */
	assert_int_equal(send(fd, m.data, m.len, 0), m.len);
	put_call(&m, 2, NFS, 3, 0);
	udp_ask(fd);
	assert_int_equal(answer_of(&r).xid, 2);
	put_call(&m, 3, NFS, 3, 99);
	udp_ask(fd);
	assert_int_equal(answer_of(&r).stat, 3);
	close(fd);
}

/* ---- addresses and ports ---- */
static bool have_ipv6(void)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);
	bool have = fd >= 0 && !bind(fd, (struct sockaddr *)&a, sizeof a);
	if (fd >= 0)
		close(fd);
	return have;
}

static void a_reply_comes_from_the_address_that_was_asked(void **state)
{
	(void)state;
	struct stack s;
	stack_make(&s, NULL, NULL);
	server_start(&s, have_ipv6() ? "--listen 0.0.0.0 --listen ::" : "--listen 0.0.0.0");
	static const char *const hosts[] = { "127.0.0.1", "127.0.0.7", "127.1.2.3", "::1" };
	for (int i = 0; i < (have_ipv6() ? 4 : 3); i++) {
		int fd = udp_to(hosts[i], s.port); /* connected: a reply from elsewhere would not be received */
		put_call(&m, (uint32_t)i, NFS, 3, 0);
		udp_ask(fd);
		assert_int_equal(answer_of(&r).xid, i);
		close(fd);
		fd = wire_connect(hosts[i], s.port);
		assert_true(fd >= 0);
		assert_int_equal(ask(fd).xid, i);
		close(fd);
	}
	server_stop(&s);
	stack_remove(&s);
}

static void both_families_are_served_by_default(void **state)
{
	(void)state;
	if (!have_ipv6()) {
		print_message("skipped: this machine has no IPv6\n");
		skip();
	}
	int fd = wire_connect("::1", stack.port);
	assert_true(fd >= 0);
	put_call_as(&m, 9, MOUNT, 3, 1, 0, 0);
	put_opaque(&m, "/overlay", 8);
	ask(fd);
	assert_int_equal(word_at(r.data, 24), MNT3_OK);
	close(fd);
	struct stack s;
	stack_make(&s, NULL, NULL);
	server_start(&s, "--listen ::ffff:127.0.0.1"); /* IPv4, written otherwise; and its client is allowed by an IPv4 range */
	fd = wire_connect("127.0.0.1", s.port);
	assert_true(fd >= 0);
	put_call(&m, 1, NFS, 3, 0);
	assert_int_equal(ask(fd).stat, 0);
	close(fd);
	server_stop(&s);
	stack_remove(&s);
}

static void clients_out_of_range_are_refused(void **state)
{
	(void)state;
	struct stack s;
	stack_make(&s, NULL, NULL);
	server_start(&s, "--listen 0.0.0.0 --clients 127.0.0.8/29,10.0.0.0/8");
	int fd = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(s.port), .sin_addr.s_addr = htonl(0x7f000001) }, from = to;
	from.sin_port = 0;
	for (uint32_t last = 7; last <= 16; last++) {
		bool allowed = last >= 8 && last <= 15;
		from.sin_addr.s_addr = htonl(0x7f000000 + last);
		fd = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof from), 0);
		assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
		put_call(&m, last, NFS, 3, 0);
		assert_int_equal(send_message(fd, &m) && recv_message(fd, &r), allowed);
		close(fd);
		udp = socket(AF_INET, SOCK_DGRAM, 0);
		assert_int_equal(bind(udp, (struct sockaddr *)&from, sizeof from), 0);
		assert_int_equal(sendto(udp, m.data, m.len, 0, (struct sockaddr *)&to, sizeof to), m.len);
		struct pollfd p = { .fd = udp, .events = POLLIN };
		assert_int_equal(poll(&p, 1, allowed ? -1 : 50), allowed);
		close(udp);
	}
	server_stop(&s);
	stack_remove(&s);
}

static void mount_may_have_a_port_of_its_own(void **state)
{
	(void)state;
	struct stack s;
	char command[200];
	stack_make(&s, NULL, NULL);
	server_start(&s, "--mount-port 0");
	snprintf(command, sizeof command, "ss -Hltnp 2>/dev/null | grep 'pid=%d,' | awk '{print $4}' | grep -o '127.0.0.1:[0-9]*' | cut -d: -f2 >ports", (int)s.pid);
	if (!stack_says(&s, command) || !stack_says(&s, "test $(sort -u ports | wc -l) -eq 2")) {
		server_stop(&s);
		stack_remove(&s);
		print_message("skipped: ss(8) does not tell the server's ports here\n");
		skip();
	}
	char path[128];
	unsigned port[2];
	snprintf(path, sizeof path, "%s/ports", s.dir);
	FILE *f = fopen(path, "r");
	assert_int_equal(fscanf(f, "%u %u", &port[0], &port[1]), 2);
	fclose(f);
	assert_true(port[0] == s.port || port[1] == s.port);
	for (int i = 0; i < 2; i++) {
		int fd = wire_connect("127.0.0.1", (uint16_t)port[i]);
		put_call(&m, 1, MOUNT, 3, 0);
		assert_int_equal(ask(fd).stat, 0);
		close(fd);
	}
	server_stop(&s);
	stack_remove(&s);
}

/* ---- numbers ---- */
static size_t server_rss_kib(const struct stack *s)
{
	char path[64], line[256];
	size_t kib = 0;
	snprintf(path, sizeof path, "/proc/%d/status", (int)s->pid);
	FILE *f = fopen(path, "r");
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "VmRSS: %zu", &kib) == 1)
			break;
	fclose(f);
	return kib;
}

static void five_thousand_connections_are_served(void **state)
{
	(void)state;
	struct rlimit rl;
	enum { CONNECTIONS = 5000 };
	static int fd[CONNECTIONS];
	getrlimit(RLIMIT_NOFILE, &rl);
	if (rl.rlim_max < 4 * CONNECTIONS) {
		print_message("skipped: needs %d descriptors, and ulimit -Hn is %lu\n", 4 * CONNECTIONS, (unsigned long)rl.rlim_max);
		skip();
	}
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
	size_t before = server_rss_kib(&stack);
	for (int i = 0; i < CONNECTIONS; i++)
		fd[i] = connected();
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < CONNECTIONS; i++) {
			begin(1);
			put_fh(&client.root);
			ask(fd[i]);
			assert_nfs(status(), NFS3_OK);
		}
	printf("| %d connections at once: %zu KiB of memory\n", CONNECTIONS, server_rss_kib(&stack) - before);
	for (int i = 0; i < CONNECTIONS; i++)
		close(fd[i]);
}

/* ---- the end ---- */
static void a_stop_under_load_cuts_no_reply_and_loses_no_change(void **state)
{
	(void)state;
	struct stack s;
	struct client c[6];
	stack_make(&s, NULL, "head -c 2000000 /dev/zero >lower1/big");
	server_start(&s, "--no-root-squash");
	struct fh fh, root;
	unsigned made = 0;
	for (int i = 0; i < 6; i++)
		client_open(&c[i], &s, 0, 0);
	root = c[0].root;
	assert_nfs(client_path(&c[0], "big", &fh, NULL), NFS3_OK);
	for (uint32_t n = 0; n < 60; n++)
		for (int i = 0; i < 6; i++) { /* half of them read, half of them create */
			char name[32];
			put_call_as(&m, n, NFS, 3, i % 2 ? 8 : 6, 0, 0);
			if (i % 2) {
				snprintf(name, sizeof name, "made-%d-%u", i, n);
				put_fh(&root);
				put_opaque(&m, name, strlen(name));
				put_word(&m, GUARDED);
				put_words(6);
			} else {
				put_fh(&fh);
				put_words(2);
				put_word(&m, 1 << 20);
			}
			assert_true(send_message(c[i].fd, &m));
		}
	for (int i = 1; i < 6; i += 2) { /* it is at it */
		assert_true(recv_message(c[i].fd, &r));
		assert_nfs(status(), NFS3_OK);
		made++;
	}
	kill(s.pid, SIGTERM);
	for (int i = 0; i < 6; i++) {
		bool cut;
		while (recv_message_cut(c[i].fd, &r, &cut)) {
			assert_nfs(status(), NFS3_OK);
			made += i % 2;
		}
		assert_false(cut);
		client_close(&c[i]);
	}
	int status;
	assert_int_equal(waitpid(s.pid, &status, 0), s.pid);
	assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
	s.pid = 0;
	char command[100];
	snprintf(command, sizeof command, "test $(ls upper | grep -c made-) -ge %u", made); /* what was told to be made, is */
	stack_sh(&s, command);
	stack_remove(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_program_says_which_versions_it_has),
		cmocka_unit_test(every_procedure_refuses_arguments_that_are_cut_or_too_long),
		cmocka_unit_test(a_name_with_a_nul_inside_is_refused),
		cmocka_unit_test(a_mount_leads_nowhere_that_its_caller_cannot_go),
		cmocka_unit_test(a_change_that_comes_again_gets_its_first_reply),
		cmocka_unit_test(a_late_copy_of_a_write_does_not_undo_the_next),
		cmocka_unit_test(transfers_over_udp_are_capped),
		cmocka_unit_test(datagrams_that_are_no_calls_are_passed_over),
		cmocka_unit_test(a_reply_comes_from_the_address_that_was_asked),
		cmocka_unit_test(both_families_are_served_by_default),
		cmocka_unit_test(clients_out_of_range_are_refused),
		cmocka_unit_test(mount_may_have_a_port_of_its_own),
		cmocka_unit_test(five_thousand_connections_are_served),
		cmocka_unit_test(a_stop_under_load_cuts_no_reply_and_loses_no_change),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
