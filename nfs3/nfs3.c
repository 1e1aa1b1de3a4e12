/* nfs3.c: the table of NFS version 3's procedures, in the order of RFC 1813. */
#include "fast.h"

#include <stdlib.h>

/* ---- changes: their replies wait for the disk together (overlay_defer) ---- */
void run_change(struct rpc_call *call, rpc_run *run, void *args, void *res)
{
	struct overlay_unflushed *u = call->may_defer ? malloc(sizeof *u) : NULL;
	if (!u) {
		run(call, args, res); /* which waits */
		return;
	}
	overlay_defer(u);
	run(call, args, res);
	overlay_defer(NULL);
	if (u->n)
		call->deferred = u;
	else
		free(u);
}

void nfs3_settle(struct rpc_deferred d[], size_t n)
{
	enum { AT_ONCE = 1024 };
	struct overlay_unflushed *u[AT_ONCE];
	while (n) {
		size_t k = n < AT_ONCE ? n : AT_ONCE;
		for (size_t i = 0; i < k; i++)
			u[i] = d[i].what;
		overlay_flush(u, k);
		for (size_t i = 0; i < k; i++) {
			d[i].status = errno_to_nfsstat3(u[i]->rc);
			free(u[i]);
		}
		d += k;
		n -= k;
	}
}

#define CHANGE_OF(run_)                                                                                                                                  \
	static void change_##run_(struct rpc_call *call, void *args, void *res)                                                                           \
	{                                                                                                                                                \
		run_change(call, proc_##run_, args, res);                                                                                                 \
	}
CHANGE_OF(setattr)
CHANGE_OF(write)
CHANGE_OF(create)
CHANGE_OF(mkdir)
CHANGE_OF(symlink)
CHANGE_OF(mknod)
CHANGE_OF(remove)
CHANGE_OF(rmdir)
CHANGE_OF(rename)
CHANGE_OF(link)
CHANGE_OF(commit)

#define TYPES(name_, args_, res_)                                                                                                                        \
	.name = name_, .xdr_args = (xdrproc_t)xdr_##args_, .xdr_res = (xdrproc_t)xdr_##res_, .args_size = sizeof(args_), .res_size = sizeof(res_)

/* fast_: by hand, too */
#define READS(name_, args_, res_, run_, free_, fast_)                                                                                                    \
	{ TYPES(name_, args_, res_), .run = proc_##run_, .free_res = free_, .repeat = RPC_REPEATABLE, .fast = fast_ }

/* words_: what a failure without attributes has behind its status: two for a wcc_data, one for a post_op_attr */
#define CHANGES(name_, args_, res_, run_, free_, once_, words_, fast_)                                                                                   \
	{ TYPES(name_, args_, res_), .run = change_##run_, .free_res = free_, .repeat = once_, .failure_words = words_, .fast = fast_ }

const struct rpc_proc nfs3_procs[22] = {
	{ .name = "NULL" }, /* answered by rpc/ itself */
	READS("GETATTR", GETATTR3args, GETATTR3res, getattr, NULL, fast_getattr),
	CHANGES("SETATTR", SETATTR3args, wccres, setattr, NULL, RPC_ONCE, 2, NULL),
	READS("LOOKUP", LOOKUP3args, LOOKUP3res, lookup, free_lookup, fast_lookup),
	READS("ACCESS", ACCESS3args, ACCESS3res, access, NULL, fast_access),
	READS("READLINK", GETATTR3args, READLINK3res, readlink, free_readlink, NULL),
	READS("READ", READ3args, READ3res, read, free_read, fast_read),
	CHANGES("WRITE", WRITE3args, WRITE3res, write, NULL, RPC_ONCE_BULK, 2, fast_write),
	CHANGES("CREATE", CREATE3args, newres, create, free_new, RPC_ONCE, 2, NULL),
	CHANGES("MKDIR", MKDIR3args, newres, mkdir, free_new, RPC_ONCE, 2, NULL),
	CHANGES("SYMLINK", SYMLINK3args, newres, symlink, free_new, RPC_ONCE, 2, NULL),
	CHANGES("MKNOD", MKNOD3args, newres, mknod, free_new, RPC_ONCE, 2, NULL),
	CHANGES("REMOVE", diropargs3, wccres, remove, NULL, RPC_ONCE, 2, NULL),
	CHANGES("RMDIR", diropargs3, wccres, rmdir, NULL, RPC_ONCE, 2, NULL),
	CHANGES("RENAME", RENAME3args, RENAME3res, rename, NULL, RPC_ONCE, 4, NULL),
	CHANGES("LINK", LINK3args, LINK3res, link, NULL, RPC_ONCE, 3, NULL),
	READS("READDIR", READDIR3args, READDIR3res, readdir, free_readdir, NULL),
	READS("READDIRPLUS", READDIRPLUS3args, READDIRPLUS3res, readdirplus, free_readdirplus, NULL),
	READS("FSSTAT", GETATTR3args, FSSTAT3res, fsstat, NULL, NULL),
	READS("FSINFO", GETATTR3args, FSINFO3res, fsinfo, NULL, NULL),
	READS("PATHCONF", GETATTR3args, PATHCONF3res, pathconf, NULL, NULL),
	CHANGES("COMMIT", COMMIT3args, COMMIT3res, commit, NULL, RPC_REPEATABLE, 2, NULL), /* only what is done already, and so as often as one likes */
};
