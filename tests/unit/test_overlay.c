/* The engine by itself: what a merged tree shows, and what changes leave on disk. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/fsverity.h>
#include <lmdb.h>

#include "../../overlay/internal.h" /* whether a lock is held is nobody else's business */

struct stack {
	char dir[64], upper[96], lower1[96], lower2[96], work[96];
	const char *data; /* a data-only lower, or NULL */
	void (*before_block)(void); /* given, changes are synchronous */
	bool userxattr;
	size_t max_fds;
	const uint8_t *key; /* as with --key-file, or NULL */
	struct overlay *ov;
	struct object *root;
};

static const struct overlay_cred root_cred;

/* What the engine calls passes here, to be looked at or to fail. */
static const char *locked; /* whether this directory is, when LMDB's files are closed */
static int closed_unlocked, closed_locked;

void mdb_env_close(MDB_env *env)
{
	int fd = locked ? open(locked, O_RDONLY | O_DIRECTORY) : -1;
	if (fd >= 0) {
		++*(flock(fd, LOCK_EX | LOCK_NB) ? &closed_locked : &closed_unlocked);
		close(fd);
	}
	((void (*)(MDB_env *))dlsym(RTLD_NEXT, "mdb_env_close"))(env);
}

static const char *unlucky; /* finds no descriptor left */

int openat(int dir, const char *name, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (unlucky && !strcmp(name, unlucky)) {
		errno = EMFILE;
		return -1;
	}
	return ((int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64"))(dir, name, flags, mode);
}

static struct overlay *renaming; /* counts what is removed while nobody else can do anything */
static int removed_under_lock;

int unlinkat(int dir, const char *name, int flags)
{
	if (renaming && pthread_rwlock_tryrdlock(&renaming->rename_lock))
		removed_under_lock++;
	else if (renaming)
		pthread_rwlock_unlock(&renaming->rename_lock);
	return ((int (*)(int, const char *, int))dlsym(RTLD_NEXT, "unlinkat"))(dir, name, flags);
}

static const char *no_memory_for; /* the name that finds none, this many copies of it from now */
static int copies_left;

char *strdup(const char *s)
{
	if (no_memory_for && !strcmp(s, no_memory_for) && !copies_left--) {
		errno = ENOMEM;
		return NULL;
	}
	return ((char *(*)(const char *))dlsym(RTLD_NEXT, "strdup"))(s);
}

static bool no_handle; /* there is no memory for any */

int name_to_handle_at(int dir, const char *name, struct file_handle *handle, int *mount, int flags)
{
	if (no_handle) {
		errno = ENOMEM;
		return -1;
	}
	return ((int (*)(int, const char *, struct file_handle *, int *, int))dlsym(RTLD_NEXT, "name_to_handle_at"))(dir, name, handle, mount, flags);
}

static bool other_digest; /* fs-verity measures all files, and it is none that they should have */

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if (!other_digest || request != FS_IOC_MEASURE_VERITY)
		return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(fd, request, arg);
	struct fsverity_digest *digest = arg;
	digest->digest_algorithm = FS_VERITY_HASH_ALG_SHA256;
	digest->digest_size = 32;
	memset(digest->digest, 1, 32);
	return 0;
}

static bool key_is_unreadable; /* that of the handles, in the file of identities */

int mdb_get(MDB_txn *txn, MDB_dbi table, MDB_val *key, MDB_val *data)
{
	if (key_is_unreadable && key->mv_size == 7 && !memcmp(key->mv_data, "handles", 7))
		return EIO;
	return ((int (*)(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *))dlsym(RTLD_NEXT, "mdb_get"))(txn, table, key, data);
}

static void sh(const char *dir, const char *script)
{
	char cmd[4096];
	snprintf(cmd, sizeof cmd, "set -e; cd %s; %s", dir, script);
	assert_int_equal(system(cmd), 0);
}

static int try_to_start(struct stack *s, char *err, size_t errlen)
{
	const char *lowers[] = { s->lower1, s->lower2 };
	struct overlay_config c = { .lowers = lowers, .nlowers = 2, .upper = s->upper, .work = s->work, .name = "/overlay",
				    .data_lowers = &s->data, .ndata_lowers = s->data ? 1 : 0, .sync = s->before_block, .before_block = s->before_block,
				    .userxattr = s->userxattr, .key = s->key, .max_fds = s->max_fds };
	return overlay_open(&c, &s->ov, err, errlen);
}

static void start(struct stack *s)
{
	char err[256] = "";
	if (try_to_start(s, err, sizeof err))
		fail_msg("overlay_open: %s", err);
	s->root = overlay_root(s->ov);
}

static void stop(struct stack *s)
{
	overlay_put(s->ov, s->root);
	overlay_close(s->ov);
}

static int setup(void **state)
{
	struct stack *s = calloc(1, sizeof *s);
	strcpy(s->dir, "/tmp/overnfsd-unit-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->upper, sizeof s->upper, "%s/upper", s->dir);
	snprintf(s->lower1, sizeof s->lower1, "%s/lower1", s->dir);
	snprintf(s->lower2, sizeof s->lower2, "%s/lower2", s->dir);
	snprintf(s->work, sizeof s->work, "%s/work", s->dir);
	sh(s->dir, "mkdir upper lower1 lower2 work lower1/both lower2/both lower2/deep lower2/deep/er; echo one >lower1/both/a;"
		   "echo two >lower2/both/b; echo hidden >lower2/both/a; echo low >lower2/file; ln lower2/file lower2/alias;"
		   "ln -s target lower2/link; mkfifo lower2/fifo; echo x >lower2/deep/er/x");
	start(s);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct stack *s = *state;
	stop(s);
	sh("/tmp", "true");
	char cmd[128];
	snprintf(cmd, sizeof cmd, "rm -rf %s", s->dir);
	assert_int_equal(system(cmd), 0);
	free(s);
	return 0;
}

static struct object *at(struct stack *s, const char *path)
{
	char copy[256], *save = NULL;
	struct object *o = overlay_root(s->ov);
	strcpy(copy, path);
	for (char *n = strtok_r(copy, "/", &save); n; n = strtok_r(NULL, "/", &save)) {
		struct object *child;
		int rc = overlay_lookup(s->ov, &root_cred, o, n, &child, NULL);
		overlay_put(s->ov, o);
		if (rc)
			return NULL;
		o = child;
	}
	return o;
}

static bool exists(struct stack *s, const char *path)
{
	struct object *o = at(s, path);
	overlay_put(s->ov, o);
	return o;
}

static void shows(struct stack *s, const char *path, const char *text)
{
	char buf[256];
	size_t got;
	bool eof;
	struct object *o = at(s, path);
	assert_non_null(o);
	assert_int_equal(overlay_read(s->ov, &root_cred, o, 0, buf, sizeof buf, &got, &eof, NULL), 0);
	assert_true(eof);
	assert_int_equal(got, strlen(text));
	assert_memory_equal(buf, text, got);
	overlay_put(s->ov, o);
}

static void write_at(struct stack *s, const char *path, const char *text)
{
	struct overlay_wcc wcc;
	struct object *o = at(s, path);
	assert_non_null(o);
	assert_int_equal(overlay_write(s->ov, &root_cred, o, 0, text, strlen(text), true, &wcc), 0);
	assert_true(wcc.have_before && wcc.have_after);
	overlay_put(s->ov, o);
}

struct names {
	char all[4096];
	int n;
};

static bool collect(void *arg, const struct overlay_entry *e, struct object *o, const struct overlay_attr *attr)
{
	struct names *n = arg;
	(void)o, (void)attr;
	strcat(strcat(n->all, e->name), " ");
	n->n++;
	return true;
}

static int list(struct stack *s, const char *path, struct names *n)
{
	bool eof;
	struct object *o = at(s, path);
	memset(n, 0, sizeof *n);
	int rc = overlay_readdir(s->ov, &root_cred, o, 0, true, collect, n, &eof);
	overlay_put(s->ov, o);
	assert_int_equal(rc, 0);
	assert_true(eof);
	return n->n;
}

static void the_topmost_layer_with_a_name_wins(void **state)
{
	struct names n;
	shows(*state, "both/a", "one\n");
	shows(*state, "both/b", "two\n");
	assert_int_equal(list(*state, "both", &n), 4);
}

static void a_write_copies_up_and_keeps_the_object(void **state)
{
	struct stack *s = *state;
	struct object *o = at(s, "deep/er/x");
	struct overlay_id before = *overlay_id(o);
	write_at(s, "deep/er/x", "changed");
	shows(s, "deep/er/x", "changed");
	overlay_put(s->ov, o);
	stop(s);
	start(s);
	o = at(s, "deep/er/x");
	assert_memory_equal(&before.ino, &overlay_id(o)->ino, 8);
	assert_int_equal(before.layer, overlay_id(o)->layer);
	overlay_put(s->ov, o);
	sh(s->dir, "test \"$(cat lower2/deep/er/x)\" = x; test \"$(cat upper/deep/er/x)\" = changed");
}

static void removing_a_lower_file_leaves_a_whiteout(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc wcc;
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, "link", &wcc), 0);
	assert_false(exists(s, "link"));
	sh(s->dir, "test -c upper/link; test -L lower2/link");
}

static void removing_an_upper_file_leaves_nothing(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc wcc;
	struct overlay_attr a;
	struct object *o;
	assert_int_equal(overlay_create(s->ov, &root_cred, s->root, "new", CREATE_GUARDED, NULL, NULL, &o, &a, &wcc), 0);
	overlay_put(s->ov, o);
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, "new", &wcc), 0);
	sh(s->dir, "test ! -e upper/new; test -z \"$(ls -A work/work)\"");
}

static void a_new_directory_over_a_removed_one_is_opaque(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc wcc;
	struct overlay_attr a;
	struct object *o, *both = at(s, "both");
	struct names n;
	assert_int_equal(overlay_rmdir(s->ov, &root_cred, s->root, "both", &wcc), -ENOTEMPTY);
	assert_int_equal(overlay_remove(s->ov, &root_cred, both, "a", &wcc), 0);
	assert_int_equal(overlay_remove(s->ov, &root_cred, both, "b", &wcc), 0);
	overlay_put(s->ov, both);
	assert_int_equal(overlay_rmdir(s->ov, &root_cred, s->root, "both", &wcc), 0);
	sh(s->dir, "test -c upper/both");
	assert_int_equal(overlay_mkdir(s->ov, &root_cred, s->root, "both", NULL, &o, &a, &wcc), 0);
	overlay_put(s->ov, o);
	assert_int_equal(list(s, "both", &n), 2);
	sh(s->dir, "test -d upper/both; test -z \"$(ls -A work/work)\"");
}

static void a_directory_of_the_upper_goes_with_its_whiteouts_alone(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc wcc;
	sh(s->dir, "mkdir upper/full upper/hollow; echo x >upper/full/x");
	char whiteout[128];
	snprintf(whiteout, sizeof whiteout, "%s/hollow/gone", s->upper);
	bool hollow = !mknod(whiteout, S_IFCHR, 0); /* as a lower layer that was taken out leaves it */
	if (!hollow)
		print_message("skipped: no right to make a whiteout here\n");
	assert_int_equal(overlay_rmdir(s->ov, &root_cred, s->root, "full", &wcc), -ENOTEMPTY);
	sh(s->dir, "test -f upper/full/x");
	sh(s->dir, "rm upper/full/x");
	assert_int_equal(overlay_rmdir(s->ov, &root_cred, s->root, "full", &wcc), 0);
	assert_int_equal(overlay_rmdir(s->ov, &root_cred, s->root, "hollow", &wcc), 0);
	sh(s->dir, "test ! -e upper/full && test ! -e upper/hollow");
}

static void whiteouts_that_a_rename_goes_over_stop_nobody(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc wcc, to;
	struct overlay_attr a;
	struct object *o, *dir;
	stop(s);
	sh(s->dir, "mkdir lower2/many; cd lower2/many; for i in $(seq 50); do echo x >$i; done; chmod 751 .");
	start(s);
	dir = at(s, "many");
	for (int i = 1; i <= 50; i++) {
		char name[8];
		snprintf(name, sizeof name, "%d", i);
		assert_int_equal(overlay_remove(s->ov, &root_cred, dir, name, &wcc), 0);
	}
	assert_int_equal(overlay_mkdir(s->ov, &root_cred, s->root, "new", NULL, &o, &a, &wcc), 0);
	struct overlay_id id = *overlay_id(o);
	overlay_put(s->ov, o);
	removed_under_lock = 0;
	renaming = s->ov;
	assert_int_equal(overlay_rename(s->ov, &root_cred, s->root, "new", s->root, "many", &wcc, &to), 0);
	renaming = NULL;
	assert_true(removed_under_lock < 10);
	assert_int_equal(overlay_getattr(s->ov, dir, &a), -ESTALE);
	overlay_put(s->ov, dir);
	for (int restarted = 0; restarted < 2; restarted++) {
		o = at(s, "many");
		assert_true(same_id(overlay_id(o), &id));
		overlay_put(s->ov, o);
		assert_false(exists(s, "many/1"));
		sh(s->dir, "test -z \"$(find work/work upper/many -mindepth 1)\"");
		stop(s);
		start(s);
	}
}

/* Made behind the server's back, with all xattrs: Linux's origin too. */
static void a_copy_inside_the_upper_is_a_file_of_its_own(void **state)
{
	static const char *const names[] = { "both/b", "both/c", "dup/b", "dup/c" };
	struct stack *s = *state;
	struct overlay_id ids[4];
	write_at(s, "both/b", "up");
	struct object *o = at(s, "both/b");
	struct overlay_id id = *overlay_id(o);
	overlay_put(s->ov, o);
	stop(s);
	sh(s->dir, "cp -a upper/both/b upper/both/c; echo other >upper/both/c; cp -a upper/both upper/dup");
	start(s);
	shows(s, "both/b", "upo\n");
	shows(s, "both/c", "other\n");
	for (size_t i = 0; i < 4; i++) {
		o = at(s, names[i]);
		ids[i] = *overlay_id(o);
		overlay_put(s->ov, o);
		for (size_t j = 0; j < i; j++)
			assert_false(same_id(&ids[i], &ids[j]));
	}
	assert_true(same_id(&ids[0], &id));
	stop(s);
	sh(s->dir, "rm -r upper/dup; cp -a upper/both old; rm -r upper/both; cp -a old upper/both"); /* put back, the file is what it was */
	start(s);
	o = at(s, "both/b");
	assert_true(same_id(overlay_id(o), &id));
	overlay_put(s->ov, o);
}

/* And then the upper was copied too: both carry one identity, and the inode of neither. */
static void two_files_with_one_identity_part(void **state)
{
	struct stack *s = *state;
	struct overlay_id ids[2];
	write_at(s, "both/b", "up");
	stop(s);
	sh(s->dir, "cp -a upper/both/b upper/both/c; echo other >upper/both/c; cp -a upper copy; rm -r upper; mv copy upper");
	for (int i = 0; i < 4; i++) {
		const char *name[] = { i % 2 ? "both/c" : "both/b", i % 2 ? "both/b" : "both/c" };
		start(s);
		for (int j = 0; j < 2; j++) {
			int which = strcmp(name[j], "both/b") != 0;
			struct object *o = at(s, name[j]);
			shows(s, name[j], which ? "other\n" : "upo\n");
			if (!i)
				ids[which] = *overlay_id(o);
			assert_true(same_id(overlay_id(o), &ids[which]));
			overlay_put(s->ov, o);
		}
		assert_false(same_id(&ids[0], &ids[1]));
		stop(s);
	}
	start(s);
}

/* In the upper alone, and over the whiteout of what a lower had. */
static void what_could_not_be_made_is_not_there(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc wcc;
	struct overlay_attr attr;
	struct object *dir, *o;
	assert_int_equal(overlay_mkdir(s->ov, &root_cred, s->root, "up", NULL, &o, &attr, &wcc), 0);
	overlay_put(s->ov, o);
	dir = at(s, "both");
	assert_int_equal(overlay_remove(s->ov, &root_cred, dir, "a", &wcc), 0);
	overlay_put(s->ov, dir);
	for (int i = 0; i < 8; i++) {
		bool is_dir = i & 2, again = i & 1;
		dir = at(s, i & 4 ? "both" : "up");
		no_handle = !again;
		int rc = is_dir ? overlay_mkdir(s->ov, &root_cred, dir, "a", NULL, &o, &attr, &wcc) :
				  overlay_create(s->ov, &root_cred, dir, "a", CREATE_GUARDED, NULL, NULL, &o, &attr, &wcc);
		no_handle = false;
		assert_int_equal(rc, again ? 0 : -ENOMEM);
		overlay_put(s->ov, again ? o : NULL);
		if (again)
			assert_int_equal((is_dir ? overlay_rmdir : overlay_remove)(s->ov, &root_cred, dir, "a", &wcc), 0);
		assert_false(exists(s, i & 4 ? "both/a" : "up/a"));
		overlay_put(s->ov, dir);
	}
}

static void renaming_a_lower_directory_leaves_a_redirect(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc a, b;
	struct object *x = at(s, "deep/er/x");
	struct overlay_attr before, after;
	assert_int_equal(overlay_getattr(s->ov, x, &before), 0);
	assert_int_equal(overlay_rename(s->ov, &root_cred, s->root, "deep", s->root, "moved", &a, &b), 0);
	assert_false(exists(s, "deep"));
	shows(s, "moved/er/x", "x\n");
	assert_int_equal(overlay_getattr(s->ov, x, &after), 0);
	assert_int_equal(before.fileid, after.fileid);
	overlay_put(s->ov, x);
	sh(s->dir, "test -c upper/deep; test -d upper/moved");
	stop(s);
	start(s);
	assert_false(exists(s, "deep"));
	shows(s, "moved/er/x", "x\n");
}

static int move(struct stack *s, struct object *dir, const char *from, const char *to)
{
	struct overlay_wcc w1, w2;
	return overlay_rename(s->ov, &root_cred, dir, from, dir, to, &w1, &w2);
}

/* Nobody asked for the new name since the start, so that it is not in memory. */
static void what_stands_below_comes_along_with_any_rename(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc w1, w2;
	struct overlay_attr a;
	struct object *o;
	stop(s);
	s->max_fds = 1; /* what a descriptor is kept for would be found all the same */
	start(s);
	for (int n = 0; n < 6; n++) {
		assert_int_equal(overlay_mkdir(s->ov, &root_cred, s->root, "dir", NULL, &o, &a, &w1), 0);
		overlay_put(s->ov, o);
		struct object *dir = at(s, "dir"), *child, *again;
		assert_int_equal(overlay_create(s->ov, &root_cred, dir, "child", CREATE_GUARDED, NULL, NULL, &child, &a, &w1), 0);
		assert_int_equal(overlay_write(s->ov, &root_cred, child, 0, "x", 1, false, &w1), 0);
		no_memory_for = "moved";
		copies_left = n;
		int rc = overlay_rename(s->ov, &root_cred, s->root, "dir", s->root, "moved", &w1, &w2);
		no_memory_for = NULL;
		assert_true(!rc || rc == -ENOMEM);
		const char *name = rc ? "dir" : "moved";
		again = at(s, name); /* it is the same */
		assert_ptr_equal(again, dir);
		overlay_put(s->ov, again);
		assert_int_equal(overlay_rename(s->ov, &root_cred, s->root, name, s->root, "further", &w1, &w2), 0);
		shows(s, "deep/er/x", "x\n"); /* its descriptors take the place of all others */
		struct overlay_setattr set = { .set_mode = true, .mode = 0600 };
		assert_int_equal(overlay_setattr(s->ov, &root_cred, child, &set, NULL, &w1), 0);
		overlay_put(s->ov, child);
		assert_int_equal(overlay_remove(s->ov, &root_cred, dir, "child", &w1), 0);
		overlay_put(s->ov, dir);
		assert_int_equal(overlay_rmdir(s->ov, &root_cred, s->root, "further", &w1), 0);
	}
}

static void a_rename_sees_what_stands_under_the_new_name_though_nobody_looked(void **state)
{
	struct stack *s = *state;
	stop(s);
	sh(s->upper, "mkdir d d/dir; echo file >d/file; echo moved >d/a; mknod d/hidden c 0 0 2>/dev/null || true");
	start(s);
	struct object *dir = at(s, "d"), *a = at(s, "d/a");
	struct overlay_id id = *overlay_id(a);
	assert_int_equal(move(s, dir, "a", "dir"), -EISDIR);
	assert_int_equal(move(s, dir, "a", "file"), 0);
	shows(s, "d/file", "moved\n");
	assert_false(exists(s, "d/a"));
	assert_int_equal(move(s, dir, "file", "hidden"), 0); /* over a whiteout that hides nothing */
	shows(s, "d/hidden", "moved\n");
	struct object *b = at(s, "d/hidden");
	assert_true(same_id(overlay_id(b), &id));
	overlay_put(s->ov, b);
	overlay_put(s->ov, a);
	overlay_put(s->ov, dir);
}

/* As lowers leave it that were changed while nobody served them. */
static void a_redirect_that_leads_nowhere_leads_nowhere_from_elsewhere(void **state)
{
	struct stack *s = *state;
	if (geteuid()) {
		print_message("skipped: it takes root\n");
		skip();
	}
	stop(s);
	sh(s->dir, "mkdir upper/d lower2/both/gone; touch lower2/both/gone/x upper/d/own; setfattr -n trusted.overlay.redirect -v gone upper/d");
	start(s);
	struct object *both = at(s, "both");
	struct overlay_wcc from, to;
	assert_false(exists(s, "d/x"));
	assert_int_equal(overlay_rename(s->ov, &root_cred, s->root, "d", both, "d", &from, &to), 0);
	overlay_put(s->ov, both);
	stop(s);
	start(s);
	assert_true(exists(s, "both/d/own"));
	assert_false(exists(s, "both/d/x"));
}

/* As Linux leaves it, which writes no identity. Its layer is found by a list of all files: deeper than there are descriptors. */
static void what_linux_moved_is_found_below_a_deep_tree(void **state)
{
	struct stack *s = *state;
	struct rlimit old, few;
	struct object *o;
	if (geteuid()) {
		print_message("skipped: it takes root\n");
		skip();
	}
	struct object *x = at(s, "deep/er/x");
	struct overlay_id id = *overlay_id(x);
	overlay_put(s->ov, x);
	write_at(s, "deep/er/x", "moved");
	stop(s);
	sh(s->dir, "mv upper/deep/er/x upper/moved; setfattr -x trusted.overlay.overnfsd upper/moved; mknod upper/deep/er/x c 0 0;"
		   "cd lower2; for i in $(seq 150); do mkdir d; cd d; done");
	start(s);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = (struct rlimit){ 100, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	int rc = overlay_lookup(s->ov, &root_cred, s->root, "moved", &o, NULL);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(rc, 0);
	assert_true(same_id(overlay_id(o), &id));
	overlay_put(s->ov, o);
}

static void names_of_a_linked_lower_file_stay_one_object(void **state)
{
	struct stack *s = *state;
	struct overlay_attr a;
	write_at(s, "file", "new");
	shows(s, "alias", "new\n");
	struct object *o = at(s, "alias");
	assert_int_equal(overlay_getattr(s->ov, o, &a), 0);
	assert_int_equal(a.nlink, 2);
	overlay_put(s->ov, o);
	struct overlay_wcc wcc;
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, "file", &wcc), 0);
	o = at(s, "alias");
	assert_non_null(o);
	assert_int_equal(overlay_getattr(s->ov, o, &a), 0);
	assert_int_equal(a.nlink, 1);
	overlay_put(s->ov, o);
	shows(s, "alias", "new\n");
	stop(s);
	start(s);
	shows(s, "alias", "new\n");
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, "alias", &wcc), 0);
	assert_false(exists(s, "alias"));
}

/* Until then its two names would be two files with one identity. */
static void a_linked_file_is_copied_up_when_it_can_be_linked_in_the_index(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc wcc;
	struct object *o = at(s, "file");
	sh(s->dir, "echo in the way >work/index");
	assert_int_equal(overlay_write(s->ov, &root_cred, o, 0, "new", 3, WRITE_UNSTABLE, &wcc), -ENOTDIR);
	sh(s->dir, "test ! -e upper/file; test -z \"$(ls work/work)\"; rm work/index");
	assert_int_equal(overlay_write(s->ov, &root_cred, o, 0, "new", 3, WRITE_UNSTABLE, &wcc), 0);
	overlay_put(s->ov, o);
	stop(s);
	start(s);
	shows(s, "alias", "new\n");
	shows(s, "file", "new\n");
}

static int change(struct stack *s, const char *path, uint64_t offset, const char *text)
{
	struct overlay_wcc wcc;
	struct object *o = at(s, path);
	int rc = overlay_write(s->ov, &root_cred, o, offset, text, strlen(text), WRITE_UNSTABLE, &wcc);
	overlay_put(s->ov, o);
	return rc;
}

static void starts_with(struct stack *s, const char *path, const char *text)
{
	char buf[16];
	size_t got;
	bool eof;
	struct object *o = at(s, path);
	assert_int_equal(overlay_read(s->ov, &root_cred, o, 0, buf, strlen(text), &got, &eof, NULL), 0);
	assert_int_equal(got, strlen(text));
	assert_memory_equal(buf, text, got);
	overlay_put(s->ov, o);
}

/* As deduplicated layers do. More than a metacopy is made for. */
static void a_file_that_two_layers_share_by_links_has_a_copy_for_each(void **state)
{
	struct stack *s = *state;
	struct overlay_setattr mode = { .set_mode = true, .mode = 0600 };
	struct overlay_wcc wcc;
	stop(s);
	sh(s->dir, "head -c 200000 /dev/zero | tr '\\0' = >lower2/b; for n in lower2/b2 lower1/a lower1/a2; do ln lower2/b $n; done");
	start(s);
	struct object *a = at(s, "a"), *b = at(s, "b");
	struct overlay_id id = *overlay_id(b);
	assert_int_not_equal(overlay_id(a)->layer, id.layer);
	assert_int_equal(overlay_setattr(s->ov, &root_cred, a, &mode, NULL, &wcc), 0);
	assert_int_equal(overlay_setattr(s->ov, &root_cred, b, &mode, NULL, &wcc), 0);
	overlay_put(s->ov, a);
	overlay_put(s->ov, b);
	assert_int_equal(change(s, "a", 0, "one"), 0);
	assert_int_equal(change(s, "b2", 1000, "two"), 0);
	for (int restarted = 0; restarted < 2; restarted++) {
		starts_with(s, "b", "===");
		starts_with(s, "a2", "one");
		starts_with(s, "a", "one");
		b = at(s, "b2");
		assert_true(same_id(overlay_id(b), &id));
		overlay_put(s->ov, b);
		stop(s);
		start(s);
	}
	char lower1[sizeof s->lower1];
	strcpy(lower1, s->lower1);
	strcat(s->lower1, ".other");
	static const char untie[] = "setfattr -x trusted.overlay.origin upper 2>/dev/null || setfattr -x user.overlay.origin upper";
	sh(s->dir, "mkdir lower1.other; ln lower2/b lower2/b3"); /* the other layer is taken out; a name that nobody asked for yet */
	stop(s);
	sh(s->dir, untie);
	start(s);
	starts_with(s, "b3", "===");
	stop(s);
	sh(s->dir, untie);
	strcpy(s->lower1, lower1);
	start(s);
	sh(s->dir, "rm work/index/$(find work/index -samefile upper/a -printf %f) upper/a"); /* b's keeps the name that it took beside */
	stop(s);
	start(s);
	assert_int_equal(change(s, "b", 0, "two"), 0);
	starts_with(s, "b2", "two");
	starts_with(s, "a", "===");
}

static uint32_t names_of(struct stack *s, const char *path)
{
	struct overlay_attr a;
	struct object *o = at(s, path);
	assert_non_null(o);
	assert_int_equal(overlay_getattr(s->ov, o, &a), 0);
	overlay_put(s->ov, o);
	return a.nlink;
}

/* user.* can't stand on what is neither a file nor a directory: neither the origin nor the count. */
static void linked_names_of_what_holds_no_xattr_are_one_object(void **state)
{
	struct stack *s = *state;
	struct overlay_setattr mode = { .set_mode = true, .mode = 0600 };
	struct overlay_wcc wcc, to;
	stop(s);
	sh(s->dir, "ln -P lower2/link lower2/link2; ln -P lower2/link lower2/link3; ln lower2/fifo lower2/fifo2; ln lower2/fifo lower2/fifo3");
	s->userxattr = true;
	start(s);
	struct object *o = at(s, "fifo");
	struct overlay_id id = *overlay_id(o);
	assert_int_equal(overlay_setattr(s->ov, &root_cred, o, &mode, NULL, &wcc), 0);
	overlay_put(s->ov, o);
	assert_int_equal(overlay_rename(s->ov, &root_cred, s->root, "fifo", s->root, "moved", &wcc, &to), 0);
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, "link", &wcc), 0);
	for (int restarted = 0; restarted < 2; restarted++) {
		assert_int_equal(names_of(s, "link2"), 2);
		assert_int_equal(names_of(s, "moved"), 3);
		assert_int_equal(names_of(s, "fifo3"), 3);
		o = at(s, "fifo2");
		assert_true(same_id(overlay_id(o), &id));
		struct overlay_attr a;
		assert_int_equal(overlay_getattr(s->ov, o, &a), 0);
		assert_int_equal(a.mode & 07777, 0600);
		overlay_put(s->ov, o);
		stop(s);
		start(s);
	}
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, "link3", &wcc), 0);
	assert_int_equal(names_of(s, "link2"), 1);
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, "link2", &wcc), 0);
	static const char *const fifos[] = { "fifo3", "moved", "fifo2" };
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, fifos[i], &wcc), 0);
	sh(s->dir, "test -z \"$(ls -A work/index)$(ls -A work/work)\"");
}

/* Where the count is all that is kept. */
static void a_count_of_links_is_found_with_a_key_from_elsewhere(void **state)
{
	static const uint8_t key[16] = "of another place";
	struct stack *s = *state;
	struct overlay_wcc wcc;
	stop(s);
	sh(s->dir, "rm -r work upper; mkdir work upper; ln lower2/fifo lower2/fifo2; ln lower2/fifo lower2/fifo3");
	s->userxattr = true;
	s->key = key;
	start(s);
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, "fifo", &wcc), 0);
	assert_int_equal(names_of(s, "fifo2"), 2);
	stop(s);
	start(s);
	assert_int_equal(names_of(s, "fifo2"), 2);
	assert_int_equal(names_of(s, "fifo3"), 2);
	s->key = NULL;
}

static void an_upper_hard_link_survives_the_removal_of_its_first_name(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc wcc;
	struct overlay_attr a;
	struct object *o, *other;
	assert_int_equal(overlay_create(s->ov, &root_cred, s->root, "n1", CREATE_GUARDED, NULL, NULL, &o, &a, &wcc), 0);
	assert_int_equal(overlay_link(s->ov, &root_cred, o, s->root, "n2", &a, &wcc), 0);
	assert_int_equal(a.nlink, 2);
	assert_int_equal(overlay_remove(s->ov, &root_cred, s->root, "n1", &wcc), 0);
	assert_false(exists(s, "n1"));
	other = at(s, "n2");
	assert_non_null(other);
	assert_int_equal(overlay_id(other)->ino, overlay_id(o)->ino);
	overlay_put(s->ov, other);
	overlay_put(s->ov, o);
	write_at(s, "n2", "text");
	shows(s, "n2", "text");
}

static void a_handle_finds_its_object_without_any_map(void **state)
{
	struct stack *s = *state;
	struct object *o = at(s, "deep/er/x"), *again;
	struct overlay_id id = *overlay_id(o);
	overlay_put(s->ov, o);
	stop(s);
	start(s);
	assert_int_equal(overlay_get(s->ov, &id, &again), 0);
	assert_int_equal(overlay_id(again)->ino, id.ino);
	overlay_put(s->ov, again);
	id.gen ^= 1;
	assert_int_equal(overlay_get(s->ov, &id, &again), -ESTALE);
}

static void a_whiteout_cannot_be_made_by_mknod(void **state)
{
	struct stack *s = *state;
	struct overlay_wcc wcc;
	struct overlay_attr a;
	struct object *o;
	assert_int_equal(overlay_mknod(s->ov, &root_cred, s->root, "w", S_IFCHR, 0, 0, NULL, &o, &a, &wcc), -EPERM);
	assert_false(exists(s, "w"));
}

static void a_stranger_is_refused(void **state)
{
	struct stack *s = *state;
	struct overlay_cred stranger = { .uid = 12345, .gid = 12345 };
	struct overlay_wcc wcc;
	struct overlay_attr a;
	struct object *o;
	assert_int_equal(overlay_create(s->ov, &stranger, s->root, "f", CREATE_GUARDED, NULL, NULL, &o, &a, &wcc), -EACCES);
	assert_int_equal(overlay_remove(s->ov, &stranger, s->root, "file", &wcc), -EACCES);
	assert_true(exists(s, "file"));
}

static int change_mode(struct stack *s, const char *path, mode_t mode)
{
	struct overlay_setattr set = { .set_mode = true, .mode = mode };
	struct overlay_wcc wcc;
	struct object *o = at(s, path);
	assert_non_null(o);
	int rc = overlay_setattr(s->ov, &root_cred, o, &set, NULL, &wcc);
	overlay_put(s->ov, o);
	return rc;
}

/* To it too: without root only what may be written takes an xattr. */
static void what_may_not_be_written_is_copied_up_without_root(void **state)
{
	enum { NOBODY = 65534 };
	struct stack *s = *state;
	bool root = !geteuid();
	stop(s);
	sh(s->dir, "chmod 444 lower2/file; setfattr -n user.kept -v here lower1/both/a; chmod 400 lower1/both/a");
	if (root) {
		sh(s->dir, "chown -R 65534:65534 .");
		assert_int_equal(setegid(NOBODY) || seteuid(NOBODY), 0);
	}
	start(s);
	int rc[] = { change_mode(s, "both/a", 0600), change_mode(s, "file", 0640) };
	struct overlay_wcc wcc;
	int rc2 = change_mode(s, "file", 0444) ?: overlay_remove(s->ov, &root_cred, s->root, "alias", &wcc); /* with its count */
	uint32_t n = names_of(s, "file");
	stop(s);
	if (root)
		assert_int_equal(seteuid(0) || setegid(0), 0);
	start(s);
	assert_true(!rc[0] && !rc[1] && !rc2);
	assert_int_equal(n, 1);
	sh(s->dir, "test \"$(stat -c %a upper/both/a upper/file | tr '\\n' ' ')\" = '600 444 '; getfattr -n user.kept upper/both/a >/dev/null");
}

/* As Go keeps its modules: chmod -R u+w, then rm -rf. */
static void a_directory_that_may_not_be_written_is_copied_up_without_root(void **state)
{
	enum { NOBODY = 65534 };
	struct stack *s = *state;
	bool root = !geteuid();
	stop(s);
	sh(s->dir, "touch -d 2001-01-01 lower2/deep/er/x lower2/deep/er lower2/deep; chmod 555 lower2/deep/er lower2/deep");
	if (root) {
		sh(s->dir, "chown -R 65534:65534 .");
		assert_int_equal(setegid(NOBODY) || seteuid(NOBODY), 0);
	}
	start(s);
	int rc = change_mode(s, "deep", 0755) ?: change_mode(s, "deep/er", 0500);
	stop(s);
	if (root)
		assert_int_equal(seteuid(0) || setegid(0), 0);
	start(s);
	assert_int_equal(rc, 0);
	sh(s->dir, "test \"$(stat -c %a upper/deep upper/deep/er | tr '\\n' ' ')\" = '755 500 '; test $(stat -c %Y upper/deep/er) = $(date -d 2001-01-01 +%s)");
	sh(s->dir, "chmod -R u+w lower2 upper");
}

/* RFC 1813 3.3.6: from the end on there is nothing to read, and no error, however far it is. */
static void reading_further_than_any_file_goes_is_its_end(void **state)
{
	struct stack *s = *state;
	static const uint64_t far[] = { INT64_MAX - 4096, INT64_MAX - 4095, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX };
	struct object *o = at(s, "file");
	for (size_t i = 0; i < sizeof far / sizeof *far; i++) {
		char buf[4096];
		size_t got = 1;
		bool eof = false;
		struct overlay_attr a;
		struct overlay_file *file;
		assert_int_equal(overlay_read(s->ov, &root_cred, o, far[i], buf, sizeof buf, &got, &eof, NULL), 0);
		assert_true(!got && eof);
		got = 1;
		eof = false;
		assert_true(overlay_read_file(s->ov, &root_cred, o, far[i], sizeof buf, &got, &eof, &a, &file) >= 0);
		overlay_file_done(file);
		assert_true(!got && eof);
	}
	overlay_put(s->ov, o);
}

/* No file can be given to -1: it must not be the server's own then. */
static void nobody_makes_files_as_the_server(void **state)
{
	struct stack *s = *state;
	static const struct overlay_cred nobodies[] = { { .uid = (uid_t)-1, .gid = 7 }, { .uid = 7, .gid = (gid_t)-1 } };
	if (geteuid()) {
		print_message("skipped: it takes root\n");
		skip(); /* all is the server's */
	}
	assert_int_equal(chmod(s->upper, 0777), 0);
	usleep(1100000); /* attributes are kept for a second */
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 2; j++) {
			struct overlay_setattr set = { .set_mode = true, .mode = j ? 06666 : 0666 };
			struct object *o;
			struct overlay_attr a;
			struct overlay_wcc wcc;
			assert_int_equal(overlay_create(s->ov, &nobodies[i], s->root, "his", CREATE_GUARDED, &set, NULL, &o, &a, &wcc), -EINVAL);
			assert_int_equal(overlay_mkdir(s->ov, &nobodies[i], s->root, "his", &set, &o, &a, &wcc), -EINVAL);
		}
	assert_false(exists(s, "his"));
}

/* What did not come in whole shows nothing of it, not for a moment: the server may be killed in it. */
static void bytes_that_find_no_room_leave_the_file_as_it_was(void **state)
{
	struct stack *s = *state;
	enum { SIZE = 300000, ROOM = 100000 };
	struct rlimit old, small;
	struct stat st;
	char file[128];
	if (geteuid()) {
		print_message("skipped: it takes root\n");
		skip(); /* without trusted.* there are no metacopies */
	}
	sh(s->dir, "head -c 300000 /dev/zero | tr '\\0' x >lower2/big");
	struct overlay_setattr set = { .set_mode = true, .mode = 0600 }, cut = { .set_size = true, .size = SIZE - 1 };
	struct overlay_wcc wcc;
	struct object *o = at(s, "big");
	assert_int_equal(overlay_setattr(s->ov, &root_cred, o, &set, NULL, &wcc), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small = old;
	small.rlim_cur = ROOM; /* as good as a full disk, and no size that was given up comes back */
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	int rc = overlay_write(s->ov, &root_cred, o, 0, "y", 1, WRITE_UNSTABLE, &wcc);
	int rc2 = overlay_setattr(s->ov, &root_cred, o, &cut, NULL, &wcc);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	overlay_put(s->ov, o);
	snprintf(file, sizeof file, "%s/big", s->upper);
	assert_int_equal(stat(file, &st), 0);
	if (!rc) {
		print_message("skipped: a clone needs no room\n");
		skip(); /* a clone needs no room */
	}
	assert_int_equal(rc, -EFBIG);
	assert_int_equal(rc2, -EFBIG);
	assert_int_equal(st.st_size, SIZE);
	assert_true(st.st_blocks < 8 + 8); /* the part that came was given back; xattrs may take a block */
}

/* As a kill leaves it that came between the cut and the end of the mark. */
static void a_metacopy_shows_no_more_bytes_than_it_has(void **state)
{
	struct stack *s = *state;
	if (geteuid()) {
		print_message("skipped: it takes root\n");
		skip();
	}
	stop(s);
	sh(s->dir, "echo 0123456789 >lower2/cut; : >upper/cut; truncate -s 4 upper/cut; setfattr -n trusted.overlay.metacopy upper/cut");
	start(s);
	shows(s, "cut", "0123");
	struct object *o = at(s, "cut");
	char buf[16];
	size_t got = 1;
	bool eof = false;
	assert_int_equal(overlay_read(s->ov, &root_cred, o, 6, buf, sizeof buf, &got, &eof, NULL), 0);
	assert_true(!got && eof);
	overlay_put(s->ov, o);
}

/* What can't be looked at for a moment is not taken for what is not there, for as long as the object is known. */
static void data_that_no_descriptor_was_left_for_is_found_later(void **state)
{
	struct stack *s = *state;
	struct rlimit old, few;
	char data[96];
	int fds[64], n = 0;
	if (geteuid()) {
		print_message("skipped: it takes root\n");
		skip();
	}
	stop(s);
	snprintf(data, sizeof data, "%s/data", s->dir);
	sh(s->dir, "mkdir -p data/below; echo bytes >data/below/x; truncate -s 6 lower2/m;"
		   "setfattr -n trusted.overlay.metacopy lower2/m; setfattr -n trusted.overlay.redirect -v /below/x lower2/m");
	s->data = data;
	start(s);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = (struct rlimit){ 64, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	while (n < 64 && (fds[n] = dup(0)) >= 0)
		n++;
	struct object *o;
	int rc = overlay_lookup(s->ov, &root_cred, s->root, "m", &o, NULL);
	while (n)
		close(fds[--n]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(rc, -EMFILE);
	shows(s, "m", "bytes\n");
	s->data = NULL;
}

/* However few descriptors are left: with none to open it, its digest can't be asked for. */
static void data_with_another_digest_is_never_given_out(void **state)
{
	struct stack *s = *state;
	struct rlimit old, few;
	char data[96], buf[16];
	size_t got;
	bool eof;
	int fds[64];
	if (geteuid()) {
		print_message("skipped: it takes root\n");
		skip();
	}
	stop(s);
	snprintf(data, sizeof data, "%s/data", s->dir);
	sh(s->dir, "mkdir -p data/below; echo bytes >data/below/x; truncate -s 6 lower2/m; d=$(printf %064d 0);"
		   "setfattr -n trusted.overlay.metacopy -v 0x00240001$d lower2/m; setfattr -n trusted.overlay.redirect -v /below/x lower2/m");
	s->data = data;
	start(s);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = (struct rlimit){ 64, old.rlim_max };
	other_digest = true;
	for (int left = 0; left < 8; left++) {
		int n = 0;
		stop(s);
		start(s);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
		while (n < 64 && (fds[n] = dup(0)) >= 0)
			n++;
		for (int i = 0; i < left; i++)
			close(fds[--n]);
		struct object *o;
		int rc = overlay_lookup(s->ov, &root_cred, s->root, "m", &o, NULL);
		while (n)
			close(fds[--n]);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
		if (rc) {
			assert_int_equal(rc, -EMFILE);
			continue;
		}
		assert_int_equal(overlay_read(s->ov, &root_cred, o, 0, buf, sizeof buf, &got, &eof, NULL), -EIO);
		overlay_put(s->ov, o);
	}
	other_digest = false;
	s->data = NULL;
}

/* Another's change of the mode, as soon as the file that is being cut is in the upper. */
static struct stack *cut_in;
static bool cut_hidden; /* from those who may not write it */
static void change_the_mode(void)
{
	char path[128];
	struct stack *s = cut_in;
	struct overlay_setattr set = { .set_mode = true, .mode = 0600 };
	struct overlay_wcc wcc;
	if (!s || (snprintf(path, sizeof path, "%s/deep/er/x", s->upper) && access(path, F_OK)))
		return;
	cut_in = NULL;
	struct object *o = at(s, "deep/er/x");
	cut_hidden = !overlay_setattr(s->ov, &root_cred, o, &set, NULL, &wcc);
	overlay_put(s->ov, o);
}

static int cut(struct stack *s, const struct overlay_cred *cred, bool guarded, uint64_t *size)
{
	struct object *o = at(s, "deep/er/x");
	struct overlay_setattr set = { .set_size = true };
	struct overlay_attr a;
	struct overlay_wcc wcc;
	assert_int_equal(overlay_getattr(s->ov, o, &a), 0);
	struct timespec ctime = a.ctime;
	cut_hidden = false;
	cut_in = s;
	int rc = overlay_setattr(s->ov, cred, o, &set, guarded ? &ctime : NULL, &wcc);
	cut_in = NULL;
	assert_true(cut_hidden);
	assert_int_equal(overlay_getattr(s->ov, o, &a), 0);
	*size = a.size;
	overlay_put(s->ov, o);
	return rc;
}

static void a_cut_that_is_refused_cuts_nothing(void **state)
{
	struct stack *s = *state;
	uint64_t size;
	stop(s);
	s->before_block = change_the_mode;
	start(s);
	assert_int_equal(cut(s, &root_cred, true, &size), -EKEYEXPIRED);
	assert_int_equal(size, 2);
}

static void a_cut_that_was_allowed_is_told(void **state)
{
	struct stack *s = *state;
	uint64_t size;
	stop(s);
	sh(s->dir, "chmod 777 lower2/deep lower2/deep/er; chmod 666 lower2/deep/er/x");
	s->before_block = change_the_mode;
	start(s);
	assert_int_equal(cut(s, &(struct overlay_cred){ .uid = 1000, .gid = 1000 }, false, &size), 0);
	assert_int_equal(size, 0);
}

static void a_read_moves_the_time_of_access(void **state)
{
	struct stack *s = *state;
	struct overlay_attr a;
	struct overlay_wcc wcc;
	struct overlay_setattr old = { .set_atime = TIME_CLIENT, .atime.tv_sec = 1000 };
	struct overlay_file *file;
	char buf[8];
	size_t got;
	bool eof;
	struct statvfs mount;
	if (statvfs(s->upper, &mount) || mount.f_flag & ST_NOATIME) {
		print_message("skipped: /tmp is mounted with noatime\n");
		skip();
	}
	write_at(s, "deep/er/x", "bytes");
	struct object *o = at(s, "deep/er/x");
	for (int by_descriptor = 0; by_descriptor < 2; by_descriptor++) {
		assert_int_equal(overlay_setattr(s->ov, &root_cred, o, &old, NULL, &wcc), 0);
		assert_int_equal(wcc.after.atime.tv_sec, 1000);
		if (by_descriptor) {
			assert_true(overlay_read_file(s->ov, &root_cred, o, 0, sizeof buf, &got, &eof, &a, &file) >= 0);
			overlay_file_done(file);
		} else {
			assert_int_equal(overlay_read(s->ov, &root_cred, o, 0, buf, sizeof buf, &got, &eof, &a), 0);
			assert_int_not_equal(a.atime.tv_sec, 1000);
		}
		assert_int_equal(overlay_getattr(s->ov, o, &a), 0);
		assert_int_not_equal(a.atime.tv_sec, 1000);
	}
	overlay_put(s->ov, o);
}

/* The time of access has it, and a repeated call may come after another's READ. */
static void a_read_of_nothing_leaves_an_exclusive_create_its_verifier(void **state)
{
	struct stack *s = *state;
	const uint8_t verf[8] = "verifier";
	struct overlay_attr a;
	struct overlay_wcc wcc;
	struct object *o, *again;
	char buf[8];
	size_t got;
	bool eof;
	assert_int_equal(overlay_create(s->ov, &root_cred, s->root, "x", CREATE_EXCLUSIVE, NULL, verf, &o, &a, &wcc), 0);
	assert_int_equal(overlay_read(s->ov, &root_cred, o, 0, buf, sizeof buf, &got, &eof, &a), 0);
	assert_true(!got && eof);
	overlay_put(s->ov, o);
	stop(s);
	start(s);
	assert_int_equal(overlay_create(s->ov, &root_cred, s->root, "x", CREATE_EXCLUSIVE, NULL, verf, &again, &a, &wcc), 0);
	overlay_put(s->ov, again);
}

/* Until then the next server must not start: it would write to what this one still writes to. */
static void the_upper_is_let_go_when_all_is_closed(void **state)
{
	struct stack *s = *state;
	closed_locked = closed_unlocked = 0;
	locked = s->upper;
	stop(s);
	locked = NULL;
	start(s);
	assert_int_equal(closed_unlocked, 0);
	assert_int_equal(closed_locked, 2);
}

/* Where it has no second home. */
static void a_key_that_cannot_be_read_is_not_replaced(void **state)
{
	struct stack *s = *state;
	char err[256] = "";
	uint8_t key[16];
	memcpy(key, overlay_key(s->ov), sizeof key);
	stop(s);
	sh(s->dir, "setfattr -x trusted.overlay.overnfsd.key upper 2>/dev/null || setfattr -x user.overlay.overnfsd.key work/work");
	key_is_unreadable = true;
	int rc = try_to_start(s, err, sizeof err);
	key_is_unreadable = false;
	if (!rc)
		overlay_close(s->ov);
	start(s);
	assert_memory_equal(overlay_key(s->ov), key, sizeof key);
	assert_int_equal(rc, -EIO);
	assert_non_null(strstr(err, "key"));
}

static void a_file_that_no_descriptor_was_left_for_is_not_damaged(void **state)
{
	static const char *const files[] = { "identity.mdb", "map.mdb" };
	struct stack *s = *state;
	char err[256] = "";
	for (size_t i = 0; i < 2; i++) {
		stop(s);
		unlucky = files[i];
		int rc = try_to_start(s, err, sizeof err);
		unlucky = NULL;
		if (!rc)
			overlay_close(s->ov);
		start(s);
		assert_int_equal(rc, i ? 0 : -EMFILE);
		sh(s->dir, "! ls work/overnfsd | grep bad");
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_topmost_layer_with_a_name_wins),
		T(a_write_copies_up_and_keeps_the_object),
		T(removing_a_lower_file_leaves_a_whiteout),
		T(removing_an_upper_file_leaves_nothing),
		T(a_new_directory_over_a_removed_one_is_opaque),
		T(a_directory_of_the_upper_goes_with_its_whiteouts_alone),
		T(whiteouts_that_a_rename_goes_over_stop_nobody),
		T(a_copy_inside_the_upper_is_a_file_of_its_own),
		T(two_files_with_one_identity_part),
		T(what_could_not_be_made_is_not_there),
		T(renaming_a_lower_directory_leaves_a_redirect),
		T(what_stands_below_comes_along_with_any_rename),
		T(a_rename_sees_what_stands_under_the_new_name_though_nobody_looked),
		T(a_redirect_that_leads_nowhere_leads_nowhere_from_elsewhere),
		T(what_linux_moved_is_found_below_a_deep_tree),
		T(names_of_a_linked_lower_file_stay_one_object),
		T(a_linked_file_is_copied_up_when_it_can_be_linked_in_the_index),
		T(a_file_that_two_layers_share_by_links_has_a_copy_for_each),
		T(linked_names_of_what_holds_no_xattr_are_one_object),
		T(a_count_of_links_is_found_with_a_key_from_elsewhere),
		T(an_upper_hard_link_survives_the_removal_of_its_first_name),
		T(a_handle_finds_its_object_without_any_map),
		T(a_whiteout_cannot_be_made_by_mknod),
		T(a_stranger_is_refused),
		T(what_may_not_be_written_is_copied_up_without_root),
		T(a_directory_that_may_not_be_written_is_copied_up_without_root),
		T(reading_further_than_any_file_goes_is_its_end),
		T(nobody_makes_files_as_the_server),
		T(bytes_that_find_no_room_leave_the_file_as_it_was),
		T(a_metacopy_shows_no_more_bytes_than_it_has),
		T(data_that_no_descriptor_was_left_for_is_found_later),
		T(data_with_another_digest_is_never_given_out),
		T(a_cut_that_is_refused_cuts_nothing),
		T(a_cut_that_was_allowed_is_told),
		T(a_read_moves_the_time_of_access),
		T(a_read_of_nothing_leaves_an_exclusive_create_its_verifier),
		T(the_upper_is_let_go_when_all_is_closed),
		T(a_key_that_cannot_be_read_is_not_replaced),
		T(a_file_that_no_descriptor_was_left_for_is_not_damaged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
