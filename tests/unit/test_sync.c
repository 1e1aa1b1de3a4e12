/* test_sync.c: under `sync` a call returns when a flush that began after its change has ended, though many share one; and a flush that fails fails for all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 32, CALLS = 20, FLUSH_US = 3000 };

static atomic_ulong ticks, latest_begin; /* of the flushes that have ended, the latest begin */
static atomic_uint flushes, of_all;
static atomic_bool failing, watched;
static _Thread_local unsigned long made_at;

/* In place of libc's: when is something made, and when is it flushed? */
int openat(int dirfd, const char *name, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	int fd = (int)syscall(SYS_openat, dirfd, name, flags, va_arg(ap, mode_t));
	va_end(ap);
	if (fd >= 0 && flags & O_CREAT)
		made_at = atomic_fetch_add(&ticks, 1);
	return fd;
}

static int flush(bool all)
{
	if (!atomic_load(&watched))
		return 0;
	unsigned long begin = atomic_fetch_add(&ticks, 1);
	usleep(FLUSH_US);
	atomic_fetch_add(&flushes, 1);
	atomic_fetch_add(&of_all, all);
	if (atomic_load(&failing)) {
		errno = EIO;
		return -1;
	}
	unsigned long old = atomic_load(&latest_begin);
	while (old < begin && !atomic_compare_exchange_weak(&latest_begin, &old, begin))
		;
	return 0;
}

int fsync(int fd)
{
	(void)fd;
	return flush(false);
}

int syncfs(int fd)
{
	(void)fd;
	return flush(true);
}

static const struct overlay_cred root;

struct crowd {
	struct overlay *ov;
	struct object *dir;
	atomic_uint next, unflushed, failed, done;
};

static void *make_files(void *arg)
{
	struct crowd *c = arg;
	char name[32];
	for (int i = 0; i < CALLS; i++) {
		struct object *o = NULL, *dir = NULL;
		struct overlay_attr attr;
		struct overlay_wcc wcc;
		struct overlay_setattr set = { .set_mode = true, .mode = 0644 };
		unsigned n = atomic_fetch_add(&c->next, 1);
		snprintf(name, sizeof name, "dir%u", n % 8); /* of one directory, one flush would do */
		assert_int_equal(overlay_lookup(c->ov, &root, c->dir, name, &dir, NULL), 0);
		snprintf(name, sizeof name, "file%u", n);
		int rc = overlay_create(c->ov, &root, dir, name, CREATE_GUARDED, &set, NULL, &o, &attr, &wcc);
		if (rc)
			atomic_fetch_add(&c->failed, rc == -EIO);
		else if (atomic_load(&latest_begin) < made_at)
			atomic_fetch_add(&c->unflushed, 1);
		atomic_fetch_add(&c->done, 1);
		overlay_put(c->ov, o);
		overlay_put(c->ov, dir);
	}
	return NULL;
}

static void run_crowd(struct crowd *c)
{
	pthread_t threads[THREADS];
	atomic_store(&flushes, 0);
	atomic_store(&of_all, 0);
	atomic_store(&watched, true);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, make_files, c), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&watched, false);
	assert_int_equal(atomic_load(&c->done), THREADS * CALLS);
}

static char dir[] = "/tmp/overnfsd-sync-XXXXXX";
static struct crowd crowd;

static int open_overlay(void **state)
{
	char upper[64], path[96], err[256] = "";
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(upper, sizeof upper, "%s/upper", dir);
	mkdir(upper, 0755);
	for (int i = 0; i < 8; i++) {
		snprintf(path, sizeof path, "%s/dir%d", upper, i);
		mkdir(path, 0755);
	}
	struct overlay_config config = { .upper = upper, .sync = true };
	if (overlay_open(&config, &crowd.ov, err, sizeof err))
		return -1;
	crowd.dir = overlay_root(crowd.ov);
	return 0;
}

static int close_overlay(void **state)
{
	char cmd[96];
	(void)state;
	overlay_put(crowd.ov, crowd.dir);
	overlay_close(crowd.ov);
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	return system(cmd);
}

static void every_call_waits_for_a_flush_that_began_after_its_change(void **state)
{
	(void)state;
	atomic_store(&crowd.done, 0);
	run_crowd(&crowd);
	assert_int_equal(atomic_load(&crowd.failed), 0);
	assert_int_equal(atomic_load(&crowd.unflushed), 0);
	printf("| %d calls on disk by %u flushes, %u of them of the whole file system\n", THREADS * CALLS, atomic_load(&flushes), atomic_load(&of_all));
	assert_true(atomic_load(&flushes) < THREADS * CALLS / 2);
	assert_true(atomic_load(&of_all) > 0);
}

static void a_flush_that_fails_fails_for_all_that_it_was_for(void **state)
{
	(void)state;
	uint64_t verifier = overlay_verifier(crowd.ov);
	atomic_store(&crowd.done, 0);
	atomic_store(&failing, true);
	run_crowd(&crowd);
	atomic_store(&failing, false);
	assert_int_equal(atomic_load(&crowd.failed), THREADS * CALLS);
	assert_true(overlay_verifier(crowd.ov) != verifier); /* clients send again what they had not committed */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_call_waits_for_a_flush_that_began_after_its_change),
		cmocka_unit_test(a_flush_that_fails_fails_for_all_that_it_was_for),
	};
	return cmocka_run_group_tests(tests, open_overlay, close_overlay);
}
