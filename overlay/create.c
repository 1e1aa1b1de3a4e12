/* create.c: new names: files, directories, symlinks, devices, hard links. Made in the work directory, then moved over nothing or over a whiteout. */
#include "internal.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
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

static int make_bare(struct overlay *ov, const struct making *m, const char *temp)
{
	int rc, fd;
	if (m->type == S_IFDIR)
		rc = mkdirat(ov->work_fd, temp, 0700);
	else if (m->type == S_IFLNK && m->target)
		rc = symlinkat(m->target, ov->work_fd, temp);
	else if (m->type == S_IFREG)
		rc = (fd = openat(ov->work_fd, temp, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600)) < 0 ? -1 : close(fd);
	else
		rc = mknodat(ov->work_fd, temp, m->type | 0600, m->rdev);
	return rc ? -errno : 0;
}

static int set_size_and_times(struct overlay *ov, const struct making *m, const char *temp)
{
	struct timespec t[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };
	if (m->verf) { /* as Linux nfsd: the verifier in atime and mtime, 31 bits each way so that any file system holds it */
		uint32_t v[2];
		memcpy(v, m->verf, 8);
		t[0] = (struct timespec){ .tv_sec = v[0] & 0x7fffffff };
		t[1] = (struct timespec){ .tv_sec = v[1] & 0x7fffffff };
		return utimensat(ov->work_fd, temp, t, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
	}
	if (!m->set)
		return 0;
	if (m->set->set_atime == TIME_CLIENT)
		t[0] = m->set->atime;
	if (m->set->set_mtime == TIME_CLIENT)
		t[1] = m->set->mtime;
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d/%s", ov->work_fd, temp);
	if (m->type == S_IFREG && m->set->set_size && truncate(path, (off_t)m->set->size))
		return -errno;
	return (m->set->set_atime || m->set->set_mtime) && utimensat(ov->work_fd, temp, t, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

/* parent_fd: of the directory that it is for */
static int make_temp(struct overlay *ov, const struct overlay_cred *cred, const struct overlay_attr *dir, int parent_fd, const struct making *m,
		     const char *temp)
{
	mode_t mode = mode_to_make(cred, dir, m);
	gid_t gid = dir->mode & S_ISGID ? dir->gid : cred->gid;
	uid_t uid = cred->uid;
	if (m->set && m->set->set_uid && (!cred->uid || m->set->uid == cred->uid))
		uid = m->set->uid;
	if (m->set && m->set->set_gid && (!cred->uid || in_group(cred, m->set->gid)))
		gid = m->set->gid;
	int rc = make_bare(ov, m, temp);
	if (!rc && fchownat(ov->work_fd, temp, uid, gid, AT_SYMLINK_NOFOLLOW) && ov->privileged)
		rc = -errno;
	if (!rc && m->type != S_IFLNK)
		rc = acl_inherit(parent_fd, ov->work_fd, temp, &mode, m->type == S_IFDIR);
	if (!rc && m->type != S_IFLNK && fchmodat(ov->work_fd, temp, mode, 0))
		rc = -errno;
	return rc ? rc : set_size_and_times(ov, m, temp);
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
	if (rc != -EPERM && rc != -EOPNOTSUPP)
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

/* dir->dir_lock held, dir in the upper, name absent (f says what hides below) */
static int create_locked(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
			 const struct making *m, const struct found *f, struct object **o)
{
	struct overlay_attr a;
	struct fdent *parent;
	char temp[24];
	int rc = attr_get(ov, dir, &a);
	if (!rc)
		rc = place_pin(ov, dir->upper, FD_PATH, &parent);
	if (rc)
		return rc;
	work_name(ov, temp);
	rc = make_temp(ov, cred, &a, parent->fd, m, temp);
	if (!rc && !ov->layers[0].has_handles)
		rc = mark_born(ov, temp);
	if (!rc)
		rc = move_in(ov, temp, parent->fd, name, m->type == S_IFDIR, f);
	if (rc)
		work_remove(ov, temp);
	place_unpin(ov, parent);
	if (!rc)
		rc = lookup_locked(ov, dir, name, o);
	return rc;
}

/* What every making of a name shares. *o is the new object; with exists_ok, the one that was there (and the result -EEXIST). */
static int create_name(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		       const struct making *m, struct object **o, struct overlay_attr *attr, struct overlay_wcc *wcc)
{
	struct found f = { 0 };
	*o = NULL;
	memset(wcc, 0, sizeof *wcc);
	int rc = check_name(ov, dir, name);
	if (rc == -ENOENT)
		rc = -EACCES; /* the reserved name */
	if (!rc && !ov->writable)
		rc = -EROFS;
	if (!rc)
		rc = overlay_lookup(ov, cred, dir, name, o, NULL) ? 0 : -EEXIST; /* before anything is copied up */
	if (!rc) {
		int may = overlay_permitted(ov, cred, dir, OVERLAY_WRITE | OVERLAY_EXEC);
		rc = may < 0 ? may : may == (OVERLAY_WRITE | OVERLAY_EXEC) ? 0 : -EACCES;
	}
	if (!rc && (m->type == S_IFCHR || m->type == S_IFBLK) && (cred->uid || (m->type == S_IFCHR && !m->rdev)))
		rc = -EPERM; /* devices are root's to make, and 0/0 would be a whiteout */
	if (!rc)
		rc = copy_up(ov, dir, false);
	pthread_rwlock_rdlock(&ov->rename_lock);
	pthread_mutex_lock(&dir->dir_lock);
	wcc_before(ov, dir, wcc);
	if (!rc)
		rc = dir->dead ? -ESTALE : merge_name(ov, dir, name, &f);
	if (rc == -ENOENT)
		rc = create_locked(ov, cred, dir, name, m, &f, o);
	else if (!rc)
		rc = lookup_locked(ov, dir, name, o) ?: -EEXIST;
	wcc_after(ov, dir, wcc);
	pthread_mutex_unlock(&dir->dir_lock);
	if (*o && attr && (!rc || rc == -EEXIST)) {
		int rc2 = attr_get(ov, *o, attr);
		rc = rc ? rc : rc2;
	}
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

int overlay_create(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		   enum overlay_how how, const struct overlay_setattr *set, const uint8_t *verf, struct object **o,
		   struct overlay_attr *attr, struct overlay_wcc *wcc)
{
	struct making m = { .type = S_IFREG, .set = set, .verf = how == CREATE_EXCLUSIVE ? verf : NULL };
	int rc = create_name(ov, cred, dir, name, &m, o, attr, wcc);
	if (rc != -EEXIST || how == CREATE_GUARDED || !*o)
		return finish(ov, dir, o, rc);
	if (how == CREATE_EXCLUSIVE) /* the same call again gets the same file */
		return finish(ov, dir, o, same_verifier(attr, verf) ? 0 : -EEXIST);
	if ((*o)->type == S_IFDIR)
		return finish(ov, dir, o, -EEXIST);
	rc = 0;
	if (set && set->set_size && (*o)->type == S_IFREG) { /* UNCHECKED: of the attributes, the size alone */
		struct overlay_setattr size = { .set_size = true, .size = set->size };
		struct overlay_wcc file;
		rc = overlay_setattr(ov, cred, *o, &size, NULL, &file);
		if (!rc && file.have_after)
			*attr = file.after;
	}
	return finish(ov, dir, o, rc);
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
		int may = overlay_permitted(ov, cred, dir, OVERLAY_WRITE | OVERLAY_EXEC);
		rc = may < 0 ? may : may == (OVERLAY_WRITE | OVERLAY_EXEC) ? 0 : -EACCES;
	}
	if (!rc && o->type == S_IFDIR)
		rc = -EINVAL;
	if (!rc)
		rc = copy_up(ov, dir, false);
	if (!rc)
		rc = copy_up(ov, o, false);
	pthread_rwlock_rdlock(&ov->rename_lock);
	pthread_mutex_lock(&dir->dir_lock);
	wcc_before(ov, dir, wcc);
	if (!rc)
		rc = dir->dead || o->dead ? object_gone(o) : merge_name(ov, dir, name, &f);
	if (!rc)
		rc = -EEXIST;
	if (rc == -ENOENT)
		rc = place_pin(ov, dir->upper, FD_PATH, &parent);
	if (!rc && o->indexed)
		rc = nlink_adjust(ov, o, 0);
	if (!rc)
		rc = link_into(ov, o, parent->fd, name, f.upper_whiteout);
	if (!rc)
		map_put_place(ov->map, &o->id, &dir->id, name);
	attr_forget(o);
	wcc_after(ov, dir, wcc);
	pthread_mutex_unlock(&dir->dir_lock);
	if (attr && attr_get(ov, o, attr))
		memset(attr, 0, sizeof *attr);
	pthread_rwlock_unlock(&ov->rename_lock);
	place_unpin(ov, parent);
	found_free(ov, &f);
	return rc ? rc : sync_dirs(ov, dir, NULL);
}
