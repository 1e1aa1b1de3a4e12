/* proc_fs.c: FSSTAT FSINFO PATHCONF. */
#include "proc.h"

void proc_fsstat(struct rpc_call *call, void *args, void *res)
{
	GETATTR3args *a = args;
	FSSTAT3res *r = res;
	FSSTAT3resok *ok = &r->FSSTAT3res_u.resok;
	struct request rq;
	struct object *o;
	struct overlay_statfs s;
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->object, &o);
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_statfs(rq.ov, &s));
	if (!r->status)
		*ok = (FSSTAT3resok){ .tbytes = s.tbytes, .fbytes = s.fbytes, .abytes = s.abytes,
				      .tfiles = s.tfiles, .ffiles = s.ffiles, .afiles = s.afiles };
	post_op_of(&rq, o, r->status ? &r->FSSTAT3res_u.obj_attributes : &ok->obj_attributes);
	overlay_put(rq.ov, o);
}

void proc_fsinfo(struct rpc_call *call, void *args, void *res)
{
	GETATTR3args *a = args;
	FSINFO3res *r = res;
	FSINFO3resok *ok = &r->FSINFO3res_u.resok;
	struct request rq;
	struct object *o;
	uint32_t max = transfer_max(call);
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->object, &o);
	if (!r->status)
		*ok = (FSINFO3resok){ .rtmax = max, .rtpref = max, .rtmult = 4096, .wtmax = max, .wtpref = max, .wtmult = 4096,
				      .dtpref = max < 1 << 16 ? max : 1 << 16, .maxfilesize = overlay_max_file_size(rq.ov),
				      .time_delta = { 0, 1 },
				      .properties = FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME };
	post_op_of(&rq, o, r->status ? &r->FSINFO3res_u.obj_attributes : &ok->obj_attributes);
	overlay_put(rq.ov, o);
}

void proc_pathconf(struct rpc_call *call, void *args, void *res)
{
	GETATTR3args *a = args;
	PATHCONF3res *r = res;
	PATHCONF3resok *ok = &r->PATHCONF3res_u.resok;
	struct request rq;
	struct object *o;
	uint32_t linkmax = 0, name_max = 0;
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->object, &o);
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_pathconf(rq.ov, o, &linkmax, &name_max));
	if (!r->status)
		*ok = (PATHCONF3resok){ .linkmax = linkmax, .name_max = name_max, .no_trunc = TRUE, .chown_restricted = TRUE,
					.case_insensitive = FALSE, .case_preserving = TRUE };
	post_op_of(&rq, o, r->status ? &r->PATHCONF3res_u.obj_attributes : &ok->obj_attributes);
	overlay_put(rq.ov, o);
}
