/* test_live.c: no live object is called stale: by a search in a small table and without a map, by two threads' changes of one inode's names, by an
 * inode number that is reused at once, for want of descriptors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static const struct overlay_cred root;
static char top[64], lower[96], upper[96];
static _Thread_local void (*after_unlink)(void); /* in place of a thread that stops behind the system call */
static _Thread_local bool stops_after_link, linked;
static bool no_descriptor, syncs;
static const char *_Atomic broken; /* a name on a disk that does not answer for a moment */

int unlinkat(int dirfd, const char *name, int flags)
{
	int rc = (int)syscall(SYS_unlinkat, dirfd, name, flags);
	if (!rc && after_unlink && !strcmp(name, "victim"))
		after_unlink();
	return rc;
}

int linkat(int from, const char *name, int to, const char *name2, int flags)
{
	int rc = (int)syscall(SYS_linkat, from, name, to, name2, flags);
	linked = stops_after_link;
	return rc;
}

int open_by_handle_at(int mount_fd, struct file_handle *fh, int flags)
{
	if (!no_descriptor)
		return (int)syscall(SYS_open_by_handle_at, mount_fd, fh, flags);
	errno = EMFILE;
	return -1;
}

int statx(int dirfd, const char *restrict name, int flags, unsigned mask, struct statx *restrict st)
{
	const char *wrong = broken;
	if (!wrong || strcmp(name, wrong))
		return (int)syscall(SYS_statx, dirfd, name, flags, mask, st);
	errno = EIO;
	return -1;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void *__libc_malloc(size_t n);

/* The first that a LINK asks for behind its system call is for the note to the map. */
void *malloc(size_t n)
{
	if (linked) {
		linked = false;
		usleep(500);
	}
	return __libc_malloc(n);
}
#endif

static int setup(void **state)
{
	char cmd[256];
	(void)state;
	strcpy(top, "/tmp/overnfsd-live-XXXXXX");
	if (!mkdtemp(top))
		return -1;
	snprintf(lower, sizeof lower, "%s/lower", top);
	snprintf(upper, sizeof upper, "%s/upper", top);
	snprintf(cmd, sizeof cmd, "mkdir %s %s", lower, upper);
	return system(cmd);
}

static int teardown(void **state)
{
	char cmd[128];
	(void)state;
	snprintf(cmd, sizeof cmd, "rm -rf %s", top);
	return system(cmd);
}

static struct overlay *open_it(bool has_upper, size_t max_objects)
{
	static const char *lowers[] = { lower };
	struct overlay_config c = { .lowers = lowers, .nlowers = 1, .upper = has_upper ? upper : NULL, .name = "/overlay", .max_objects = max_objects, .sync = syncs };
	char err[256] = "";
	struct overlay *ov;
	if (overlay_open(&c, &ov, err, sizeof err))
		fail_msg("%s", err);
	return ov;
}

static struct object *look_up(struct overlay *ov, const char *path)
{
	char copy[256], *save;
	struct object *o = overlay_root(ov);
	snprintf(copy, sizeof copy, "%s", path);
	for (char *c = strtok_r(copy, "/", &save); c; c = strtok_r(NULL, "/", &save)) {
		struct object *child;
		assert_int_equal(overlay_lookup(ov, &root, o, c, &child, NULL), 0);
		overlay_put(ov, o);
		o = child;
	}
	return o;
}

static struct overlay_id id_of(struct overlay *ov, const char *path)
{
	struct object *o = look_up(ov, path);
	struct overlay_id id = *overlay_id(o);
	overlay_put(ov, o);
	return id;
}

static bool same(const struct overlay_id *a, const struct overlay_id *b)
{
	return a->layer == b->layer && a->ino == b->ino && a->gen == b->gen;
}

static int get(struct overlay *ov, const struct overlay_id *id)
{
	struct object *o = NULL;
	int rc;
	for (int i = 0; (rc = overlay_get(ov, id, &o)) == -EAGAIN && i < 1000; i++)
		usleep(10000);
	overlay_put(ov, o);
	return rc;
}

/* ---- a search that brings more into the table than stays there ---- */
enum { DIRS = 400, CLIENTS = 12, COMINGS = 500 };
struct client {
	struct overlay *ov;
	struct overlay_id id;
	int rc;
	pthread_t thread;
};

static void *ask(void *arg)
{
	struct client *c = arg;
	c->rc = get(c->ov, &c->id);
	return NULL;
}

static void what_a_search_found_is_not_gone_when_it_left_the_table(void **state)
{
	char cmd[256], path[32];
	struct client clients[CLIENTS];
	(void)state;
	snprintf(cmd, sizeof cmd, "cd %s; for d in $(seq 0 %d); do mkdir d$d; echo $d >d$d/f; done", lower, DIRS - 1);
	assert_int_equal(system(cmd), 0);
	setenv("TMPDIR", "/nowhere", 1); /* no map: "old handles are found by searching each time" */
	struct overlay *ov = open_it(false, 0);
	for (int i = 0; i < CLIENTS; i++) {
		snprintf(path, sizeof path, "d%d/f", i * 7);
		clients[i].id = id_of(ov, path);
	}
	overlay_close(ov);
	ov = open_it(false, 16);
	for (int i = 0; i < CLIENTS; i++) {
		clients[i].ov = ov;
		assert_int_equal(pthread_create(&clients[i].thread, NULL, ask, &clients[i]), 0);
	}
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(clients[i].thread, NULL);
	for (int i = 0; i < CLIENTS; i++)
		if (clients[i].rc)
			print_message("client %d: %s\n", i, strerror(-clients[i].rc));
	for (int i = 0; i < CLIENTS; i++)
		assert_int_equal(clients[i].rc, 0);
	unsetenv("TMPDIR");
	overlay_close(ov);
}

/* ---- one name comes while the other goes ---- */
struct names {
	struct overlay *ov;
	struct object *o, *a, *b;
};

static void *add_name(void *arg)
{
	struct names *n = arg;
	struct overlay_wcc wcc;
	stops_after_link = true;
	assert_int_equal(overlay_link(n->ov, &root, n->o, n->b, "two", NULL, &wcc), 0);
	return NULL;
}

static void a_file_lives_by_the_name_that_came_while_the_other_went(void **state)
{
	char cmd[256], path[128];
	(void)state;
	snprintf(cmd, sizeof cmd, "mkdir %s/a %s/b", upper, upper);
	assert_int_equal(system(cmd), 0);
	struct overlay *ov = open_it(true, 0);
	struct names n = { .ov = ov, .a = look_up(ov, "a"), .b = look_up(ov, "b") };
	int wrong = 0, met = 0;
	for (int i = 0; i < 300; i++) {
		struct overlay_wcc wcc;
		struct overlay_attr attr;
		pthread_t thread;
		assert_int_equal(overlay_create(ov, &root, n.a, "one", CREATE_GUARDED, NULL, NULL, &n.o, &attr, &wcc), 0);
		struct overlay_id id = *overlay_id(n.o);
		assert_int_equal(pthread_create(&thread, NULL, add_name, &n), 0);
		snprintf(path, sizeof path, "%s/b/two", upper);
		while (access(path, F_OK))
			;
		met += !overlay_remove(ov, &root, n.a, "one", &wcc);
		pthread_join(thread, NULL);
		wrong += overlay_getattr(ov, n.o, &attr) == -ESTALE;
		overlay_put(ov, n.o);
		wrong += get(ov, &id) != 0;
		assert_int_equal(overlay_remove(ov, &root, n.b, "two", &wcc), 0);
	}
	if (wrong)
		print_message("%d times of %d the file was called stale, though it has a name\n", wrong, met);
	assert_int_equal(wrong, 0);
	overlay_put(ov, n.a);
	overlay_put(ov, n.b);
	overlay_close(ov);
}

/* ---- its parent changes while it is changed ---- */
static atomic_bool done;

static void *come_and_go(void *arg)
{
	struct names *n = arg;
	struct overlay_wcc wcc, wcc2;
	for (int i = 0; i < COMINGS; i++) {
		struct object *from = i % 2 ? n->b : n->a, *to = i % 2 ? n->a : n->b;
		overlay_link(n->ov, &root, n->o, to, "s", NULL, &wcc);
		overlay_remove(n->ov, &root, from, "s", &wcc2);
	}
	done = true;
	return NULL;
}

/* For the sanitizers: a symlink's change is flushed with its parent. */
static void a_changed_object_may_get_another_parent(void **state)
{
	char cmd[512];
	pthread_t thread;
	struct overlay_setattr set = { .set_uid = true, .uid = geteuid() };
	struct overlay_wcc wcc;
	(void)state;
	snprintf(cmd, sizeof cmd, "mkdir %s/a %s/b; ln -s x %s/a/s", upper, upper, upper);
	assert_int_equal(system(cmd), 0);
	syncs = true;
	struct overlay *ov = open_it(true, 0);
	syncs = false;
	struct names n = { .ov = ov, .a = look_up(ov, "a"), .b = look_up(ov, "b"), .o = look_up(ov, "a/s") };
	done = false;
	assert_int_equal(pthread_create(&thread, NULL, come_and_go, &n), 0);
	while (!done)
		assert_int_equal(overlay_setattr(ov, &root, n.o, &set, NULL, &wcc), 0);
	pthread_join(thread, NULL);
	overlay_put(ov, n.o);
	overlay_put(ov, n.a);
	overlay_put(ov, n.b);
	overlay_close(ov);
}

/* ---- its inode number lives again before the map heard that it went ---- */
static struct names reuse;
static struct overlay_id victim, new_id;

static void *create_other(void *arg)
{
	struct overlay_wcc wcc;
	struct overlay_attr attr;
	struct object *o;
	const struct overlay_id *victim = arg;
	char name[16];
	for (int i = 0; i < 200 && new_id.ino != victim->ino; i++) {
		snprintf(name, sizeof name, "new%d", i);
		if (overlay_create(reuse.ov, &root, reuse.b, name, CREATE_GUARDED, NULL, NULL, &o, &attr, &wcc))
			break;
		new_id = *overlay_id(o);
		overlay_put(reuse.ov, o);
	}
	return NULL;
}

static void let_another_create(void)
{
	pthread_t thread;
	if (!pthread_create(&thread, NULL, create_other, &victim))
		pthread_join(thread, NULL);
}

static void a_reused_inode_number_keeps_its_new_place(void **state)
{
	char cmd[256], name[32];
	struct overlay_wcc wcc;
	struct object *o;
	(void)state;
	snprintf(cmd, sizeof cmd, "cd %s; mkdir -p a/b c; touch a/victim; for i in $(seq 0 199); do echo >c/f$i; done", upper);
	assert_int_equal(system(cmd), 0);
	struct overlay *ov = open_it(true, 16);
	reuse = (struct names){ .ov = ov, .a = look_up(ov, "a"), .b = look_up(ov, "a/b") };
	victim = id_of(ov, "a/victim");
	struct overlay_id none = victim;
	none.ino += 1u << 30;
	assert_int_equal(get(ov, &none), -ESTALE); /* behind a search, the map is complete */
	after_unlink = let_another_create;
	assert_int_equal(overlay_remove(ov, &root, reuse.a, "victim", &wcc), 0);
	after_unlink = NULL;
	if (new_id.ino != victim.ino) {
		print_message("skipped: the file system did not reuse the inode's number\n");
		skip();
	}
	struct object *c = look_up(ov, "c");
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 200; i++) {
			snprintf(name, sizeof name, "f%d", i);
			assert_int_equal(overlay_lookup(ov, &root, c, name, &o, NULL), 0);
			overlay_put(ov, o);
		}
	assert_int_equal(get(ov, &new_id), 0);
	assert_int_equal(get(ov, &victim), -ESTALE);
	overlay_put(ov, c);
	overlay_put(ov, reuse.a);
	overlay_put(ov, reuse.b);
	overlay_close(ov);
}

static void a_directory_that_may_not_be_read_hides_no_other(void **state)
{
	char cmd[512], path[32];
	struct overlay_id ids[10], none;
	(void)state;
	if (geteuid()) {
		print_message("skipped: it takes root\n");
		skip();
	}
	snprintf(cmd, sizeof cmd, "chmod 755 %s; cd %s; mkdir d0 d1 d2 d3 d4 d5 d6 d7 d8 d9; for d in d*; do echo >$d/f; done; mkdir -m 700 secret; chown 65534 %s", top, lower,
		 upper);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(seteuid(65534), 0);
	struct overlay *ov = open_it(true, 0);
	for (int i = 0; i < 10; i++) {
		snprintf(path, sizeof path, "d%d/f", i);
		ids[i] = id_of(ov, path);
	}
	overlay_close(ov);
	snprintf(cmd, sizeof cmd, "%s/.overnfsd/overnfsd/map.mdb", upper);
	assert_int_equal(unlink(cmd), 0);
	ov = open_it(true, 0);
	int wrong = 0;
	for (int i = 0; i < 10; i++)
		wrong += get(ov, &ids[i]) != 0;
	none = ids[0];
	none.ino += 1u << 30;
	int gone = get(ov, &none);
	overlay_close(ov);
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(wrong, 0);
	assert_int_equal(gone, -ESTALE);
}

/* ---- who it is can't be told just then ---- */
static void write_origin(const char *of, const char *on)
{
	uint8_t fb[21 + 128] = { [1] = 0xfb };
	union {
		struct file_handle fh;
		uint8_t space[sizeof(struct file_handle) + 128];
	} u = { .fh.handle_bytes = 128 };
	int mount_id;
	assert_int_equal(name_to_handle_at(AT_FDCWD, of, &u.fh, &mount_id, 0), 0);
	fb[2] = (uint8_t)(21 + u.fh.handle_bytes); /* struct ovl_fb, fs/overlayfs/overlayfs.h; no uuid */
	fb[4] = (uint8_t)u.fh.handle_type;
	memcpy(fb + 21, u.fh.f_handle, u.fh.handle_bytes);
	assert_int_equal(lsetxattr(on, "trusted.overlay.origin", fb, fb[2], 0), 0);
}

static void what_linux_copied_up_is_no_other_for_want_of_descriptors(void **state)
{
	char cmd[256], of[128], on[128];
	struct object *o, *dir;
	(void)state;
	if (geteuid()) {
		print_message("skipped: it takes root\n");
		skip(); /* trusted.*, and open_by_handle_at() */
	}
	snprintf(cmd, sizeof cmd, "cd %s; echo 1 >before; echo 1 >../upper/now", lower);
	assert_int_equal(system(cmd), 0);
	snprintf(of, sizeof of, "%s/before", lower);
	snprintf(on, sizeof on, "%s/now", upper);
	write_origin(of, on);
	struct overlay *ov = open_it(true, 0);
	struct overlay_id id = id_of(ov, "now");
	overlay_close(ov);
	ov = open_it(true, 0);
	dir = overlay_root(ov);
	no_descriptor = true;
	int rc = overlay_lookup(ov, &root, dir, "now", &o, NULL);
	no_descriptor = false;
	if (!rc) {
		print_message("found as %u/%ju, it was %u/%ju\n", overlay_id(o)->layer, (uintmax_t)overlay_id(o)->ino, id.layer, (uintmax_t)id.ino);
		assert_true(same(overlay_id(o), &id));
		overlay_put(ov, o);
	}
	assert_int_equal(get(ov, &id), 0);
	struct overlay_id again = id_of(ov, "now");
	assert_true(same(&again, &id));
	overlay_put(ov, dir);
	overlay_close(ov);
}

/* ---- a search meets what can't be read just then ---- */
static void *mend(void *arg)
{
	usleep(500000);
	broken = NULL;
	return arg;
}

static void what_a_search_could_not_read_is_not_gone(void **state)
{
	char cmd[256];
	(void)state;
	snprintf(cmd, sizeof cmd, "cd %s; mkdir good bad; echo >good/f; echo >bad/f", lower);
	assert_int_equal(system(cmd), 0);
	struct overlay *ov = open_it(true, 0);
	struct overlay_id good = id_of(ov, "good/f"), bad = id_of(ov, "bad/f"), none;
	overlay_close(ov);
	snprintf(cmd, sizeof cmd, "rm %s/.overnfsd/overnfsd/map.mdb*", upper);
	assert_int_equal(system(cmd), 0);
	ov = open_it(true, 0);
	pthread_t thread;
	broken = "bad";
	assert_int_equal(get(ov, &good), 0);
	assert_int_equal(pthread_create(&thread, NULL, mend, NULL), 0);
	int rc = get(ov, &bad);
	pthread_join(thread, NULL);
	assert_int_equal(rc, 0);
	none = bad;
	none.ino += 1u << 30;
	assert_int_equal(get(ov, &none), -ESTALE); /* and there is an end of it */
	overlay_close(ov);
}

/* Where a file system tells no generations, an upper inode's next life may be noted before the last is forgotten. */
static void an_identity_that_is_forgotten_late_leaves_the_next(void **state)
{
	struct identity *identity;
	struct overlay_id old = { .layer = 1, .ino = 7, .gen = 1 }, new = { .layer = 1, .ino = 7, .gen = 2 }, found;
	int fd = open(top, O_RDONLY | O_DIRECTORY);
	(void)state;
	assert_int_equal(identity_open(fd, true, NULL, &identity), 0);
	assert_int_equal(identity_put_origin(identity, 7, 0, &old), 0);
	assert_int_equal(identity_put_origin(identity, 7, 0, &new), 0);
	identity_forget(identity, &old);
	assert_int_equal(identity_get_origin(identity, 7, 0, &found), 0);
	assert_true(same(&found, &new));
	identity_forget(identity, &new);
	assert_int_equal(identity_get_origin(identity, 7, 0, &found), -ENOENT);
	identity_close(identity);
	close(fd);
}

int main(void)
{
	umask(0);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_a_search_found_is_not_gone_when_it_left_the_table, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_lives_by_the_name_that_came_while_the_other_went, setup, teardown),
		cmocka_unit_test_setup_teardown(a_changed_object_may_get_another_parent, setup, teardown),
		cmocka_unit_test_setup_teardown(an_identity_that_is_forgotten_late_leaves_the_next, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reused_inode_number_keeps_its_new_place, setup, teardown),
		cmocka_unit_test_setup_teardown(what_a_search_could_not_read_is_not_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(a_directory_that_may_not_be_read_hides_no_other, setup, teardown),
		cmocka_unit_test_setup_teardown(what_linux_copied_up_is_no_other_for_want_of_descriptors, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
