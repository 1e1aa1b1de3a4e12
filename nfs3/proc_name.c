/* proc_name.c: CREATE MKDIR SYMLINK MKNOD REMOVE RMDIR RENAME LINK. */
#include "proc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What the four procedures that make something have in common. */
struct making {
	struct request rq;
	struct object *dir, *made;
	struct overlay_attr attr;
	struct overlay_wcc wcc;
	struct overlay_setattr set;
	const char *name;
};

static nfsstat3 making_begin(struct making *m, const struct rpc_call *call, const diropargs3 *where, const sattr3 *attributes)
{
	memset(m, 0, sizeof *m);
	m->name = where->name;
	request_begin(&m->rq, call);
	nfsstat3 st = request_dir(&m->rq, &where->dir, &m->dir);
	if (!st)
		st = check_new_name(where->name, NFS3ERR_EXIST);
	if (!st && attributes)
		st = sattr3_to_setattr(attributes, &m->set);
	return st;
}

static void making_end(struct making *m, nfsstat3 st, newres *r)
{
	newres_ok *ok = &r->newres_u.resok;
	r->status = st;
	if (!st) {
		uint8_t *space = malloc(HANDLE_SIZE);
		ok->obj.handle_follows = space != NULL; /* a client then looks the name up */
		if (space)
			fh_to(&m->rq, m->made, &ok->obj.post_op_fh3_u.handle, space);
		attr_to_post_op(m->rq.ov, &m->attr, &ok->obj_attributes);
	}
	wcc_of(&m->rq, m->dir, &m->wcc, st ? &r->newres_u.dir_wcc : &ok->dir_wcc);
	overlay_put(m->rq.ov, m->made);
	overlay_put(m->rq.ov, m->dir);
}

void free_new(void *res)
{
	newres *r = res;
	if (!r->status && r->newres_u.resok.obj.handle_follows)
		free(r->newres_u.resok.obj.post_op_fh3_u.handle.data.data_val);
}

void proc_create(struct rpc_call *call, void *args, void *res)
{
	CREATE3args *a = args;
	struct making m;
	bool exclusive = a->how.mode == EXCLUSIVE;
	enum overlay_how how = exclusive ? CREATE_EXCLUSIVE : a->how.mode == GUARDED ? CREATE_GUARDED : CREATE_UNCHECKED;
	nfsstat3 st = making_begin(&m, call, &a->where, exclusive ? NULL : &a->how.createhow3_u.obj_attributes);
	if (!st)
		st = errno_to_nfsstat3(overlay_create(m.rq.ov, &m.rq.cred, m.dir, m.name, how, &m.set,
						      (const uint8_t *)a->how.createhow3_u.verf, &m.made, &m.attr, &m.wcc));
	making_end(&m, st, res);
}

void proc_mkdir(struct rpc_call *call, void *args, void *res)
{
	MKDIR3args *a = args;
	struct making m;
	nfsstat3 st = making_begin(&m, call, &a->where, &a->attributes);
	if (!st)
		st = errno_to_nfsstat3(overlay_mkdir(m.rq.ov, &m.rq.cred, m.dir, m.name, &m.set, &m.made, &m.attr, &m.wcc));
	making_end(&m, st, res);
}

void proc_symlink(struct rpc_call *call, void *args, void *res)
{
	SYMLINK3args *a = args;
	struct making m;
	nfsstat3 st = making_begin(&m, call, &a->where, &a->symlink_attributes);
	if (!st && !*a->symlink_data)
		st = NFS3ERR_INVAL;
	if (!st && strlen(a->symlink_data) > 4095)
		st = NFS3ERR_NAMETOOLONG;
	if (!st)
		st = errno_to_nfsstat3(overlay_symlink(m.rq.ov, &m.rq.cred, m.dir, m.name, a->symlink_data, &m.set, &m.made, &m.attr, &m.wcc));
	making_end(&m, st, res);
}

void proc_mknod(struct rpc_call *call, void *args, void *res)
{
	MKNOD3args *a = args;
	struct making m;
	mode_t type = 0;
	const sattr3 *attributes = &a->what.mknoddata3_u.pipe_attributes;
	specdata3 spec = { 0 };
	switch (a->what.type) {
	case NF3CHR:
	case NF3BLK:
		type = a->what.type == NF3CHR ? S_IFCHR : S_IFBLK;
		attributes = &a->what.mknoddata3_u.device.dev_attributes;
		spec = a->what.mknoddata3_u.device.spec;
		break;
	case NF3SOCK: type = S_IFSOCK; break;
	case NF3FIFO: type = S_IFIFO; break;
	default: attributes = NULL;
	}
	nfsstat3 st = making_begin(&m, call, &a->where, attributes);
	if (!st && !type)
		st = NFS3ERR_BADTYPE;
	if (!st)
		st = errno_to_nfsstat3(overlay_mknod(m.rq.ov, &m.rq.cred, m.dir, m.name, type, spec.specdata1, spec.specdata2, &m.set,
						     &m.made, &m.attr, &m.wcc));
	making_end(&m, st, res);
}

typedef int removal(struct overlay *, const struct overlay_cred *, struct object *, const char *, struct overlay_wcc *);

static void run_removal(struct rpc_call *call, const diropargs3 *a, wccres *r, removal *removal, nfsstat3 dot, nfsstat3 dotdot)
{
	struct request rq;
	struct object *dir;
	struct overlay_wcc wcc = { 0 };
	request_begin(&rq, call);
	r->status = request_dir(&rq, &a->dir, &dir);
	if (!r->status)
		r->status = check_new_name(a->name, strcmp(a->name, ".") ? dotdot : dot);
	if (!r->status)
		r->status = errno_to_nfsstat3(removal(rq.ov, &rq.cred, dir, a->name, &wcc));
	wcc_of(&rq, dir, &wcc, &r->wcc);
	overlay_put(rq.ov, dir);
}

void proc_remove(struct rpc_call *call, void *args, void *res)
{
	run_removal(call, args, res, overlay_remove, NFS3ERR_INVAL, NFS3ERR_INVAL);
}

void proc_rmdir(struct rpc_call *call, void *args, void *res)
{
	run_removal(call, args, res, overlay_rmdir, NFS3ERR_INVAL, NFS3ERR_EXIST); /* RFC 1813 3.3.13 */
}

void proc_rename(struct rpc_call *call, void *args, void *res)
{
	RENAME3args *a = args;
	RENAME3res *r = res;
	struct request rq;
	struct object *from, *to = NULL;
	struct overlay_wcc from_wcc = { 0 }, to_wcc = { 0 };
	request_begin(&rq, call);
	r->status = request_dir(&rq, &a->from.dir, &from);
	if (!r->status)
		r->status = request_dir(&rq, &a->to.dir, &to);
	if (!r->status)
		r->status = check_new_name(a->from.name, NFS3ERR_INVAL);
	if (!r->status)
		r->status = check_new_name(a->to.name, NFS3ERR_INVAL);
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_rename(rq.ov, &rq.cred, from, a->from.name, to, a->to.name, &from_wcc, &to_wcc));
	wcc_of(&rq, from, &from_wcc, &r->fromdir_wcc);
	wcc_of(&rq, to, &to_wcc, &r->todir_wcc);
	overlay_put(rq.ov, from);
	overlay_put(rq.ov, to);
}

void proc_link(struct rpc_call *call, void *args, void *res)
{
	LINK3args *a = args;
	LINK3res *r = res;
	struct request rq;
	struct object *o, *dir = NULL;
	struct overlay_attr attr = { 0 };
	struct overlay_wcc wcc = { 0 };
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->file, &o);
	if (!r->status)
		r->status = request_dir(&rq, &a->link.dir, &dir);
	if (!r->status)
		r->status = check_new_name(a->link.name, NFS3ERR_EXIST);
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_link(rq.ov, &rq.cred, o, dir, a->link.name, &attr, &wcc));
	if (!r->status && attr.fileid) /* 0: they could not be had */
		attr_to_post_op(rq.ov, &attr, &r->file_attributes);
	else
		post_op_of(&rq, o, &r->file_attributes);
	wcc_of(&rq, dir, &wcc, &r->linkdir_wcc);
	overlay_put(rq.ov, dir);
	overlay_put(rq.ov, o);
}
