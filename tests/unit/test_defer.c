/* test_defer.c: calls that put their flush off (overlay_defer), and what comes of it when all is flushed for together (overlay_flush). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../overlay/internal.h" /* which flush is the cheaper one is nobody else's business */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- in place of libc's: what is flushed, and does it fail? ---- */
static struct {
	unsigned one, all; /* flushes of a file, of the file system */
	unsigned failing; /* the next ones; as Linux does, each failure is told once */
	ino_t broken; /* only those of this file; 0: any */
} disk;

static int flush(int fd, unsigned *counter)
{
	struct stat st;
	(*counter)++;
	if (!disk.failing || fstat(fd, &st) || (disk.broken && disk.broken != st.st_ino))
		return 0;
	disk.failing--;
	errno = EIO;
	return -1;
}

int fsync(int fd)
{
	return flush(fd, &disk.one);
}

int fdatasync(int fd)
{
	return flush(fd, &disk.one);
}

int syncfs(int fd)
{
	return flush(fd, &disk.all);
}

static unsigned flushes(void)
{
	return disk.one + disk.all;
}

/* ---- an overlay of an upper alone: directories a and b, files a/f and b/g ---- */
static char dir[64], upper[80];
static struct overlay *ov;
static struct object *root, *a, *b, *f, *g;
static const struct overlay_cred cred;
static struct overlay_wcc wcc;
static struct overlay_attr attr;
static const struct overlay_setattr mode = { .set_mode = true, .mode = 0755 };

static struct object *look_up(struct object *parent, const char *name)
{
	struct object *o;
	assert_int_equal(overlay_lookup(ov, &cred, parent, name, &o, NULL), 0);
	return o;
}

static void open_with(size_t max_fds, bool sync)
{
	char err[256] = "";
	struct overlay_config config = { .upper = upper, .sync = sync, .max_fds = max_fds };
	if (overlay_open(&config, &ov, err, sizeof err))
		fail_msg("%s", err);
	root = overlay_root(ov);
	a = look_up(root, "a");
	b = look_up(root, "b");
	f = look_up(a, "f");
	g = look_up(b, "g");
	memset(&disk, 0, sizeof disk);
}

static void close_overlay(void)
{
	struct object *all[] = { f, g, a, b, root };
	for (int i = 0; i < 5; i++)
		overlay_put(ov, all[i]);
	overlay_close(ov);
}

static int setup(void **state)
{
	char cmd[256];
	(void)state;
	strcpy(dir, "/tmp/overnfsd-defer-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(upper, sizeof upper, "%s/upper", dir);
	snprintf(cmd, sizeof cmd, "cd %s && mkdir -p upper/a upper/b && touch upper/a/f upper/b/g", dir);
	if (system(cmd))
		return -1;
	open_with(0, true);
	return 0;
}

static int teardown(void **state)
{
	char cmd[96];
	(void)state;
	overlay_defer(NULL);
	close_overlay();
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	return system(cmd);
}

static void stay_with_each_file(void) /* not the file system, as it took long lately */
{
	atomic_store(&ov->syncs.all_ns, UINT64_MAX / 2);
	atomic_store(&ov->syncs.avoided, 1);
}

/* ---- changes, on disk or put off ---- */
static int make(struct object *parent, const char *name)
{
	struct object *o = NULL;
	int rc = overlay_create(ov, &cred, parent, name, CREATE_GUARDED, &mode, NULL, &o, &attr, &wcc);
	overlay_put(ov, o);
	return rc;
}

static int create(void)
{
	return make(a, "new");
}

static int make_dir(void)
{
	struct object *o = NULL;
	int rc = overlay_mkdir(ov, &cred, a, "new dir", &mode, &o, &attr, &wcc);
	overlay_put(ov, o);
	return rc;
}

static int make_symlink(void)
{
	struct object *o = NULL;
	int rc = overlay_symlink(ov, &cred, a, "link", "to", &mode, &o, &attr, &wcc);
	overlay_put(ov, o);
	return rc;
}

static int make_fifo(void)
{
	struct object *o = NULL;
	int rc = overlay_mknod(ov, &cred, a, "fifo", S_IFIFO, 0, 0, &mode, &o, &attr, &wcc);
	overlay_put(ov, o);
	return rc;
}

static int link_it(void)
{
	return overlay_link(ov, &cred, f, a, "f too", &attr, &wcc);
}

static int rename_here(void)
{
	return overlay_rename(ov, &cred, a, "new", a, "renamed", &wcc, &wcc);
}

static int rename_there(void)
{
	return overlay_rename(ov, &cred, a, "renamed", b, "renamed", &wcc, &wcc);
}

static int remove_it(void)
{
	return overlay_remove(ov, &cred, b, "renamed", &wcc);
}

static int remove_dir(void)
{
	return overlay_rmdir(ov, &cred, a, "new dir", &wcc);
}

static int set_mode_of_file(void)
{
	return overlay_setattr(ov, &cred, f, &mode, NULL, &wcc);
}

static int set_mode_of_dir(void)
{
	return overlay_setattr(ov, &cred, a, &mode, NULL, &wcc);
}

static int set_times_of_symlink(void)
{
	struct object *o = look_up(a, "link");
	int rc = overlay_setattr(ov, &cred, o, &(struct overlay_setattr){ .set_mtime = TIME_SERVER }, NULL, &wcc);
	overlay_put(ov, o);
	return rc;
}

static int write_unstable(void)
{
	return overlay_write(ov, &cred, f, 0, "bytes", 5, WRITE_UNSTABLE, &wcc);
}

static int write_data(void)
{
	return overlay_write(ov, &cred, f, 0, "bytes", 5, WRITE_DATA_SYNC, &wcc);
}

static int write_all_of_it(void)
{
	return overlay_write(ov, &cred, f, 0, "bytes", 5, WRITE_FILE_SYNC, &wcc);
}

static int write_other(void)
{
	return overlay_write(ov, &cred, g, 0, "bytes", 5, WRITE_FILE_SYNC, &wcc);
}

static int commit(void)
{
	return overlay_commit(ov, &cred, f, &wcc);
}

static int look(void)
{
	return overlay_getattr(ov, f, &attr);
}

/* In order: the later ones use what the earlier made. */
static const struct {
	const char *name;
	int (*run)(void);
	unsigned sync, async; /* how many files it puts off to flush */
} calls[] = {
	{ "create", create, 1, 0 },
	{ "mkdir", make_dir, 1, 0 },
	{ "symlink", make_symlink, 1, 0 },
	{ "mknod", make_fifo, 1, 0 },
	{ "link", link_it, 1, 0 },
	{ "rename in a directory", rename_here, 1, 0 },
	{ "rename to another directory", rename_there, 2, 0 },
	{ "remove", remove_it, 1, 0 },
	{ "rmdir", remove_dir, 1, 0 },
	{ "setattr of a file", set_mode_of_file, 1, 0 },
	{ "setattr of a directory", set_mode_of_dir, 1, 0 },
	{ "setattr of a symlink", set_times_of_symlink, 1, 0 },
	{ "write, unstable", write_unstable, 0, 0 },
	{ "write, the data", write_data, 1, 1 },
	{ "write, all of it", write_all_of_it, 1, 1 },
	{ "commit", commit, 1, 1 },
	{ "getattr", look, 0, 0 },
};
enum { CALLS = sizeof calls / sizeof *calls };

static struct overlay_unflushed put_off(int (*run)(void))
{
	struct overlay_unflushed u;
	unsigned before = flushes();
	overlay_defer(&u);
	assert_int_equal(run(), 0);
	overlay_defer(NULL);
	assert_int_equal(flushes(), before);
	return u;
}

static int flush_for(struct overlay_unflushed *u)
{
	overlay_flush(&u, 1);
	return u->rc;
}

static void run_calls(bool sync)
{
	for (int i = 0; i < CALLS; i++) {
		struct overlay_unflushed u = put_off(calls[i].run);
		unsigned wanted = sync ? calls[i].sync : calls[i].async, before = flushes();
		if (u.n != wanted)
			fail_msg("%s: %u files are to be flushed, and not %u", calls[i].name, u.n, wanted);
		if (u.n)
			assert_int_equal(flush_for(&u), 0);
		assert_true(flushes() == before + (wanted > 0) || flushes() == before + wanted);
	}
	assert_int_equal(atomic_load(&ov->syncs.deferred), 0);
}

static void a_call_that_may_put_it_off_flushes_nothing_and_says_what_is_to_be_flushed(void **state)
{
	(void)state;
	run_calls(true);
}

static void without_sync_stable_writes_and_commits_alone_put_it_off(void **state)
{
	(void)state;
	close_overlay();
	open_with(0, false);
	run_calls(false);
}

static void a_call_of_another_thread_or_later_waits_itself(void **state)
{
	(void)state;
	struct overlay_unflushed u = put_off(create);
	unsigned before = flushes();
	assert_int_equal(make(a, "another"), 0);
	assert_int_equal(flushes(), before + 1);
	assert_int_equal(flush_for(&u), 0);
}

/* ---- what is shared ---- */
static void one_flush_of_a_file_is_for_all_calls_that_changed_it(void **state)
{
	enum { MANY = 50 };
	struct overlay_unflushed u[MANY], *all[MANY];
	char name[32];
	(void)state;
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, "file%d", i);
		all[i] = &u[i];
		overlay_defer(&u[i]);
		assert_int_equal(make(a, name), 0);
		overlay_defer(NULL);
	}
	assert_int_equal(flushes(), 0);
	overlay_flush(all, MANY);
	assert_int_equal(flushes(), 1);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(u[i].rc, 0);
}

static void one_flush_of_the_file_system_is_for_several_files(void **state)
{
	(void)state;
	struct overlay_unflushed u[] = { put_off(create), put_off(write_all_of_it), put_off(write_other), put_off(commit) };
	struct overlay_unflushed *all[] = { &u[0], &u[1], &u[2], &u[3] };
	overlay_flush(all, 4);
	assert_int_equal(disk.all, 1);
	assert_int_equal(disk.one, 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(u[i].rc, 0);
}

static void where_that_takes_long_each_file_is_flushed_once(void **state)
{
	(void)state;
	struct overlay_unflushed u[] = { put_off(create), put_off(write_all_of_it), put_off(write_other), put_off(commit) };
	struct overlay_unflushed *all[] = { &u[0], &u[1], &u[2], &u[3] };
	stay_with_each_file();
	overlay_flush(all, 4);
	assert_int_equal(disk.all, 0);
	assert_int_equal(disk.one, 3);
}

/* ---- what is held ---- */
static void a_call_that_changes_more_than_there_is_room_for_waits_for_the_rest(void **state)
{
	struct overlay_unflushed u;
	(void)state;
	overlay_defer(&u);
	for (unsigned i = 1; i <= OVERLAY_UNFLUSHED + 2; i++) {
		assert_int_equal(write_all_of_it(), 0);
		assert_int_equal(u.n, i < OVERLAY_UNFLUSHED ? i : OVERLAY_UNFLUSHED);
		assert_int_equal(flushes(), i < OVERLAY_UNFLUSHED ? 0 : i - OVERLAY_UNFLUSHED);
	}
	overlay_defer(NULL);
	assert_int_equal(flush_for(&u), 0);
}

static void what_is_put_off_takes_a_part_of_the_descriptors_alone(void **state)
{
	enum { MAX_FDS = 64, PART = MAX_FDS / 4 };
	struct overlay_unflushed u[PART + 10], *all[PART];
	(void)state;
	close_overlay();
	open_with(MAX_FDS, true);
	for (unsigned i = 0; i < PART + 10; i++) {
		overlay_defer(&u[i]);
		assert_int_equal(write_all_of_it(), 0);
		overlay_defer(NULL);
		assert_int_equal(u[i].n, i < PART);
		assert_int_equal(flushes(), i < PART ? 0 : i - PART + 1);
	}
	for (unsigned i = 0; i < PART; i++)
		all[i] = &u[i];
	overlay_flush(all, PART);
	struct overlay_unflushed again = put_off(write_all_of_it);
	assert_int_equal(again.n, 1);
	assert_int_equal(flush_for(&again), 0);
}

static void what_was_removed_meanwhile_is_flushed_all_the_same(void **state)
{
	(void)state;
	struct overlay_unflushed u = put_off(write_all_of_it);
	assert_int_equal(overlay_remove(ov, &cred, a, "f", &wcc), 0);
	assert_int_equal(overlay_remove(ov, &cred, b, "g", &wcc), 0);
	assert_int_equal(overlay_rmdir(ov, &cred, root, "b", &wcc), 0);
	unsigned before = flushes();
	assert_int_equal(flush_for(&u), 0);
	assert_int_equal(flushes(), before + 1);
}

/* ---- what fails ---- */
static void a_flush_that_fails_fails_for_all_and_changes_the_verifier(void **state)
{
	(void)state;
	uint64_t before = overlay_verifier(ov);
	struct overlay_unflushed u[] = { put_off(create), put_off(write_other), put_off(commit) };
	struct overlay_unflushed *all[] = { &u[0], &u[1], &u[2] };
	disk.failing = 1;
	overlay_flush(all, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(u[i].rc, -EIO);
	uint64_t after = overlay_verifier(ov);
	assert_true(after != before);
	struct overlay_unflushed next = put_off(write_other);
	assert_int_equal(flush_for(&next), 0);
	assert_true(overlay_verifier(ov) == after);
}

static void each_file_flushed_by_itself_fails_for_its_own_calls(void **state)
{
	(void)state;
	struct stat st;
	char path[96];
	struct overlay_unflushed u[] = { put_off(create), put_off(write_other), put_off(rename_here), put_off(rename_there) };
	struct overlay_unflushed *all[] = { &u[0], &u[1], &u[2], &u[3] };
	snprintf(path, sizeof path, "%s/b", upper);
	assert_int_equal(stat(path, &st), 0);
	stay_with_each_file();
	disk.failing = 1;
	disk.broken = st.st_ino;
	overlay_flush(all, 4);
	assert_int_equal(u[0].rc, 0);
	assert_int_equal(u[2].rc, 0);
	assert_int_equal(u[3].rc, -EIO); /* one of its two */
}

static void a_commit_whose_verifier_changed_meanwhile_is_to_be_asked_for_again(void **state)
{
	(void)state;
	struct overlay_unflushed u = put_off(commit);
	disk.failing = 1;
	assert_int_equal(write_other(), -EIO); /* told to another */
	assert_int_equal(flush_for(&u), -EAGAIN);
	u = put_off(commit);
	assert_int_equal(flush_for(&u), 0);
}

/* Linux tells a failure once to each descriptor, and its bytes count as written from then on: whoever flushes next hears that all is well. */
static void a_stable_write_whose_failure_another_flush_was_told_is_to_be_sent_again(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct overlay_unflushed u = put_off(i ? write_data : write_all_of_it);
		disk.failing = 1;
		assert_int_equal(write_all_of_it(), -EIO);
		assert_int_equal(flush_for(&u), -EAGAIN);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_call_that_may_put_it_off_flushes_nothing_and_says_what_is_to_be_flushed),
		T(without_sync_stable_writes_and_commits_alone_put_it_off),
		T(a_call_of_another_thread_or_later_waits_itself),
		T(one_flush_of_a_file_is_for_all_calls_that_changed_it),
		T(one_flush_of_the_file_system_is_for_several_files),
		T(where_that_takes_long_each_file_is_flushed_once),
		T(a_call_that_changes_more_than_there_is_room_for_waits_for_the_rest),
		T(what_is_put_off_takes_a_part_of_the_descriptors_alone),
		T(what_was_removed_meanwhile_is_flushed_all_the_same),
		T(a_flush_that_fails_fails_for_all_and_changes_the_verifier),
		T(each_file_flushed_by_itself_fails_for_its_own_calls),
		T(a_commit_whose_verifier_changed_meanwhile_is_to_be_asked_for_again),
		T(a_stable_write_whose_failure_another_flush_was_told_is_to_be_sent_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
