/* proc_object.c: GETATTR SETATTR LOOKUP ACCESS READLINK. */
#include "proc.h"

#include <stdlib.h>
#include <string.h>

void request_begin(struct request *r, const struct rpc_call *call)
{
	r->export = call->user;
	r->ov = r->export->ov;
	export_cred(r->export, call, &r->cred);
}

nfsstat3 request_object(struct request *r, const nfs_fh3 *fh, struct object **o)
{
	struct overlay_id id;
	*o = NULL;
	nfsstat3 st = handle_decode(r->ov, fh->data.data_val, fh->data.data_len, &id);
	return st ? st : errno_to_nfsstat3(overlay_get(r->ov, &id, o));
}

nfsstat3 request_dir(struct request *r, const nfs_fh3 *fh, struct object **dir)
{
	nfsstat3 st = request_object(r, fh, dir);
	return st ? st : overlay_type(*dir) == S_IFDIR ? NFS3_OK : NFS3ERR_NOTDIR;
}

nfsstat3 check_new_name(const char *name, nfsstat3 dots)
{
	if (!*name || strchr(name, '/'))
		return NFS3ERR_ACCES;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return dots;
	return strlen(name) > 255 ? NFS3ERR_NAMETOOLONG : NFS3_OK;
}

void post_op_of(struct request *r, struct object *o, post_op_attr *p)
{
	struct overlay_attr a;
	attr_to_post_op(r->ov, o && !overlay_getattr(r->ov, o, &a) ? &a : NULL, p);
}

void wcc_of(struct request *r, struct object *o, struct overlay_wcc *wcc, wcc_data *d)
{
	if (o && !wcc->have_after)
		wcc->have_after = !overlay_getattr(r->ov, o, &wcc->after);
	wcc_to_wcc_data(r->ov, wcc, d);
}

uint32_t transfer_max(const struct rpc_call *call)
{
	return call->udp ? UDP_TRANSFER : TCP_TRANSFER;
}

void fh_to(struct request *r, const struct object *o, nfs_fh3 *fh, uint8_t space[HANDLE_SIZE])
{
	handle_encode(r->ov, overlay_id(o), space);
	fh->data.data_len = HANDLE_SIZE;
	fh->data.data_val = (char *)space;
}

void proc_getattr(struct rpc_call *call, void *args, void *res)
{
	GETATTR3args *a = args;
	GETATTR3res *r = res;
	struct request rq;
	struct object *o;
	struct overlay_attr attr;
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->object, &o);
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_getattr(rq.ov, o, &attr));
	if (!r->status)
		attr_to_fattr3(rq.ov, &attr, &r->GETATTR3res_u.obj_attributes);
	overlay_put(rq.ov, o);
}

void proc_setattr(struct rpc_call *call, void *args, void *res)
{
	SETATTR3args *a = args;
	wccres *r = res;
	struct request rq;
	struct object *o;
	struct overlay_setattr set;
	struct overlay_wcc wcc = { 0 };
	const nfstime3 *g = &a->guard.sattrguard3_u.obj_ctime;
	struct timespec guard = { .tv_sec = g->seconds, .tv_nsec = g->nseconds };
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->object, &o);
	if (!r->status)
		r->status = sattr3_to_setattr(&a->new_attributes, &set);
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_setattr(rq.ov, &rq.cred, o, &set, a->guard.check ? &guard : NULL, &wcc));
	wcc_of(&rq, o, &wcc, &r->wcc);
	overlay_put(rq.ov, o);
}

void proc_lookup(struct rpc_call *call, void *args, void *res)
{
	LOOKUP3args *a = args;
	LOOKUP3res *r = res;
	struct request rq;
	struct object *dir, *o = NULL;
	struct overlay_attr attr;
	uint8_t *space = NULL;
	request_begin(&rq, call);
	r->status = request_dir(&rq, &a->what.dir, &dir);
	if (!r->status && !*a->what.name)
		r->status = NFS3ERR_ACCES;
	if (!r->status && strchr(a->what.name, '/'))
		r->status = NFS3ERR_ACCES;
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_lookup(rq.ov, &rq.cred, dir, a->what.name, &o, &attr));
	if (!r->status && !(space = malloc(HANDLE_SIZE)))
		r->status = NFS3ERR_JUKEBOX;
	if (!r->status) {
		fh_to(&rq, o, &r->LOOKUP3res_u.resok.object, space);
		attr_to_post_op(rq.ov, &attr, &r->LOOKUP3res_u.resok.obj_attributes);
	}
	post_op_of(&rq, dir, r->status ? &r->LOOKUP3res_u.dir_attributes : &r->LOOKUP3res_u.resok.dir_attributes);
	overlay_put(rq.ov, o);
	overlay_put(rq.ov, dir);
}

void free_lookup(void *res)
{
	LOOKUP3res *r = res;
	if (!r->status)
		free(r->LOOKUP3res_u.resok.object.data.data_val);
}

/* RFC 1813 3.3.4: bits that make no sense for the type are not granted. */
static uint32_t access_bits(struct request *rq, struct object *o, int may)
{
	mode_t type = overlay_type(o);
	/* what is written to a device or a pipe goes to the client's own: a read-only root must not shut its /dev/null */
	bool dir = type == S_IFDIR, writable = !overlay_is_read_only(rq->ov) || (type != S_IFREG && !dir && type != S_IFLNK);
	uint32_t bits = may & OVERLAY_READ ? ACCESS3_READ : 0;
	if (may & OVERLAY_EXEC)
		bits |= dir ? ACCESS3_LOOKUP : ACCESS3_EXECUTE;
	if (may & OVERLAY_WRITE && writable)
		bits |= ACCESS3_MODIFY | ACCESS3_EXTEND | (dir ? ACCESS3_DELETE : 0);
	return bits;
}

void proc_access(struct rpc_call *call, void *args, void *res)
{
	ACCESS3args *a = args;
	ACCESS3res *r = res;
	struct request rq;
	struct object *o;
	int may = 0;
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->object, &o);
	if (!r->status) {
		may = overlay_permitted(rq.ov, &rq.cred, o, OVERLAY_READ | OVERLAY_WRITE | OVERLAY_EXEC);
		r->status = may < 0 ? errno_to_nfsstat3(may) : NFS3_OK;
	}
	if (!r->status)
		r->ACCESS3res_u.resok.access = a->access & access_bits(&rq, o, may);
	post_op_of(&rq, o, r->status ? &r->ACCESS3res_u.obj_attributes : &r->ACCESS3res_u.resok.obj_attributes);
	overlay_put(rq.ov, o);
}

void proc_readlink(struct rpc_call *call, void *args, void *res)
{
	GETATTR3args *a = args;
	READLINK3res *r = res;
	struct request rq;
	struct object *o;
	size_t len = 0;
	char *target = calloc(1, 4097);
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->object, &o);
	if (!r->status && !target)
		r->status = NFS3ERR_JUKEBOX;
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_readlink(rq.ov, o, target, 4096, &len));
	if (r->status)
		free(target);
	else
		r->READLINK3res_u.resok.data = target;
	post_op_of(&rq, o, r->status ? &r->READLINK3res_u.symlink_attributes : &r->READLINK3res_u.resok.symlink_attributes);
	overlay_put(rq.ov, o);
}

void free_readlink(void *res)
{
	READLINK3res *r = res;
	if (!r->status)
		free(r->READLINK3res_u.resok.data);
}
