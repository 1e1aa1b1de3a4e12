/* The first overlay of this kind in user space left gaps, known by name. Each is shown closed here. */
#include "trees.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct stack s;
static struct client c;

static void up(const char *args)
{
	char all[256];
	snprintf(all, sizeof all, "--no-root-squash %s", args ? args : "");
	server_start(&s, all);
	client_open(&c, &s, 0, 0);
}

static void down(void)
{
	client_close(&c);
	server_stop(&s);
}

static fattr3 attr_of(const char *path)
{
	fattr3 a;
	if (client_path(&c, path, &(struct fh){ 0 }, &a))
		fail_msg("%s: not found", path);
	return a;
}

static void rename_works_for_everything_wherever_it_stands(void **state)
{
	static const char *const names[] = { "lower-file", "both-file", "lower-dir", "both-dir", "link", "fifo", "device", "upper-file", "upper-dir", "linked" };
	enum { N = sizeof names / sizeof *names };
	(void)state;
	stack_make(&s, NULL, "mkdir -p lower2/lower-dir/sub lower2/both-dir/sub lower1/both-dir/sub lower2/to; echo l >lower2/lower-file; echo b >lower2/both-file; echo B >lower1/both-file; echo x >lower2/lower-dir/sub/x;"
			     "echo 1 >lower1/both-dir/sub/one; echo 2 >lower2/both-dir/sub/two; ln -s target lower2/link; mkfifo lower2/fifo; mknod lower2/device c 5 6; echo u >upper/upper-file; mkdir upper/upper-dir; echo y >upper/upper-dir/y; echo h >lower2/linked; ln lower2/linked lower2/other");
	up(NULL);
	struct fh to;
	uint64_t id[N];
	assert_int_equal(client_path(&c, "to", &to, NULL), NFS3_OK);
	for (int i = 0; i < N; i++) {
		char path[64];
		id[i] = attr_of(names[i]).fileid;
		assert_int_equal(client_rename(&c, &c.root, names[i], &to, names[i]), NFS3_OK); /* away */
		assert_int_equal(client_path(&c, names[i], &(struct fh){ 0 }, NULL), NFS3ERR_NOENT);
		snprintf(path, sizeof path, "to/%s", names[i]);
		assert_int_equal(attr_of(path).fileid, id[i]);
	}
	assert_int_equal(attr_of("to/lower-dir/sub/x").size, 2);
	assert_int_equal(attr_of("to/both-dir/sub/one").size, 2);
	assert_int_equal(attr_of("to/both-dir/sub/two").size, 2);
	assert_int_equal(client_rename(&c, &c.root, "to", &c.root, "there"), NFS3_OK); /* with all that was moved into it */
	for (int i = 0; i < N; i++) { /* and back, over what was left */
		char path[64];
		snprintf(path, sizeof path, "there/%s", names[i]);
		assert_int_equal(attr_of(path).fileid, id[i]);
		assert_int_equal(client_rename(&c, &to, names[i], &c.root, names[i]), NFS3_OK);
		assert_int_equal(attr_of(names[i]).fileid, id[i]);
	}
	down();
	compare_with_linux(&s, READ_WRITE, NULL, "lower1:lower2", true, ALL_ON);
	stack_remove(&s);
}

static void copy_up_takes_extended_attributes_along(void **state)
{
	struct fh fh;
	sattr3 set = { .mode = { .set_it = TRUE, .set_uint32_u.value = 0750 } };
	(void)state;
	stack_make(&s, NULL, "echo x >lower2/f; mkdir lower2/d; for f in f d; do setfattr -n user.one -v 1 lower2/$f; setfattr -n trusted.two -v 2 lower2/$f; setfattr -n security.three -v 3 lower2/$f; setfacl -m u:7:rwx lower2/$f; done");
	up(NULL);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(client_path(&c, i ? "d" : "f", &fh, NULL), NFS3_OK);
		assert_int_equal(client_setattr(&c, &fh, &set, NULL, NULL), NFS3_OK);
	}
	down();
	stack_sh(&s, "for f in f d; do for a in user.one trusted.two security.three; do test $(getfattr --only-values -n $a upper/$f) = $(getfattr --only-values -n $a lower2/$f); done;"
		     "getfacl -n upper/$f 2>/dev/null | grep -q '^user:7:rwx'; done");
	stack_remove(&s);
}

static void whiteouts(int expected)
{
	char cmd[128];
	snprintf(cmd, sizeof cmd, "test $(find upper -type c | wc -l) = %d || { find upper >&2; exit 1; }", expected);
	stack_sh(&s, cmd);
}

static void whiteouts_are_made_only_where_a_lower_has_the_name(void **state)
{
	struct fh fh, d, pure;
	(void)state;
	stack_make(&s, NULL, "mkdir lower2/d lower1/d; touch lower2/f lower2/d/a lower1/d/b; mknod lower1/hidden c 0 0; touch lower2/hidden");
	up(NULL);
	assert_int_equal(client_path(&c, "d", &d, NULL), NFS3_OK);
	assert_int_equal(client_create(&c, &c.root, "new", GUARDED, 0644, &fh), NFS3_OK);
	assert_int_equal(client_rename(&c, &c.root, "new", &d, "new"), NFS3_OK);
	assert_int_equal(client_remove(&c, &d, "new"), NFS3_OK);
	assert_int_equal(client_mkdir(&c, &c.root, "pure", 0755, &pure), NFS3_OK);
	assert_int_equal(client_create(&c, &pure, "f", GUARDED, 0644, &fh), NFS3_OK);
	assert_int_equal(client_remove(&c, &pure, "f"), NFS3_OK);
	assert_int_equal(client_rmdir(&c, &c.root, "pure"), NFS3_OK);
	assert_int_equal(client_create(&c, &c.root, "hidden", GUARDED, 0644, &fh), NFS3_OK); /* a lower has hidden it already */
	assert_int_equal(client_remove(&c, &c.root, "hidden"), NFS3_OK);
	whiteouts(0);
	assert_int_equal(client_remove(&c, &c.root, "f"), NFS3_OK);
	whiteouts(1);
	assert_int_equal(client_create(&c, &c.root, "f", GUARDED, 0644, &fh), NFS3_OK);
	whiteouts(0);
	assert_int_equal(client_remove(&c, &c.root, "f"), NFS3_OK);
	assert_int_equal(client_remove(&c, &d, "a"), NFS3_OK);
	assert_int_equal(client_remove(&c, &d, "b"), NFS3_OK);
	whiteouts(3);
	assert_int_equal(client_rmdir(&c, &c.root, "d"), NFS3_OK); /* with the whiteouts in it */
	whiteouts(2);
	assert_int_equal(client_mkdir(&c, &c.root, "d", 0755, &d), NFS3_OK);
	assert_int_equal(client_create(&c, &d, "a", GUARDED, 0644, &fh), NFS3_OK);
	assert_int_equal(client_remove(&c, &d, "a"), NFS3_OK); /* opaque: nothing shows through */
	whiteouts(1);
	down();
	stack_remove(&s);
}

static void a_failed_change_leaves_nothing_half_done(void **state)
{
	struct fh fh, dir;
	(void)state;
	stack_make(&s, NULL, "mkdir -p lower2/d; head -c 4000000 /dev/urandom >lower2/d/f; mkdir small; mount -t tmpfs -o size=1536k tmpfs small; rmdir upper work; mkdir small/upper small/work; ln -s small/upper upper; ln -s small/work work");
	up("--no-metacopy");
	assert_int_equal(client_path(&c, "d", &dir, NULL), NFS3_OK);
	char *before = tree_over_nfs(&c);
	assert_int_equal(client_path(&c, "d/f", &fh, NULL), NFS3_OK);
	sattr3 both = { .mode = { .set_it = TRUE, .set_uint32_u.value = 0600 } };
	assert_int_equal(client_setattr(&c, &fh, &both, NULL, NULL), NFS3ERR_NOSPC);
	assert_int_equal(client_write(&c, &fh, 0, "x", 1, FILE_SYNC, NULL), NFS3ERR_NOSPC);
	assert_int_equal(client_rename(&c, &dir, "f", &c.root, "g"), NFS3ERR_NOSPC);
	assert_int_equal(client_link(&c, &fh, &c.root, "g"), NFS3ERR_NOSPC);
	/* size and mode in one call: both or neither */
	both.size = (set_uint64){ .set_it = TRUE, .set_uint64_u.value = UINT64_MAX / 2 + 1 };
	assert_int_equal(client_setattr(&c, &fh, &both, NULL, NULL), NFS3ERR_FBIG);
	nfstime3 never = { 1, 1 };
	assert_int_equal(client_setattr(&c, &fh, &both, &never, NULL), NFS3ERR_NOT_SYNC);
	char *after = tree_over_nfs(&c);
	/* the directories above may have come up, which shows nowhere but in the count of links (Linux gives a merged one 1) */
	assert_non_null(strstr(after, "/d/f - 0644"));
	assert_null(strstr(after, "/g "));
	assert_string_equal(strstr(before, "/d/f"), strstr(after, "/d/f"));
	free(before);
	free(after);
	stack_sh(&s, "test -z \"$(ls -A work/work)\"; test -z \"$(find small/upper -type f)\"");
	down();
	stack_sh(&s, "umount small");
	stack_remove(&s);
}

/* Every entry's file id in READDIR and READDIRPLUS is that of LOOKUP and GETATTR. */
static long checked;
static struct fh listed;

static void entry_agrees(void *arg, const char *name, uint64_t fileid)
{
	fattr3 a, b;
	struct fh fh;
	(void)arg;
	if (!strcmp(name, "..") || client_lookup(&c, &listed, name, &fh, &a))
		return;
	assert_int_equal(client_getattr(&c, &fh, &b), NFS3_OK);
	if (a.fileid != fileid || b.fileid != fileid || a.fsid != b.fsid)
		fail_msg("%s: listed as %llx, looked up as %llx, stat says %llx", name, (unsigned long long)fileid, (unsigned long long)a.fileid, (unsigned long long)b.fileid);
	checked++;
}

static void entry_plus_agrees(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh)
{
	(void)fh;
	if (attr)
		assert_int_equal(attr->fileid, fileid);
	entry_agrees(arg, name, fileid);
}

static void listings_agree(const char *const *dirs)
{
	checked = 0;
	for (; *dirs; dirs++) {
		assert_int_equal(client_path(&c, *dirs, &listed, NULL), NFS3_OK);
		assert_true(client_list(&c, &listed, 4096, entry_agrees, NULL) > 2);
		assert_true(client_listplus(&c, &listed, 8192, entry_plus_agrees, NULL) > 2);
	}
	assert_true(checked > 30);
}

static void listings_say_the_same_file_ids_as_stat(void **state)
{
	static const char *const dirs[] = { "", "d", "d/sub", NULL }, *const later[] = { "", "moved", "moved/sub", NULL };
	struct fh fh, d;
	(void)state;
	stack_make(&s, NULL, "mkdir -p lower2/d/sub lower1/d upper/d; mount -t tmpfs tmpfs lower1; mkdir lower1/d; for i in 1 2 3 4; do echo $i >lower2/f$i; echo $i >lower2/d/f$i; echo $i >lower1/d/g$i; echo $i >lower2/d/sub/h$i; echo $i >upper/u$i; done;"
			     "ln lower2/f1 lower2/d/f1b; ln -s x lower1/d/link; mkfifo lower2/d/fifo; touch lower2/d/g1 upper/d/g2 upper/d/f2; mkdir lower1/d/only lower2/d/g3");
	up(NULL);
	listings_agree(dirs);
	assert_int_equal(client_path(&c, "d", &d, NULL), NFS3_OK);
	static const char *const changed[] = { "f1", "g1", "sub/h1", "f1b" };
	for (int i = 0; i < 4; i++) {
		char path[32];
		snprintf(path, sizeof path, "d/%s", changed[i]);
		assert_int_equal(client_path(&c, path, &fh, NULL), NFS3_OK);
		assert_int_equal(client_write(&c, &fh, 0, "new", 3, FILE_SYNC, NULL), NFS3_OK);
	}
	listings_agree(dirs);
	assert_int_equal(client_rename(&c, &c.root, "d", &c.root, "moved"), NFS3_OK);
	assert_int_equal(client_link(&c, &fh, &d, "third"), NFS3_OK);
	listings_agree(later);
	down();
	up("--max-objects 16");
	listings_agree(later);
	down();
	stack_sh(&s, "umount lower1");
	stack_remove(&s);
}

/* ---- a rename or a removal while the file is copied up ---- */
#ifdef __SANITIZE_THREAD__
enum { FILES = 40 };
#else
enum { FILES = 120 };
#endif
enum { SIZE = 300000 };
static pthread_barrier_t together;

static void *writer(void *arg)
{
	struct client mine;
	(void)arg;
	client_open(&mine, &s, 0, 0);
	for (int i = 0; i < FILES; i++) {
		char path[32];
		struct fh fh;
		snprintf(path, sizeof path, "d/%d", i);
		bool there = !client_path(&mine, path, &fh, NULL);
		pthread_barrier_wait(&together);
		nfsstat3 rc = there ? client_write(&mine, &fh, 1000, "written", 7, FILE_SYNC, NULL) : NFS3_OK;
		if (rc != NFS3_OK && rc != NFS3ERR_STALE)
			return NULL; /* by its handle it must work, but for a file that is gone */
		pthread_barrier_wait(&together);
	}
	client_close(&mine);
	return &together;
}

static void *mover(void *arg)
{
	struct client mine;
	struct fh d;
	(void)arg;
	client_open(&mine, &s, 0, 0);
	bool ok = !client_path(&mine, "d", &d, NULL);
	for (int i = 0; i < FILES; i++) {
		char name[16], other[24];
		snprintf(name, sizeof name, "%d", i);
		snprintf(other, sizeof other, "moved%d", i);
		pthread_barrier_wait(&together);
		switch (i % 3) {
		case 0: ok &= !client_remove(&mine, &d, name); break;
		case 1: ok &= !client_rename(&mine, &d, name, &mine.root, other); break;
		default: ok &= !client_rename(&mine, &d, name, &d, other); break;
		}
		pthread_barrier_wait(&together);
	}
	client_close(&mine);
	return ok ? &together : NULL;
}

static void a_rename_or_removal_races_a_copy_up(void **state)
{
	(void)state;
	for (int metacopy = 0; metacopy < 2; metacopy++) {
		char script[512];
		pthread_t t[2];
		void *done[2];
		stack_make(&s, NULL, NULL);
		snprintf(script, sizeof script, "mkdir lower2/d; head -c %d /dev/zero | tr '\\0' a >lower2/d/0; for i in $(seq 1 %d); do cp lower2/d/0 lower2/d/$i; done; head -c 1000 lower2/d/0 >expect; printf written >>expect; tail -c +1008 lower2/d/0 >>expect", SIZE, FILES - 1);
		stack_sh(&s, script);
		up(metacopy ? NULL : "--no-metacopy");
		pthread_barrier_init(&together, NULL, 2);
		pthread_create(&t[0], NULL, writer, NULL);
		pthread_create(&t[1], NULL, mover, NULL);
		for (int i = 0; i < 2; i++) {
			pthread_join(t[i], &done[i]);
			assert_ptr_equal(done[i], &together);
		}
		pthread_barrier_destroy(&together);
		for (int i = 0; i < FILES; i++) { /* gone, or moved with all of its bytes and the write */
			char path[32];
			fattr3 a;
			struct fh fh;
			snprintf(path, sizeof path, "d/%d", i);
			assert_int_equal(client_path(&c, path, &fh, NULL), NFS3ERR_NOENT);
			if (i % 3 == 0)
				continue;
			snprintf(path, sizeof path, i % 3 == 1 ? "moved%d" : "d/moved%d", i);
			assert_int_equal(client_path(&c, path, &fh, &a), NFS3_OK);
			assert_int_equal(a.size, SIZE);
			assert_int_equal(a.nlink, 1);
		}
		down();
		snprintf(script, sizeof script, "test -z \"$(ls -A work/work)\"; for f in upper/moved* upper/d/moved*; do cmp $f expect; done; test $(find upper -type f | wc -l) = %d", FILES - (FILES + 2) / 3);
		stack_sh(&s, script);
		compare_with_linux(&s, READ_WRITE, NULL, "lower1:lower2", true, ALL_ON);
		stack_remove(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rename_works_for_everything_wherever_it_stands),
		cmocka_unit_test(copy_up_takes_extended_attributes_along),
		cmocka_unit_test(whiteouts_are_made_only_where_a_lower_has_the_name),
		cmocka_unit_test(a_failed_change_leaves_nothing_half_done),
		cmocka_unit_test(listings_say_the_same_file_ids_as_stat),
		cmocka_unit_test(a_rename_or_removal_races_a_copy_up),
	};
	mounts_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
