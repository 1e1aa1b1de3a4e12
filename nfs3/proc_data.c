/* proc_data.c: READ WRITE COMMIT. */
#include "proc.h"

#include <stdlib.h>
#include <string.h>

void proc_read(struct rpc_call *call, void *args, void *res)
{
	READ3args *a = args;
	READ3res *r = res;
	READ3resok *ok = &r->READ3res_u.resok;
	struct request rq;
	struct object *o;
	struct overlay_attr attr;
	uint32_t count = a->count < transfer_max(call) ? a->count : transfer_max(call);
	size_t got = 0;
	bool eof = false;
	char *data = NULL;
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->file, &o);
	if (!r->status && !(data = malloc(count ? count : 1)))
		r->status = NFS3ERR_JUKEBOX;
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_read(rq.ov, &rq.cred, o, a->offset, data, count, &got, &eof, &attr));
	if (r->status) {
		free(data);
		post_op_of(&rq, o, &r->READ3res_u.file_attributes);
	} else {
		attr_to_post_op(rq.ov, &attr, &ok->file_attributes);
		ok->count = ok->data.data_len = (uint32_t)got;
		ok->eof = eof;
		ok->data.data_val = data;
	}
	overlay_put(rq.ov, o);
}

void free_read(void *res)
{
	READ3res *r = res;
	if (!r->status)
		free(r->READ3res_u.resok.data.data_val);
}

static void put_verifier(const struct overlay *ov, writeverf3 out)
{
	uint64_t verifier = overlay_verifier(ov);
	memcpy(out, &verifier, NFS3_WRITEVERFSIZE);
}

void proc_write(struct rpc_call *call, void *args, void *res)
{
	WRITE3args *a = args;
	WRITE3res *r = res;
	WRITE3resok *ok = &r->WRITE3res_u.resok;
	struct request rq;
	struct object *o;
	struct overlay_wcc wcc = { 0 };
	writeverf3 verf = { 0 };
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->file, &o);
	if (!r->status && (a->count != a->data.data_len || a->stable > FILE_SYNC))
		r->status = NFS3ERR_INVAL;
	put_verifier(rq.ov, verf); /* before the data: a writeback that fails from here on must be seen */
	if (!r->status)
		r->status = errno_to_nfsstat3(
			overlay_write(rq.ov, &rq.cred, o, a->offset, a->data.data_val, a->count, (enum overlay_stable)a->stable, &wcc));
	wcc_of(&rq, o, &wcc, r->status ? &r->WRITE3res_u.file_wcc : &ok->file_wcc);
	if (!r->status) {
		ok->count = a->count;
		ok->committed = a->stable;
		memcpy(ok->verf, verf, sizeof verf);
	}
	overlay_put(rq.ov, o);
}

void proc_commit(struct rpc_call *call, void *args, void *res)
{
	COMMIT3args *a = args;
	COMMIT3res *r = res;
	struct request rq;
	struct object *o;
	struct overlay_wcc wcc = { 0 };
	request_begin(&rq, call);
	r->status = request_object(&rq, &a->file, &o);
	if (!r->status)
		r->status = errno_to_nfsstat3(overlay_commit(rq.ov, &rq.cred, o, &wcc));
	wcc_of(&rq, o, &wcc, r->status ? &r->COMMIT3res_u.file_wcc : &r->COMMIT3res_u.resok.file_wcc);
	if (!r->status)
		put_verifier(rq.ov, r->COMMIT3res_u.resok.verf);
	overlay_put(rq.ov, o);
}
