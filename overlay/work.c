/* work.c: things are made in the work directory, then moved into place by one system call; what a crash leaves there is emptied at start. */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void work_name(struct overlay *ov, char name[24])
{
	snprintf(name, 24, "#%x", atomic_fetch_add(&ov->temp_counter, 1));
}

static int remove_tree(int dirfd, const char *name)
{
	if (!unlinkat(dirfd, name, 0) || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (!unlinkat(dirfd, name, AT_REMOVEDIR))
		return 0;
	int fd = open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	work_clean(fd);
	close(fd);
	return unlinkat(dirfd, name, AT_REMOVEDIR) ? -errno : 0;
}

int work_clean(int dirfd)
{
	int fd = open_beneath(dirfd, "", O_RDONLY | O_DIRECTORY), rc = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return fd < 0 ? fd : -errno;
	for (struct dirent *e; (e = readdir(d));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
			int one = remove_tree(dirfd, e->d_name);
			rc = rc ? rc : one;
		}
	closedir(d);
	return rc;
}

int work_whiteout(struct overlay *ov, char name[24])
{
	work_name(ov, name);
	return mknodat(ov->work_fd, name, S_IFCHR, 0) ? -errno : 0;
}

void work_remove(struct overlay *ov, const char *name)
{
	int rc = remove_tree(ov->work_fd, name);
	if (rc)
		ov_log(ov, 4, "work directory: %s could not be removed: %s; the next start will", name, strerror(-rc));
}

int whiteout_name(struct overlay *ov, int dirfd, const char *name, bool exists)
{
	char temp[24];
	int rc = work_whiteout(ov, temp);
	if (rc)
		return rc;
	if (renameat2(ov->work_fd, temp, dirfd, name, exists ? RENAME_EXCHANGE : RENAME_NOREPLACE))
		rc = -errno;
	if (rc || exists)
		work_remove(ov, temp); /* after the exchange: what stood there */
	return rc;
}

void mark_impure(struct overlay *ov, struct object *dir, int dirfd)
{
	char y;
	if (dir->impure)
		return;
	dir->impure = format_getxattr(ov, dirfd, "", "impure", &y, 1) >= 0 || !format_setxattr(ov, dirfd, "", "impure", "y", 1);
}

void will_block(struct overlay *ov)
{
	if (ov->config.before_block)
		ov->config.before_block();
}

int sync_fd(struct overlay *ov, int fd, bool data_only)
{
	will_block(ov);
	if (!(data_only ? fdatasync(fd) : fsync(fd)) || errno == EINVAL || errno == EROFS)
		return 0;
	int rc = -errno;
	atomic_fetch_add(&ov->verifier, 1); /* clients must send again what they had not committed */
	ov_log(ov, 3, "writing back to the upper layer failed: %s", strerror(-rc));
	return rc;
}

static int sync_dir(struct overlay *ov, struct object *dir)
{
	struct fdent *fd;
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = dir->dead || !dir->upper ? 1 : place_pin(ov, dir->upper, FD_READ, &fd);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (rc)
		return rc > 0 ? 0 : rc;
	rc = sync_fd(ov, fd->fd, false);
	place_unpin(ov, fd);
	return rc;
}

int sync_dirs(struct overlay *ov, struct object *a, struct object *b)
{
	if (!ov->config.sync)
		return 0;
	int rc = sync_dir(ov, a);
	if (!rc && b && b != a)
		rc = sync_dir(ov, b);
	return rc;
}

int link_into(struct overlay *ov, struct object *o, int dirfd, const char *name, bool replace)
{
	struct fdent *parent;
	const char *from;
	char temp[24];
	pthread_mutex_lock(&o->lock); /* the place's name is the object's only under it */
	int rc = o->dead ? object_gone(o) : place_pin_parent(ov, o->upper, &parent, &from);
	if (rc)
		goto unlock;
	if (!replace) {
		rc = linkat(parent->fd, from, dirfd, name, 0) ? -errno : 0;
	} else {
		work_name(ov, temp);
		rc = linkat(parent->fd, from, ov->work_fd, temp, 0) ? -errno : 0;
		if (!rc && renameat(ov->work_fd, temp, dirfd, name)) {
			rc = -errno;
			work_remove(ov, temp);
		}
	}
	place_unpin(ov, parent);
unlock:
	pthread_mutex_unlock(&o->lock);
	return rc;
}
