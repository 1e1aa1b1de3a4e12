/* rename.c: one rename in the upper, with the redirect, opaque mark or whiteout that keeps the merged tree right (Linux: ovl_rename()). */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A redirect that leads nowhere may lead somewhere from another place. */
static int has_redirect(struct overlay *ov, int dirfd, const char *name)
{
	char v;
	ssize_t n = format_getxattr(ov, dirfd, name, "redirect", &v, 0);
	return n >= 0 ? 1 : n == -ENODATA ? 0 : (int)n;
}

/* What is below comes along: of a directory that merges, and of a metacopy. A directory of the upper alone must not merge at its new place.
 * Before the move: a crash between leaves a redirect to where it is anyway, or an opaque mark that hides nothing. */
static int mark_before_move(struct overlay *ov, struct object *o, int dirfd, const char *name, bool same_parent, bool below_new)
{
	int rc = keep_identity(ov, o, dirfd, name);
	if (rc)
		return rc;
	if (o->type == S_IFDIR ? o->nlower != 0 : !object_is_up(o, true))
		return redirect_set(ov, o, dirfd, name, same_parent);
	if (o->type == S_IFDIR)
		rc = below_new ? 1 : has_redirect(ov, dirfd, name);
	return rc > 0 ? format_setxattr(ov, dirfd, name, "opaque", "y", 1) : rc;
}

/* The marks are xattrs, which without root a directory that may not be written does not take; its mode does not guard its name, though. It is
 * not lent for reading: as long as it can't be read, its marks are kept in the file of identities too. */
static int mark_lent(struct overlay *ov, struct object *o, int dirfd, const char *name, bool same_parent, bool below_new)
{
	struct lent lent;
	int rc = mark_before_move(ov, o, dirfd, name, same_parent, below_new);
	if (rc != -EACCES || o->type != S_IFDIR || lend(ov, o->upper, S_IWUSR, &lent))
		return rc;
	rc = mark_before_move(ov, o, dirfd, name, same_parent, below_new);
	lent_back(ov, &lent);
	return rc;
}

struct moving {
	struct object *from, *to, *o, *target; /* target: what newname was, or NULL */
	const char *oldname, *newname;
	struct found f, t;
	struct fdent *from_fd, *to_fd;
	bool quick; /* tried without preparation: anything out of the ordinary is -EAGAIN */
	struct object *empty; /* counted; what the new name was known as, and empty, when it had so many changes */
	unsigned empty_changes;
	bool unseen; /* nobody looked whether newname is there: the rename will tell */
};

static bool is_ancestor(struct object *o, struct object *of)
{
	for (; of; of = of->parent)
		if (of == o)
			return true;
	return false;
}

static int check_target(struct overlay *ov, const struct overlay_cred *cred, struct moving *m)
{
	if (!m->target)
		return require(ov, cred, m->to, OVERLAY_WRITE | OVERLAY_EXEC);
	int rc = may_remove(ov, cred, m->to, m->target);
	if (!rc && m->o->type == S_IFDIR && m->target->type != S_IFDIR)
		rc = -ENOTDIR;
	if (!rc && m->o->type != S_IFDIR && m->target->type == S_IFDIR)
		rc = -EISDIR;
	return rc;
}

/* In the order of Linux's do_renameat2() and vfs_rename(), so that the errors are the same. */
static int check(struct overlay *ov, const struct overlay_cred *cred, struct moving *m)
{
	if (m->o->type == S_IFDIR && is_ancestor(m->o, m->to))
		return -EINVAL;
	if (m->target && is_ancestor(m->target, m->from))
		return -ENOTEMPTY;
	int rc = may_remove(ov, cred, m->from, m->o);
	if (!rc)
		rc = check_target(ov, cred, m);
	if (!rc && m->o->type == S_IFDIR && m->from != m->to && cred->uid)
		rc = require(ov, cred, m->o, OVERLAY_WRITE); /* its ".." changes */
	if (rc || !m->target || m->target->type != S_IFDIR)
		return rc;
	pthread_mutex_lock(&m->target->dir_lock);
	unsigned changes = atomic_load(&m->target->changes);
	if (m->target != m->empty || changes != m->empty_changes) /* all wait for who looks through a million whiteouts with rename_lock held exclusively */
		rc = directory_is_empty(ov, m->target);
	if (!rc) {
		overlay_put(ov, m->empty);
		m->empty = object_get(m->target);
		m->empty_changes = changes;
	}
	pthread_mutex_unlock(&m->target->dir_lock);
	return rc;
}

/* An opaque empty directory in the work directory, in all else what the target is. */
static int make_empty_like(struct overlay *ov, struct object *target, int dirfd, const char *temp, uint64_t *ino)
{
	uint8_t origin[256];
	struct statx st, made;
	if (mkdirat(ov->work_fd, temp, 0700))
		return -errno;
	int rc = statx_at(dirfd, "", &st) ?: statx_at(ov->work_fd, temp, &made);
	if (rc)
		return rc;
	struct timespec t[2] = { { .tv_sec = st.stx_atime.tv_sec, .tv_nsec = st.stx_atime.tv_nsec },
				 { .tv_sec = st.stx_mtime.tv_sec, .tv_nsec = st.stx_mtime.tv_nsec } };
	if ((st.stx_uid != made.stx_uid || st.stx_gid != made.stx_gid) && fchownat(ov->work_fd, temp, st.stx_uid, st.stx_gid, AT_SYMLINK_NOFOLLOW))
		return -errno;
	*ino = made.stx_ino;
	rc = copy_xattrs(ov, dirfd, ".", ov->work_fd, temp);
	ssize_t n = format_getxattr(ov, dirfd, "", "origin", origin, sizeof origin);
	if (!rc && n >= 0)
		rc = format_setxattr(ov, ov->work_fd, temp, "origin", origin, (size_t)n);
	if (!rc)
		rc = format_set_identity(ov, ov->work_fd, temp, &target->id, *ino);
	if (!rc)
		rc = format_setxattr(ov, ov->work_fd, temp, "opaque", "y", 1);
	if (!rc && (fchmodat(ov->work_fd, temp, st.stx_mode & 07777, 0) || utimensat(ov->work_fd, temp, t, AT_SYMLINK_NOFOLLOW)))
		rc = -errno;
	return rc;
}

/* Its whiteouts may be a million: it changes places with an empty one, and they go when no lock is held (work_empty). Not what was born in the upper,
 * whose id is its inode's. */
static int exchange_target(struct overlay *ov, struct moving *m, int dirfd)
{
	struct object *target = m->target;
	struct kept_times times;
	char temp[24];
	uint64_t ino = 0;
	if (!target->nlower || target->id.layer == ov->layers[0].number)
		return -EXDEV;
	work_name(ov, temp);
	int rc = make_empty_like(ov, target, dirfd, temp, &ino);
	if (!rc)
		rc = times_keep(ov, m->to->upper, m->to_fd->fd, NULL, &times); /* for clients nothing happens */
	if (!rc) {
		rc = renameat2(ov->work_fd, temp, m->to_fd->fd, m->newname, RENAME_EXCHANGE) ? -errno : 0;
		times_put_back(ov, &times);
	}
	if (!rc) {
		place_close(ov, target->upper);
		pthread_mutex_lock(&target->lock);
		target->real_ino = ino;
		target->impure = false;
		pthread_mutex_unlock(&target->lock);
		object_forget_lowers(ov, target);
	}
	work_remove(ov, temp);
	return rc;
}

/* An empty directory that a rename goes over may hold whiteouts in the upper, which must go first. It is opaque before, so that nothing shows
 * meanwhile, and stays what it is, identity and times, should the rename fail or never come. */
static int clear(struct overlay *ov, struct moving *m, bool lent)
{
	struct object *target = m->target;
	struct kept_times times;
	struct fdent *dir;
	int rc = place_pin(ov, target->upper, FD_READ, &dir);
	if (rc)
		return rc;
	rc = dir_holds_anything(dir->fd);
	if (rc <= 0 || (!lent && !(rc = exchange_target(ov, m, dir->fd)))) /* lent: the note is of this inode */
		goto out;
	rc = 0; /* one by one, then */
	if (target->nlower) {
		rc = format_set_identity(ov, dir->fd, "", &target->id, target->real_ino);
		if (!rc)
			rc = format_setxattr(ov, dir->fd, "", "opaque", "y", 1);
		if (!rc)
			object_forget_lowers(ov, target);
	}
	if (!rc)
		rc = times_keep(ov, target->upper, dir->fd, NULL, &times);
	if (!rc) {
		rc = work_clean(dir->fd);
		times_put_back(ov, &times);
		attr_forget(target);
	}
out:
	place_unpin(ov, dir);
	return rc;
}

static int clear_target(struct overlay *ov, struct moving *m)
{
	struct lent lent;
	int rc = clear(ov, m, false);
	if (rc != -EACCES || lend(ov, m->target->upper, S_IRWXU, &lent)) /* its mode guards whiteouts too */
		return rc;
	rc = clear(ov, m, true);
	lent_back(ov, &lent);
	return rc;
}

/* The one system call that moves the name. */
static int rename_in_upper(struct overlay *ov, struct moving *m, bool is_dir, bool whiteout)
{
	if (!is_dir || !m->t.upper_whiteout) {
		unsigned flags = whiteout ? RENAME_WHITEOUT : m->unseen ? RENAME_NOREPLACE : 0;
		int rc = renameat2(m->from_fd->fd, m->oldname, m->to_fd->fd, m->newname, flags) ? -errno : 0;
		return m->unseen && (rc == -EEXIST || rc == -EINVAL) ? -EAGAIN : rc; /* there is one, or the file system can't tell: it is looked at, then */
	}
	/* a directory can't go over a whiteout, but change places with it */
	if (renameat2(m->from_fd->fd, m->oldname, m->to_fd->fd, m->newname, RENAME_EXCHANGE))
		return -errno;
	if (!whiteout && unlinkat(m->from_fd->fd, m->oldname, 0))
		ov_log(ov, 4, "a whiteout that hides nothing stays at %s: %s", m->oldname, strerror(errno));
	return 0;
}

static int move_locked(struct overlay *ov, struct moving *m)
{
	bool is_dir = m->o->type == S_IFDIR, whiteout = m->f.name_below || !m->f.name_in_upper;
	struct overlay_attr target = { 0 };
	int rc = m->target ? attr_get(ov, m->target, &target) : 0;
	if (!rc && !m->f.name_in_upper) /* an indexed file: this name was still the lower's */
		rc = index_has(ov, m->o) ? index_link_up(ov, m->o, m->from, m->from_fd->fd, m->oldname) :
					   link_into(ov, m->o, m->from_fd->fd, m->oldname, false);
	if (!rc)
		rc = mark_impure(ov, m->to, m->to_fd->fd);
	if (!rc)
		rc = mark_lent(ov, m->o, m->from_fd->fd, m->oldname, m->from == m->to, m->t.name_below);
	if (!rc && m->target && index_has(ov, m->target) && !m->t.name_in_upper) {
		rc = index_link_up(ov, m->target, m->to, m->to_fd->fd, m->newname);
		m->t.name_in_upper = !rc;
	}
	if (!rc && m->target && index_has(ov, m->target))
		rc = index_keep_nlink(ov, m->target);
	if (!rc && is_dir && m->target && m->t.name_in_upper) /* a rename that fails for it may move times (ext4, with a whiteout) */
		rc = clear_target(ov, m);
	if (!rc)
		rc = rename_in_upper(ov, m, is_dir, whiteout);
	if (!rc && m->target && !is_dir && target.nlink <= 1 && index_has(ov, m->target))
		index_remove(ov, m->target);
	if (!rc && m->target) {
		name_is_gone(ov, m->target, m->to, m->newname, is_dir || target.nlink <= 1);
		attr_forget(m->target); /* it may have other names, and one less now */
	}
	return rc;
}

/* The tables follow the disk. Takes over both names: newname, in memory that was had before anything was changed. */
static void follow(struct overlay *ov, struct moving *m, char *name, char *place_name)
{
	struct object *o = m->o;
	bool in_index = o->upper && o->upper->layer == &ov->index_layer;
	if (o->upper && !in_index && o->upper->parent == m->from->upper && !strcmp(o->upper->name, m->oldname)) {
		place_move(ov, o->upper, m->to->upper, place_name);
		place_name = NULL;
		object_rename(ov, o, m->to, name);
	} else if (in_index) {
		object_rename(ov, o, m->to, name);
	} else { /* a hard link that is known by another name, which stays */
		free(name);
	}
	free(place_name);
	atomic_fetch_add(&ov->renames, 1);
	if (o->type == S_IFDIR)
		search_directory_moved(ov, o);
	map_put_place(ov->map, &o->id, &m->to->id, m->newname);
	map_del_place(ov->map, &o->id, &m->from->id, m->oldname);
	attr_forget(o);
	attr_forget(m->from);
	attr_forget(m->to);
}

/* May the caller look for names in both directories? rename_lock held. */
static int may_enter(struct overlay *ov, const struct overlay_cred *cred, const struct moving *m)
{
	return require(ov, cred, m->from, OVERLAY_EXEC) ?: require(ov, cred, m->to, OVERLAY_EXEC);
}

static int rename_locked(struct overlay *ov, const struct overlay_cred *cred, struct moving *m)
{
	if (m->from->dead || m->to->dead)
		return -ESTALE;
	int rc = may_enter(ov, cred, m);
	if (!rc)
		rc = lookup_locked(ov, m->from, m->oldname, &m->o);
	if (!rc)
		rc = name_state(ov, m->from, m->oldname, m->o, &m->f);
	if (rc)
		return rc;
	m->target = table_find_name(ov, m->to, m->newname);
	m->unseen = m->quick && !m->target && m->o->type != S_IFDIR && only_upper(m->to) && m->f.name_in_upper && !m->f.name_below;
	if (m->target)
		rc = name_state(ov, m->to, m->newname, m->target, &m->t);
	else if (!m->unseen && !(rc = merge_name(ov, m->to, m->newname, &m->t)))
		rc = lookup_locked(ov, m->to, m->newname, &m->target);
	if (rc == -ENOENT)
		rc = 0;
	if (rc || m->o == m->target)
		return rc; /* the same object: nothing changes */
	rc = check(ov, cred, m);
	if (rc)
		return rc;
	if (!m->o->upper || !m->from->upper || !m->to->upper || (m->target && m->target->indexed && !m->target->upper) ||
	    (!ov->makes_redirects && !object_is_up(m->o, true)))
		return -EAGAIN; /* not copied up (any more: another object came under the name) */
	rc = place_pin(ov, m->from->upper, FD_PATH, &m->from_fd);
	if (!rc)
		rc = place_pin(ov, m->to->upper, FD_PATH, &m->to_fd);
	char *name = rc ? NULL : strdup(m->newname), *place_name = rc ? NULL : strdup(m->newname);
	if (!rc)
		rc = name && place_name ? move_locked(ov, m) : -ENOMEM;
	if (!rc) {
		follow(ov, m, name, place_name);
	} else {
		free(name);
		free(place_name);
	}
	return rc;
}

static void moving_end(struct overlay *ov, struct moving *m)
{
	overlay_put(ov, m->o);
	overlay_put(ov, m->target);
	found_free(ov, &m->f);
	found_free(ov, &m->t);
	place_unpin(ov, m->from_fd);
	place_unpin(ov, m->to_fd);
	m->o = m->target = NULL;
	m->from_fd = m->to_fd = NULL;
}

/* All that will be changed must be in the upper before the exclusive lock is taken: copying takes long. What would be refused then is refused
 * here, before anything is copied up. 1: the same object, so that nothing is to be done. */
static int prepare(struct overlay *ov, const struct overlay_cred *cred, struct moving *m)
{
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = may_enter(ov, cred, m);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (!rc)
		rc = overlay_lookup(ov, cred, m->from, m->oldname, &m->o, NULL);
	if (!rc)
		rc = overlay_lookup(ov, cred, m->to, m->newname, &m->target, NULL);
	if (rc == -ENOENT && m->o)
		rc = 0;
	if (!rc && m->o == m->target)
		rc = 1;
	if (!rc) {
		pthread_rwlock_rdlock(&ov->rename_lock);
		rc = check(ov, cred, m);
		pthread_rwlock_unlock(&ov->rename_lock);
	}
	if (!rc)
		rc = copy_up(ov, m->from, false);
	if (!rc)
		rc = copy_up(ov, m->to, false);
	if (!rc)
		rc = copy_up(ov, m->o, !ov->makes_redirects); /* a metacopy that moves needs a redirect */
	if (!rc && m->target && m->target->indexed) /* the count of its other names is kept on the copy */
		rc = copy_up(ov, m->target, false);
	moving_end(ov, m);
	return rc;
}

/* Is there hardly anything to prepare? All may be in the upper already, as it is from the first rename on; rename_locked() sees whether it is. */
static bool looks_ready(struct overlay *ov, const struct moving *m)
{
	struct object *o = table_find_name(ov, m->from, m->oldname);
	bool ready = o && o->upper && m->from->upper && m->to->upper;
	overlay_put(ov, o);
	return ready;
}

int overlay_rename(struct overlay *ov, const struct overlay_cred *cred, struct object *from, const char *oldname,
		   struct object *to, const char *newname, struct overlay_wcc *from_wcc, struct overlay_wcc *to_wcc)
{
	struct moving m = { .from = from, .to = to, .oldname = oldname, .newname = newname };
	memset(from_wcc, 0, sizeof *from_wcc);
	memset(to_wcc, 0, sizeof *to_wcc);
	int rc = check_name(ov, from, oldname);
	if (!rc)
		rc = check_name(ov, to, newname);
	if (!rc && !ov->writable)
		rc = -EROFS;
	m.quick = !rc && looks_ready(ov, &m);
	for (int tries = 8 + m.quick; !rc && tries; tries--, m.quick = false) {
		rc = m.quick ? 0 : prepare(ov, cred, &m);
		if (rc)
			break;
		pthread_rwlock_wrlock(&ov->rename_lock);
		wcc_before(ov, from, from_wcc);
		wcc_before(ov, to, to_wcc);
		rc = rename_locked(ov, cred, &m);
		wcc_after(ov, from, from_wcc);
		if (from == to)
			*to_wcc = *from_wcc;
		else
			wcc_after(ov, to, to_wcc);
		pthread_rwlock_unlock(&ov->rename_lock);
		moving_end(ov, &m);
		work_empty(ov);
		index_flush_removed(ov);
		if (rc != -EAGAIN)
			break;
		rc = tries > 1 ? 0 : rc;
	}
	overlay_put(ov, m.empty);
	return rc > 0 ? 0 : rc ? rc : sync_dirs(ov, from, to);
}
