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
	int rc = work_clean(fd);
	close(fd);
	return unlinkat(dirfd, name, AT_REMOVEDIR) ? rc ? rc : -errno : 0;
}

int work_clean(int dirfd)
{
	int fd = open_beneath(dirfd, "", O_RDONLY | O_DIRECTORY), rc = 0;
	if (fd < 0)
		return fd;
	DIR *d = fdopendir(fd);
	if (!d) {
		rc = -errno;
		close(fd);
		return rc;
	}
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); errno = 0)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
			int one = remove_tree(dirfd, e->d_name);
			rc = rc ? rc : one;
		}
	rc = rc ? rc : -errno;
	closedir(d);
	return rc;
}

int dir_holds_anything(int dirfd)
{
	int fd = open_beneath(dirfd, "", O_RDONLY | O_DIRECTORY), n = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		n = fd < 0 ? fd : -errno;
		if (fd >= 0)
			close(fd);
		return n;
	}
	errno = 0;
	for (struct dirent *e; !n && (e = readdir(d)); errno = 0)
		n = strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	n = n ? 1 : -errno;
	closedir(d);
	return n;
}

int work_whiteout(struct overlay *ov, char name[24])
{
	work_name(ov, name);
	return mknodat(ov->work_fd, name, S_IFCHR, 0) ? -errno : 0;
}

static void remove_for_good(struct overlay *ov, const char *name)
{
	int rc = remove_tree(ov->work_fd, name);
	if (rc)
		rc = remove_tree(ov->work_fd, name); /* it may have been for want of memory or descriptors */
	if (rc)
		ov_log(ov, 4, "work directory: %s could not be removed: %s; the next start will", name, strerror(-rc));
}

struct discarded {
	struct discarded *next;
	char name[24];
};

void work_remove(struct overlay *ov, const char *name)
{
	struct discarded *d;
	if (!unlinkat(ov->work_fd, name, 0) || errno == ENOENT || !unlinkat(ov->work_fd, name, AT_REMOVEDIR))
		return;
	if ((errno == ENOTEMPTY || errno == EEXIST) && (d = malloc(sizeof *d))) {
		snprintf(d->name, sizeof d->name, "%s", name);
		d->next = atomic_load(&ov->discarded);
		while (!atomic_compare_exchange_weak(&ov->discarded, &d->next, d))
			;
		return;
	}
	remove_for_good(ov, name);
}

void work_empty(struct overlay *ov)
{
	struct discarded *d = atomic_exchange(&ov->discarded, NULL);
	for (struct discarded *next; d; d = next) {
		next = d->next;
		will_block(ov);
		remove_for_good(ov, d->name);
		free(d);
	}
}

int whiteout_name(struct overlay *ov, int dirfd, const char *name, bool exists, bool is_dir)
{
	char temp[24];
	bool exchange = exists && is_dir; /* a directory can't be replaced by anything else */
	int rc = work_whiteout(ov, temp);
	if (rc)
		return rc;
	if (renameat2(ov->work_fd, temp, dirfd, name, exchange ? RENAME_EXCHANGE : exists ? 0 : RENAME_NOREPLACE))
		rc = -errno;
	if (rc || exchange)
		work_remove(ov, temp); /* after the exchange: what stood there */
	return rc;
}

int mark_impure(struct overlay *ov, struct object *dir, int dirfd)
{
	char y;
	if (dir->impure)
		return 0;
	int rc = format_getxattr(ov, dirfd, "", "impure", &y, 1) >= 0 ? 0 : format_setxattr(ov, dirfd, "", "impure", "y", 1);
	dir->impure = !rc;
	return rc == -EPERM || rc == -EOPNOTSUPP ? 0 : rc; /* there is no mark of ours then that it could tell of */
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
