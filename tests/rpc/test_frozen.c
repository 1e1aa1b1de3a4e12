/* A disk that hangs (a frozen file system): who waits for it waits, and nobody else. */
#include "client.h"
#include "wire.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NFS = 100003, DIRS = 4 };

static char base[64], disk[96];
static struct stack stack;
static struct client a, b;
static struct fh dirs[DIRS], file;
static struct message m, r;

static bool says(const char *script)
{
	char cmd[600];
	snprintf(cmd, sizeof cmd, "set -e; cd %s; %s", base, script);
	return system(cmd) == 0;
}

static int skipped(const char *why)
{
	printf("%s\n", why);
	return 77;
}

static void put_fh(const struct fh *fh)
{
	put_opaque(&m, fh->data, fh->len);
}

/* Calls that change something, each in a directory of its own, over a's connection; their replies are not waited for. */
static void send_changes(void)
{
	for (uint32_t i = 0; i < DIRS; i++) {
		put_call_as(&m, 100 + i, NFS, 3, 8, 0, 0);
		put_fh(&dirs[i]);
		put_opaque(&m, "made", 4);
		put_word(&m, GUARDED);
		for (int w = 0; w < 6; w++)
			put_word(&m, 0);
		assert_true(send_message(a.fd, &m));
	}
	put_call_as(&m, 100 + DIRS, NFS, 3, 7, 0, 0);
	put_fh(&file);
	put_word(&m, 0), put_word(&m, 0), put_word(&m, 5), put_word(&m, FILE_SYNC);
	put_opaque(&m, "wrote", 5);
	assert_true(send_message(a.fd, &m));
}

static void while_a_disk_hangs_others_are_served(void **state)
{
	(void)state;
	struct fh fh;
	uint32_t seen = 0;
	assert_true(says("fsfreeze -f mnt"));
	send_changes();
	for (uint32_t i = 0; i < 5; i++) { /* over the same connection, behind them */
		put_call(&m, i, NFS, 3, 0);
		assert_true(send_message(a.fd, &m));
		assert_true(recv_message(a.fd, &r));
		assert_int_equal(answer_of(&r).xid, i);
	}
	assert_nfs(client_getattr(&b, &b.root, NULL), NFS3_OK);
	assert_nfs(client_path(&b, "quiet/low", &fh, NULL), NFS3_OK);
	char *text = client_content(&b, "quiet/low");
	assert_string_equal(text, "text\n");
	free(text);
	assert_nfs(client_path(&b, "quiet", &fh, NULL), NFS3_OK);
	assert_int_equal(client_list(&b, &fh, 4096, NULL, NULL), 3);
	assert_int_equal(client_access(&b, &fh, 63) & 3, 3);
	struct pollfd p = { .fd = a.fd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, 0), 0); /* the changes wait */
	assert_true(says("fsfreeze -u mnt"));
	for (int i = 0; i <= DIRS; i++) {
		assert_true(recv_message(a.fd, &r));
		struct answer n = answer_of(&r);
		assert_int_equal(word_at(r.data, n.results), NFS3_OK);
		seen |= 1u << (n.xid - 100);
	}
	assert_int_equal(seen, (1u << (DIRS + 1)) - 1);
	text = client_content(&b, "written");
	assert_string_equal(text, "wrote");
	free(text);
}

static int setup(void **state)
{
	(void)state;
	stack_make(&stack, disk, "cd lower1; mkdir d0 d1 d2 d3 quiet; echo text >quiet/low");
	server_start(&stack, "--no-root-squash --threads 16");
	client_open(&a, &stack, 0, 0);
	client_open(&b, &stack, 0, 0);
	for (int i = 0; i < DIRS; i++) {
		char name[16];
		snprintf(name, sizeof name, "d%d", i);
		assert_nfs(client_path(&a, name, &dirs[i], NULL), NFS3_OK);
		assert_nfs(client_create(&a, &dirs[i], "first", GUARDED, 0644, NULL), NFS3_OK); /* the directory is in the upper now */
	}
	assert_nfs(client_create(&a, &a.root, "written", GUARDED, 0644, &file), NFS3_OK);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	(void)!says("fsfreeze -u mnt 2>/dev/null || true");
	client_close(&a);
	client_close(&b);
	stack_remove(&stack);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(while_a_disk_hangs_others_are_served) };
	if (geteuid())
		return skipped("a file system is frozen by root alone");
	if (system("command -v fsfreeze mkfs.ext4 >/dev/null"))
		return skipped("fsfreeze or mkfs.ext4 is not installed");
	strcpy(base, "/tmp/overnfsd-frozen-XXXXXX");
	if (!mkdtemp(base))
		return 1;
	snprintf(disk, sizeof disk, "%s/mnt", base);
	if (!says("mkdir mnt; truncate -s 64M img; mkfs.ext4 -q img; mount -o loop img mnt 2>/dev/null")) {
		(void)!says("cd /; rm -rf $OLDPWD");
		return skipped("no loop device can be mounted here");
	}
	int rc = cmocka_run_group_tests(tests, setup, teardown);
	if (!says("umount mnt; cd /; rm -rf $OLDPWD"))
		rc = 1;
	return rc;
}
