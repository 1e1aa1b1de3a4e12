/* kinds.c: see kinds.h. */
#include "kinds.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/* ---- scenes ---- */
enum { OLD = 1000000000 }; /* times of what a scene holds: well before anything that a test does */

/* layer: upper, 1 (topmost lower), 2. type: d(irectory), f(ile), b(ig file with a hole), l(ink, symbolic), h(ard link), p(ipe), w(hiteout) */
static const struct piece {
	char layer, type;
	const char *path, *data;
} pieces[] = {
	{ '2', 'd', "", NULL },
	{ '1', 'd', "", NULL },
	{ 'u', 'd', "", NULL },
	{ '2', 'f', "lfile", "from below" },
	{ '2', 'f', "lfile2", "from below, too" },
	{ '2', 'b', "lbig", NULL },
	{ '2', 'l', "llink", "lfile" },
	{ '2', 'p', "lfifo", NULL },
	{ '2', 'f', "hard1", "one file of three names" },
	{ '2', 'h', "hard2", "hard1" },
	{ '2', 'd', "hards", NULL },
	{ '2', 'h', "hards/hard3", "hard1" },
	{ '2', 'd', "ldir", NULL },
	{ '2', 'f', "ldir/a", "a" },
	{ '2', 'd', "ldir/deep", NULL },
	{ '2', 'd', "ldir/deep/er", NULL },
	{ '2', 'f', "ldir/deep/er/file", "far down" },
	{ '2', 'd', "lempty", NULL },
	{ '2', 'd', "lempty2", NULL },
	{ '2', 'f', "gone", "must not show" },
	{ 'u', 'w', "gone", NULL },
	{ '2', 'd', "gonedir", NULL },
	{ '2', 'f', "gonedir/x", "must not show either" },
	{ 'u', 'w', "gonedir", NULL },
	{ '2', 'd', "mdir", NULL },
	{ '2', 'f', "mdir/below", "b" },
	{ '1', 'd', "mdir", NULL },
	{ '1', 'f', "mdir/between", "c" },
	{ 'u', 'd', "mdir", NULL },
	{ 'u', 'f', "mdir/above", "d" },
	{ '2', 'd', "emptied", NULL },
	{ '2', 'f', "emptied/x", "removed" },
	{ '1', 'd', "emptied", NULL },
	{ '1', 'f', "emptied/y", "removed" },
	{ 'u', 'd', "emptied", NULL },
	{ 'u', 'w', "emptied/x", NULL },
	{ 'u', 'w', "emptied/y", NULL },
	{ 'u', 'f', "ufile", "above" },
	{ 'u', 'f', "ufile2", "above, too" },
	{ 'u', 'f', "ulink1", "one upper file of two names" },
	{ 'u', 'h', "ulink2", "ulink1" },
	{ 'u', 'd', "udir", NULL },
	{ 'u', 'f', "udir/c", "c" },
	{ 'u', 'd', "uempty", NULL },
	{ 'u', 'd', "uwhiteouts", NULL },
	{ 'u', 'w', "uwhiteouts/hides nothing", NULL },
};
enum { PIECES = sizeof pieces / sizeof *pieces };

static void piece_path(const struct stack *s, const struct piece *p, const char *scene, char path[512])
{
	static const char *const layers[] = { "upper", "lower1", "lower2" };
	snprintf(path, 512, "%s/%s/%s%s%s", s->dir, layers[p->layer == 'u' ? 0 : p->layer - '0'], scene, *p->path ? "/" : "", p->path);
}

static void make_file_piece(const char *path, const char *data, bool big)
{
	static const char block[5000] = "some bytes, then zeros, which are not a hole";
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0640);
	assert_true(fd >= 0);
	if (big) {
		assert_int_equal(pwrite(fd, block, sizeof block, 0), sizeof block);
		assert_int_equal(pwrite(fd, block, sizeof block, 65536), sizeof block);
		assert_int_equal(ftruncate(fd, 100000), 0);
	} else {
		assert_int_equal(write(fd, data, strlen(data)), strlen(data));
	}
	close(fd);
}

static void make_piece(const struct stack *s, const struct piece *p, const char *scene)
{
	char path[512], target[512];
	struct piece first = { .layer = p->layer, .path = p->data };
	piece_path(s, p, scene, path);
	switch (p->type) {
	case 'd': assert_int_equal(mkdir(path, 0751), 0); break;
	case 'f':
	case 'b': make_file_piece(path, p->data, p->type == 'b'); break;
	case 'l': assert_int_equal(symlink(p->data, path), 0); break;
	case 'p': assert_int_equal(mkfifo(path, 0640), 0); break;
	case 'w': assert_int_equal(mknod(path, S_IFCHR, 0), 0); break;
	case 'h':
		piece_path(s, &first, scene, target);
		assert_int_equal(link(target, path), 0);
		return;
	default: fail();
	}
	if (!geteuid() && p->type != 'w')
		assert_int_equal(lchown(path, 1000, 100), 0);
	if (p->type == 'f' && p->layer == '2') /* goes along in a copy-up */
		setxattr(path, "user.note", "kept", 4, 0);
}

void scenes_make(const struct stack *s, const char *prefix, unsigned n)
{
	char scene[64], path[512];
	for (unsigned i = 0; i < n; i++) {
		snprintf(scene, sizeof scene, "%s%u", prefix, i);
		for (int k = 0; k < PIECES; k++)
			make_piece(s, &pieces[k], scene);
		for (int k = 0; k < PIECES; k++) {
			struct timespec t[2] = { { OLD + k, 1 }, { OLD + k, 123456789 } };
			piece_path(s, &pieces[k], scene, path);
			if (pieces[k].type != 'h')
				assert_int_equal(utimensat(AT_FDCWD, path, t, AT_SYMLINK_NOFOLLOW), 0);
		}
	}
}

void scenes_remove(const struct stack *s, const char *prefix, unsigned n)
{
	char script[256];
	for (unsigned i = 0; i < n; i += 50) {
		snprintf(script, sizeof script, "for i in $(seq %u %u); do echo upper/%s$i lower1/%s$i lower2/%s$i; done | xargs rm -rf", i, i + 49, prefix, prefix,
			 prefix);
		stack_sh(s, script);
	}
}

void scene_find(struct scene *scene, struct client *c, const char *prefix, unsigned i)
{
	char name[64];
	snprintf(name, sizeof name, "%s%u", prefix, i);
	*scene = (struct scene){ .c = c };
	assert_nfs(client_path(c, name, &scene->top, NULL), NFS3_OK);
}

struct fh scene_handle(const struct scene *scene, const char *path)
{
	struct fh fh = scene->top;
	if (scene->tree) {
		const struct tree_node *n = tree_find(scene->tree, path);
		if (!n)
			fail_msg("no /%s in the scene", path);
		return n->fh;
	}
	char copy[256], *save = NULL;
	snprintf(copy, sizeof copy, "%s", path);
	for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
		struct fh dir = fh;
		assert_nfs(client_lookup(scene->c, &dir, name, &fh, NULL), NFS3_OK);
	}
	return fh;
}

void keep_mounts_private(void)
{
	if (!unshare(CLONE_NEWNS))
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

const char *scene_base(void)
{
	const char *dir = getenv("CRASH_DIR");
	char probe[] = "/dev/shm/overnfsd-probe-XXXXXX";
	bool fits = false;
	if (dir)
		return dir;
	int fd = mkostemp(probe, O_CLOEXEC);
	if (fd >= 0) {
		fits = !fsetxattr(fd, geteuid() ? "user.overlay.probe" : "trusted.overlay.probe", "", 0, 0) && !fsetxattr(fd, "user.note", "", 0, 0);
		close(fd);
		unlink(probe);
	}
	return fits ? "/dev/shm" : "/tmp";
}

/* ---- changes ---- */
static struct fh parent_of(struct scene *s, const char *path, const char **name)
{
	char dir[256];
	const char *slash = strrchr(path, '/');
	snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) : 0, path);
	*name = slash ? slash + 1 : path;
	return scene_handle(s, dir);
}

static nfsstat3 make_file(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	(void)other;
	return client_create(s->c, &dir, name, GUARDED, 0640, NULL);
}

static nfsstat3 make_unchecked(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	(void)other;
	return client_create(s->c, &dir, name, UNCHECKED, 0640, NULL);
}

static nfsstat3 make_exclusive(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	(void)other;
	return client_create(s->c, &dir, name, EXCLUSIVE, 0, NULL);
}

static nfsstat3 make_dir(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	(void)other;
	return client_mkdir(s->c, &dir, name, 0750, NULL);
}

static nfsstat3 make_symlink(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	return client_symlink(s->c, &dir, name, other, NULL);
}

static nfsstat3 make_fifo(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	(void)other;
	return client_mknod(s->c, &dir, name, NF3FIFO, 0, 0, NULL);
}

static nfsstat3 make_socket(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	(void)other;
	return client_mknod(s->c, &dir, name, NF3SOCK, 0, 0, NULL);
}

static nfsstat3 make_device(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	(void)other;
	if (geteuid())
		return client_mknod(s->c, &dir, name, NF3FIFO, 0, 0, NULL);
	return client_mknod(s->c, &dir, name, NF3CHR, 1, 3, NULL);
}

static nfsstat3 make_link(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh file = scene_handle(s, path), dir = parent_of(s, other, &name);
	return client_link(s->c, &file, &dir, name);
}

static nfsstat3 remove_file(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	(void)other;
	return client_remove(s->c, &dir, name);
}

static nfsstat3 remove_dir(struct scene *s, const char *path, const char *other)
{
	const char *name;
	struct fh dir = parent_of(s, path, &name);
	(void)other;
	return client_rmdir(s->c, &dir, name);
}

static nfsstat3 move(struct scene *s, const char *path, const char *other)
{
	const char *name, *new_name;
	struct fh from = parent_of(s, path, &name), to = parent_of(s, other, &new_name);
	return client_rename(s->c, &from, name, &to, new_name);
}

static nfsstat3 set(struct scene *s, const char *path, const sattr3 *a)
{
	struct fh fh = scene_handle(s, path);
	return client_setattr(s->c, &fh, a, NULL, NULL);
}

static nfsstat3 set_mode(struct scene *s, const char *path, const char *other)
{
	sattr3 a = { .mode = { TRUE, { 0600 } } };
	(void)other;
	return set(s, path, &a);
}

static nfsstat3 set_owner(struct scene *s, const char *path, const char *other)
{
	sattr3 a = { .uid = { TRUE, { geteuid() ? geteuid() : 7 } }, .gid = { TRUE, { geteuid() ? getegid() : 8 } } };
	(void)other;
	return set(s, path, &a);
}

static nfsstat3 set_times(struct scene *s, const char *path, const char *other)
{
	sattr3 a = { .atime = { SET_TO_CLIENT_TIME, { { 900000000, 5 } } }, .mtime = { SET_TO_CLIENT_TIME, { { 900000001, 6 } } } };
	(void)other;
	return set(s, path, &a);
}

static nfsstat3 set_size(struct scene *s, const char *path, const char *other)
{
	sattr3 a = { .size = { TRUE, { strtoul(other, NULL, 10) } } };
	return set(s, path, &a);
}

static nfsstat3 set_all(struct scene *s, const char *path, const char *other)
{
	sattr3 a = { .mode = { TRUE, { 04711 } },
		     .uid = { TRUE, { geteuid() ? geteuid() : 7 } },
		     .gid = { TRUE, { geteuid() ? getegid() : 8 } },
		     .size = { TRUE, { 3 } },
		     .atime = { SET_TO_CLIENT_TIME, { { 900000000, 5 } } },
		     .mtime = { SET_TO_CLIENT_TIME, { { 900000001, 6 } } } };
	(void)other;
	return set(s, path, &a);
}

static nfsstat3 write_stable(struct scene *s, const char *path, const char *other)
{
	struct fh fh = scene_handle(s, path);
	return client_write(s->c, &fh, 2, other, (uint32_t)strlen(other), FILE_SYNC, NULL);
}

static nfsstat3 write_unstable(struct scene *s, const char *path, const char *other)
{
	struct fh fh = scene_handle(s, path);
	return client_write(s->c, &fh, 2, other, (uint32_t)strlen(other), UNSTABLE, NULL);
}

static nfsstat3 commit(struct scene *s, const char *path, const char *other)
{
	struct fh fh = scene_handle(s, path);
	(void)other;
	return client_commit(s->c, &fh, NULL);
}

#define STEP(...) .steps = { { __VA_ARGS__ } }
#define AFTER(...) .setup = { __VA_ARGS__ }
const struct kind kinds[] = {
	{ "create: a file", STEP(make_file, "new", NULL) },
	{ "create: unchecked", STEP(make_unchecked, "new", NULL), .again = true },
	{ "create: exclusive", STEP(make_exclusive, "new", NULL), .again = true },
	{ "create: over a whiteout", STEP(make_file, "gone", NULL) },
	{ "create: over a directory's whiteout", STEP(make_file, "gonedir", NULL) },
	{ "create: exclusive, over a whiteout", STEP(make_exclusive, "gone", NULL), .again = true },
	{ "create: in a lower directory", STEP(make_file, "ldir/new", NULL) },
	{ "create: in a merged directory", STEP(make_file, "mdir/new", NULL) },
	{ "create: in a deep lower directory", STEP(make_file, "ldir/deep/er/new", NULL) },
	{ "create: where a lower file was removed", STEP(make_file, "lfile", NULL), AFTER({ remove_file, "lfile", NULL }) },
	{ "mkdir", STEP(make_dir, "new", NULL) },
	{ "mkdir: over a whiteout", STEP(make_dir, "gone", NULL) },
	{ "mkdir: over a removed lower directory", STEP(make_dir, "gonedir", NULL) },
	{ "mkdir: in a lower directory", STEP(make_dir, "ldir/new", NULL) },
	{ "symlink", STEP(make_symlink, "new", "a/target") },
	{ "symlink: over a whiteout", STEP(make_symlink, "gone", "a/target") },
	{ "mknod: fifo", STEP(make_fifo, "new", NULL) },
	{ "mknod: socket", STEP(make_socket, "new", NULL) },
	{ "mknod: device", STEP(make_device, "new", NULL) },
	{ "mknod: over a whiteout", STEP(make_fifo, "gone", NULL) },
	{ "link: of an upper file", STEP(make_link, "ufile", "new") },
	{ "link: of a lower file", STEP(make_link, "lfile", "new") },
	{ "link: of a copied-up file", STEP(make_link, "lfile", "new"), AFTER({ set_mode, "lfile", NULL }) },
	{ "link: of a lower file of three names", STEP(make_link, "hard1", "new") },
	{ "link: of such a file, copied up", STEP(make_link, "hard1", "new"), AFTER({ set_mode, "hard1", NULL }) },
	{ "link: over a whiteout", STEP(make_link, "ufile", "gone") },
	{ "link: into a lower directory", STEP(make_link, "ufile", "ldir/new") },
	{ "link: of a symlink", STEP(make_link, "llink", "new") },
	{ "remove: an upper file", STEP(remove_file, "ufile", NULL) },
	{ "remove: a lower file", STEP(remove_file, "lfile", NULL) },
	{ "remove: a copied-up file", STEP(remove_file, "lfile", NULL), AFTER({ set_mode, "lfile", NULL }) },
	{ "remove: a lower symlink", STEP(remove_file, "llink", NULL) },
	{ "remove: a name of an upper file of two", STEP(remove_file, "ulink1", NULL) },
	{ "remove: a name of a lower file of three", STEP(remove_file, "hard1", NULL) },
	{ "remove: the copied-up name of such a file", STEP(remove_file, "hard1", NULL), AFTER({ set_mode, "hard1", NULL }) },
	{ "remove: another name of such a file", STEP(remove_file, "hards/hard3", NULL), AFTER({ set_mode, "hard1", NULL }) },
	{ "remove: the last name of such a file", STEP(remove_file, "hard1", NULL),
	  AFTER({ set_mode, "hard1", NULL }, { remove_file, "hard2", NULL }, { remove_file, "hards/hard3", NULL }) },
	{ "remove: in a deep lower directory", STEP(remove_file, "ldir/deep/er/file", NULL) },
	{ "rmdir: upper", STEP(remove_dir, "uempty", NULL) },
	{ "rmdir: lower", STEP(remove_dir, "lempty", NULL) },
	{ "rmdir: merged, with whiteouts", STEP(remove_dir, "emptied", NULL) },
	{ "rmdir: upper, with whiteouts", STEP(remove_dir, "uwhiteouts", NULL) },
	{ "rename: upper file over nothing", STEP(move, "ufile", "new") },
	{ "rename: upper file over a whiteout", STEP(move, "ufile", "gone") },
	{ "rename: upper file over an upper file", STEP(move, "ufile", "ufile2") },
	{ "rename: upper file over a lower file", STEP(move, "ufile", "lfile") },
	{ "rename: upper file over a symlink", STEP(move, "ufile", "llink") },
	{ "rename: upper file into a lower directory", STEP(move, "ufile", "ldir/a") },
	{ "rename: lower file over nothing", STEP(move, "lfile", "new") },
	{ "rename: lower file over a whiteout", STEP(move, "lfile", "gone") },
	{ "rename: lower file over a lower file", STEP(move, "lfile", "lfile2") },
	{ "rename: lower file out of a deep directory", STEP(move, "ldir/deep/er/file", "mdir/new") },
	{ "rename: lower symlink", STEP(move, "llink", "new") },
	{ "rename: a name of a lower file of three", STEP(move, "hard1", "new") },
	{ "rename: another name of such a file", STEP(move, "hard2", "new"), AFTER({ set_mode, "hard1", NULL }) },
	{ "rename: over a name of such a file", STEP(move, "ufile", "hard2"), AFTER({ set_mode, "hard1", NULL }) },
	{ "rename: over a name of an upper file of two", STEP(move, "ufile", "ulink1") },
	{ "rename: upper directory over nothing", STEP(move, "udir", "new") },
	{ "rename: upper directory over a whiteout", STEP(move, "udir", "gonedir") },
	{ "rename: upper directory over an empty one", STEP(move, "udir", "uempty") },
	{ "rename: upper directory over a merged one", STEP(move, "udir", "emptied") },
	{ "rename: upper directory over a lower one", STEP(move, "udir", "lempty") },
	{ "rename: upper directory over whiteouts", STEP(move, "udir", "uwhiteouts") },
	{ "rename: upper directory into a lower one", STEP(move, "udir", "ldir/deep/new") },
	{ "rename: lower directory over nothing", STEP(move, "ldir", "new") },
	{ "rename: lower directory over a whiteout", STEP(move, "ldir", "gonedir") },
	{ "rename: lower directory over a merged one", STEP(move, "ldir", "emptied") },
	{ "rename: lower directory over a lower one", STEP(move, "lempty", "lempty2") },
	{ "rename: lower directory across directories", STEP(move, "ldir/deep", "mdir/new") },
	{ "rename: merged directory over nothing", STEP(move, "mdir", "new") },
	{ "rename: merged directory over a whiteout", STEP(move, "mdir", "gone") },
	{ "rename: merged directory over a merged one", STEP(move, "mdir", "emptied") },
	{ "rename: merged directory across directories", STEP(move, "mdir", "ldir/deep/new") },
	{ "rename: of a renamed directory", STEP(move, "once", "udir/twice"), AFTER({ move, "mdir", "once" }) },
	{ "setattr: mode of an upper file", STEP(set_mode, "ufile", NULL), .again = true },
	{ "setattr: mode of a lower file", STEP(set_mode, "lfile", NULL), .again = true },
	{ "setattr: mode of a lower file of three names", STEP(set_mode, "hard1", NULL), .again = true },
	{ "setattr: mode of a lower directory", STEP(set_mode, "ldir", NULL), .again = true },
	{ "setattr: mode of a lower fifo", STEP(set_mode, "lfifo", NULL), .again = true },
	{ "setattr: owner of an upper file", STEP(set_owner, "ufile", NULL), .again = true },
	{ "setattr: owner of a lower symlink", STEP(set_owner, "llink", NULL), .again = true },
	{ "setattr: times of an upper directory", STEP(set_times, "udir", NULL), .again = true },
	{ "setattr: times of a lower file", STEP(set_times, "lfile", NULL), .again = true },
	{ "setattr: size of an upper file", STEP(set_size, "ufile", "2"), .again = true },
	{ "setattr: size of a lower file", STEP(set_size, "lbig", "70000"), .again = true },
	{ "setattr: size, growing", STEP(set_size, "ufile", "9000"), .again = true },
	{ "setattr: all at once of an upper file", STEP(set_all, "ufile", NULL), .again = true },
	{ "setattr: all at once of a lower file", STEP(set_all, "lfile", NULL), .again = true },
	{ "write: to an upper file", STEP(write_stable, "ufile", "written"), .again = true },
	{ "write: unstable", STEP(write_unstable, "ufile", "written"), .again = true, .unstable = true },
	{ "write: to a lower file", STEP(write_stable, "lbig", "written"), .again = true },
	{ "write: in a deep lower directory", STEP(write_unstable, "ldir/deep/er/file", "written"), .again = true, .unstable = true },
	{ "write: to a lower file of three names", STEP(write_stable, "hard2", "written"), .again = true },
	{ "commit", STEP(commit, "ufile", NULL), AFTER({ write_unstable, "ufile", "written" }), .again = true },
	{ "sequence: create, write, name it", .steps = { { make_file, "new", NULL }, { write_unstable, "lfile", "written" }, { commit, "lfile", NULL }, { move, "new", "lfile2" } }, .unstable = true },
	{ "sequence: a safe save", .steps = { { make_link, "lfile", "backup" }, { make_file, "lfile.new", NULL }, { set_owner, "lfile", NULL }, { move, "lfile.new", "lfile" }, { remove_file, "backup", NULL } } },
	{ "sequence: move, then clear away", .steps = { { move, "mdir", "gonedir" }, { make_dir, "mdir", NULL }, { move, "ldir/a", "mdir/a" }, { remove_file, "mdir/a", NULL }, { remove_dir, "mdir", NULL } } },
};
const size_t nkinds = sizeof kinds / sizeof *kinds;

size_t kind_steps(const struct kind *k)
{
	size_t n = 0;
	while (n < STEPS_MAX && k->steps[n].run)
		n++;
	return n;
}

void kind_setup(const struct kind *k, struct scene *scene)
{
	for (int i = 0; i < SETUP_MAX && k->setup[i].run; i++)
		assert_nfs(k->setup[i].run(scene, k->setup[i].path, k->setup[i].other), NFS3_OK);
}

nfsstat3 kind_step(const struct kind *k, size_t step, struct scene *scene, const struct tree *tree)
{
	const struct change *change = &k->steps[step];
	scene->tree = tree;
	nfsstat3 st = change->run(scene, change->path, change->other);
	scene->tree = NULL;
	return st;
}
