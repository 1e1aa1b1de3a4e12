/* Real want: a full file system, one without inodes left, a quota, a dead disk, few descriptors. What can't be done is refused by its name and leaves
 * nothing behind; what was there is served on; and once there is room again, all works. */
#include "kinds.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/quota.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/quota.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { BIG = 6 << 20, CHUNK = 1 << 16 };
#define LAYERS "--lower %s/lower1 --lower %s/lower2 --upper %s/fs/upper --work %s/fs/work"

static struct stack stack;
static struct client client;

/* ---- a file system of our own for the upper ---- */
static void need_root(void)
{
	if (!geteuid())
		return;
	printf("skipped: only root may mount\n");
	skip();
}

static void make_stack(const char *mount_script)
{
	stack_make(&stack, NULL, "mkdir fs; echo 'from below' >lower2/small; dd if=/dev/urandom of=lower2/big bs=1M count=6 status=none; mkdir lower2/d; echo x >lower2/d/x");
	if (!stack_says(&stack, mount_script)) {
		stack_remove(&stack);
		printf("skipped: the file system can't be made or mounted here\n");
		skip();
	}
	stack_sh(&stack, "mkdir fs/upper fs/work; chmod 777 fs/upper");
	server_start_with(&stack, LAYERS, "--no-root-squash --log-level error");
	client_open(&client, &stack, 0, 0);
}

static void remove_stack(void)
{
	client_close(&client);
	server_stop(&stack);
	stack_sh(&stack, "umount fs");
	stack_remove(&stack);
	*stack.dir = 0;
}

/* What a failed test left. */
static int clear_away(void **state)
{
	(void)state;
	if (*stack.dir && stack.pid)
		server_kill(&stack);
	if (*stack.dir && stack_says(&stack, "mountpoint -q fs && umount fs"))
		stack_remove(&stack);
	return 0;
}

static bool work_is_empty(void)
{
	return stack_says(&stack, "[ -z \"$(ls -A fs/work/work)\" ]");
}

/* Writes and commits until there is no room. The bytes that fitted. */
static uint64_t fill(struct client *c, const struct fh *fh, nfsstat3 *st)
{
	static char chunk[CHUNK];
	uint64_t at = 0;
	memset(chunk, 'x', sizeof chunk);
	do
		*st = client_write(c, fh, at, chunk, sizeof chunk, FILE_SYNC, NULL);
	while (!*st && (at += sizeof chunk) < (uint64_t)64 << 20);
	return at;
}

static bool big_is_whole(void)
{
	static char got[BIG], wanted[BIG];
	char path[128];
	struct fh fh;
	uint32_t n;
	bool eof = false;
	snprintf(path, sizeof path, "%s/lower2/big", stack.dir);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fread(wanted, 1, BIG, f), BIG);
	fclose(f);
	assert_nfs(client_path(&client, "big", &fh, NULL), NFS3_OK);
	for (uint64_t at = 0; at < BIG && !eof; at += n)
		assert_nfs(client_read(&client, &fh, at, CHUNK, got + at, &n, &eof), NFS3_OK);
	return eof && !memcmp(got, wanted, BIG);
}

/* The upper is full but for little. What grows is refused with `full`, and once `filler` is gone it works. */
static void what_needs_room_is_refused_and_then_works(struct client *c, const struct fh *filler, nfsstat3 full)
{
	struct fh big, made;
	sattr3 mode = { .mode = { TRUE, { 0600 } } };
	fattr3 before, after;
	nfsstat3 st;
	assert_true(fill(c, filler, &st) > 0);
	assert_nfs(st, full);
	assert_nfs(client_path(&client, "big", &big, &before), NFS3_OK);
	assert_nfs(client_write(&client, &big, 0, "y", 1, FILE_SYNC, NULL), full); /* a copy-up of all of it */
	assert_true(work_is_empty());
	assert_true(stack_says(&stack, "! test -e fs/upper/big || test $(stat -c %b fs/upper/big) -lt 100"));
	assert_nfs(client_getattr(&client, &big, &after), NFS3_OK);
	assert_int_equal(after.fileid, before.fileid);
	assert_int_equal(after.size, BIG);
	assert_true(big_is_whole());
	char *small = client_content(&client, "small");
	assert_string_equal(small, "from below\n");
	free(small);
	assert_nfs(client_remove(&client, &client.root, "filler"), NFS3_OK);
	assert_nfs(client_setattr(&client, &big, &mode, NULL, NULL), NFS3_OK);
	assert_nfs(client_create(&client, &client.root, "made", GUARDED, 0644, &made), NFS3_OK);
	assert_nfs(client_write(&client, &made, 0, "there is room", 13, FILE_SYNC, NULL), NFS3_OK);
	assert_true(work_is_empty());
}

static void on_a_full_file_system(const char *mount_script, const char *what)
{
	struct fh filler;
	need_root();
	make_stack(mount_script);
	assert_nfs(client_create(&client, &client.root, "filler", GUARDED, 0644, &filler), NFS3_OK);
	what_needs_room_is_refused_and_then_works(&client, &filler, NFS3ERR_NOSPC);
	printf("| full %s | refused with NOSPC, lower file served, nothing left, then done |\n", what);
	remove_stack();
}

static void a_full_tmpfs_refuses_by_name_and_recovers(void **state)
{
	(void)state;
	on_a_full_file_system("mount -t tmpfs -o size=5m tmpfs fs", "tmpfs");
}

static void a_full_ext4_refuses_by_name_and_recovers(void **state)
{
	(void)state;
	on_a_full_file_system("truncate -s 16M image; mkfs.ext4 -q -m 0 -b 4096 -O ^has_journal image; dd if=/dev/zero of=pad bs=1M count=0 status=none;"
			      "mount -o loop image fs; dd if=/dev/zero of=fs/pad bs=1M count=9 status=none",
			      "ext4");
}

static void without_inodes_nothing_is_made_and_lower_files_are_served(void **state)
{
	struct fh fh, dir;
	char name[32];
	unsigned made = 0;
	nfsstat3 st;
	(void)state;
	need_root();
	make_stack("mount -t tmpfs -o size=20m,nr_inodes=40 tmpfs fs");
	do {
		snprintf(name, sizeof name, "new%u", made);
		st = client_create(&client, &client.root, name, GUARDED, 0644, &fh);
	} while (!st && ++made < 100);
	assert_nfs(st, NFS3ERR_NOSPC);
	assert_nfs(client_mkdir(&client, &client.root, "newdir", 0755, NULL), NFS3ERR_NOSPC);
	assert_nfs(client_path(&client, "d", &dir, NULL), NFS3_OK);
	assert_nfs(client_create(&client, &dir, "new", GUARDED, 0644, NULL), NFS3ERR_NOSPC); /* the directory can't be copied up */
	assert_nfs(client_remove(&client, &client.root, "small"), NFS3ERR_NOSPC); /* no whiteout can be made */
	assert_nfs(client_rename(&client, &client.root, "small", &client.root, "moved"), NFS3ERR_NOSPC);
	assert_nfs(client_path(&client, "small", NULL, NULL), NFS3_OK);
	assert_nfs(client_path(&client, "d/x", NULL, NULL), NFS3_OK);
	assert_true(work_is_empty());
	for (unsigned i = 0; i < 6; i++) {
		snprintf(name, sizeof name, "new%u", i);
		assert_nfs(client_remove(&client, &client.root, name), NFS3_OK);
	}
	assert_nfs(client_create(&client, &dir, "new", GUARDED, 0644, NULL), NFS3_OK);
	assert_nfs(client_remove(&client, &client.root, "small"), NFS3_OK);
	assert_true(work_is_empty());
	printf("| no inodes left | refused with NOSPC, lower files served, nothing left, then done |\n");
	remove_stack();
}

static void a_quota_is_kept_though_the_server_is_root(void **state)
{
	struct client user;
	struct fh fh;
	nfsstat3 st;
	char device[256];
	struct dqblk limit = { .dqb_bhardlimit = 1024, .dqb_bsoftlimit = 1024, .dqb_valid = QIF_BLIMITS }; /* KiB */
	(void)state;
	need_root();
	make_stack("truncate -s 32M image; mkfs.ext4 -q -O quota -E quotatype=usrquota image; mount -o loop,usrquota image fs; findmnt -no SOURCE fs >device");
	FILE *f = NULL;
	snprintf(device, sizeof device, "%s/device", stack.dir);
	f = fopen(device, "r");
	assert_non_null(f);
	assert_non_null(fgets(device, sizeof device, f));
	fclose(f);
	device[strcspn(device, "\n")] = 0;
	if (quotactl(QCMD(Q_SETQUOTA, USRQUOTA), device, 1000, (caddr_t)&limit)) {
		printf("skipped: no quotas here: %s\n", strerror(errno));
		remove_stack();
		skip();
	}
	client_open(&user, &stack, 1000, 1000);
	assert_nfs(client_create(&user, &user.root, "users", GUARDED, 0644, &fh), NFS3_OK);
	uint64_t fitted = fill(&user, &fh, &st);
	assert_nfs(st, NFS3ERR_DQUOT);
	assert_true(fitted <= 1 << 20);
	assert_nfs(client_remove(&user, &user.root, "users"), NFS3_OK);
	assert_nfs(client_create(&user, &user.root, "users", GUARDED, 0644, &fh), NFS3_OK);
	assert_nfs(client_write(&user, &fh, 0, "room", 4, FILE_SYNC, NULL), NFS3_OK);
	assert_true(work_is_empty());
	client_close(&user);
	printf("| quota of 1 MiB | refused with DQUOT at %llu KiB, then done |\n", (unsigned long long)fitted >> 10);
	remove_stack();
}

static void the_server_gives_up_the_right_to_go_over_quotas(void **state)
{
	char path[64], line[256];
	unsigned long long effective = ~0ull;
	(void)state;
	stack_make(&stack, NULL, NULL);
	server_start(&stack, NULL);
	snprintf(path, sizeof path, "/proc/%d/status", (int)stack.pid);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof line, f))
		sscanf(line, "CapEff: %llx", &effective);
	fclose(f);
	assert_int_equal(effective >> 24 & 1, 0); /* CAP_SYS_RESOURCE */
	stack_remove(&stack);
}

/* ---- a dead disk ---- */
static void a_disk_that_dies_gives_errors_and_harms_nothing_else(void **state)
{
	struct fh fh;
	uint64_t before, after;
	char path[128];
	uint32_t no_flush = 2; /* EXT4_GOING_FLAGS_NOLOGFLUSH */
	(void)state;
	need_root();
	make_stack("truncate -s 32M image; mkfs.ext4 -q image; mount -o loop image fs");
	assert_nfs(client_create(&client, &client.root, "file", GUARDED, 0644, &fh), NFS3_OK);
	assert_nfs(client_write(&client, &fh, 0, "bytes", 5, UNSTABLE, &before), NFS3_OK);
	snprintf(path, sizeof path, "%s/fs", stack.dir);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = ioctl(fd, _IOR('X', 125, uint32_t), &no_flush); /* EXT4_IOC_SHUTDOWN: as if the disk went */
	close(fd);
	assert_int_equal(rc, 0);
	assert_nfs(client_commit(&client, &fh, &after), NFS3ERR_IO);
	assert_int_not_equal(client_create(&client, &client.root, "new", GUARDED, 0644, NULL), NFS3_OK);
	assert_int_not_equal(client_write(&client, &fh, 0, "more", 4, FILE_SYNC, NULL), NFS3_OK);
	assert_int_not_equal(client_remove(&client, &client.root, "small"), NFS3_OK);
	char *small = client_content(&client, "d/x"); /* the lowers live */
	assert_string_equal(small, "x\n");
	free(small);
	client_close(&client);
	server_kill(&stack); /* it may stop well or not: its map can't be written */
	/* a copy of it, as another mount namespace may still hold the dead one */
	stack_sh(&stack, "umount fs; cp image again; mount -o loop again fs");
	server_start_with(&stack, LAYERS, "--no-root-squash --log-level error");
	client_open(&client, &stack, 0, 0);
	assert_nfs(client_create(&client, &client.root, "new", GUARDED, 0644, NULL), NFS3_OK);
	assert_true(work_is_empty());
	printf("| dead disk | COMMIT fails with IO, lowers served, all well once it is back |\n");
	remove_stack();
}

/* ---- few descriptors ---- */
static void sixty_four_descriptors_serve_a_wide_tree_and_many_clients(void **state)
{
	struct rlimit old, few = { 64, 64 };
	struct client many[10];
	struct tree t;
	(void)state;
	stack_make(&stack, NULL, "cd lower1; for i in $(seq 60); do mkdir d$i; for j in 1 2 3 4 5; do echo $i$j >d$i/f$j; done; done");
	getrlimit(RLIMIT_NOFILE, &old);
	if (geteuid())
		few.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_NOFILE, &few);
	server_start(&stack, "--no-root-squash");
	setrlimit(RLIMIT_NOFILE, &old);
	client_open(&client, &stack, 0, 0);
	for (int i = 0; i < 10; i++)
		client_open(&many[i], &stack, 0, 0);
	tree_read(&t, &client, &client.root);
	assert_nfs(t.status, NFS3_OK);
	assert_int_equal(t.n, 1 + 60 * 6);
	for (size_t i = 0; i < t.n; i++)
		if (t.nodes[i].attr.type == NF3REG)
			assert_nfs(client_write(&many[i % 10], &t.nodes[i].fh, 0, "written", 7, UNSTABLE, NULL), NFS3_OK);
	tree_free(&t);
	tree_read(&t, &client, &client.root);
	assert_nfs(t.status, NFS3_OK);
	for (size_t i = 0; i < t.n; i++)
		if (t.nodes[i].attr.type == NF3REG)
			assert_memory_equal(t.nodes[i].content, "written", 7);
	tree_free(&t);
	for (int i = 0; i < 10; i++)
		client_close(&many[i]);
	client_close(&client);
	printf("| 64 descriptors | 360 files in 60 directories read and copied up by 11 clients |\n");
	stack_remove(&stack);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_full_tmpfs_refuses_by_name_and_recovers, clear_away),
		cmocka_unit_test_teardown(a_full_ext4_refuses_by_name_and_recovers, clear_away),
		cmocka_unit_test_teardown(without_inodes_nothing_is_made_and_lower_files_are_served, clear_away),
		cmocka_unit_test_teardown(a_quota_is_kept_though_the_server_is_root, clear_away),
		cmocka_unit_test_teardown(the_server_gives_up_the_right_to_go_over_quotas, clear_away),
		cmocka_unit_test_teardown(a_disk_that_dies_gives_errors_and_harms_nothing_else, clear_away),
		cmocka_unit_test_teardown(sixty_four_descriptors_serve_a_wide_tree_and_many_clients, clear_away),
	};
	keep_mounts_private();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
