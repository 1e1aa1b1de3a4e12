/* attr.c: fattr3, wcc_data, sattr3, and errno to nfsstat3: in this one place. */
#include "attr.h"
#include "log.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static ftype3 type_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return NF3DIR;
	case S_IFBLK: return NF3BLK;
	case S_IFCHR: return NF3CHR;
	case S_IFLNK: return NF3LNK;
	case S_IFSOCK: return NF3SOCK;
	case S_IFIFO: return NF3FIFO;
	default: return NF3REG;
	}
}

static nfstime3 time_of(struct timespec t)
{
	return (nfstime3){ .seconds = (uint32)t.tv_sec, .nseconds = (uint32)t.tv_nsec };
}

void attr_to_fattr3(const struct overlay *ov, const struct overlay_attr *a, fattr3 *f)
{
	*f = (fattr3){ .type = type_of(a->mode), .mode = a->mode & 07777, .nlink = a->nlink, .uid = a->uid, .gid = a->gid, .size = a->size,
		       .used = a->used, .rdev = { a->rdev_major, a->rdev_minor }, .fsid = overlay_fsid(ov), .fileid = a->fileid,
		       .atime = time_of(a->atime), .mtime = time_of(a->mtime), .ctime = time_of(a->ctime) };
}

void attr_to_post_op(const struct overlay *ov, const struct overlay_attr *a, post_op_attr *p)
{
	p->attributes_follow = a != NULL;
	if (a)
		attr_to_fattr3(ov, a, &p->post_op_attr_u.attributes);
}

void wcc_to_wcc_data(const struct overlay *ov, const struct overlay_wcc *w, wcc_data *d)
{
	d->before.attributes_follow = w->have_before;
	if (w->have_before)
		d->before.pre_op_attr_u.attributes = (wcc_attr){ .size = w->before.size, .mtime = time_of(w->before.mtime), .ctime = time_of(w->before.ctime) };
	attr_to_post_op(ov, w->have_after ? &w->after : NULL, &d->after);
}

static nfsstat3 set_time_of(const set_time *s, enum overlay_settime *how, struct timespec *t)
{
	*how = s->set_it == SET_TO_SERVER_TIME ? TIME_SERVER : s->set_it == SET_TO_CLIENT_TIME ? TIME_CLIENT : TIME_KEEP;
	if (s->set_it > SET_TO_CLIENT_TIME)
		return NFS3ERR_INVAL;
	if (*how != TIME_CLIENT)
		return NFS3_OK;
	*t = (struct timespec){ .tv_sec = s->set_time_u.value.seconds, .tv_nsec = s->set_time_u.value.nseconds };
	return s->set_time_u.value.nseconds < 1000000000 ? NFS3_OK : NFS3ERR_INVAL;
}

nfsstat3 sattr3_to_setattr(const sattr3 *s, struct overlay_setattr *set)
{
	const uint32_t no_id = UINT32_MAX; /* as Linux nfsd: not set */
	*set = (struct overlay_setattr){ .set_mode = s->mode.set_it, .mode = s->mode.set_uint32_u.value & 07777,
					 .set_uid = s->uid.set_it && s->uid.set_uint32_u.value != no_id, .uid = s->uid.set_uint32_u.value,
					 .set_gid = s->gid.set_it && s->gid.set_uint32_u.value != no_id, .gid = s->gid.set_uint32_u.value,
					 .set_size = s->size.set_it, .size = s->size.set_uint64_u.value };
	nfsstat3 st = set_time_of(&s->atime, &set->set_atime, &set->atime);
	return st ? st : set_time_of(&s->mtime, &set->set_mtime, &set->mtime);
}

nfsstat3 errno_to_nfsstat3(int rc)
{
	static const struct {
		int err;
		nfsstat3 status;
	} table[] = {
		{ 0, NFS3_OK }, { EPERM, NFS3ERR_PERM }, { ENOENT, NFS3ERR_NOENT }, { EIO, NFS3ERR_IO }, { ENXIO, NFS3ERR_NXIO },
		{ EACCES, NFS3ERR_ACCES }, { EEXIST, NFS3ERR_EXIST }, { EXDEV, NFS3ERR_XDEV }, { ENODEV, NFS3ERR_NODEV },
		{ ENOTDIR, NFS3ERR_NOTDIR }, { EISDIR, NFS3ERR_ISDIR }, { EINVAL, NFS3ERR_INVAL }, { EFBIG, NFS3ERR_FBIG },
		{ ENOSPC, NFS3ERR_NOSPC }, { EROFS, NFS3ERR_ROFS }, { EMLINK, NFS3ERR_MLINK }, { ENAMETOOLONG, NFS3ERR_NAMETOOLONG },
		{ ENOTEMPTY, NFS3ERR_NOTEMPTY }, { EDQUOT, NFS3ERR_DQUOT }, { ESTALE, NFS3ERR_STALE }, { EKEYEXPIRED, NFS3ERR_NOT_SYNC },
		{ EOPNOTSUPP, NFS3ERR_NOTSUPP }, { ELOOP, NFS3ERR_INVAL }, { EAGAIN, NFS3ERR_JUKEBOX }, { ENOMEM, NFS3ERR_JUKEBOX },
		{ EMFILE, NFS3ERR_JUKEBOX }, { ENFILE, NFS3ERR_JUKEBOX }, { EBUSY, NFS3ERR_JUKEBOX }, { ETXTBSY, NFS3ERR_ACCES },
		{ EINTR, NFS3ERR_JUKEBOX },
	};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (table[i].err == -rc)
			return table[i].status;
	log_line(3, "an error that NFS has no name for: %s", strerror(-rc));
	return NFS3ERR_SERVERFAULT;
}
