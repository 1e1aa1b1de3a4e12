/* overlay.c: opens and closes an overlay: checks the layers, prepares the work directory, gives layers their numbers. */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { DEFAULT_OBJECTS = 1 << 20, MAX_LOWERS = 500, ROOT_LAYER = 0xffff };

void ov_log(struct overlay *ov, int level, const char *fmt, ...)
{
	char line[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	if (ov->config.log)
		ov->config.log(level, "%s", line);
}

static int fail(char *err, size_t errlen, int rc, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(err, errlen, fmt, ap);
	va_end(ap);
	return rc;
}

static bool is_below(const char *a, const char *b) /* a is b or below it */
{
	size_t n = strlen(b);
	return !strncmp(a, b, n) && (a[n] == '/' || !a[n] || (n && b[n - 1] == '/'));
}

struct checked {
	const char *given;
	char real[PATH_MAX];
	dev_t dev;
	ino_t ino;
	uint64_t mount; /* 0: the kernel does not tell */
};

/* what: a layer or a work directory */
static int check_layer(const char *what, const char *path, bool writable, struct checked *l, char *err, size_t errlen)
{
	struct stat st;
	struct statx stx;
	l->given = path;
	if (*path != '/')
		return fail(err, errlen, -EINVAL, "%s %s: must be an absolute path, like /srv/base", what, path);
	if (stat(path, &st) || !realpath(path, l->real))
		return fail(err, errlen, -errno, "%s %s: %s", what, path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return fail(err, errlen, -ENOTDIR, "%s %s: is not a directory; it must be one", what, path);
	if (faccessat(AT_FDCWD, path, R_OK | X_OK | (writable ? W_OK : 0), AT_EACCESS))
		return fail(err, errlen, -errno, "%s %s: the server can't %s it: %s", what, path, writable ? "write" : "read", strerror(errno));
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	l->mount = !statx(AT_FDCWD, path, 0, STATX_MNT_ID, &stx) && stx.stx_mask & STATX_MNT_ID ? stx.stx_mnt_id : 0;
	return 0;
}

/* By path, and by inode: a bind mount has another path. */
static int check_pair(const struct checked *a, const struct checked *b, char *err, size_t errlen)
{
	if (!strcmp(a->given, b->given))
		return fail(err, errlen, -EINVAL, "%s is used twice: each layer may stand once", a->given);
	if (a->dev == b->dev && a->ino == b->ino)
		return fail(err, errlen, -EINVAL, "%s and %s are the same directory, used twice: each layer may stand once", a->given, b->given);
	const struct checked *inner = is_below(a->real, b->real) ? a : is_below(b->real, a->real) ? b : NULL;
	if (inner)
		return fail(err, errlen, -EINVAL, "%s lies inside %s: layers must not be nested", inner->given, (inner == a ? b : a)->given);
	return 0;
}

/* Everything that can be wrong with the configuration, before anything is touched. */
static int check_config(const struct overlay_config *c, char *err, size_t errlen)
{
	size_t n = 0;
	int rc = 0;
	if (!c->nlowers && !c->upper)
		return fail(err, errlen, -EINVAL, "no layer given: name at least one with --lower DIR or --upper DIR");
	if (c->nlowers + c->ndata_lowers > MAX_LOWERS)
		return fail(err, errlen, -EINVAL, "%zu lower layers given; at most %d are possible", c->nlowers + c->ndata_lowers, MAX_LOWERS);
	if (c->ndata_lowers && !c->nlowers)
		return fail(err, errlen, -EINVAL, "a data-only lower needs a lower directory that refers to it: add --lower DIR");
	if (c->work && !c->upper)
		return fail(err, errlen, -EINVAL, "a work directory needs an upper layer: add --upper DIR or leave out --work");
	struct checked *l = calloc(c->nlowers + c->ndata_lowers + 2, sizeof *l);
	if (!l)
		return fail(err, errlen, -ENOMEM, "out of memory");
	if (c->upper)
		rc = check_layer("layer", c->upper, !c->read_only, &l[n++], err, errlen);
	if (!rc && c->work)
		rc = check_layer("work directory", c->work, !c->read_only, &l[n++], err, errlen);
	if (!rc && c->work && l[0].dev != l[1].dev)
		rc = fail(err, errlen, -EXDEV, "upper %s and work %s are on different file systems: put the work directory beside the upper", c->upper, c->work);
	if (!rc && c->work && l[0].mount != l[1].mount)
		rc = fail(err, errlen, -EXDEV, "upper %s and work %s are on different mounts, between which nothing can be renamed: name both by paths of one mount", c->upper, c->work);
	for (size_t i = 0; !rc && i < c->nlowers; i++)
		rc = check_layer("layer", c->lowers[i], false, &l[n++], err, errlen);
	for (size_t i = 0; !rc && i < c->ndata_lowers; i++)
		rc = check_layer("layer", c->data_lowers[i], false, &l[n++], err, errlen);
	for (size_t i = 0; !rc && i < n; i++)
		for (size_t j = 0; !rc && j < i; j++)
			rc = check_pair(&l[i], &l[j], err, errlen);
	free(l);
	return rc;
}

static int open_dir_at(int base, const char *name, bool make)
{
	if (make && mkdirat(base, name, 0700) && errno != EEXIST)
		return -errno;
	return open_beneath(base, name, O_RDONLY | O_DIRECTORY);
}

/* The three directories. Where nothing may be changed they are there, or no server kept anything: mostly its --work was left out. */
static int open_work_dirs(struct overlay *ov, const struct overlay_config *c, char *err, size_t errlen)
{
	bool make = !c->offline || c->repair;
	int rc = 0;
	ov->reserved_dir = !c->work;
	if (ov->reserved_dir && (ov->base_fd = open_dir_at(ov->layers[0].root->fds[FD_READ]->fd, ".overnfsd", make)) < 0)
		rc = ov->base_fd;
	if (!rc && ov->reserved_dir && (rc = claim_incompat(ov->base_fd, err, errlen)))
		return rc;
	if (!rc && (ov->work_fd = open_dir_at(ov->base_fd, "work", make)) < 0)
		rc = ov->work_fd;
	if (!rc && (ov->map_fd = open_dir_at(ov->base_fd, "overnfsd", make)) < 0)
		rc = ov->map_fd;
	if (rc == -ENOENT && !make)
		return fail(err, errlen, rc, "%s: no server has used this %s yet: give --work as the server has it", c->work ? c->work : c->upper,
			    c->work ? "work directory" : "upper without a work directory");
	const char *advice = rc == -EROFS && c->read_only ? "; to serve it all the same, give it as the topmost --lower" : "";
	return rc ? fail(err, errlen, rc, "work directory: can't be %s: %s%s", c->work ? "written" : "made in the upper", strerror(-rc), advice) : 0;
}

/* Without one nothing was linked; one that can't be read must not be taken for none, or linked files fall apart. */
static int open_index(struct overlay *ov, char *err, size_t errlen)
{
	struct stat st;
	char path[64], why[256];
	if (fstatat(ov->base_fd, "index", &st, 0))
		return errno == ENOENT ? 0 : fail(err, errlen, -errno, "work directory: index: %s", strerror(errno));
	snprintf(path, sizeof path, "/proc/self/fd/%d/index", ov->base_fd);
	int rc = layer_open(ov, &ov->index_layer, path, false, why, sizeof why);
	ov->has_index = !rc;
	return rc ? fail(err, errlen, rc, "work directory: index: %s", strerror(-rc)) : 0;
}

static int open_work(struct overlay *ov, const struct overlay_config *c, char *err, size_t errlen)
{
	int rc = open_work_dirs(ov, c, err, errlen);
	if (rc)
		return rc;
	rc = c->offline ? 0 : work_clean(ov->work_fd);
	if (rc && !(rc == -EROFS && c->read_only))
		return fail(err, errlen, rc, "work directory: can't be emptied: %s", strerror(-rc));
	if ((rc = open_index(ov, err, errlen)))
		return rc;
	rc = c->offline ? 0 : intents_open(ov);
	if (rc && !c->read_only)
		ov_log(ov, 4, "work directory: overnfsd/intents: %s: a kill may leave a change of several attributes half done", strerror(-rc));
	return claim_upper(ov, err, errlen);
}

static bool can_use_trusted(int fd)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d/.", fd);
	if (lsetxattr(path, "trusted.overlay.overnfsd.probe", "", 0, 0))
		return false;
	lremovexattr(path, "trusted.overlay.overnfsd.probe");
	return true;
}

/* Asked without a change: what is not there can't be removed, and without the capability that is not even said. */
static bool can_read_trusted(int fd)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d/.", fd);
	return !lremovexattr(path, "trusted.overlay.overnfsd.probe") || errno == ENODATA || errno == EROFS;
}

/* No call tells it: found by trying sizes on a nameless file. */
static uint64_t probe_max_file_size(int dirfd)
{
	uint64_t low = 0, high = INT64_MAX;
	int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return INT64_MAX;
	while (low < high) {
		uint64_t mid = low + (high - low + 1) / 2;
		if (ftruncate(fd, (off_t)mid))
			high = mid - 1;
		else
			low = mid;
	}
	close(fd);
	return low ? low : INT64_MAX;
}

/* Root of a user namespace that has no other user can't make anything for others: as good as without root. */
static bool has_other_users(void)
{
	unsigned long inside, outside, count;
	FILE *map = fopen("/proc/self/uid_map", "re");
	if (!map)
		return true; /* a kernel without user namespaces */
	bool alone = fscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3 && count == 1 && fscanf(map, "%lu", &inside) != 1;
	fclose(map);
	return !alone;
}

static int open_layers(struct overlay *ov, const struct overlay_config *c, char *err, size_t errlen)
{
	int rc = 0;
	ov->layers = calloc(c->nlowers + 1, sizeof *ov->layers);
	if (!ov->layers)
		return fail(err, errlen, -ENOMEM, "out of memory");
	ov->has_upper = c->upper;
	if (c->upper)
		rc = layer_open(ov, &ov->layers[ov->nlayers++], c->upper, false, err, errlen);
	for (size_t i = 0; !rc && i < c->nlowers; i++)
		rc = layer_open(ov, &ov->layers[ov->nlayers++], c->lowers[i], true, err, errlen);
	ov->data_layers = calloc(c->ndata_lowers + 1, sizeof *ov->data_layers);
	if (!rc && !ov->data_layers)
		rc = fail(err, errlen, -ENOMEM, "out of memory");
	for (size_t i = 0; !rc && i < c->ndata_lowers; i++)
		rc = layer_open(ov, &ov->data_layers[ov->ndata_layers++], c->data_lowers[i], true, err, errlen);
	return rc;
}

/* Two file systems without a uuid can't be told apart by their handles: Linux: ovl_lower_uuid_ok() in fs/overlayfs/super.c. */
static void settle_origins(struct overlay *ov)
{
	const struct layer *nameless = NULL;
	bool several = false;
	for (size_t i = ov->has_upper; i < ov->nlayers; i++) {
		const struct layer *l = &ov->layers[i];
		if (l->has_uuid)
			continue;
		several |= nameless && (nameless->dev_major != l->dev_major || nameless->dev_minor != l->dev_minor);
		nameless = l;
	}
	for (size_t i = 0; i < ov->nlayers; i++)
		ov->layers[i].has_origins = ov->layers[i].has_uuid || !several || (ov->has_upper && !i);
}

static size_t default_fds(void)
{
	struct rlimit rl = { 1024, 1024 };
	getrlimit(RLIMIT_NOFILE, &rl);
	size_t part = rl.rlim_cur < 512 ? rl.rlim_cur / 8 : rl.rlim_cur / 2; /* layers, map, listeners and the calls at hand need some, too */
	return part < 65536 ? part : 65536;
}

/* A cache: where the disk has no room for it, the server starts all the same. */
static void open_map(struct overlay *ov)
{
	int rc = ov->has_upper && !ov->config.offline ? map_open(ov->map_fd, ov->config.log, &ov->map) : -ENOENT;
	if (rc && rc != -ENOENT)
		ov_log(ov, 4, "the handle map can't be opened: %s; one that goes with the server has to do", strerror(-rc));
	if (rc && map_open_private(ov->config.log, &ov->map))
		ov_log(ov, 4, "no room for the handle map in $TMPDIR: old handles are found by searching each time");
}

/* Of a read-only overlay, the upper's file system may be read-only, too. */
static int open_identity(struct overlay *ov, const struct overlay_config *c)
{
	int rc = identity_open(ov->map_fd, !c->offline || c->repair, c->log, &ov->identity);
	return rc == -EROFS && c->read_only ? identity_open(ov->map_fd, false, c->log, &ov->identity) : rc;
}

static int start(struct overlay *ov, const struct overlay_config *c, char *err, size_t errlen)
{
	int rc = open_layers(ov, c, err, errlen);
	if (rc || !ov->layers[0].root) /* there is one: check_config saw to it */
		return rc;
	settle_origins(ov);
	if (ov->has_upper && (rc = claim_lock(ov, err, errlen)))
		return rc;
	ov->uid = geteuid();
	ov->gid = getegid();
	ov->privileged = ov->uid == 0 && has_other_users();
	if (ov->privileged)
		probe_acting(ov);
	int top = ov->layers[0].root->fds[FD_READ]->fd;
	struct statvfs mount;
	ov->upper_mount = fstatvfs(top, &mount) ? 0 : mount.f_flag;
	bool trusted = !c->userxattr && ov->privileged && (!ov->has_upper || (c->read_only ? can_read_trusted(top) : can_use_trusted(top)));
	ov->prefix = trusted ? "trusted.overlay." : "user.overlay.";
	ov->writable = ov->has_upper && !c->read_only;
	/* Linux neither makes nor follows metacopies in user.*, which any owner of a file can set: with a redirect one would read whatever
	 * file the server can. Data-only layers hold nothing secret. A directory's redirect is as good as a way around its parents' permissions. */
	ov->makes_metacopy = trusted && !c->no_metacopy && !c->no_redirect;
	ov->follows_metacopy = trusted;
	ov->makes_redirects = !c->no_redirect;
	ov->distrusts_lowers = !trusted && ov->privileged;
	if (ov->has_upper) {
		rc = open_work(ov, c, err, errlen);
		if (!rc && (rc = open_identity(ov, c)))
			fail(err, errlen, rc, "the work directory's file of identities can't be opened: %s", strerror(-rc));
	}
	if (!rc)
		open_map(ov);
	ov->max_file_size = rc || !ov->writable ? INT64_MAX : probe_max_file_size(ov->work_fd);
	if (!rc)
		rc = state_number_layers(ov, err, errlen);
	if (!rc && (rc = state_key(ov)))
		fail(err, errlen, rc, "the key of the handles can't be read or kept: %s", strerror(-rc));
	if (!rc && (rc = merge_root(ov, &ov->root)))
		fail(err, errlen, rc, "the root can't be read: %s", strerror(-rc));
	return rc;
}

/* A rename waits for the readers that are there, and not for those that come after it. */
static void init_rename_lock(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(lock, &attr);
	pthread_rwlockattr_destroy(&attr);
}

int overlay_open(const struct overlay_config *c, struct overlay **out, char *err, size_t errlen)
{
	struct overlay *ov;
	uint64_t verifier;
	if (sodium_init() < 0)
		return fail(err, errlen, -EIO, "libsodium can't be started");
	int rc = check_config(c, err, errlen);
	if (rc)
		return rc;
	if (!(ov = calloc(1, sizeof *ov)) || !(ov->name = strdup(c->name ? c->name : "/"))) {
		free(ov);
		return fail(err, errlen, -ENOMEM, "out of memory");
	}
	ov->config = *c;
	ov->base_fd = ov->work_fd = ov->map_fd = -1;
	randombytes_buf(&verifier, sizeof verifier);
	atomic_store(&ov->verifier, verifier);
	init_rename_lock(&ov->rename_lock);
	pthread_mutex_init(&ov->index_lock, NULL);
	pthread_mutex_init(&ov->copies.lock, NULL);
	pthread_cond_init(&ov->copies.ended, NULL);
	syncs_init(&ov->syncs);
	pthread_mutex_init(&ov->origins_lock, NULL);
	pthread_mutex_init(&ov->listings_lock, NULL);
	for (int i = 0; i < LISTING_READERS; i++)
		pthread_mutex_init(&ov->listing_readers[i], NULL);
	slab_init(&ov->place_slab, PLACE_GRANULE);
	fds_init(&ov->fds, c->max_fds ? c->max_fds : default_fds());
	rc = search_create(&ov->search);
	if (!rc)
		rc = table_init(&ov->table, c->max_objects ? c->max_objects : DEFAULT_OBJECTS);
	if (rc)
		fail(err, errlen, rc, "out of memory");
	else
		rc = start(ov, c, err, errlen);
	if (rc) {
		overlay_close(ov);
		return rc;
	}
	*out = ov;
	return 0;
}

void overlay_close(struct overlay *ov)
{
	search_destroy(ov);
	overlay_put(ov, ov->root);
	table_destroy(ov, &ov->table);
	fds_destroy(&ov->fds);
	intents_close(ov);
	if (ov->map)
		map_close(ov->map);
	if (ov->identity)
		identity_close(ov->identity);
	if (ov->has_index) /* the layers last: with the upper goes its lock, and the next server may use what was closed above */
		layer_close(ov, &ov->index_layer);
	for (size_t i = 0; i < ov->nlayers; i++)
		layer_close(ov, &ov->layers[i]);
	for (size_t i = 0; i < ov->ndata_layers; i++)
		layer_close(ov, &ov->data_layers[i]);
	slab_destroy(&ov->place_slab);
	int fd[] = { ov->base_fd, ov->work_fd, ov->map_fd };
	for (int i = 0; i < 3; i++)
		if (fd[i] >= 0)
			close(fd[i]);
	pthread_rwlock_destroy(&ov->rename_lock);
	pthread_mutex_destroy(&ov->index_lock);
	pthread_cond_destroy(&ov->copies.ended);
	pthread_mutex_destroy(&ov->copies.lock);
	syncs_destroy(&ov->syncs);
	pthread_mutex_destroy(&ov->origins_lock);
	origins_free(ov->origins);
	pthread_mutex_destroy(&ov->listings_lock);
	for (int i = 0; i < LISTING_READERS; i++)
		pthread_mutex_destroy(&ov->listing_readers[i]);
	free(ov->layers);
	free(ov->data_layers);
	free(ov->name);
	free(ov);
}

struct object *overlay_root(struct overlay *ov)
{
	return object_get(ov->root);
}

const struct overlay_id *overlay_id(const struct object *o)
{
	return &o->id;
}

mode_t overlay_type(const struct object *o)
{
	return o->type;
}

const uint8_t *overlay_key(const struct overlay *ov)
{
	return ov->key;
}

uint64_t overlay_fsid(const struct overlay *ov)
{
	return ov->fsid;
}

uint64_t overlay_verifier(const struct overlay *ov)
{
	return atomic_load(&((struct overlay *)ov)->verifier);
}

bool overlay_makes_for_callers(const struct overlay *ov)
{
	return ov->privileged;
}

bool overlay_is_read_only(const struct overlay *ov)
{
	return !ov->writable;
}

int overlay_statfs(struct overlay *ov, struct overlay_statfs *st)
{
	struct statvfs v;
	if (fstatvfs(ov->layers[0].root->fds[FD_READ]->fd, &v))
		return -errno;
	*st = (struct overlay_statfs){ .tbytes = (uint64_t)v.f_blocks * v.f_frsize, .fbytes = (uint64_t)v.f_bfree * v.f_frsize,
				       .abytes = (uint64_t)v.f_bavail * v.f_frsize, .tfiles = v.f_files, .ffiles = v.f_ffree, .afiles = v.f_favail };
	return 0;
}

uint64_t overlay_max_file_size(const struct overlay *ov)
{
	return ov->max_file_size;
}

int overlay_pathconf(struct overlay *ov, struct object *o, uint32_t *linkmax, uint32_t *name_max)
{
	(void)o;
	long n = fpathconf(ov->layers[0].root->fds[FD_READ]->fd, _PC_LINK_MAX);
	*linkmax = n > 0 ? (uint32_t)n : 32000;
	*name_max = 255;
	return 0;
}
