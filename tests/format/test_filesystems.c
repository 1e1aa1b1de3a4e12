/* Copy-up keeps everything (M3), on each file system that this machine can make, alone and from one to another. */
#include "trees.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A sanitizer's build is slow: from ext4 to all, and each to itself, is enough there. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOW true
#else
#define SLOW false
#endif

static struct stack s;
static struct client c;

/* What the file systems lack is not asked of them. */
static const struct kind {
	const char *name, *make;
	bool clones;
} kinds[] = {
	{ "ext4", "command -v mkfs.ext4 >/dev/null; truncate -s 64M $n.img; mkfs.ext4 -q $n.img; mkdir $n; mount -o loop $n.img $n", false },
	{ "xfs", "command -v mkfs.xfs >/dev/null; truncate -s 320M $n.img; mkfs.xfs -q -m reflink=1 $n.img; mkdir $n; mount -o loop $n.img $n", true },
	{ "btrfs", "command -v mkfs.btrfs >/dev/null; truncate -s 128M $n.img; mkfs.btrfs -q $n.img; mkdir $n; mount -o loop $n.img $n", true },
	{ "tmpfs", "mkdir $n; mount -t tmpfs -o size=64M tmpfs $n", false },
};
enum { KINDS = sizeof kinds / sizeof *kinds };
static bool there[KINDS];

/* One of everything, with everything on it. */
#define EVERYTHING                                                                                                                                 \
	"mkdir -p dir/sub/deep plain; echo text >dir/sub/deep/f; truncate -s 1M holes; echo in the middle | dd of=holes bs=1 seek=500000 conv=notrunc status=none; " \
	"head -c 40000 /dev/urandom >small; cp small suid; ln -s 'a target' link; mkfifo fifo; mknod device b 7 99; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")';" \
	"cp small acl; : >empty; for f in small suid holes acl dir dir/sub; do setfattr -n user.note -v \"about $f\" $f; setfattr -n trusted.note -v 0x00ff $f; setfattr -n user.empty $f; done;" \
	"setfattr -n trusted.link -v l -h link; setfattr -n trusted.fifo -v f fifo; chown -h 12:34 small suid link fifo device socket dir/sub acl; chmod 6755 suid; chmod 1777 dir; chmod 2751 dir/sub;" \
	"setcap cap_net_raw,cap_sys_nice+ep small; setfacl -m u:77:rw,g:88:r,m:rw acl; setfacl -m u:77:rwx,d:u:77:rwx,d:g:99:r,d:o:- dir/sub; chmod 0604 fifo;" \
	"for f in dir/sub/deep/f holes small suid link fifo device socket acl empty dir/sub/deep dir/sub dir plain .; do touch -h -a -d '2001-02-03 04:05:06.123456789' $f; touch -h -m -d '1999-09-09 09:09:09.987654321' $f; done;"
/* All that stat, listxattr and the bytes say, but ctime, links' inode and (of what is not shared) blocks. */
#define DESCRIBE                                                                                                                                   \
	"describe() { (cd $1; for f in $2; do stat -c '%n %F %a %u %g %t %T %.9X %.9Y' $f; test -d $f || stat -c %s $f; getfattr -h -d -m - -e hex $f | grep = | grep -v -e overlay -e SGI_ACL || :; test ! -f $f || { getfacl -n $f; md5sum $f; }; test ! -L $f || readlink $f; done) 2>/dev/null; };"

static const char *const objects[] = { "small", "suid", "holes", "acl", "empty", "link", "fifo", "device", "socket" };

static void link_all(void)
{
	for (size_t i = 0; i < sizeof objects / sizeof *objects; i++) {
		struct fh fh;
		assert_int_equal(client_path(&c, objects[i], &fh, NULL), NFS3_OK);
		if (client_link(&c, &fh, &c.root, "another-name"))
			fail_msg("%s can't be copied up", objects[i]);
		assert_int_equal(client_remove(&c, &c.root, "another-name"), NFS3_OK);
	}
}

static void one_pair(const struct kind *lower, const struct kind *upper)
{
	char script[4096];
	struct fh fh;
	snprintf(script, sizeof script,
		 "umask 022; rm -rf lower upper work; mkdir -p %s/lower %s/upper %s/work; ln -s %s/lower lower; ln -s %s/upper upper; ln -s %s/work work; cd lower;" EVERYTHING,
		 lower->name, upper->name, upper->name, lower->name, upper->name, upper->name);
	stack_sh(&s, script);
	server_start_with(&s, "--lower %s/lower --upper %s/upper --work %s/work", "--no-root-squash --no-metacopy --async");
	client_open(&c, &s, 0, 0);
	link_all();
	/* ancestors come first, with all that they are; but for the one in which a name was made, nothing moves */
	assert_int_equal(client_path(&c, "dir/sub/deep/f", &fh, NULL), NFS3_OK);
	assert_int_equal(client_write(&c, &fh, 0, "TEXT", 4, FILE_SYNC, NULL), NFS3_OK);
	client_close(&c);
	server_stop(&s);
	stack_sh(&s, DESCRIBE
		 "o='small suid holes acl empty link fifo device socket dir dir/sub dir/sub/deep'; describe lower \"$o\" >was; describe upper \"$o\" >is; test $(grep -c . was) -gt 60 || { wc -l was >&2; exit 1; }; diff was is >&2;"
		 "test \"$(cat upper/dir/sub/deep/f)\" = TEXT;"
		 "test ! -e upper/plain; test -z \"$(ls -A work/work)\"");
	snprintf(script, sizeof script, "test $(stat -c %%b upper/holes) -lt 200%s", lower == upper && lower->clones ? "; filefrag -v upper/small | grep -q shared" : "");
	stack_sh(&s, script);
	snprintf(script, sizeof script, "rm -rf lower upper work %s/* %s/*", lower->name, upper->name);
	stack_sh(&s, script);
}

static void copy_up_keeps_everything(void **state)
{
	(void)state;
	printf("|  lower \\ upper |");
	for (int u = 0; u < KINDS; u++)
		printf(" %-7s |", kinds[u].name);
	puts("");
	for (int l = 0; l < KINDS; l++) {
		printf("| %14s |", kinds[l].name);
		for (int u = 0; u < KINDS; u++) {
			if (!there[l] || !there[u] || (SLOW && l != u && l != 0)) {
				printf(" %-7s |", "-");
				continue;
			}
			one_pair(&kinds[l], &kinds[u]);
			printf(" %-7s |", l == u && kinds[l].clones ? "clones" : "copies");
			fflush(stdout);
		}
		puts("");
	}
}

static void *chmod_it(void *arg)
{
	struct client mine;
	struct fh fh;
	sattr3 set = { .mode = { .set_it = TRUE, .set_uint32_u.value = 0600 + *(uint32_t *)arg } };
	client_open(&mine, &s, 0, 0);
	for (int i = 0; i < 20; i++) {
		char path[16];
		snprintf(path, sizeof path, "d/%d", i);
		if (client_path(&mine, path, &fh, NULL) || client_setattr(&mine, &fh, &set, NULL, NULL))
			return NULL;
	}
	client_close(&mine);
	return arg;
}

static void two_clients_at_once_make_one_copy(void **state)
{
	pthread_t t[4];
	uint32_t bits[4] = { 1, 2, 3, 4 };
	(void)state;
	stack_sh(&s, "mkdir -p lower/d upper work; for i in $(seq 0 19); do head -c 300000 /dev/urandom >lower/d/$i; done");
	server_start_with(&s, "--lower %s/lower --upper %s/upper --work %s/work", "--no-root-squash --no-metacopy");
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, chmod_it, &bits[i]), 0);
	for (int i = 0; i < 4; i++) {
		void *done;
		pthread_join(t[i], &done);
		assert_ptr_equal(done, &bits[i]);
	}
	server_stop(&s);
	stack_sh(&s, "for i in $(seq 0 19); do cmp lower/d/$i upper/d/$i; case $(stat -c %a%h upper/d/$i) in 60[1-4]1);; *) exit 1;; esac; done; test -z \"$(ls -A work/work)\"; rm -rf lower upper work");
}

static void immutable_and_append_only_as_linux_keeps_them(void **state)
{
	struct fh fh, dir;
	sattr3 mode = { .mode = { .set_it = TRUE, .set_uint32_u.value = 0600 } }, now = { .mtime = { .set_it = SET_TO_SERVER_TIME } };
	(void)state;
	if (!there[0])
		skip();
	stack_sh(&s, "mkdir -p ext4/lower ext4/upper ext4/work; ln -s ext4/lower lower; ln -s ext4/upper upper; ln -s ext4/work work; cd lower; mkdir -p fixed log/sub; echo x >fixed/f; echo x >i; echo x >a; echo x >log/sub/g;"
		     "chattr +i i fixed; chattr +a a log");
	for (int copied = 0; copied < 2; copied++) {
		server_start_with(&s, "--lower %s/lower --upper %s/upper --work %s/work", "--no-root-squash");
		client_open(&c, &s, 0, 0);
		assert_int_equal(client_path(&c, "i", &fh, NULL), NFS3_OK);
		assert_int_equal(client_write(&c, &fh, 0, "y", 1, FILE_SYNC, NULL), NFS3ERR_PERM);
		assert_int_equal(client_setattr(&c, &fh, &mode, NULL, NULL), NFS3ERR_PERM);
		assert_int_equal(client_setattr(&c, &fh, &now, NULL, NULL), NFS3ERR_PERM);
		assert_int_equal(client_link(&c, &fh, &c.root, "j"), NFS3ERR_PERM);
		assert_int_equal(client_remove(&c, &c.root, "i"), NFS3ERR_PERM);
		assert_int_equal(client_rename(&c, &c.root, "i", &c.root, "j"), NFS3ERR_PERM);
		assert_int_equal(client_path(&c, "a", &fh, NULL), NFS3_OK);
		assert_int_equal(client_setattr(&c, &fh, &mode, NULL, NULL), NFS3ERR_PERM);
		assert_int_equal(client_remove(&c, &c.root, "a"), NFS3ERR_PERM);
		/* a directory that can't be changed may hold files that can; its copy remembers what it is */
		assert_int_equal(client_path(&c, "fixed", &dir, NULL), NFS3_OK);
		assert_int_equal(client_path(&c, "fixed/f", &fh, NULL), NFS3_OK);
		assert_int_equal(client_write(&c, &fh, 0, "y", 1, FILE_SYNC, NULL), NFS3_OK);
		assert_int_equal(client_create(&c, &dir, "new", GUARDED, 0644, &fh), NFS3ERR_PERM);
		assert_int_equal(client_remove(&c, &dir, "f"), NFS3ERR_PERM);
		assert_int_equal(client_access(&c, &dir, 0x3f) & 0xc, 0);
		assert_int_equal(client_path(&c, "log", &dir, NULL), NFS3_OK);
		assert_int_equal(client_create(&c, &dir, copied ? "n2" : "n1", GUARDED, 0644, &fh), NFS3_OK);
		assert_int_equal(client_remove(&c, &dir, "n1"), NFS3ERR_PERM);
		client_close(&c);
		server_stop(&s);
		stack_sh(&s, "test $(getfattr --only-values -n trusted.overlay.protattr upper/fixed) = i; test $(getfattr --only-values -n trusted.overlay.protattr upper/log) = a; test ! -e upper/i");
	}
	/* Linux reads it so */
	stack_sh(&s, "mkdir -p m; mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work m; ! touch m/fixed/new 2>/dev/null; ! rm m/log/n1 2>/dev/null; touch m/log/n3; lsattr -d m/fixed | grep -q '^[^ ]*i'; umount m");
	stack_sh(&s, "chattr -ia lower/i lower/a lower/fixed lower/log; rm -rf lower upper work ext4/*");
}

static int make_all(void **state)
{
	(void)state;
	stack_make(&s, NULL, "rmdir lower1 lower2 upper work");
	for (int i = 0; i < KINDS; i++) {
		char cmd[512];
		snprintf(cmd, sizeof cmd, "n=%s; (%s) >mkfs.log 2>&1", kinds[i].name, kinds[i].make);
		there[i] = stack_says(&s, cmd);
		if (!there[i])
			printf("skipped: no %s here\n", kinds[i].name);
	}
	return 0;
}

static int remove_all(void **state)
{
	(void)state;
	for (int i = 0; i < KINDS; i++) {
		char cmd[64];
		snprintf(cmd, sizeof cmd, "umount %s", kinds[i].name);
		if (there[i])
			stack_sh(&s, cmd);
	}
	stack_remove(&s);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copy_up_keeps_everything),
		cmocka_unit_test(two_clients_at_once_make_one_copy),
		cmocka_unit_test(immutable_and_append_only_as_linux_keeps_them),
	};
	mounts_begin();
	return cmocka_run_group_tests(tests, make_all, remove_all);
}
