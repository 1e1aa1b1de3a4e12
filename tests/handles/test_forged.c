/* Handles that this server did not make (promise I4): none is accepted, and each is BADHANDLE, not STALE, which would tell a guesser that it was well made. */
#include "handles.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 500, GENUINE = 64, CALL_MAX = 160, GETATTR = 1 };

static struct stack stack;
static struct client client;
static struct fh genuine[GENUINE], foreign[GENUINE]; /* foreign: of a server over the same layers with another key */
static uint64_t seed;

static uint32_t rnd(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33);
}

static void take_handles(struct fh handles[GENUINE])
{
	char name[24];
	for (int i = 0; i < GENUINE; i++) {
		snprintf(name, sizeof name, "file%d", i);
		handles[i] = handle_of(&client, name);
	}
}

static int setup(void **state)
{
	(void)state;
	const char *s = getenv("SEED");
	seed = s ? strtoull(s, NULL, 10) : (uint64_t)getpid() * 2654435761u;
	printf("SEED=%llu\n", (unsigned long long)seed);
	stack_make(&stack, NULL, "cd lower1; for i in $(seq 0 63); do echo $i >file$i; done");
	char key[120];
	snprintf(key, sizeof key, "--no-root-squash --key-file %s/other.key", stack.dir);
	server_start_with(&stack, "--lower %s/lower1", key);
	client_open(&client, &stack, 0, 0);
	take_handles(foreign);
	client_close(&client);
	server_stop(&stack);
	server_start_with(&stack, "--lower %s/lower1", "--no-root-squash");
	client_open(&client, &stack, 0, 0);
	take_handles(genuine);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	client_close(&client);
	stack_remove(&stack);
	return 0;
}

static bool is_genuine(const struct fh *fh)
{
	for (int i = 0; i < GENUINE; i++)
		if (same_handle(fh, &genuine[i]))
			return true;
	return same_handle(fh, &client.root);
}

/* A handle, and the way in which it is wrong. */
static struct fh forge(void)
{
	struct fh fh = genuine[rnd() % GENUINE];
	const struct fh *other = &genuine[rnd() % GENUINE];
	uint32_t cut = 1 + rnd() % 31;
	switch (rnd() % 8) {
	case 0: /* nothing but noise */
		for (uint32_t i = 0; i < fh.len; i++)
			fh.data[i] = (uint8_t)rnd();
		break;
	case 1: /* noise behind a right head */
		for (uint32_t i = 2; i < fh.len; i++)
			fh.data[i] = (uint8_t)rnd();
		break;
	case 2: /* one bit */
		fh.data[rnd() % 32] ^= (uint8_t)(1u << rnd() % 8);
		break;
	case 3: /* two bits */
		fh.data[rnd() % 32] ^= (uint8_t)(1u << rnd() % 8);
		fh.data[rnd() % 32] ^= (uint8_t)(1u << rnd() % 8);
		break;
	case 4: /* the beginning of one, the end of another */
		memcpy(fh.data + cut, other->data + cut, 32 - cut);
		break;
	case 5: /* another length */
		fh.len = rnd() % 65;
		for (uint32_t i = 32; i < fh.len; i++)
			fh.data[i] = (uint8_t)rnd();
		break;
	case 6: /* a neighbour's inode number */
		fh.data[15] = (uint8_t)(fh.data[15] + 1 + rnd() % 16);
		break;
	default: /* of another server */
		fh = foreign[rnd() % GENUINE];
		break;
	}
	return fh;
}

static uint8_t *word(uint8_t *p, uint32_t v)
{
	v = htonl(v);
	memcpy(p, &v, 4);
	return p + 4;
}

/* One GETATTR with AUTH_SYS as root. */
static uint8_t *put_call(uint8_t *p, uint32_t xid, const struct fh *fh)
{
	uint8_t *mark = p;
	const uint32_t head[] = { xid, 0, 2, 100003, 3, GETATTR, 1, 24, 0, 4, 0x74657374, 0, 0, 0, 0, 0 };
	p += 4;
	for (size_t i = 0; i < sizeof head / sizeof *head; i++)
		p = word(p, head[i]);
	p = word(p, fh->len);
	memset(p, 0, (fh->len + 3) / 4 * 4);
	memcpy(p, fh->data, fh->len);
	p += (fh->len + 3) / 4 * 4;
	word(mark, 0x80000000u | (uint32_t)(p - mark - 4));
	return p;
}

static void receive(void *buf, size_t len)
{
	for (uint8_t *p = buf; len;) {
		ssize_t n = recv(client.fd, p, len, 0);
		if (n <= 0)
			fail_msg("the connection is gone");
		p += n;
		len -= (size_t)n;
	}
}

/* The status of the next reply. */
static uint32_t reply(void)
{
	uint32_t mark, body[64];
	receive(&mark, 4);
	uint32_t len = ntohl(mark) & 0x7fffffff;
	assert_true(len >= 28 && len <= sizeof body);
	receive(body, len);
	assert_int_equal(ntohl(body[5]), 0); /* the call was accepted */
	return ntohl(body[6]);
}

static void of_a_million_forged_handles_none_is_accepted(void **state)
{
	(void)state;
	static uint8_t buf[BATCH * CALL_MAX];
	unsigned long total = amount("FORGED", 1000000), done = 0;
	double start = seconds();
	while (done < total) {
		uint8_t *p = buf;
		int n = 0;
		for (; n < BATCH; n++) {
			struct fh fh = forge();
			while (is_genuine(&fh))
				fh = forge();
			p = put_call(p, (uint32_t)(done + (unsigned long)n + 1), &fh);
		}
		assert_int_equal(send(client.fd, buf, (size_t)(p - buf), MSG_NOSIGNAL), p - buf);
		for (int i = 0; i < n; i++) {
			uint32_t status = reply();
			if (status != NFS3ERR_BADHANDLE)
				fail_msg("a forged handle got status %u", status);
		}
		done += (unsigned long)n;
	}
	fattr3 a;
	for (int i = 0; i < GENUINE; i++)
		assert_nfs(client_getattr(&client, &genuine[i], &a), NFS3_OK);
	printf("| %lu forged, spliced, cut and bit-flipped handles: none accepted, all BADHANDLE, in %.1f s\n", done, seconds() - start);
}

static void every_single_bit_matters(void **state)
{
	(void)state;
	fattr3 a;
	for (uint32_t bit = 0; bit < 256; bit++) {
		struct fh fh = genuine[0];
		fh.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_nfs(client_getattr(&client, &fh, &a), NFS3ERR_BADHANDLE);
	}
}

static void every_procedure_refuses_a_forged_handle(void **state)
{
	(void)state;
	struct fh bad = client.root, fh;
	char buf[16];
	uint32_t got;
	bool eof;
	bad.data[31] ^= 1;
	sattr3 set = { 0 };
	assert_nfs(client_setattr(&client, &bad, &set, NULL, NULL), NFS3ERR_BADHANDLE);
	assert_nfs(client_lookup(&client, &bad, "file1", &fh, NULL), NFS3ERR_BADHANDLE);
	assert_nfs(client_read(&client, &bad, 0, 16, buf, &got, &eof), NFS3ERR_BADHANDLE);
	assert_nfs(client_write(&client, &bad, 0, "x", 1, FILE_SYNC, NULL), NFS3ERR_BADHANDLE);
	assert_nfs(client_create(&client, &bad, "new", GUARDED, 0644, &fh), NFS3ERR_BADHANDLE);
	assert_nfs(client_remove(&client, &bad, "file1"), NFS3ERR_BADHANDLE);
	assert_nfs(client_rename(&client, &client.root, "file1", &bad, "x"), NFS3ERR_BADHANDLE);
	assert_nfs(client_link(&client, &bad, &client.root, "x"), NFS3ERR_BADHANDLE);
	assert_int_equal(client_list(&client, &bad, 4096, NULL, NULL), -NFS3ERR_BADHANDLE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(of_a_million_forged_handles_none_is_accepted),
		cmocka_unit_test(every_single_bit_matters),
		cmocka_unit_test(every_procedure_refuses_a_forged_handle),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
