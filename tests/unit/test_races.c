/* test_races.c: what two threads do to one name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "overlay.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { ROUNDS = 1000 };
#else
enum { ROUNDS = 5000 };
#endif

enum { SETTERS = 2 };

/* In place of libc's: a thread that is stopped between its checks and the change that they were for. */
int fchmodat(int dirfd, const char *name, mode_t mode, int flags)
{
	(void)flags;
	if (!strcmp(name, "f"))
		usleep(300);
	return (int)syscall(SYS_fchmodat, dirfd, name, mode);
}

static atomic_bool slow_copies, slow_flushes, renaming;
static atomic_uint looks, slow_calls, stood_still; /* looks: at another's attributes, once a rename is under way */

/* Each slow call by itself: others must go on in all of them. */
static void be_slow(void)
{
	enum { SOME = 10 }; /* a few may come before the rename waits */
	unsigned before = atomic_load(&looks);
	usleep(1000000);
	atomic_fetch_add(&slow_calls, 1);
	if (atomic_load(&looks) - before <= SOME)
		atomic_fetch_add(&stood_still, 1);
}

/* In place of libc's: a file of a size that makes its copying take long. */
ssize_t copy_file_range(int from, off_t *at, int to, off_t *at2, size_t len, unsigned flags)
{
	if (atomic_load(&slow_copies))
		be_slow();
	return syscall(SYS_copy_file_range, from, at, to, at2, len, flags);
}

static _Thread_local void (*meanwhile)(void); /* what another client does just then, once */

static void happen(void)
{
	void (*what)(void) = meanwhile;
	meanwhile = NULL;
	if (what)
		what();
}

static _Thread_local int cut; /* so many reads find a file that was cut just then, and has grown again behind them */

ssize_t pread(int fd, void *buf, size_t len, off_t at)
{
	if (cut)
		return --cut, 0;
	ssize_t n = syscall(SYS_pread64, fd, buf, len, at);
	happen();
	return n;
}

int fsync(int fd)
{
	happen();
	if (atomic_load(&slow_flushes))
		be_slow();
	return (int)syscall(SYS_fsync, fd);
}

static const struct overlay_cred root;

struct race {
	struct overlay *ov;
	struct object *dir;
	atomic_bool stop;
	unsigned wrong;
};

/* A mode that tells which object it was meant for. */
static mode_t mode_for(struct object *o)
{
	const struct overlay_id *id = overlay_id(o);
	return 0400 | (((id->gen ^ id->ino) * 0x9e3779b97f4a7c15u) >> 50 & 0377);
}

static void *set_modes(void *arg)
{
	struct race *r = arg;
	while (!atomic_load(&r->stop)) {
		struct object *o;
		struct overlay_wcc wcc;
		if (overlay_lookup(r->ov, &root, r->dir, "f", &o, NULL))
			continue;
		struct overlay_setattr set = { .set_mode = true, .mode = mode_for(o) };
		for (int i = 0; i < 8; i++)
			overlay_setattr(r->ov, &root, o, &set, NULL, &wcc); /* -ESTALE once it is removed */
		overlay_put(r->ov, o);
	}
	return NULL;
}

static void a_change_never_reaches_the_next_file_of_the_name(void **state)
{
	(void)state;
	char dir[] = "/tmp/overnfsd-races-XXXXXX", upper[64], cmd[96], err[256] = "";
	assert_non_null(mkdtemp(dir));
	snprintf(upper, sizeof upper, "%s/upper", dir);
	snprintf(cmd, sizeof cmd, "mkdir %s", upper);
	assert_int_equal(system(cmd), 0);
	struct overlay_config config = { .upper = upper };
	struct race r = { 0 };
	assert_int_equal(overlay_open(&config, &r.ov, err, sizeof err), 0);
	r.dir = overlay_root(r.ov);
	pthread_t threads[SETTERS];
	for (int i = 0; i < SETTERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, set_modes, &r), 0);
	for (int i = 0; i < ROUNDS; i++) {
		struct object *o;
		struct overlay_attr a;
		struct overlay_wcc wcc;
		struct overlay_setattr set = { .set_mode = true, .mode = 0 };
		assert_int_equal(overlay_create(r.ov, &root, r.dir, "f", CREATE_GUARDED, &set, NULL, &o, &a, &wcc), 0);
		assert_int_equal(overlay_getattr(r.ov, o, &a), 0);
		if ((a.mode & 07777) != 0 && (a.mode & 07777) != mode_for(o))
			r.wrong++;
		overlay_put(r.ov, o);
		assert_int_equal(overlay_remove(r.ov, &root, r.dir, "f", &wcc), 0);
	}
	atomic_store(&r.stop, true);
	for (int i = 0; i < SETTERS; i++)
		pthread_join(threads[i], NULL);
	overlay_put(r.ov, r.dir);
	overlay_close(r.ov);
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(r.wrong, 0);
}

/* ---- two threads that start together, again and again ---- */
struct duel {
	struct overlay *ov;
	struct object *root, *o;
	char dir[64];
	pthread_barrier_t barrier;
	struct timespec guard;
	int rc;
	atomic_bool stop;
};

/* An upper in a new directory, over a lower that prepare fills. */
static void duel_begin(struct duel *d, const char *prepare, bool sync)
{
	char upper[80], lower[80], work[80], cmd[512], err[256] = "";
	memset(d, 0, sizeof *d);
	strcpy(d->dir, "/tmp/overnfsd-races-XXXXXX");
	assert_non_null(mkdtemp(d->dir));
	snprintf(upper, sizeof upper, "%s/upper", d->dir);
	snprintf(lower, sizeof lower, "%s/lower", d->dir);
	snprintf(work, sizeof work, "%s/work", d->dir);
	snprintf(cmd, sizeof cmd, "cd %s && mkdir upper lower work && %s", d->dir, prepare);
	assert_int_equal(system(cmd), 0);
	const char *lowers[] = { lower };
	struct overlay_config config = { .upper = upper, .work = work, .lowers = lowers, .nlowers = 1, .sync = sync };
	if (overlay_open(&config, &d->ov, err, sizeof err))
		fail_msg("%s", err);
	d->root = overlay_root(d->ov);
	pthread_barrier_init(&d->barrier, NULL, 2);
}

static void duel_end(struct duel *d)
{
	char cmd[96];
	overlay_put(d->ov, d->root);
	overlay_close(d->ov);
	pthread_barrier_destroy(&d->barrier);
	snprintf(cmd, sizeof cmd, "rm -rf %s", d->dir);
	assert_int_equal(system(cmd), 0);
}

static void *link_each(void *arg)
{
	struct duel *d = arg;
	struct object *dir;
	struct overlay_wcc wcc;
	struct overlay_attr a;
	assert_int_equal(overlay_mkdir(d->ov, &root, d->root, "dir", NULL, &dir, &a, &wcc), 0);
	for (int i = 0; i < 3 * ROUNDS; i++) {
		pthread_barrier_wait(&d->barrier);
		d->rc = overlay_link(d->ov, &root, d->o, dir, "link", &a, &wcc);
		pthread_barrier_wait(&d->barrier);
		if (!d->rc)
			assert_int_equal(overlay_remove(d->ov, &root, dir, "link", &wcc), 0);
		pthread_barrier_wait(&d->barrier);
	}
	overlay_put(d->ov, dir);
	return NULL;
}

/* A file that gets another name while its only one goes was taken for removed: its attributes were still the cached ones. */
static void a_file_that_is_linked_while_its_name_goes_stays(void **state)
{
	(void)state;
	struct duel d;
	pthread_t thread;
	struct overlay_attr a;
	struct overlay_wcc wcc;
	unsigned gone = 0;
	duel_begin(&d, "true", false);
	assert_int_equal(pthread_create(&thread, NULL, link_each, &d), 0);
	for (int i = 0; i < 3 * ROUNDS; i++) {
		assert_int_equal(overlay_create(d.ov, &root, d.root, "name", CREATE_GUARDED, NULL, NULL, &d.o, &a, &wcc), 0);
		assert_int_equal(overlay_getattr(d.ov, d.o, &a), 0);
		pthread_barrier_wait(&d.barrier);
		for (volatile int k = 0; k < i % 200 * 40; k++)
			;
		assert_int_equal(overlay_remove(d.ov, &root, d.root, "name", &wcc), 0);
		pthread_barrier_wait(&d.barrier);
		gone += !d.rc && overlay_getattr(d.ov, d.o, &a) == -ESTALE;
		pthread_barrier_wait(&d.barrier);
		overlay_put(d.ov, d.o);
	}
	pthread_join(thread, NULL);
	duel_end(&d);
	assert_int_equal(gone, 0);
}

static void *set_guarded(void *arg)
{
	struct duel *d = arg;
	struct overlay_setattr set = { .set_mode = true, .mode = 0600 };
	struct overlay_wcc wcc;
	for (int i = 0; i < ROUNDS; i++) {
		pthread_barrier_wait(&d->barrier);
		d->rc = overlay_setattr(d->ov, &root, d->o, &set, &d->guard, &wcc);
		pthread_barrier_wait(&d->barrier);
	}
	return NULL;
}

static void of_two_with_one_guard_the_second_is_refused(void **state)
{
	(void)state;
	struct duel d;
	pthread_t thread;
	struct overlay_attr a;
	struct overlay_wcc wcc;
	struct overlay_setattr set = { .set_mode = true, .mode = 0644 };
	unsigned both = 0, none = 0;
	duel_begin(&d, "true", false);
	assert_int_equal(overlay_create(d.ov, &root, d.root, "guarded", CREATE_GUARDED, NULL, NULL, &d.o, &a, &wcc), 0);
	assert_int_equal(pthread_create(&thread, NULL, set_guarded, &d), 0);
	for (int i = 0; i < ROUNDS; i++) {
		assert_int_equal(overlay_getattr(d.ov, d.o, &a), 0);
		d.guard = a.ctime;
		pthread_barrier_wait(&d.barrier);
		int rc = overlay_setattr(d.ov, &root, d.o, &set, &d.guard, &wcc);
		pthread_barrier_wait(&d.barrier);
		/* a file system's clock may stand still between the two: then nobody can tell */
		both += !rc && !d.rc && memcmp(&wcc.before.ctime, &d.guard, sizeof d.guard) != 0;
		none += rc && d.rc;
	}
	pthread_join(thread, NULL);
	overlay_put(d.ov, d.o);
	duel_end(&d);
	assert_int_equal(both, 0);
	assert_int_equal(none, 0);
}

static struct duel *appended_to;

static void append(void)
{
	struct overlay_wcc wcc;
	assert_int_equal(overlay_write(appended_to->ov, &root, appended_to->o, 4, "more", 4, WRITE_UNSTABLE, &wcc), 0);
}

/* A file of four bytes. */
static void append_begin(struct duel *d)
{
	struct overlay_attr a;
	struct overlay_wcc wcc;
	appended_to = d;
	duel_begin(d, "true", false);
	assert_int_equal(overlay_create(d->ov, &root, d->root, "log", CREATE_GUARDED, NULL, NULL, &d->o, &a, &wcc), 0);
	assert_int_equal(overlay_write(d->ov, &root, d->o, 0, "some", 4, WRITE_UNSTABLE, &wcc), 0);
}

/* Nothing, and yet not the end: Linux's client takes that for an error, and whoever follows the file gets EIO. */
static void a_read_of_what_grows_just_then_finds_it_or_is_at_the_end(void **state)
{
	(void)state;
	struct duel d;
	struct overlay_attr a;
	char buf[16];
	size_t got;
	bool eof = false;
	append_begin(&d);
	meanwhile = append;
	assert_int_equal(overlay_read(d.ov, &root, d.o, 0, buf, sizeof buf, &got, &eof, &a), 0);
	assert_null(meanwhile);
	assert_true(got == 8 && eof);
	cut = 2;
	assert_int_equal(overlay_read(d.ov, &root, d.o, 4, buf, sizeof buf, &got, &eof, &a), 0);
	assert_true(!cut && !got && eof);
	assert_int_equal(overlay_read(d.ov, &root, d.o, 4, buf, 0, &got, &eof, &a), 0);
	assert_true(!got && !eof);
	overlay_put(d.ov, d.o);
	duel_end(&d);
}

/* A client that finds what it knew in "before" takes "after" for its own doing, and keeps the bytes that it has in memory. */
static void what_changes_nothing_does_not_claim_what_another_does_just_then(void **state)
{
	(void)state;
	struct duel d;
	struct overlay_wcc wcc;
	const struct overlay_cred stranger = { .uid = 1000, .gid = 1000 };
	struct overlay_setattr set = { .set_mode = true };
	append_begin(&d);
	meanwhile = append;
	assert_int_equal(overlay_commit(d.ov, &root, d.o, &wcc), 0);
	assert_null(meanwhile);
	assert_true(!wcc.have_before || wcc.before.size == wcc.after.size);
	assert_int_equal(overlay_setattr(d.ov, &stranger, d.o, &set, NULL, &wcc), -EPERM);
	assert_true(!wcc.have_before || wcc.have_after); /* one look gives both */
	overlay_put(d.ov, d.o);
	duel_end(&d);
}

static void *replace_again_and_again(void *arg)
{
	struct duel *d = arg;
	while (!atomic_load(&d->stop)) {
		struct object *o;
		struct overlay_attr a;
		struct overlay_wcc wcc, wcc2;
		assert_int_equal(overlay_create(d->ov, &root, d->root, "new", CREATE_UNCHECKED, NULL, NULL, &o, &a, &wcc), 0);
		overlay_put(d->ov, o);
		assert_int_equal(overlay_rename(d->ov, &root, d->root, "new", d->root, "name", &wcc, &wcc2), 0);
	}
	return NULL;
}

/* The handle that CREATE came with is the directory's: what was under the name and is no more makes nothing stale. */
static void a_create_that_cuts_what_is_just_replaced_is_not_stale(void **state)
{
	(void)state;
	struct duel d;
	pthread_t thread;
	struct overlay_setattr set = { .set_size = true };
	unsigned failed = 0, later = 0;
	duel_begin(&d, "true", false);
	assert_int_equal(pthread_create(&thread, NULL, replace_again_and_again, &d), 0);
	for (int i = 0; i < 4 * ROUNDS; i++) {
		struct object *o;
		struct overlay_attr a;
		struct overlay_wcc wcc;
		int rc = overlay_create(d.ov, &root, d.root, "name", CREATE_UNCHECKED, &set, NULL, &o, &a, &wcc);
		later += rc == -EAGAIN;
		failed += rc && rc != -EAGAIN;
		overlay_put(d.ov, o);
	}
	atomic_store(&d.stop, true);
	pthread_join(thread, NULL);
	duel_end(&d);
	assert_int_equal(failed, 0);
	assert_true(later < 4 * ROUNDS);
}

static void look_at(struct duel *d, struct object *o)
{
	struct overlay_attr a;
	bool counts = atomic_load(&renaming);
	assert_int_equal(overlay_getattr(d->ov, o, &a), 0);
	atomic_fetch_add(&looks, counts);
}

/* ---- bytes that take long to come ---- */
static void *write_one_byte(void *arg)
{
	struct duel *d = arg;
	struct overlay_wcc wcc;
	d->rc = overlay_write(d->ov, &root, d->o, 0, "x", 1, WRITE_UNSTABLE, &wcc);
	atomic_store(&slow_copies, false);
	return NULL;
}

static void *touch(void *arg)
{
	struct duel *d = arg;
	struct overlay_setattr set = { .set_atime = TIME_SERVER };
	struct overlay_wcc wcc;
	usleep(100000);
	assert_int_equal(overlay_setattr(d->ov, &root, d->o, &set, NULL, &wcc), 0);
	return NULL;
}

static void *rename_another(void *arg)
{
	struct duel *d = arg;
	struct overlay_wcc wcc, wcc2;
	usleep(200000);
	atomic_store(&renaming, true);
	assert_int_equal(overlay_rename(d->ov, &root, d->root, "other", d->root, "renamed", &wcc, &wcc2), 0);
	return NULL;
}

static void while_bytes_come_for_one_all_others_go_on(void **state)
{
	(void)state;
	struct duel d;
	pthread_t threads[3];
	struct object *other;
	struct overlay_attr a;
	struct overlay_wcc wcc;
	struct overlay_setattr set = { .set_mode = true, .mode = 0600 };
	atomic_store(&renaming, false);
	atomic_store(&slow_calls, 0);
	atomic_store(&stood_still, 0);
	duel_begin(&d, "head -c 100000 /dev/zero | tr '\\0' x >lower/big", false);
	assert_int_equal(overlay_create(d.ov, &root, d.root, "other", CREATE_GUARDED, NULL, NULL, &other, &a, &wcc), 0);
	assert_int_equal(overlay_lookup(d.ov, &root, d.root, "big", &d.o, &a), 0);
	assert_int_equal(overlay_setattr(d.ov, &root, d.o, &set, NULL, &wcc), 0); /* a metacopy */
	atomic_store(&slow_copies, true);
	assert_int_equal(pthread_create(&threads[0], NULL, write_one_byte, &d), 0);
	assert_int_equal(pthread_create(&threads[1], NULL, touch, &d), 0);
	assert_int_equal(pthread_create(&threads[2], NULL, rename_another, &d), 0);
	while (atomic_load(&slow_copies)) {
		look_at(&d, other);
		usleep(1000);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(d.rc, 0);
	overlay_put(d.ov, d.o);
	overlay_put(d.ov, other);
	duel_end(&d);
	assert_true(atomic_load(&slow_calls) > 0);
	assert_int_equal(atomic_load(&stood_still), 0);
}

static void *rename_over(void *arg)
{
	struct duel *d = arg;
	struct overlay_wcc wcc, wcc2;
	atomic_store(&renaming, true);
	d->rc = overlay_rename(d->ov, &root, d->root, "other", d->root, "one", &wcc, &wcc2);
	atomic_store(&slow_flushes, false);
	return NULL;
}

/* The last name of a file that had several in the lower layer goes: its entry in the index does too, and that is flushed. */
static void while_the_index_is_flushed_all_others_go_on(void **state)
{
	(void)state;
	struct duel d;
	pthread_t thread;
	struct object *other;
	struct overlay_attr a;
	struct overlay_wcc wcc;
	struct overlay_setattr set = { .set_mode = true, .mode = 0600 };
	atomic_store(&renaming, false);
	atomic_store(&slow_calls, 0);
	atomic_store(&stood_still, 0);
	duel_begin(&d, "echo x >lower/one && ln lower/one lower/two", true);
	assert_int_equal(overlay_create(d.ov, &root, d.root, "other", CREATE_GUARDED, NULL, NULL, &other, &a, &wcc), 0);
	assert_int_equal(overlay_lookup(d.ov, &root, d.root, "one", &d.o, &a), 0);
	assert_int_equal(overlay_setattr(d.ov, &root, d.o, &set, NULL, &wcc), 0);
	overlay_put(d.ov, d.o);
	assert_int_equal(overlay_remove(d.ov, &root, d.root, "two", &wcc), 0);
	atomic_store(&slow_flushes, true);
	assert_int_equal(pthread_create(&thread, NULL, rename_over, &d), 0);
	while (atomic_load(&slow_flushes)) {
		look_at(&d, other);
		usleep(1000);
	}
	pthread_join(thread, NULL);
	assert_int_equal(d.rc, 0);
	overlay_put(d.ov, other);
	duel_end(&d);
	assert_true(atomic_load(&slow_calls) > 0);
	assert_int_equal(atomic_load(&stood_still), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_change_never_reaches_the_next_file_of_the_name),
		cmocka_unit_test(a_file_that_is_linked_while_its_name_goes_stays),
		cmocka_unit_test(of_two_with_one_guard_the_second_is_refused),
		cmocka_unit_test(a_read_of_what_grows_just_then_finds_it_or_is_at_the_end),
		cmocka_unit_test(what_changes_nothing_does_not_claim_what_another_does_just_then),
		cmocka_unit_test(a_create_that_cuts_what_is_just_replaced_is_not_stale),
		cmocka_unit_test(while_bytes_come_for_one_all_others_go_on),
		cmocka_unit_test(while_the_index_is_flushed_all_others_go_on),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
