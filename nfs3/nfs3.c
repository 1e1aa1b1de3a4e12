/* nfs3.c: the table of NFS version 3's procedures, in the order of RFC 1813. */
#include "proc.h"

#define ROW(name_, args_, res_, run_, free_, once_)                                                                                                      \
	{ .name = name_, .xdr_args = (xdrproc_t)xdr_##args_, .xdr_res = (xdrproc_t)xdr_##res_, .args_size = sizeof(args_),                               \
	  .res_size = sizeof(res_), .run = proc_##run_, .free_res = free_, .non_idempotent = once_ }

const struct rpc_proc nfs3_procs[22] = {
	{ .name = "NULL" }, /* answered by rpc/ itself */
	ROW("GETATTR", GETATTR3args, GETATTR3res, getattr, NULL, false),
	ROW("SETATTR", SETATTR3args, wccres, setattr, NULL, true),
	ROW("LOOKUP", LOOKUP3args, LOOKUP3res, lookup, free_lookup, false),
	ROW("ACCESS", ACCESS3args, ACCESS3res, access, NULL, false),
	ROW("READLINK", GETATTR3args, READLINK3res, readlink, free_readlink, false),
	ROW("READ", READ3args, READ3res, read, free_read, false),
	ROW("WRITE", WRITE3args, WRITE3res, write, NULL, false),
	ROW("CREATE", CREATE3args, newres, create, free_new, true),
	ROW("MKDIR", MKDIR3args, newres, mkdir, free_new, true),
	ROW("SYMLINK", SYMLINK3args, newres, symlink, free_new, true),
	ROW("MKNOD", MKNOD3args, newres, mknod, free_new, true),
	ROW("REMOVE", diropargs3, wccres, remove, NULL, true),
	ROW("RMDIR", diropargs3, wccres, rmdir, NULL, true),
	ROW("RENAME", RENAME3args, RENAME3res, rename, NULL, true),
	ROW("LINK", LINK3args, LINK3res, link, NULL, true),
	ROW("READDIR", READDIR3args, READDIR3res, readdir, free_readdir, false),
	ROW("READDIRPLUS", READDIRPLUS3args, READDIRPLUS3res, readdirplus, free_readdirplus, false),
	ROW("FSSTAT", GETATTR3args, FSSTAT3res, fsstat, NULL, false),
	ROW("FSINFO", GETATTR3args, FSINFO3res, fsinfo, NULL, false),
	ROW("PATHCONF", GETATTR3args, PATHCONF3res, pathconf, NULL, false),
	ROW("COMMIT", COMMIT3args, COMMIT3res, commit, NULL, false),
};
