/* fast.c: GETATTR LOOKUP ACCESS READ WRITE without rpcgen's code. */
#include "fast.h"

#include <errno.h>
#include <string.h>

enum { SENDFILE_FROM = 1 << 16 }; /* bytes: below, a copy costs less than the pages' bookkeeping */

/* ---- decoding: a cursor that remembers when it ran out ---- */
struct in {
	const uint8_t *p, *end;
	bool bad;
};

static uint32_t get32(struct in *in)
{
	if (in->end - in->p < 4) {
		in->bad = true;
		return 0;
	}
	uint32_t v = (uint32_t)in->p[0] << 24 | (uint32_t)in->p[1] << 16 | (uint32_t)in->p[2] << 8 | in->p[3];
	in->p += 4;
	return v;
}

static uint64_t get64(struct in *in)
{
	uint64_t high = get32(in);
	return high << 32 | get32(in);
}

static const uint8_t *get_bytes(struct in *in, uint32_t most, uint32_t *len)
{
	const uint8_t *p = in->p + 4;
	*len = get32(in);
	uint32_t padded = (*len + 3) & ~3u;
	if (in->bad || *len > most || padded < *len || (size_t)(in->end - in->p) < padded) {
		in->bad = true;
		return NULL;
	}
	in->p += padded;
	return p;
}

static void get_handle(struct in *in, nfs_fh3 *fh)
{
	uint32_t len;
	fh->data.data_val = (char *)(uintptr_t)get_bytes(in, NFS3_FHSIZE, &len);
	fh->data.data_len = len;
}

/* Something behind the arguments is garbage too. */
static bool at_end(const struct in *in)
{
	return !in->bad && in->p == in->end;
}

bool decode_getattr(const uint8_t *p, size_t len, GETATTR3args *a)
{
	struct in in = { p, p + len, false };
	get_handle(&in, &a->object);
	return at_end(&in);
}

bool decode_lookup(const uint8_t *p, size_t len, LOOKUP3args *a, char name[NAME_LIMIT + 1])
{
	struct in in = { p, p + len, false };
	uint32_t n;
	get_handle(&in, &a->what.dir);
	const uint8_t *bytes = get_bytes(&in, NAME_LIMIT, &n);
	if (!at_end(&in))
		return false;
	memcpy(name, bytes, n);
	name[memchr(bytes, 0, n) ? 0 : n] = 0; /* as wire.h has it: a name with a NUL inside is an empty one */
	a->what.name = name;
	return true;
}

bool decode_access(const uint8_t *p, size_t len, ACCESS3args *a)
{
	struct in in = { p, p + len, false };
	get_handle(&in, &a->object);
	a->access = get32(&in);
	return at_end(&in);
}

bool decode_read(const uint8_t *p, size_t len, READ3args *a)
{
	struct in in = { p, p + len, false };
	get_handle(&in, &a->file);
	a->offset = get64(&in);
	a->count = get32(&in);
	return at_end(&in);
}

bool decode_write(const uint8_t *p, size_t len, WRITE3args *a)
{
	struct in in = { p, p + len, false };
	uint32_t n;
	get_handle(&in, &a->file);
	a->offset = get64(&in);
	a->count = get32(&in);
	a->stable = get32(&in);
	a->data.data_val = (char *)(uintptr_t)get_bytes(&in, UINT32_MAX, &n);
	a->data.data_len = n;
	return at_end(&in);
}

/* ---- encoding ---- */
static uint8_t *put32(uint8_t *out, uint32_t v)
{
	v = __builtin_bswap32(v);
	return (uint8_t *)memcpy(out, &v, 4) + 4;
}

static uint8_t *put64(uint8_t *out, uint64_t v)
{
	return put32(put32(out, (uint32_t)(v >> 32)), (uint32_t)v);
}

static uint8_t *put_bytes(uint8_t *out, const void *data, uint32_t len)
{
	out = put32(out, len);
	memcpy(out, data, len);
	memset(out + len, 0, -len & 3);
	return out + ((len + 3) & ~3u);
}

static uint8_t *put_time(uint8_t *out, const nfstime3 *t)
{
	return put32(put32(out, t->seconds), t->nseconds);
}

static uint8_t *put_attributes(uint8_t *out, const fattr3 *a)
{
	out = put32(out, a->type);
	out = put32(out, a->mode);
	out = put32(out, a->nlink);
	out = put32(out, a->uid);
	out = put32(out, a->gid);
	out = put64(out, a->size);
	out = put64(out, a->used);
	out = put32(out, a->rdev.specdata1);
	out = put32(out, a->rdev.specdata2);
	out = put64(out, a->fsid);
	out = put64(out, a->fileid);
	return put_time(put_time(put_time(out, &a->atime), &a->mtime), &a->ctime);
}

static uint8_t *put_post_op(uint8_t *out, const post_op_attr *p)
{
	out = put32(out, p->attributes_follow);
	return p->attributes_follow ? put_attributes(out, &p->post_op_attr_u.attributes) : out;
}

static uint8_t *put_wcc(uint8_t *out, const wcc_data *w)
{
	const wcc_attr *b = &w->before.pre_op_attr_u.attributes;
	out = put32(out, w->before.attributes_follow);
	if (w->before.attributes_follow)
		out = put_time(put_time(put64(out, b->size), &b->mtime), &b->ctime);
	return put_post_op(out, &w->after);
}

uint8_t *encode_getattr(uint8_t *out, const GETATTR3res *r)
{
	out = put32(out, r->status);
	return r->status ? out : put_attributes(out, &r->GETATTR3res_u.obj_attributes);
}

uint8_t *encode_lookup(uint8_t *out, const LOOKUP3res *r)
{
	const LOOKUP3resok *ok = &r->LOOKUP3res_u.resok;
	out = put32(out, r->status);
	if (r->status)
		return put_post_op(out, &r->LOOKUP3res_u.dir_attributes);
	out = put_bytes(out, ok->object.data.data_val, ok->object.data.data_len);
	return put_post_op(put_post_op(out, &ok->obj_attributes), &ok->dir_attributes);
}

uint8_t *encode_access(uint8_t *out, const ACCESS3res *r)
{
	out = put32(out, r->status);
	if (r->status)
		return put_post_op(out, &r->ACCESS3res_u.obj_attributes);
	return put32(put_post_op(out, &r->ACCESS3res_u.resok.obj_attributes), r->ACCESS3res_u.resok.access);
}

uint8_t *encode_read_head(uint8_t *out, const READ3res *r)
{
	const READ3resok *ok = &r->READ3res_u.resok;
	out = put32(out, r->status);
	if (r->status)
		return put_post_op(out, &r->READ3res_u.file_attributes);
	out = put_post_op(out, &ok->file_attributes);
	return put32(put32(put32(out, ok->count), ok->eof), ok->data.data_len);
}

uint8_t *encode_write(uint8_t *out, const WRITE3res *r)
{
	const WRITE3resok *ok = &r->WRITE3res_u.resok;
	out = put32(out, r->status);
	if (r->status)
		return put_wcc(out, &r->WRITE3res_u.file_wcc);
	out = put32(put32(put_wcc(out, &ok->file_wcc), ok->count), ok->committed);
	return (uint8_t *)memcpy(out, ok->verf, sizeof ok->verf) + sizeof ok->verf;
}

/* ---- the procedures: the ordinary ones between the two; READ puts the data where it is sent from ---- */
long fast_getattr(struct rpc_call *call, const uint8_t *args, size_t len, uint8_t *out, size_t room)
{
	GETATTR3args a;
	GETATTR3res r = { 0 };
	if (room < RESULT_MAX || !decode_getattr(args, len, &a))
		return -1;
	proc_getattr(call, &a, &r);
	return encode_getattr(out, &r) - out;
}

long fast_lookup(struct rpc_call *call, const uint8_t *args, size_t len, uint8_t *out, size_t room)
{
	LOOKUP3args a;
	LOOKUP3res r = { 0 };
	char name[NAME_LIMIT + 1];
	if (room < RESULT_MAX || !decode_lookup(args, len, &a, name))
		return -1;
	proc_lookup(call, &a, &r);
	long n = encode_lookup(out, &r) - out;
	free_lookup(&r);
	return n;
}

long fast_access(struct rpc_call *call, const uint8_t *args, size_t len, uint8_t *out, size_t room)
{
	ACCESS3args a;
	ACCESS3res r = { 0 };
	if (room < RESULT_MAX || !decode_access(args, len, &a))
		return -1;
	proc_access(call, &a, &r);
	return encode_access(out, &r) - out;
}

static void file_sent(void *arg)
{
	overlay_file_done(arg);
}

/* A big piece, in answer to a lone call, is sent from the page cache. Others are read to where they are sent from: under load the socket would take but
 * a part of it, and what is left had to be read and queued all the same. */
static int read_to(struct rpc_call *call, struct request *rq, struct object *o, const READ3args *a, uint32_t count, uint8_t *data, size_t *got,
		   bool *eof, struct overlay_attr *attr)
{
	if (!call->lone || count < SENDFILE_FROM)
		return overlay_read(rq->ov, &rq->cred, o, a->offset, data, count, got, eof, attr);
	struct overlay_file *file;
	int fd = overlay_read_file(rq->ov, &rq->cred, o, a->offset, count, got, eof, attr, &file);
	if (fd == -EWOULDBLOCK)
		return overlay_read(rq->ov, &rq->cred, o, a->offset, data, count, got, eof, attr);
	if (fd < 0)
		return fd;
	call->file = (struct rpc_file){ .fd = fd, .offset = (off_t)a->offset, .len = (uint32_t)*got, .done = file_sent, .arg = file };
	return 0;
}

long fast_read(struct rpc_call *call, const uint8_t *args, size_t len, uint8_t *out, size_t room)
{
	READ3args a;
	READ3res r = { 0 };
	READ3resok *ok = &r.READ3res_u.resok;
	struct request rq;
	struct object *o;
	struct overlay_attr attr;
	size_t got = 0;
	bool eof = false;
	if (room < RESULT_MAX || !decode_read(args, len, &a))
		return -1;
	uint32_t count = a.count < transfer_max(call) ? a.count : transfer_max(call);
	if (room < READ_HEAD + (size_t)count + 4)
		return -1;
	request_begin(&rq, call);
	r.status = request_object(&rq, &a.file, &o);
	if (!r.status)
		r.status = errno_to_nfsstat3(read_to(call, &rq, o, &a, count, out + READ_HEAD, &got, &eof, &attr));
	if (r.status) {
		post_op_of(&rq, o, &r.READ3res_u.file_attributes);
	} else {
		attr_to_post_op(rq.ov, &attr, &ok->file_attributes);
		ok->count = ok->data.data_len = (uint32_t)got;
		ok->eof = eof;
	}
	overlay_put(rq.ov, o);
	uint8_t *end = encode_read_head(out, &r);
	if (!r.status && !call->file.done) {
		memset(end + got, 0, -got & 3);
		end += (got + 3) & ~(size_t)3;
	}
	return end - out;
}

long fast_write(struct rpc_call *call, const uint8_t *args, size_t len, uint8_t *out, size_t room)
{
	WRITE3args a;
	WRITE3res r = { 0 };
	if (room < RESULT_MAX || !decode_write(args, len, &a))
		return -1;
	run_change(call, proc_write, &a, &r);
	return encode_write(out, &r) - out;
}
