/* attr.c: attributes, read through a short-lived cache in the object, and set. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

/* Layers changed behind our back are undefined, as in Linux overlayfs; yet such a change shows. The longer a file has not changed, the longer its
 * attributes are kept: a tenth of that time, between these (seconds), as NFS clients do (acregmin and acregmax in nfs(5)). A directory's only for the former. */
enum { LIFE_MIN = 1, LIFE_MAX = 30, LIFE_PART = 10 };

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t id_fileid(const struct overlay_id *id)
{
	if (!(id->ino >> 48) && id->layer < 1 << 16)
		return (uint64_t)id->layer << 48 | id->ino;
	uint64_t h = (id->ino ^ (uint64_t)id->layer << 32) * 0x9e3779b97f4a7c15u;
	return (h ^ h >> 32) | 1ull << 63 | 1;
}

static struct timespec ts(struct statx_timestamp t)
{
	return (struct timespec){ .tv_sec = t.tv_sec, .tv_nsec = t.tv_nsec };
}

static bool is_later(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

static int attr_fill(struct overlay *ov, struct object *o, const struct statx *st, struct overlay_attr *a)
{
	*a = (struct overlay_attr){ .mode = st->stx_mode, .nlink = st->stx_nlink, .uid = st->stx_uid, .gid = st->stx_gid,
				    .size = st->stx_size, .used = st->stx_blocks * 512, .rdev_major = st->stx_rdev_major,
				    .rdev_minor = st->stx_rdev_minor, .fileid = id_fileid(&o->id), .atime = ts(st->stx_atime),
				    .mtime = ts(st->stx_mtime), .ctime = ts(st->stx_ctime) };
	if (o->type == S_IFDIR && o->nlower + (o->upper ? 1 : 0) > 1)
		a->nlink = 1; /* as Linux: so that find does not count on it */
	else if (o->type != S_IFDIR && o->upper && o->indexed)
		return index_nlink(ov, o, st->stx_nlink, &a->nlink);
	return 0;
}

time_t attr_life(const struct overlay_attr *a, time_t now)
{
	time_t changed = a->mtime.tv_sec > a->ctime.tv_sec ? a->mtime.tv_sec : a->ctime.tv_sec, life = (now - changed) / LIFE_PART;
	if (S_ISDIR(a->mode) || life < LIFE_MIN)
		return LIFE_MIN;
	return life < LIFE_MAX ? life : LIFE_MAX;
}

/* o->lock held */
static void keep_for_a_while(struct object *o)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	o->attr_until = now_ns() + (uint64_t)attr_life(&o->attr, now.tv_sec) * 1000000000u;
}

/* The same look says whether a lower file is immutable: a copy would carry a mark besides, and has to be asked. o->lock held */
static void keep_protection(struct object *o, const struct statx *st)
{
	if (!o->upper)
		o->protection = protection_from(o->lower[0]->layer, st);
}

/* o->lock held */
static int attr_load(struct overlay *ov, struct object *o)
{
	struct statx st;
	if (o->attr_valid && now_ns() < o->attr_until)
		return 0;
	int rc = o->dead ? object_gone(o) : place_statx(ov, o->upper ? o->upper : o->lower[0], &st);
	if (!rc && ((st.stx_mode & S_IFMT) != o->type || (st.stx_ino != o->real_ino && o->parent)))
		rc = -ESTALE;
	if (rc == -ENOENT || rc == -ENOTDIR)
		rc = -ESTALE;
	struct overlay_attr a;
	if (!rc)
		rc = attr_fill(ov, o, &st, &a);
	if (rc)
		return rc;
	o->attr = a;
	keep_protection(o, &st);
	if (o->metacopy && o->data && !place_statx(ov, o->data, &st))
		o->attr.used = st.stx_blocks * 512;
	if (!o->attr_valid)
		o->acl_known = false;
	o->attr_valid = true;
	keep_for_a_while(o);
	return 0;
}

int attr_get(struct overlay *ov, struct object *o, struct overlay_attr *attr)
{
	int tries = 0, rc;
	bool dead;
	do {
		pthread_mutex_lock(&o->lock);
		rc = attr_load(ov, o);
		dead = o->dead;
		if (!rc)
			*attr = o->attr;
		pthread_mutex_unlock(&o->lock);
	} while (!dead && object_is_going(rc, &tries));
	return rc;
}

void attr_forget(struct object *o)
{
	atomic_fetch_add(&o->changes, 1);
	pthread_mutex_lock(&o->lock);
	o->attr_valid = false;
	pthread_mutex_unlock(&o->lock);
}

/* Linux: relatime_need_update() in fs/inode.c */
static bool read_moves_atime(const struct overlay *ov, const struct overlay_attr *a)
{
	enum { DAY = 24 * 60 * 60 };
	struct timespec now;
	if (ov->upper_mount & ST_NOATIME)
		return false;
	if (!(ov->upper_mount & ST_RELATIME) || !is_later(&a->atime, &a->mtime) || !is_later(&a->atime, &a->ctime))
		return true;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return now.tv_sec - a->atime.tv_sec >= DAY;
}

void attr_was_read(struct overlay *ov, struct object *o)
{
	pthread_mutex_lock(&o->lock);
	if (o->upper && o->upper->layer == &ov->layers[0] && !o->metacopy && read_moves_atime(ov, &o->attr)) /* all else is read without */
		o->attr_until = 0;
	pthread_mutex_unlock(&o->lock);
}

void attr_keep(struct overlay *ov, struct object *o, const struct statx *st)
{
	pthread_mutex_lock(&o->lock);
	if (!atomic_load(&o->changes)) { /* others may have found and changed it already; attr_forget counts first */
		o->attr_valid = !attr_fill(ov, o, st, &o->attr);
		keep_protection(o, st);
		keep_for_a_while(o);
	}
	pthread_mutex_unlock(&o->lock);
}

int overlay_getattr(struct overlay *ov, struct object *o, struct overlay_attr *attr)
{
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = attr_get(ov, o, attr);
	pthread_rwlock_unlock(&ov->rename_lock);
	return rc;
}

static void before_was(struct overlay_wcc *wcc, const struct overlay_attr *a)
{
	wcc->have_before = true;
	wcc->before.size = a->size;
	wcc->before.mtime = a->mtime;
	wcc->before.ctime = a->ctime;
}

void wcc_before(struct overlay *ov, struct object *o, struct overlay_wcc *wcc)
{
	struct overlay_attr a;
	wcc->have_before = false;
	if (!attr_get(ov, o, &a))
		before_was(wcc, &a);
}

void wcc_after(struct overlay *ov, struct object *o, struct overlay_wcc *wcc)
{
	attr_forget(o);
	wcc->have_after = !attr_get(ov, o, &wcc->after);
}

void wcc_unchanged(struct overlay *ov, struct object *o, struct overlay_wcc *wcc)
{
	wcc->have_before = false;
	wcc->have_after = !attr_get(ov, o, &wcc->after);
	if (wcc->have_after)
		before_was(wcc, &wcc->after);
}

static struct timespec time_to_set(enum overlay_settime how, struct timespec t)
{
	if (how == TIME_CLIENT)
		return t;
	return (struct timespec){ .tv_nsec = how == TIME_SERVER ? UTIME_NOW : UTIME_OMIT };
}

static int set_owner(struct overlay *ov, int dirfd, const char *name, uid_t uid, gid_t gid)
{
	int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
	return fchownat(dirfd, name, uid, gid, flags) && ov->privileged ? -errno : 0;
}

static int set_mode(int dirfd, const char *name, mode_t mode)
{
	return (*name ? fchmodat(dirfd, name, mode & 07777, 0) : fchmod(dirfd, mode & 07777)) ? -errno : 0;
}

static int set_times(int dirfd, const char *name, const struct overlay_setattr *set)
{
	struct timespec t[2] = { time_to_set(set->set_atime, set->atime), time_to_set(set->set_mtime, set->mtime) };
	return (*name ? utimensat(dirfd, name, t, AT_SYMLINK_NOFOLLOW) : futimens(dirfd, t)) ? -errno : 0;
}

static int set_size(int fd, uint64_t size)
{
	return TEMP_FAILURE_RETRY(ftruncate(fd, (off_t)size)) ? -errno : 0;
}

static int count_steps(const struct overlay_setattr *set)
{
	return (set->set_uid || set->set_gid) + set->set_mode + set->set_size + (set->set_atime || set->set_mtime);
}

/* All of it, or nothing and an error: what a later step's failure leaves is taken back. Bytes that were cut off can't be; only the times come
 * behind that, and are tried twice. file: for a size */
static int apply_steps(struct overlay *ov, int dirfd, const char *name, const struct fdent *file, const struct overlay_setattr *set, mode_t type)
{
	struct statx old;
	bool owner = set->set_uid || set->set_gid, times = set->set_atime || set->set_mtime, several = count_steps(set) > 1;
	int rc = several ? statx_at(dirfd, name, &old) : 0;
	if (!rc && owner)
		rc = set_owner(ov, dirfd, name, set->set_uid ? set->uid : (uid_t)-1, set->set_gid ? set->gid : (gid_t)-1);
	if (rc)
		return rc;
	if (set->set_mode && (rc = set_mode(dirfd, name, set->mode)))
		goto undo_owner;
	if (set->set_size && (rc = set_size(file->fd, set->size)))
		goto undo_mode;
	if (times && set_times(dirfd, name, set) && (rc = set_times(dirfd, name, set)))
		goto undo_size;
	return 0;
undo_size:
	if (several && set->set_size && set->size >= old.stx_size)
		set_size(file->fd, old.stx_size);
undo_mode:
undo_owner:
	if (several && owner)
		set_owner(ov, dirfd, name, old.stx_uid, old.stx_gid);
	if (several && type != S_IFLNK && (owner || set->set_mode)) /* of a new owner the set-id bits went */
		set_mode(dirfd, name, old.stx_mode);
	return rc;
}

/* The object's lock is held, or nobody else knows the place. */
int apply_setattr(struct overlay *ov, struct place *place, const struct overlay_setattr *set, mode_t type)
{
	struct fdent *parent, *file = NULL;
	const char *name;
	int rc = set->set_size ? place_pin_lent(ov, place, FD_WRITE, &file) : 0;
	if (!rc)
		rc = place_pin_parent(ov, place, &parent, &name);
	if (!rc) {
		rc = apply_steps(ov, parent->fd, name, file, set, type);
		place_unpin(ov, parent);
	}
	place_unpin(ov, file);
	return rc;
}

static int keep_marks(struct overlay *ov, int dirfd, const char *name)
{
	enum { MOST = 65536 }; /* XATTR_SIZE_MAX */
	char opaque = format_opaque(ov, dirfd, name), *redirect;
	int rc = format_redirect(ov, dirfd, name, &redirect);
	if (!rc)
		rc = format_keep_mark(ov, dirfd, name, "opaque", &opaque, opaque != 0);
	if (!rc)
		rc = format_keep_mark(ov, dirfd, name, "redirect", redirect, redirect ? strnlen(redirect, MOST) : 0);
	free(redirect);
	return rc;
}

/* user.* of what its owner may not read can't be read without root, and who it is must be known all the same. o->lock held. */
static int keep_readable_identity(struct overlay *ov, struct object *o, const struct overlay_setattr *set)
{
	struct fdent *parent;
	const char *name;
	bool own = o->id.layer == ov->layers[0].number && ov->layers[0].has_handles;
	if (!set->set_mode || set->mode & S_IRUSR || *ov->prefix != 'u' || (own && o->type != S_IFDIR) || !o->parent)
		return 0;
	int rc = place_pin_parent(ov, o->upper, &parent, &name);
	if (rc)
		return rc;
	rc = own ? 0 : keep_identity_in_file(ov, o, parent->fd, name);
	if (!rc && o->type == S_IFDIR)
		rc = keep_marks(ov, parent->fd, name);
	place_unpin(ov, parent);
	return rc;
}

/* o->lock held. What takes more than one step is noted, so that a kill leaves all of it or nothing. */
static int set_attributes(struct overlay *ov, struct object *o, const struct overlay_setattr *set)
{
	int note = -1;
	int rc = o->dead ? object_gone(o) : keep_readable_identity(ov, o, set);
	if (!rc && count_steps(set) > 1)
		rc = intent_note(ov, INTENT_OUTER, o->upper, o->real_ino, set, &note);
	if (!rc)
		rc = apply_setattr(ov, o->upper, set, o->type);
	intent_done(ov, note);
	return rc;
}

/* RFC 1813 3.3.2 and chown_restricted: who may set what. */
static int may_setattr(struct overlay *ov, const struct overlay_cred *cred, struct object *o, const struct overlay_attr *a,
		       const struct overlay_setattr *set)
{
	bool owner = cred->uid == 0 || cred->uid == a->uid;
	if (set->set_size && o->type != S_IFREG)
		return -EINVAL;
	if (set->set_size && (int64_t)set->size < 0)
		return -EFBIG;
	bool touches = !set->set_mode && !set->set_uid && !set->set_gid && !set->set_size && set->set_atime != TIME_CLIENT && set->set_mtime != TIME_CLIENT;
	int rc = count_steps(set) ? changeable(ov, o, touches) : 0;
	if (rc)
		return rc;
	if (set->set_mode && !owner)
		return -EPERM;
	if (set->set_uid && cred->uid && (!owner || set->uid != a->uid))
		return -EPERM;
	if (set->set_gid && cred->uid && (!owner || (set->gid != a->gid && !in_group(cred, set->gid))))
		return -EPERM;
	if ((set->set_atime == TIME_CLIENT || set->set_mtime == TIME_CLIENT) && !owner)
		return -EPERM;
	if ((set->set_size || set->set_atime == TIME_SERVER || set->set_mtime == TIME_SERVER) && !owner)
		return require(ov, cred, o, OVERLAY_WRITE);
	return 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

mode_t mode_after_write(const struct overlay_cred *cred, const struct overlay_attr *a)
{
	if (!cred->uid || !S_ISREG(a->mode))
		return a->mode;
	bool keeps_gid = !(a->mode & S_IXGRP) && in_group(cred, a->gid);
	return a->mode & ~(mode_t)(S_ISUID | (keeps_gid ? 0 : S_ISGID));
}

/* A caller other than root loses the set-id bits where the kernel would take them. */
static void drop_setid(const struct overlay_cred *cred, const struct overlay_attr *a, struct overlay_setattr *set)
{
	if (!cred->uid)
		return;
	if (set->set_mode && !in_group(cred, set->set_gid ? set->gid : a->gid))
		set->mode &= ~(mode_t)S_ISGID;
	mode_t kept = mode_after_write(cred, a);
	if ((set->set_size || set->set_uid || set->set_gid) && !set->set_mode && a->mode != kept) {
		set->set_mode = true;
		set->mode = kept & 07777;
	}
}

/* What the caller may have set of what it wants, as the object is now. rename_lock shared. */
static int what_to_set(struct overlay *ov, const struct overlay_cred *cred, struct object *o, const struct overlay_setattr *want,
		       const struct timespec *guard, struct overlay_setattr *set)
{
	struct overlay_attr a;
	*set = *want;
	int rc = attr_get(ov, o, &a);
	if (!rc && guard && !same_time(guard, &a.ctime))
		rc = -EKEYEXPIRED;
	if (!rc)
		rc = may_setattr(ov, cred, o, &a, set);
	if (rc)
		return rc;
	drop_setid(cred, &a, set);
	if (o->type == S_IFLNK)
		set->set_mode = false; /* has none that means anything */
	if (set->set_size && set->set_mtime == TIME_SERVER)
		set->set_mtime = TIME_KEEP; /* a truncation does it */
	return 0;
}

int overlay_setattr(struct overlay *ov, const struct overlay_cred *cred, struct object *o,
		    const struct overlay_setattr *want, const struct timespec *guard, struct overlay_wcc *wcc)
{
	struct overlay_setattr set;
	memset(wcc, 0, sizeof *wcc);
	unsigned changes = atomic_load(&o->changes);
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = !ov->writable ? -EROFS : what_to_set(ov, cred, o, want, guard, &set);
	if (rc || !count_steps(&set)) {
		wcc_unchanged(ov, o, wcc);
		pthread_rwlock_unlock(&ov->rename_lock);
		return rc;
	}
	pthread_rwlock_unlock(&ov->rename_lock);
	/* Cut, it shows at once: who said what it must be like (guard) may have to be refused yet, and nobody else may from then on. */
	bool cut = set.set_size && count_steps(&set) == 1 && !guard && !object_is_up(o, true);
	rc = cut ? copy_up_truncated(ov, o, set.size) : copy_up(ov, o, set.set_size);
	bool waited = wait_for_bytes(ov, o);
	pthread_rwlock_rdlock(&ov->rename_lock);
	pthread_mutex_lock(&o->dir_lock);
	wcc_before(ov, o, wcc);
	if (!rc && !cut && changes != atomic_load(&o->changes)) /* by another, since it was looked at */
		rc = what_to_set(ov, cred, o, want, guard, &set);
	if (!rc) {
		pthread_mutex_lock(&o->lock); /* the place's name is the object's only under it */
		rc = set_attributes(ov, o, &set);
		pthread_mutex_unlock(&o->lock);
	}
	struct fdent *file = NULL;
	if (!rc && ov->config.sync && (o->type == S_IFREG || o->type == S_IFDIR)) {
		rc = object_pin_unlent(ov, o, o->type == S_IFREG ? FD_WRITE : FD_READ, &file);
		rc = rc == -EACCES ? 0 : rc; /* a server without privilege, that just took the permission from itself: done is done */
	}
	wcc_after(ov, o, wcc);
	pthread_mutex_unlock(&o->dir_lock);
	bytes_waited_for(ov, o, waited);
	struct object *parent = !file && !rc && ov->config.sync ? object_parent(ov, o) : NULL;
	pthread_rwlock_unlock(&ov->rename_lock);
	if (file)
		rc = sync_file(ov, file, false);
	else if (parent)
		rc = sync_dirs(ov, parent, NULL); /* no descriptor of its own: the journal's commit takes it along */
	overlay_put(ov, parent);
	return rc;
}

int overlay_readlink(struct overlay *ov, struct object *o, char *buf, size_t size, size_t *len)
{
	struct fdent *parent;
	const char *name;
	if (o->type != S_IFLNK)
		return -EINVAL;
	pthread_rwlock_rdlock(&ov->rename_lock);
	pthread_mutex_lock(&o->lock);
	int rc = o->dead ? object_gone(o) : place_pin_parent(ov, o->upper ? o->upper : o->lower[0], &parent, &name);
	if (!rc) {
		ssize_t n = readlinkat(parent->fd, name, buf, size);
		rc = n < 0 ? -errno : 0;
		*len = n < 0 ? 0 : (size_t)n;
		place_unpin(ov, parent);
	}
	pthread_mutex_unlock(&o->lock);
	if (!rc)
		attr_was_read(ov, o);
	pthread_rwlock_unlock(&ov->rename_lock);
	return rc;
}
