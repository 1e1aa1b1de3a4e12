/* remove.c: names that go. A whiteout is made only where a lower layer would show the name. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Write permission on the directory, and in a sticky one ownership of it or of the object. */
int may_remove(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, struct object *o)
{
	struct overlay_attr d, a;
	int rc = require(ov, cred, dir, OVERLAY_WRITE | OVERLAY_EXEC);
	if (!rc)
		rc = changeable(ov, dir, false) ?: changeable(ov, o, false);
	if (rc || !cred->uid)
		return rc;
	rc = attr_get(ov, dir, &d) ?: attr_get(ov, o, &a);
	if (!rc && d.mode & S_ISVTX && cred->uid != d.uid && cred->uid != a.uid)
		rc = -EPERM;
	return rc;
}

/* The name is gone from the tree: what is left of its object? */
void name_is_gone(struct overlay *ov, struct object *o, struct object *dir, const char *name, bool last)
{
	object_unname(ov, o, dir, name);
	/* This place alone: the inode's number may live again by now, and its new place be in the map under the same file id. Here it can't be. */
	map_del_place(ov->map, &o->id, &dir->id, name);
	if (last) {
		object_kill(ov, o);
		if (ov->identity)
			identity_forget(ov->identity, &o->id);
	} else {
		object_lose(ov, o, dir, name);
		attr_forget(o); /* it has a name less */
	}
}

/* The whiteouts in an empty directory hide nothing more: they go with it. */
static int remove_with_whiteouts(struct overlay *ov, int dirfd, const char *name)
{
	char temp[24];
	work_name(ov, temp);
	if (renameat2(dirfd, name, ov->work_fd, temp, RENAME_NOREPLACE))
		return -errno;
	work_remove(ov, temp);
	return 0;
}

/* Where it is written to itself, as its ".." changes, and its mode forbids that; once it is out of sight nobody minds the mode. */
static int remove_shut(struct overlay *ov, struct object *o, int dirfd, const char *name, bool whiteout)
{
	struct lent lent;
	pthread_mutex_lock(&o->lock);
	int rc = lend(ov, o->upper, S_IRWXU, &lent);
	if (!rc) {
		rc = whiteout ? whiteout_name(ov, dirfd, name, true, true) : remove_with_whiteouts(ov, dirfd, name);
		if (rc)
			lent_back(ov, &lent);
		else
			intent_done(ov, lent.note);
	}
	pthread_mutex_unlock(&o->lock);
	return rc;
}

static int remove_locked(struct overlay *ov, struct object *dir, const char *name, struct object *o, const struct found *f)
{
	struct fdent *parent;
	struct overlay_attr a;
	bool is_dir = o->type == S_IFDIR;
	int rc = attr_get(ov, o, &a);
	if (!rc)
		rc = place_pin(ov, dir->upper, FD_PATH, &parent);
	if (rc)
		return rc;
	bool indexed = index_has(ov, o), in_upper = f->name_in_upper;
	if (indexed)
		pthread_mutex_lock(&ov->index_lock);
	if (indexed && !in_upper) { /* its going must take one from the copy's count */
		rc = index_link_up(ov, o, dir, parent->fd, name);
		in_upper = !rc;
	}
	if (!rc && indexed)
		rc = index_keep_nlink(ov, o);
	if (rc)
		goto out;
	if (f->name_below || !in_upper) {
		rc = whiteout_name(ov, parent->fd, name, in_upper, is_dir);
		if (rc == -EACCES && in_upper && is_dir)
			rc = remove_shut(ov, o, parent->fd, name, true);
	} else if (is_dir && unlinkat(parent->fd, name, AT_REMOVEDIR)) {
		rc = -errno;
		bool whiteouts = (rc == -ENOTEMPTY || rc == -EEXIST) && !(rc = directory_is_empty(ov, o));
		if (whiteouts && (rc = remove_with_whiteouts(ov, parent->fd, name)) == -EACCES)
			rc = remove_shut(ov, o, parent->fd, name, false);
	} else if (!is_dir && unlinkat(parent->fd, name, 0)) {
		rc = -errno;
	}
	if (rc)
		goto out;
	bool last = is_dir || a.nlink <= 1;
	if (last && indexed)
		index_remove(ov, o);
	name_is_gone(ov, o, dir, name, last);
out:
	if (indexed)
		pthread_mutex_unlock(&ov->index_lock);
	place_unpin(ov, parent);
	return rc;
}

/* Nobody has to look whether it is empty: there is one directory, and rmdir(2) will tell. */
static bool rmdir_tells(const struct object *o, const struct found *f)
{
	return only_upper(o) && f->name_in_upper && !f->name_below;
}

/* As Linux asks: permission first, then what it is. Of a directory, its dir_lock is held. look: whether it is empty. */
static int check_removal(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, struct object *o, bool want_dir, bool look)
{
	int rc = may_remove(ov, cred, dir, o);
	if (!rc && want_dir != (o->type == S_IFDIR))
		rc = want_dir ? -ENOTDIR : -EISDIR;
	if (!rc && want_dir && look)
		rc = directory_is_empty(ov, o);
	return rc;
}

static int remove_name(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name, bool want_dir,
		       struct overlay_wcc *wcc)
{
	struct found f = { 0 };
	struct object *o = NULL, *seen = NULL;
	unsigned changes = 0;
	memset(wcc, 0, sizeof *wcc);
	int rc = check_name(ov, dir, name);
	if (!rc && !ov->writable)
		rc = -EROFS;
	if (!rc)
		rc = overlay_lookup(ov, cred, dir, name, &seen, NULL);
	pthread_rwlock_rdlock(&ov->rename_lock);
	if (!rc) { /* before anything is copied up */
		if (seen->type == S_IFDIR)
			pthread_mutex_lock(&seen->dir_lock);
		changes = atomic_load(&seen->changes);
		rc = check_removal(ov, cred, dir, seen, want_dir, !only_upper(seen));
		if (seen->type == S_IFDIR)
			pthread_mutex_unlock(&seen->dir_lock);
	}
	pthread_rwlock_unlock(&ov->rename_lock);
	if (!rc)
		rc = copy_up(ov, dir, false);
	if (!rc && seen->indexed) /* the count of its other names is kept on the copy */
		rc = copy_up(ov, seen, false);
	bool waited = seen && wait_for_bytes(ov, seen);
	pthread_rwlock_rdlock(&ov->rename_lock);
	pthread_mutex_lock(&dir->dir_lock);
	wcc_before(ov, dir, wcc);
	if (!rc)
		rc = dir->dead ? -ESTALE : lookup_locked(ov, dir, name, &o); /* again, now that nobody can change it */
	if (!rc)
		rc = name_state(ov, dir, name, o, &f);
	if (!rc) {
		pthread_mutex_lock(&o->dir_lock); /* nobody adds a name while it goes */
		bool looked = o == seen && !only_upper(o) && changes == atomic_load(&o->changes);
		rc = check_removal(ov, cred, dir, o, want_dir, !looked && !rmdir_tells(o, &f));
		if (!rc)
			rc = remove_locked(ov, dir, name, o, &f);
		pthread_mutex_unlock(&o->dir_lock);
	}
	wcc_after(ov, dir, wcc);
	pthread_mutex_unlock(&dir->dir_lock);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (seen)
		bytes_waited_for(ov, seen, waited);
	found_free(ov, &f);
	overlay_put(ov, o);
	overlay_put(ov, seen);
	if (want_dir)
		work_empty(ov);
	index_flush_removed(ov);
	return rc ? rc : sync_dirs(ov, dir, NULL);
}

int overlay_remove(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		   struct overlay_wcc *wcc)
{
	return remove_name(ov, cred, dir, name, false, wcc);
}

int overlay_rmdir(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		  struct overlay_wcc *wcc)
{
	return remove_name(ov, cred, dir, name, true, wcc);
}
