/*
 * proc_dir.c: READDIR READDIRPLUS. The entries of one reply stand in one block of memory, handed out from its start;
 * every entry is accounted for with the bytes that it takes in XDR, so that a reply is never longer than the client wants.
 */
#include "proc.h"

#include <stdlib.h>
#include <string.h>

enum {
	ATTRIBUTES = 4 + 84, /* bytes in XDR: post_op_attr with its fattr3 */
	LIST_FRAME = ATTRIBUTES + NFS3_COOKIEVERFSIZE + 4 + 4, /* dir_attributes, cookieverf, end of list, eof */
	ENTRY_FIXED = 4 + 8 + 4 + 8, /* entry follows, fileid, name's length, cookie */
	PLUS_FIXED = ATTRIBUTES + 4 + 4 + HANDLE_SIZE,
	DIRECTORY_MAX = 1 << 20,
	DIRECTORY_MIN = 64, /* RFC 1813 has no least count, but nothing fits below this */
};

struct reply {
	struct request *rq;
	char *block;
	size_t used, room; /* bytes of the block */
	size_t left; /* bytes of the reply, as the client counts them */
	size_t dir_left; /* READDIRPLUS: bytes of names, cookies and file ids */
	bool any;
	entry3 **tail;
	entryplus3 **plus_tail;
};

static void *take(struct reply *d, size_t size)
{
	size = (size + 15) & ~(size_t)15;
	if (d->room - d->used < size)
		return NULL;
	void *p = d->block + d->used;
	d->used += size;
	return p;
}

static char *take_name(struct reply *d, const char *name)
{
	size_t len = strlen(name) + 1;
	char *copy = take(d, len);
	return copy ? memcpy(copy, name, len) : NULL;
}

static size_t entry_bytes(const char *name)
{
	return ENTRY_FIXED + ((strlen(name) + 3) & ~(size_t)3);
}

static bool add_entry(void *arg, const struct overlay_entry *e, struct object *o, const struct overlay_attr *attr)
{
	struct reply *d = arg;
	size_t bytes = entry_bytes(e->name);
	(void)o;
	(void)attr;
	if (bytes > d->left)
		return false;
	entry3 *x = take(d, sizeof *x);
	char *name = x ? take_name(d, e->name) : NULL;
	if (!name)
		return false;
	*x = (entry3){ .fileid = e->fileid, .name = name, .cookie = e->cookie };
	d->left -= bytes;
	*d->tail = x;
	d->tail = &x->nextentry;
	return d->any = true;
}

static bool add_entryplus(void *arg, const struct overlay_entry *e, struct object *o, const struct overlay_attr *attr)
{
	struct reply *d = arg;
	size_t dir_bytes = entry_bytes(e->name), bytes = dir_bytes + PLUS_FIXED;
	if (bytes > d->left || (dir_bytes > d->dir_left && d->any)) /* dircount alone is no reason to give nothing */
		return false;
	entryplus3 *x = take(d, sizeof *x);
	char *name = x ? take_name(d, e->name) : NULL;
	uint8_t *handle = name ? take(d, HANDLE_SIZE) : NULL;
	if (!handle)
		return false;
	*x = (entryplus3){ .fileid = e->fileid, .name = name, .cookie = e->cookie };
	attr_to_post_op(d->rq->ov, attr, &x->name_attributes);
	x->name_handle.handle_follows = o != NULL;
	if (o)
		fh_to(d->rq, o, &x->name_handle.post_op_fh3_u.handle, handle);
	d->left -= bytes;
	d->dir_left -= dir_bytes < d->dir_left ? dir_bytes : d->dir_left;
	*d->plus_tail = x;
	d->plus_tail = &x->nextentry;
	return d->any = true;
}

/* The size of the reply, the block, and the directory: what comes before reading it. */
static nfsstat3 begin(struct reply *d, struct rpc_call *call, struct request *rq, const nfs_fh3 *fh, uint32_t count, struct object **dir)
{
	uint32_t max = call->udp ? UDP_TRANSFER : DIRECTORY_MAX;
	memset(d, 0, sizeof *d);
	d->rq = rq;
	request_begin(rq, call);
	nfsstat3 st = request_dir(rq, fh, dir);
	if (st)
		return st;
	if (count > max)
		count = max;
	if (count < DIRECTORY_MIN)
		return NFS3ERR_TOOSMALL;
	d->left = count > LIST_FRAME ? count - LIST_FRAME : 0;
	d->room = 2 * (size_t)count + 4096; /* an entry takes less than twice its XDR in memory */
	d->block = malloc(d->room);
	return d->block ? NFS3_OK : NFS3ERR_JUKEBOX;
}

/* What both procedures do, between their types. The entries hang on what d's tail is set to; where it fails, or there are none, the block is freed and
 * nothing hangs there that may be used. */
static nfsstat3 list(struct reply *d, struct object *dir, uint64_t cookie, bool plus, nfsstat3 begun, bool *eof)
{
	nfsstat3 st = begun;
	if (!st)
		st = errno_to_nfsstat3(overlay_readdir(d->rq->ov, &d->rq->cred, dir, cookie, plus, plus ? add_entryplus : add_entry, d, eof));
	if (!st && !d->any && !*eof)
		st = NFS3ERR_TOOSMALL; /* nothing fitted although there was something */
	if (st || !d->any)
		free(d->block);
	return st;
}

void proc_readdir(struct rpc_call *call, void *args, void *res)
{
	READDIR3args *a = args;
	READDIR3res *r = res;
	READDIR3resok *ok = &r->READDIR3res_u.resok;
	struct request rq;
	struct reply d;
	struct object *dir;
	bool eof = false;
	nfsstat3 st = begin(&d, call, &rq, &a->dir, a->count, &dir);
	d.tail = &ok->reply.entries;
	r->status = list(&d, dir, a->cookie, false, st, &eof);
	if (r->status)
		memset(&r->READDIR3res_u, 0, sizeof r->READDIR3res_u);
	else
		ok->reply.eof = eof;
	post_op_of(&rq, dir, r->status ? &r->READDIR3res_u.dir_attributes : &ok->dir_attributes);
	overlay_put(rq.ov, dir);
}

void free_readdir(void *res)
{
	READDIR3res *r = res;
	if (!r->status)
		free(r->READDIR3res_u.resok.reply.entries); /* the first stands at the block's start */
}

void proc_readdirplus(struct rpc_call *call, void *args, void *res)
{
	READDIRPLUS3args *a = args;
	READDIRPLUS3res *r = res;
	READDIRPLUS3resok *ok = &r->READDIRPLUS3res_u.resok;
	struct request rq;
	struct reply d;
	struct object *dir;
	bool eof = false;
	nfsstat3 st = begin(&d, call, &rq, &a->dir, a->maxcount, &dir);
	d.plus_tail = &ok->reply.entries;
	d.dir_left = a->dircount ? a->dircount : DIRECTORY_MAX;
	r->status = list(&d, dir, a->cookie, true, st, &eof);
	if (r->status)
		memset(&r->READDIRPLUS3res_u, 0, sizeof r->READDIRPLUS3res_u);
	else
		ok->reply.eof = eof;
	post_op_of(&rq, dir, r->status ? &r->READDIRPLUS3res_u.dir_attributes : &ok->dir_attributes);
	overlay_put(rq.ov, dir);
}

void free_readdirplus(void *res)
{
	READDIRPLUS3res *r = res;
	if (!r->status)
		free(r->READDIRPLUS3res_u.resok.reply.entries);
}
