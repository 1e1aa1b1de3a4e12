/* proc.h: the procedures of NFS version 3, and what they share. */
#ifndef OVERNFSD_PROC_H
#define OVERNFSD_PROC_H

#include "attr.h"
#include "exports.h"
#include "rpc.h"

enum { TCP_TRANSFER = 1 << 20, UDP_TRANSFER = 1 << 15 };

/* The object of a handle, counted, with the export and the caller: how each procedure begins. */
struct request {
	const struct export *export;
	struct overlay *ov;
	struct overlay_cred cred;
};
void request_begin(struct request *r, const struct rpc_call *call);
nfsstat3 request_object(struct request *r, const nfs_fh3 *fh, struct object **o);
/* Also refuses what is no directory. */
nfsstat3 request_dir(struct request *r, const nfs_fh3 *fh, struct object **dir);
/* A name that is to be made or removed: status 'dots' for "." and "..". */
nfsstat3 check_new_name(const char *name, nfsstat3 dots);
void post_op_of(struct request *r, struct object *o, post_op_attr *p); /* o may be NULL */
/* What the engine found around the change; where the call was refused before it got there, at least what o (may be NULL) is now. */
void wcc_of(struct request *r, struct object *o, struct overlay_wcc *wcc, wcc_data *d);
uint32_t transfer_max(const struct rpc_call *call);
void fh_to(struct request *r, const struct object *o, nfs_fh3 *fh, uint8_t space[HANDLE_SIZE]); /* fh points into space */

/* The tables; rpc_program.user is the struct export. */
extern const struct rpc_proc nfs3_procs[22];
extern const struct rpc_proc mount3_procs[6];
extern const struct rpc_proc mount1_procs[6]; /* for showmount; without MNT, as NFS version 2 is not served */

typedef void rpc_run(struct rpc_call *call, void *args, void *res);
void run_change(struct rpc_call *call, rpc_run *run, void *args, void *res); /* with what is to be flushed for it put off, where the call may */
void nfs3_settle(struct rpc_deferred d[], size_t n); /* rpc_config.settle: flushes what was put off */
rpc_run proc_getattr, proc_setattr, proc_lookup, proc_access, proc_readlink;
rpc_run proc_read, proc_write, proc_commit;
rpc_run proc_create, proc_mkdir, proc_symlink, proc_mknod;
rpc_run proc_remove, proc_rmdir, proc_rename, proc_link;
rpc_run proc_readdir, proc_readdirplus, proc_fsstat, proc_fsinfo, proc_pathconf;
void free_lookup(void *res); void free_readlink(void *res); void free_read(void *res); void free_new(void *res);
void free_readdir(void *res); void free_readdirplus(void *res);

#endif
