/* nfs3.c: the table of NFS version 3's procedures, in the order of RFC 1813. */
#include "fast.h"

#define ROW(name_, args_, res_, run_, free_, once_)                                                                                                      \
	{ .name = name_, .xdr_args = (xdrproc_t)xdr_##args_, .xdr_res = (xdrproc_t)xdr_##res_, .args_size = sizeof(args_),                               \
	  .res_size = sizeof(res_), .run = proc_##run_, .free_res = free_, .repeat = once_ }

/* also decoded and encoded by hand */
#define FAST(name_, args_, res_, run_, free_, once_)                                                                                                     \
	{ .name = name_, .xdr_args = (xdrproc_t)xdr_##args_, .xdr_res = (xdrproc_t)xdr_##res_, .args_size = sizeof(args_),                               \
	  .res_size = sizeof(res_), .run = proc_##run_, .free_res = free_, .repeat = once_, .fast = fast_##run_ }

const struct rpc_proc nfs3_procs[22] = {
	{ .name = "NULL" }, /* answered by rpc/ itself */
	FAST("GETATTR", GETATTR3args, GETATTR3res, getattr, NULL, RPC_REPEATABLE),
	ROW("SETATTR", SETATTR3args, wccres, setattr, NULL, RPC_ONCE),
	FAST("LOOKUP", LOOKUP3args, LOOKUP3res, lookup, free_lookup, RPC_REPEATABLE),
	FAST("ACCESS", ACCESS3args, ACCESS3res, access, NULL, RPC_REPEATABLE),
	ROW("READLINK", GETATTR3args, READLINK3res, readlink, free_readlink, RPC_REPEATABLE),
	FAST("READ", READ3args, READ3res, read, free_read, RPC_REPEATABLE),
	FAST("WRITE", WRITE3args, WRITE3res, write, NULL, RPC_ONCE_BULK),
	ROW("CREATE", CREATE3args, newres, create, free_new, RPC_ONCE),
	ROW("MKDIR", MKDIR3args, newres, mkdir, free_new, RPC_ONCE),
	ROW("SYMLINK", SYMLINK3args, newres, symlink, free_new, RPC_ONCE),
	ROW("MKNOD", MKNOD3args, newres, mknod, free_new, RPC_ONCE),
	ROW("REMOVE", diropargs3, wccres, remove, NULL, RPC_ONCE),
	ROW("RMDIR", diropargs3, wccres, rmdir, NULL, RPC_ONCE),
	ROW("RENAME", RENAME3args, RENAME3res, rename, NULL, RPC_ONCE),
	ROW("LINK", LINK3args, LINK3res, link, NULL, RPC_ONCE),
	ROW("READDIR", READDIR3args, READDIR3res, readdir, free_readdir, RPC_REPEATABLE),
	ROW("READDIRPLUS", READDIRPLUS3args, READDIRPLUS3res, readdirplus, free_readdirplus, RPC_REPEATABLE),
	ROW("FSSTAT", GETATTR3args, FSSTAT3res, fsstat, NULL, RPC_REPEATABLE),
	ROW("FSINFO", GETATTR3args, FSINFO3res, fsinfo, NULL, RPC_REPEATABLE),
	ROW("PATHCONF", GETATTR3args, PATHCONF3res, pathconf, NULL, RPC_REPEATABLE),
	ROW("COMMIT", COMMIT3args, COMMIT3res, commit, NULL, RPC_REPEATABLE),
};
