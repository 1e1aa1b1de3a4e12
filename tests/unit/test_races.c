/* test_races.c: what two threads do to one name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "overlay.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_change_never_reaches_the_next_file_of_the_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
