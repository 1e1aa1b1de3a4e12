/* create.c: new names: files, directories, symlinks, devices, hard links. Made in place by one system call where one is enough; a file that needs more
 * gets its name last (O_TMPFILE); all else is made in the work directory and then moved over nothing or over a whiteout. */
#include "internal.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct making {
	mode_t type;
	const char *target; /* of a symlink */
	dev_t rdev;
	const struct overlay_setattr *set;
	const uint8_t *verf; /* exclusive create */
};

/* Permission bits, before any ACL. As Linux: a directory takes set-group-id from its parent alone, and an executable keeps it only where
 * the caller is in the group that it then gets (mode_strip_sgid()). */
static mode_t mode_to_make(const struct overlay_cred *cred, const struct overlay_attr *dir, const struct making *m)
{
	mode_t mode = m->set && m->set->set_mode ? m->set->mode & 07777 : m->type == S_IFDIR ? 0755 : 0644;
	if (m->type == S_IFDIR)
		return (mode & 01777) | (dir->mode & S_ISGID);
	if (dir->mode & S_ISGID && (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && cred->uid && !in_group(cred, dir->gid))
		mode &= ~(mode_t)S_ISGID;
	return mode;
}

/* What the new inode is to be. */
struct owner {
	mode_t mode;
	uid_t uid;
	gid_t gid;
	bool by_directory; /* a set-gid directory gives the group */
};

static struct owner owner_of(const struct overlay_cred *cred, const struct overlay_attr *dir, const struct making *m)
{
	struct owner w = { .mode = mode_to_make(cred, dir, m), .uid = cred->uid, .gid = dir->mode & S_ISGID ? dir->gid : cred->gid, .by_directory = dir->mode & S_ISGID };
	if (m->set && m->set->set_uid && (!cred->uid || m->set->uid == cred->uid))
		w.uid = m->set->uid;
	if (m->set && m->set->set_gid && (!cred->uid || in_group(cred, m->set->gid))) {
		w.by_directory &= w.gid == m->set->gid;
		w.gid = m->set->gid;
	}
	return w;
}

static void act_as_self(struct overlay *ov)
{
	syscall(SYS_setfsuid, ov->uid); /* of this thread alone; glibc's do the same but are deprecated for it */
	syscall(SYS_setfsgid, ov->gid);
}

/* The kernel makes files for the thread's file system user. 1: the caller is that now, 0: there is nothing to change. -EPERM: it can't be, which the
 * kernel does not say: the server lacks CAP_SETUID or CAP_SETGID, or its user namespace has no such user. What is made has to be given away then. */
static int act_as(struct overlay *ov, uid_t uid, gid_t gid)
{
	if (!ov->privileged || (uid == ov->uid && gid == ov->gid))
		return 0;
	syscall(SYS_setfsgid, gid);
	syscall(SYS_setfsuid, uid);
	if (ov->acts_as_all || ((gid_t)syscall(SYS_setfsgid, gid) == gid && (uid_t)syscall(SYS_setfsuid, uid) == uid))
		return 1;
	act_as_self(ov);
	return -EPERM;
}

void probe_acting(struct overlay *ov)
{
	const unsigned last = UINT32_MAX - 1; /* that a user namespace has where it has all */
	syscall(SYS_setfsgid, last);
	bool gid = (gid_t)syscall(SYS_setfsgid, last) == last;
	syscall(SYS_setfsuid, last);
	bool uid = (uid_t)syscall(SYS_setfsuid, last) == last;
	act_as_self(ov);
	ov->acts_as_all = gid && uid;
}

enum way { IN_PLACE, NAMED_LAST, MOVED };

static enum way way_to_make(struct overlay *ov, const struct making *m, const struct owner *w, const struct overlay_attr *dir, const struct found *f)
{
	const struct overlay_setattr *set = m->set;
	if (!ov->layers[0].has_handles || f->upper_whiteout || (m->type == S_IFDIR && f->name_below))
		return MOVED;
	if (dir->mode & S_ISGID && !w->by_directory)
		return MOVED;
	if (m->type != S_IFDIR && w->mode & (S_ISUID | S_ISGID)) /* a directory has the latter from its parent */
		return MOVED;
	if (m->verf || (set && ((set->set_size && set->size) || set->set_atime == TIME_CLIENT || set->set_mtime == TIME_CLIENT)))
		return m->type == S_IFREG ? NAMED_LAST : MOVED;
	return IN_PLACE;
}

/* Makes it where it belongs. *fd: of a regular file, open for reading and writing; else -1. -EPERM: not here. */
static int make_in_place(struct overlay *ov, const struct making *m, const struct owner *w, int dirfd, const char *name, int *fd)
{
	int rc, acting = act_as(ov, w->uid, w->gid);
	*fd = -1;
	if (acting < 0)
		return acting;
	if (m->type == S_IFDIR)
		rc = mkdirat(dirfd, name, w->mode);
	else if (m->type == S_IFLNK && m->target)
		rc = symlinkat(m->target, dirfd, name);
	else if (m->type == S_IFREG)
		rc = *fd = openat(dirfd, name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW, w->mode);
	else
		rc = mknodat(dirfd, name, m->type | w->mode, m->rdev);
	rc = rc < 0 ? -errno : 0;
	if (acting)
		act_as_self(ov);
	return rc;
}

static void times_to_make(const struct making *m, struct timespec t[2])
{
	t[0] = t[1] = (struct timespec){ .tv_nsec = UTIME_OMIT };
	if (m->verf) { /* as Linux nfsd: the verifier in atime and mtime, 31 bits each way so that any file system holds it */
		uint32_t v[2];
		memcpy(v, m->verf, 8);
		t[0] = (struct timespec){ .tv_sec = v[0] & 0x7fffffff };
		t[1] = (struct timespec){ .tv_sec = v[1] & 0x7fffffff };
	} else if (m->set) {
		if (m->set->set_atime == TIME_CLIENT)
			t[0] = m->set->atime;
		if (m->set->set_mtime == TIME_CLIENT)
			t[1] = m->set->mtime;
	}
}

/* What is set behind the making. fd: of a regular file, else -1. */
static int set_made(const struct making *m, int dirfd, const char *name, int fd)
{
	struct timespec t[2];
	if (fd >= 0 && !m->verf && m->set && m->set->set_size && ftruncate(fd, (off_t)m->set->size))
		return -errno;
	times_to_make(m, t);
	if (t[0].tv_nsec == UTIME_OMIT && t[1].tv_nsec == UTIME_OMIT)
		return 0;
	return (fd >= 0 ? futimens(fd, t) : utimensat(dirfd, name, t, AT_SYMLINK_NOFOLLOW)) ? -errno : 0;
}

/* The name of a file that has none. */
static int give_name(int fd, int dirfd, const char *name)
{
	char path[32];
	if (!linkat(fd, "", dirfd, name, AT_EMPTY_PATH))
		return 0;
	if (errno != ENOENT) /* that is for want of a capability */
		return -errno;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, path, dirfd, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

/* Makes a regular file without a name, which it gets when it is all that it shall be: nothing is left of it by a kill before. -EPERM: not here. */
static int make_named_last(struct overlay *ov, const struct making *m, const struct owner *w, int dirfd, const char *name, int *fd)
{
	int acting = act_as(ov, w->uid, w->gid);
	*fd = -1;
	if (acting < 0)
		return acting;
	*fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_NONBLOCK | O_CLOEXEC, w->mode);
	int rc = *fd >= 0 ? 0 : errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL ? -EPERM : -errno;
	if (acting)
		act_as_self(ov);
	if (rc)
		return rc;
	rc = set_made(m, dirfd, name, *fd) ?: give_name(*fd, dirfd, name);
	if (rc) {
		close(*fd);
		*fd = -1;
	}
	return rc;
}

/* Makes it in the work directory, to be moved. parent_fd: of the directory that it is for. *fd as for make_in_place. */
static int make_temp(struct overlay *ov, const struct making *m, const struct owner *w, int parent_fd, const char *temp, int *fd)
{
	struct owner self = { .mode = w->mode & ~(mode_t)(S_ISUID | S_ISGID), .uid = ov->uid, .gid = ov->gid };
	mode_t mode = w->mode;
	int rc = make_in_place(ov, m, &self, ov->work_fd, temp, fd);
	if (rc)
		return rc;
	if ((w->uid != self.uid || w->gid != self.gid) && fchownat(ov->work_fd, temp, w->uid, w->gid, AT_SYMLINK_NOFOLLOW) && ov->privileged)
		return -errno;
	if (m->type != S_IFLNK)
		rc = acl_inherit(parent_fd, ov->work_fd, temp, &mode, m->type == S_IFDIR);
	if (!rc && m->type != S_IFLNK && fchmodat(ov->work_fd, temp, mode, 0))
		rc = -errno;
	return rc ? rc : set_made(m, ov->work_fd, temp, *fd);
}

/* Where the file system can't tell one life of an inode from the next, the object gets a generation that we make up, as a copied-up one
 * carries its identity: on itself, else in the file of identities. */
static int mark_born(struct overlay *ov, const char *temp)
{
	struct overlay_id id = { .layer = ov->layers[0].number };
	struct statx st;
	uint64_t gen;
	int rc = statx_at(ov->work_fd, temp, &st);
	if (rc)
		return rc;
	id.ino = st.stx_ino;
	randombytes_buf(&id.gen, sizeof id.gen);
	rc = format_set_identity(ov, ov->work_fd, temp, &id, st.stx_ino);
	if (!holds_no_xattr(rc))
		return rc;
	rc = inode_generation(&ov->layers[0], ov->work_fd, temp, &st, &gen);
	return rc ? rc : identity_put_origin(ov->identity, st.stx_ino, gen, &id);
}

/* One rename puts it there. Over a whiteout, a directory can only be exchanged. */
static int move_in(struct overlay *ov, const char *temp, int dirfd, const char *name, bool is_dir, const struct found *f)
{
	if (is_dir && f->name_below) { /* it must not merge with what the whiteout hid */
		int rc = format_setxattr(ov, ov->work_fd, temp, "opaque", "y", 1);
		if (rc)
			return rc;
	}
	unsigned flags = !f->upper_whiteout ? RENAME_NOREPLACE : is_dir ? RENAME_EXCHANGE : 0;
	if (renameat2(ov->work_fd, temp, dirfd, name, flags))
		return -errno;
	if (flags == RENAME_EXCHANGE)
		work_remove(ov, temp);
	return 0;
}

/* What was just made, in the upper alone, as an object: nothing of it has to be searched for, unless it carries its identity. Takes over fd. */
static int object_made(struct overlay *ov, struct object *dir, const char *name, int dirfd, int fd, struct object **o)
{
	struct layer *upper = &ov->layers[0];
	struct found f = { .name_in_upper = true, .id = { .layer = upper->number } };
	int at = fd < 0 ? dirfd : fd, rc;
	const char *what = fd < 0 ? name : "";
	if (!upper->has_handles) {
		rc = lookup_locked(ov, dir, name, o);
		goto out;
	}
	rc = statx_at(at, what, &f.st);
	if (!rc)
		rc = inode_generation(upper, at, what, &f.st, &f.id.gen);
	f.id.ino = f.st.stx_ino;
	if (!rc && !(f.upper = place_new(ov, upper, dir->upper, name)))
		rc = -ENOMEM;
	struct statx st = f.st;
	if (!rc)
		rc = object_from(ov, &f, dir, name, o);
	found_free(ov, &f);
	if (!rc) {
		attr_keep(ov, *o, &st);
		protection_of_new(*o, upper, &st);
		map_put_place(ov->map, &(*o)->id, &dir->id, name);
	}
out:
	if (!rc && fd >= 0)
		place_adopt(ov, (*o)->upper, FD_WRITE, fd); /* it will be written to */
	else if (fd >= 0)
		close(fd);
	return rc;
}

/* A directory that may not be written: its ".." is, without root, so that it gets its mode where it belongs. */
static int move_in_shut(struct overlay *ov, struct object *dir, const char *temp, int dirfd, const char *name, const struct found *f)
{
	struct statx st = { 0 };
	struct place *place = place_new(ov, &ov->layers[0], dir->upper, name);
	int note = -1, rc = place ? statx_at(ov->work_fd, temp, &st) : -ENOMEM;
	struct overlay_setattr mode = { .set_mode = true, .mode = st.stx_mode & 07777 };
	if (!rc && fchmodat(ov->work_fd, temp, mode.mode | S_IWUSR, 0))
		rc = -errno;
	if (!rc)
		rc = intent_note(ov, INTENT_INNER, place, st.stx_ino, &mode, &note);
	if (!rc)
		rc = move_in(ov, temp, dirfd, name, true, f);
	if (!rc && fchmodat(dirfd, name, mode.mode, 0))
		ov_log(ov, 4, "%s: a new directory may be written by its owner, though it was not to be: %s", name, strerror(errno));
	intent_done(ov, note);
	place_put(ov, place);
	return rc;
}

static int make_and_move(struct overlay *ov, const struct making *m, const struct owner *w, struct object *dir, int dirfd, const char *name,
			 const struct found *f, int *fd)
{
	char temp[24];
	work_name(ov, temp);
	int rc = make_temp(ov, m, w, dirfd, temp, fd);
	if (!rc && !ov->layers[0].has_handles)
		rc = mark_born(ov, temp);
	if (!rc)
		rc = move_in(ov, temp, dirfd, name, m->type == S_IFDIR, f);
	if (rc == -EACCES && m->type == S_IFDIR)
		rc = move_in_shut(ov, dir, temp, dirfd, name, f);
	if (!rc)
		return 0;
	if (*fd >= 0)
		close(*fd);
	work_remove(ov, temp);
	return rc;
}

/* Who is told that it failed is not to meet it when it tries again. Nobody has seen it: dir->dir_lock is held. was: the directory before. */
static void unmake(struct overlay *ov, struct object *dir, const struct overlay_attr *was, int dirfd, const char *name, bool is_dir,
		   const struct found *f)
{
	const struct overlay_setattr times = { .set_mtime = TIME_CLIENT, .mtime = was->mtime };
	int rc = f->upper_whiteout ? whiteout_name(ov, dirfd, name, true, is_dir) : unlinkat(dirfd, name, is_dir ? AT_REMOVEDIR : 0) ? -errno : 0;
	if (!rc)
		rc = apply_setattr(ov, dir->upper, &times, S_IFDIR);
	if (rc)
		ov_log(ov, 4, "%s: can't be undone, though the client was told that it could not be made: %s", name, strerror(-rc));
}

/* dir->dir_lock held, dir in the upper, name absent (f says what hides below) as far as is known: -EEXIST and *o where it is not */
static int create_locked(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
			 const struct making *m, struct found *f, struct object **o)
{
	struct overlay_attr a;
	struct fdent *parent;
	int rc = attr_get(ov, dir, &a), fd = -1;
	if (!rc)
		rc = place_pin(ov, dir->upper, FD_PATH, &parent);
	if (rc)
		return rc;
	struct owner w = owner_of(cred, &a, m);
	if (ov->privileged && (w.uid == (uid_t)-1 || w.gid == (gid_t)-1)) {
		place_unpin(ov, parent);
		return -EINVAL; /* to chown() that is "as it was", the server's own */
	}
	enum way way = way_to_make(ov, m, &w, &a, f);
	if (way != MOVED)
		rc = (way == IN_PLACE ? make_in_place : make_named_last)(ov, m, &w, parent->fd, name, &fd);
	bool made = way != MOVED && !rc;
	if (!made && (!rc || rc == -EEXIST || rc == -EPERM || rc == -EACCES)) {
		/* it needs more than one step, or something is there that nobody looked for, or the caller's rights are by a group that the kernel
		 * does not know of */
		found_free(ov, f);
		rc = merge_name(ov, dir, name, f);
		if (!rc)
			rc = lookup_locked(ov, dir, name, o) ?: -EEXIST;
		else if (rc == -ENOENT)
			made = !(rc = make_and_move(ov, m, &w, dir, parent->fd, name, f, &fd));
	}
	if (made)
		rc = object_made(ov, dir, name, parent->fd, fd, o);
	if (made && rc)
		unmake(ov, dir, &a, parent->fd, name, m->type == S_IFDIR, f);
	place_unpin(ov, parent);
	return rc;
}

/* -ENOENT: the name is free (f says what hides below). -EEXIST: *o has it. making: the caller may make it. */
static int look_for(struct overlay *ov, struct object *dir, const char *name, bool making, struct found *f, struct object **o)
{
	if ((*o = table_find_name(ov, dir, name)))
		return -EEXIST;
	if (making && only_upper(dir))
		return -ENOENT; /* making it will tell */
	int rc = merge_name(ov, dir, name, f);
	return rc ? rc : lookup_locked(ov, dir, name, o) ?: -EEXIST;
}

/* may: 0 or -errno, whether the caller may change the directory. */
static int may_make(const struct overlay_cred *cred, const struct making *m, int may)
{
	if (may)
		return may;
	if ((m->type == S_IFCHR || m->type == S_IFBLK) && (cred->uid || (m->type == S_IFCHR && !m->rdev)))
		return -EPERM; /* devices are root's to make, and 0/0 would be a whiteout */
	return 0;
}

/* What every making of a name shares. *o is the new object or, with -EEXIST, the one that was there. */
static int create_name(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		       const struct making *m, struct object **o, struct overlay_attr *attr, struct overlay_wcc *wcc)
{
	struct found f = { 0 };
	int may = 0;
	*o = NULL;
	memset(wcc, 0, sizeof *wcc);
	memset(attr, 0, sizeof *attr);
	int rc = check_name(ov, dir, name);
	if (rc == -ENOENT)
		rc = -EACCES; /* the reserved name */
	if (!rc && !ov->writable)
		rc = -EROFS;
	if (!rc && (!strcmp(name, ".") || !strcmp(name, "..")))
		rc = overlay_lookup(ov, cred, dir, name, o, attr) ?: -EEXIST;
	if (!rc) {
		pthread_rwlock_rdlock(&ov->rename_lock);
		rc = require(ov, cred, dir, OVERLAY_EXEC);
		may = rc ? rc : require(ov, cred, dir, OVERLAY_WRITE | OVERLAY_EXEC);
		pthread_rwlock_unlock(&ov->rename_lock);
	}
	if (!rc && !object_is_up(dir, false)) { /* nothing is copied up in vain */
		rc = overlay_lookup(ov, cred, dir, name, o, NULL) ? 0 : -EEXIST;
		if (!rc)
			rc = may_make(cred, m, may) ?: copy_up(ov, dir, false);
	}
	pthread_rwlock_rdlock(&ov->rename_lock);
	pthread_mutex_lock(&dir->dir_lock);
	wcc_before(ov, dir, wcc);
	if (!rc)
		rc = dir->dead ? -ESTALE : look_for(ov, dir, name, !may_make(cred, m, may), &f, o);
	if (rc == -ENOENT)
		rc = may_make(cred, m, may) ?: create_locked(ov, cred, dir, name, m, &f, o);
	wcc_after(ov, dir, wcc);
	if (*o && (!rc || rc == -EEXIST)) { /* while it has the name */
		int rc2 = attr_get(ov, *o, attr);
		rc = rc ? rc : rc2;
	}
	pthread_mutex_unlock(&dir->dir_lock);
	pthread_rwlock_unlock(&ov->rename_lock);
	found_free(ov, &f);
	return rc;
}

static int finish(struct overlay *ov, struct object *dir, struct object **o, int rc)
{
	if (!rc)
		rc = sync_dirs(ov, dir, NULL);
	if (rc) {
		overlay_put(ov, *o);
		*o = NULL;
	}
	return rc;
}

static bool same_verifier(const struct overlay_attr *a, const uint8_t *verf)
{
	uint32_t v[2];
	memcpy(v, verf, 8);
	return S_ISREG(a->mode) && a->atime.tv_sec == (v[0] & 0x7fffffff) && a->mtime.tv_sec == (v[1] & 0x7fffffff) && !a->size;
}

/* UNCHECKED, and o is there: of the attributes, the size alone. */
static int cut_existing(struct overlay *ov, const struct overlay_cred *cred, struct object *o, const struct overlay_setattr *set, struct overlay_attr *attr)
{
	if (o->type == S_IFDIR)
		return -EEXIST;
	if (!set || !set->set_size || o->type != S_IFREG)
		return attr->fileid ? 0 : overlay_getattr(ov, o, attr);
	struct overlay_setattr size = { .set_size = true, .size = set->size };
	struct overlay_wcc file;
	int rc = overlay_setattr(ov, cred, o, &size, NULL, &file);
	if (!rc && file.have_after)
		*attr = file.after;
	return rc;
}

int overlay_create(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		   enum overlay_how how, const struct overlay_setattr *set, const uint8_t *verf, struct object **o,
		   struct overlay_attr *attr, struct overlay_wcc *wcc)
{
	struct making m = { .type = S_IFREG, .set = set, .verf = how == CREATE_EXCLUSIVE ? verf : NULL };
	for (int tries = 8;; tries--) {
		int rc = create_name(ov, cred, dir, name, &m, o, attr, wcc);
		if (rc != -EEXIST || how == CREATE_GUARDED || !*o)
			return finish(ov, dir, o, rc);
		if (how == CREATE_EXCLUSIVE) /* the same call again gets the same file */
			return finish(ov, dir, o, same_verifier(attr, verf) ? 0 : -EEXIST);
		rc = cut_existing(ov, cred, *o, set, attr);
		if (!rc || !(*o)->dead)
			return finish(ov, dir, o, rc);
		if (tries == 1) /* always another one: it is no fault of the directory's handle */
			return finish(ov, dir, o, -EAGAIN);
		overlay_put(ov, *o); /* another took its name meanwhile, or nobody has it: the caller never knew of this one */
	}
}

int overlay_mkdir(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		  const struct overlay_setattr *set, struct object **o, struct overlay_attr *attr, struct overlay_wcc *wcc)
{
	struct making m = { .type = S_IFDIR, .set = set };
	return finish(ov, dir, o, create_name(ov, cred, dir, name, &m, o, attr, wcc));
}

int overlay_symlink(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		    const char *target, const struct overlay_setattr *set, struct object **o, struct overlay_attr *attr,
		    struct overlay_wcc *wcc)
{
	struct making m = { .type = S_IFLNK, .set = set, .target = target };
	return finish(ov, dir, o, create_name(ov, cred, dir, name, &m, o, attr, wcc));
}

int overlay_mknod(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name, mode_t type,
		  uint32_t major, uint32_t minor, const struct overlay_setattr *set, struct object **o,
		  struct overlay_attr *attr, struct overlay_wcc *wcc)
{
	struct making m = { .type = type, .set = set, .rdev = makedev(major, minor) };
	return finish(ov, dir, o, create_name(ov, cred, dir, name, &m, o, attr, wcc));
}

/* One more name for what is in the upper. */
static int link_locked(struct overlay *ov, struct object *o, int dirfd, const char *name, bool replace)
{
	struct fdent *parent;
	const char *own;
	bool indexed = index_has(ov, o);
	pthread_mutex_lock(&o->dir_lock); /* a metacopy is not completed meanwhile */
	pthread_mutex_lock(&o->lock); /* the place's name is the object's only under it */
	int rc = o->dead ? object_gone(o) : place_pin_parent(ov, o->upper, &parent, &own);
	if (!rc) {
		rc = keep_identity(ov, o, parent->fd, own);
		if (!rc && o->metacopy)
			rc = redirect_set(ov, o, parent->fd, own, false);
		place_unpin(ov, parent);
	}
	pthread_mutex_unlock(&o->lock);
	if (indexed)
		pthread_mutex_lock(&ov->index_lock);
	if (!rc && indexed)
		rc = index_keep_nlink(ov, o);
	if (!rc)
		rc = link_into(ov, o, dirfd, name, replace);
	if (indexed)
		pthread_mutex_unlock(&ov->index_lock);
	attr_forget(o); /* before anybody removes the other name, and takes it for the last one */
	pthread_mutex_unlock(&o->dir_lock);
	return rc;
}

int overlay_link(struct overlay *ov, const struct overlay_cred *cred, struct object *o, struct object *dir,
		 const char *name, struct overlay_attr *attr, struct overlay_wcc *wcc)
{
	struct found f = { 0 };
	struct fdent *parent = NULL;
	struct object *there = NULL;
	memset(wcc, 0, sizeof *wcc);
	int rc = check_name(ov, dir, name);
	if (rc == -ENOENT)
		rc = -EACCES;
	if (!rc && !ov->writable)
		rc = -EROFS;
	if (!rc && !overlay_lookup(ov, cred, dir, name, &there, NULL))
		rc = -EEXIST;
	overlay_put(ov, there);
	if (!rc) {
		pthread_rwlock_rdlock(&ov->rename_lock);
		rc = require(ov, cred, dir, OVERLAY_WRITE | OVERLAY_EXEC) ?: changeable(ov, o, false);
		pthread_rwlock_unlock(&ov->rename_lock);
	}
	if (!rc && o->type == S_IFDIR)
		rc = -EINVAL;
	if (!rc)
		rc = copy_up(ov, dir, false);
	if (!rc)
		rc = copy_up(ov, o, !ov->makes_redirects); /* another name of a metacopy needs a redirect */
	bool waited = wait_for_bytes(ov, o);
	pthread_rwlock_rdlock(&ov->rename_lock);
	pthread_mutex_lock(&dir->dir_lock);
	wcc_before(ov, dir, wcc);
	if (!rc)
		rc = dir->dead || o->dead ? object_gone(o) : merge_name(ov, dir, name, &f);
	if (!rc)
		rc = -EEXIST;
	if (rc == -ENOENT)
		rc = place_pin(ov, dir->upper, FD_PATH, &parent);
	if (!rc && o->id.layer != ov->layers[0].number) /* has an origin */
		rc = mark_impure(ov, dir, parent->fd);
	if (!rc)
		rc = link_locked(ov, o, parent->fd, name, f.upper_whiteout);
	if (!rc)
		map_put_place(ov->map, &o->id, &dir->id, name);
	wcc_after(ov, dir, wcc);
	pthread_mutex_unlock(&dir->dir_lock);
	if (attr && attr_get(ov, o, attr))
		memset(attr, 0, sizeof *attr);
	pthread_rwlock_unlock(&ov->rename_lock);
	bytes_waited_for(ov, o, waited);
	place_unpin(ov, parent);
	found_free(ov, &f);
	return rc ? rc : sync_dirs(ov, dir, NULL);
}
