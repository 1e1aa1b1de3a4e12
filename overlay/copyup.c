/*
 * copyup.c: brings an object into the upper (Linux: fs/overlayfs/copy_up.c). The copy is made whole in the work
 * directory, identity and all, and shows by one rename: a crash leaves the tree as it was before or after.
 */
#include "internal.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static int copy_range(int from, int to, off_t at, off_t end)
{
	static _Thread_local char buf[1 << 16];
	off_t in = at, out = at;
	while (in < end) {
		ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - in), 0);
		if (n > 0)
			continue;
		if (!n)
			return 0; /* the file is shorter than it was */
		if (errno == EINTR)
			continue;
		if (errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP && errno != EBADF)
			return -errno;
		n = pread(from, buf, (size_t)(end - in) < sizeof buf ? (size_t)(end - in) : sizeof buf, in);
		if (n <= 0)
			return n ? -errno : 0;
		for (ssize_t done = 0; done < n;) {
			ssize_t w = pwrite(to, buf + done, (size_t)(n - done), out + done);
			if (w < 0 && errno != EINTR)
				return -errno;
			done += w > 0 ? w : 0;
		}
		in += n;
		out += n;
	}
	return 0;
}

int copy_data(int from, int to, uint64_t size)
{
	if (!ioctl(to, FICLONE, from))
		return 0;
	if (ftruncate(to, (off_t)size))
		return -errno;
	off_t at = 0, end = (off_t)size;
	while (at < end) { /* holes stay holes */
		off_t data = lseek(from, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			data = at;
		off_t hole = lseek(from, data, SEEK_HOLE);
		if (hole < 0 || hole > end)
			hole = end;
		int rc = copy_range(from, to, data, hole);
		if (rc)
			return rc;
		at = hole;
	}
	return 0;
}

/* All but overlayfs's own. ACLs and capabilities are xattrs too. What the upper can't hold at all is left. */
static int copy_xattrs_by_path(struct overlay *ov, const char *from, const char *to)
{
	ssize_t len = llistxattr(from, NULL, 0);
	if (len <= 0)
		return len < 0 && errno != EOPNOTSUPP ? -errno : 0;
	char *names = malloc((size_t)len), *value = malloc(65536);
	int rc = names && value ? 0 : -ENOMEM;
	len = rc ? 0 : llistxattr(from, names, (size_t)len);
	if (len < 0)
		rc = -errno;
	for (char *n = names; !rc && n < names + len; n += strlen(n) + 1) {
		if (format_private_xattr(ov, n))
			continue;
		ssize_t size = lgetxattr(from, n, value, 65536);
		if (size < 0 && errno == ENODATA)
			continue;
		if (size < 0)
			rc = -errno;
		else if (lsetxattr(to, n, value, (size_t)size, 0) && errno != EOPNOTSUPP && errno != EPERM)
			rc = -errno;
	}
	free(names);
	free(value);
	return rc;
}

static int fill_temp(struct overlay *ov, int dirfd, const char *name, const struct statx *st, const char *temp)
{
	char target[4097], from[300], to[300];
	ssize_t n;
	mode_t type = st->stx_mode & S_IFMT;
	int rc = 0;
	if (type == S_IFDIR) {
		rc = mkdirat(ov->work_fd, temp, 0700) ? -errno : 0;
	} else if (type == S_IFLNK) {
		n = readlinkat(dirfd, name, target, sizeof target - 1);
		if (n < 0)
			return -errno;
		target[n] = 0;
		rc = symlinkat(target, ov->work_fd, temp) ? -errno : 0;
	} else if (type == S_IFREG) {
		int out = openat(ov->work_fd, temp, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
		int in = out < 0 ? -1 : open_beneath(dirfd, name, O_RDONLY | O_NONBLOCK);
		rc = out < 0 ? -errno : in < 0 ? in : 0;
		if (!rc && st->stx_size > 1 << 20)
			will_block(ov);
		if (!rc)
			rc = copy_data(in, out, st->stx_size);
		if (in >= 0)
			close(in);
		if (out >= 0 && close(out) && !rc)
			rc = -errno;
	} else {
		rc = mknodat(ov->work_fd, temp, st->stx_mode, makedev(st->stx_rdev_major, st->stx_rdev_minor)) ? -errno : 0;
	}
	if (rc)
		return rc;
	snprintf(from, sizeof from, "/proc/self/fd/%d/%s", dirfd, name);
	snprintf(to, sizeof to, "/proc/self/fd/%d/%s", ov->work_fd, temp);
	if (fchownat(ov->work_fd, temp, st->stx_uid, st->stx_gid, AT_SYMLINK_NOFOLLOW) && ov->privileged)
		return -errno;
	if (type != S_IFLNK && fchmodat(ov->work_fd, temp, st->stx_mode & 07777, 0))
		return -errno;
	return copy_xattrs_by_path(ov, from, to); /* after chown, which would drop capabilities */
}

static void to_timespec(struct timespec out[2], const struct statx *st)
{
	out[0] = (struct timespec){ .tv_sec = st->stx_atime.tv_sec, .tv_nsec = st->stx_atime.tv_nsec };
	out[1] = (struct timespec){ .tv_sec = st->stx_mtime.tv_sec, .tv_nsec = st->stx_mtime.tv_nsec };
}

/* origin for Linux, overnfsd for us; where no xattr can stand, the file of identities, durably, before the copy shows. */
static int mark_identity(struct overlay *ov, struct object *o, const char *temp, int dirfd, const char *name, uint64_t *ino)
{
	uint8_t origin[160];
	struct statx st;
	uint64_t gen;
	int rc = statx_at(ov->work_fd, temp, &st);
	if (rc)
		return rc;
	*ino = st.stx_ino;
	size_t len = format_make_origin(o->lower[0]->layer, dirfd, name, origin);
	format_setxattr(ov, ov->work_fd, temp, "origin", origin, len);
	rc = format_set_identity(ov, ov->work_fd, temp, &o->id, st.stx_ino);
	if (rc != -EPERM && rc != -EOPNOTSUPP)
		return rc;
	rc = inode_generation(&ov->layers[0], ov->work_fd, temp, &st, &gen);
	return rc ? rc : identity_put_origin(ov->identity, st.stx_ino, gen, &o->id);
}

static int index_name(struct object *o, int dirfd, const char *name, char hex[321])
{
	uint8_t origin[160];
	size_t len = format_make_origin(o->lower[0]->layer, dirfd, name, origin);
	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", origin[i]);
	return len ? 0 : -EOPNOTSUPP;
}

static int index_open(struct overlay *ov)
{
	int rc = 0;
	pthread_mutex_lock(&ov->index_lock);
	if (!ov->has_index) {
		char err[256];
		char path[64];
		if (mkdirat(ov->base_fd, "index", 0700) && errno != EEXIST)
			rc = -errno;
		snprintf(path, sizeof path, "/proc/self/fd/%d/index", ov->base_fd);
		if (!rc)
			rc = layer_open(ov, &ov->index_layer, path, false, err, sizeof err);
		ov->has_index = !rc;
	}
	pthread_mutex_unlock(&ov->index_lock);
	return rc;
}

/* Moves the finished copy into the merged tree, unless the object went meanwhile. rename_lock shared. */
static int install(struct overlay *ov, struct object *o, const char *temp, uint64_t ino, const char *hex)
{
	struct object *parent = o->parent;
	struct fdent *dir;
	struct statx before;
	struct place *place = NULL;
	pthread_mutex_lock(&parent->dir_lock);
	int rc = o->dead || !parent->upper ? -ESTALE : place_pin(ov, parent->upper, FD_PATH, &dir);
	if (rc)
		goto unlock;
	rc = statx_at(dir->fd, "", &before);
	if (!rc && *hex) {
		char v[32];
		struct overlay_attr a;
		rc = attr_get(ov, o, &a); /* the lower's count; the upper's own will be 1, and 1 more for a name */
		snprintf(v, sizeof v, "L%+d", 0);
		if (!rc)
			rc = format_setxattr(ov, ov->work_fd, temp, "nlink", v, strlen(v));
		if (!rc && linkat(ov->work_fd, temp, ov->index_layer.root->fds[FD_PATH]->fd, hex, 0))
			rc = -errno;
	}
	place = rc ? NULL : *hex ? place_new(&ov->index_layer, ov->index_layer.root, hex) : place_new(&ov->layers[0], parent->upper, o->name);
	if (!rc && !place)
		rc = -ENOMEM;
	if (!rc && o->named && renameat2(ov->work_fd, temp, dir->fd, o->name, RENAME_NOREPLACE))
		rc = -errno;
	if (!rc && !o->named)
		work_remove(ov, temp); /* an indexed file whose known name went: the index holds it */
	if (!rc) {
		struct timespec t[2];
		to_timespec(t, &before);
		mark_impure(ov, parent, dir->fd);
		char path[64];
		snprintf(path, sizeof path, "/proc/self/fd/%d/.", dir->fd);
		utimensat(AT_FDCWD, path, t, 0); /* the parents' times do not move */
		pthread_mutex_lock(&o->lock);
		o->upper = place;
		o->real_ino = ino;
		o->attr_valid = false;
		pthread_mutex_unlock(&o->lock);
		attr_forget(parent);
	} else {
		place_put(ov, place);
	}
	place_unpin(ov, dir);
unlock:
	pthread_mutex_unlock(&parent->dir_lock);
	return rc;
}

/* copy_lock held, and nothing else */
static int copy_new(struct overlay *ov, struct object *o)
{
	struct fdent *parent;
	const char *name;
	struct statx st;
	struct timespec t[2];
	char temp[24], hex[321] = "";
	uint64_t ino = 0;
	if (o->indexed && index_open(ov))
		o->indexed = false; /* names part, as without index in Linux */
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = place_pin_parent(ov, o->lower[0], &parent, &name);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (rc)
		return rc;
	work_name(ov, temp);
	rc = statx_at(parent->fd, name, &st);
	if (!rc)
		rc = fill_temp(ov, parent->fd, name, &st, temp);
	if (!rc)
		rc = mark_identity(ov, o, temp, parent->fd, name, &ino);
	if (!rc && o->indexed && index_name(o, parent->fd, name, hex))
		*hex = 0;
	to_timespec(t, &st);
	if (!rc && utimensat(ov->work_fd, temp, t, AT_SYMLINK_NOFOLLOW))
		rc = -errno;
	if (!rc && S_ISREG(st.stx_mode) && ov->config.sync) { /* the data before the name, or a power cut leaves an empty file */
		int fd = openat(ov->work_fd, temp, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		rc = fd < 0 ? -errno : sync_fd(ov, fd, false);
		if (fd >= 0)
			close(fd);
	}
	place_unpin(ov, parent);
	if (!rc) {
		pthread_rwlock_rdlock(&ov->rename_lock);
		rc = install(ov, o, temp, ino, hex);
		pthread_rwlock_unlock(&ov->rename_lock);
	}
	if (rc)
		work_remove(ov, temp);
	return rc;
}

/* Gives a metacopy its data, in place: the mark goes only when the data is whole, so a crash leaves it as it was. */
static int complete_metacopy(struct overlay *ov, struct object *o)
{
	struct fdent *from = NULL, *to = NULL, *parent = NULL;
	const char *name;
	struct statx st;
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = place_pin(ov, o->lower[o->nlower - 1], FD_READ, &from);
	if (!rc)
		rc = object_pin(ov, o, FD_WRITE, &to);
	if (!rc)
		rc = statx_at(to->fd, "", &st);
	if (!rc)
		rc = copy_data(from->fd, to->fd, st.stx_size);
	if (!rc)
		rc = sync_fd(ov, to->fd, false);
	if (!rc)
		rc = place_pin_parent(ov, o->upper, &parent, &name);
	if (!rc) {
		struct timespec t[2];
		to_timespec(t, &st);
		futimens(to->fd, t);
		rc = format_removexattr(ov, parent->fd, name, "metacopy");
	}
	if (!rc) {
		pthread_mutex_lock(&o->lock);
		o->metacopy = false;
		o->attr_valid = false;
		pthread_mutex_unlock(&o->lock);
	}
	pthread_rwlock_unlock(&ov->rename_lock);
	place_unpin(ov, from);
	place_unpin(ov, to);
	place_unpin(ov, parent);
	return rc;
}

/* The parent is in the upper already. */
static int copy_up_one(struct overlay *ov, struct object *o, bool with_data)
{
	bool copied = false;
	int rc = 0;
	pthread_mutex_lock(&o->copy_lock);
	if (!object_is_up(o, false)) {
		rc = o->dead ? -ESTALE : copy_new(ov, o);
		copied = true;
	} else if (!object_is_up(o, with_data)) {
		rc = complete_metacopy(ov, o);
	}
	pthread_mutex_unlock(&o->copy_lock);
	if (rc || !copied)
		return rc;
	pthread_rwlock_rdlock(&ov->rename_lock);
	struct object *parent = object_get(o->parent);
	pthread_rwlock_unlock(&ov->rename_lock);
	rc = sync_dirs(ov, parent, NULL);
	overlay_put(ov, parent);
	return rc;
}

/* The ancestors that are not in the upper yet, nearest first, counted; *n of them. A loop: trees may be deeper than a stack. One that is moved
 * meanwhile is in the upper then, and so is its new parent. */
static int ancestors_below(struct overlay *ov, struct object *o, struct object ***list, size_t *n)
{
	int rc = 0;
	*n = 0;
	*list = NULL;
	pthread_rwlock_rdlock(&ov->rename_lock);
	for (struct object *p = o->parent; p && !object_is_up(p, false); p = p->parent)
		++*n;
	if (*n && !(*list = malloc(*n * sizeof(struct object *))))
		rc = -ENOMEM;
	struct object *p = o->parent;
	for (size_t i = 0; *list && i < *n; i++, p = p->parent)
		(*list)[i] = object_get(p);
	pthread_rwlock_unlock(&ov->rename_lock);
	return rc;
}

int copy_up(struct overlay *ov, struct object *o, bool with_data)
{
	struct object **above;
	size_t n;
	if (!ov->writable)
		return -EROFS;
	if (object_is_up(o, with_data))
		return 0;
	if (o->dead)
		return object_gone(o);
	int rc = ancestors_below(ov, o, &above, &n);
	if (rc)
		return rc;
	while (n--) {
		rc = rc ? rc : copy_up_one(ov, above[n], false);
		overlay_put(ov, above[n]);
	}
	free(above);
	return rc ? rc : copy_up_one(ov, o, with_data);
}
