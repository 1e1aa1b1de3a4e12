/* client.h: a stack in a temporary directory, the daemon over it, and a plain NFSv3 client, for the end-to-end tests.
 * What can't work fails the test at once. */
#ifndef OVERNFSD_TESTS_CLIENT_H
#define OVERNFSD_TESTS_CLIENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#include "nfs3.h"

/* ---- the stack and its server ---- */
struct stack {
	char dir[64]; /* holds upper, work, lower1 (topmost) and lower2 */
	pid_t pid;
	uint16_t port;
};
/* Makes the four directories in base (NULL: /tmp), then runs the shell script in their parent. */
void stack_make(struct stack *s, const char *base, const char *script);
void stack_sh(const struct stack *s, const char *script); /* fails the test unless it exits 0 */
bool stack_says(const struct stack *s, const char *script); /* exit code 0? */
void stack_remove(struct stack *s);
/* Starts $OVERNFSD on a free port over the whole stack; args: more options, separated by spaces, or NULL. */
void server_start(struct stack *s, const char *args);
void server_start_with(struct stack *s, const char *layers, const char *args); /* layers: options with %s for the directory, up to 4 */
void server_stop(struct stack *s); /* SIGTERM; it must exit 0 */
void server_kill(struct stack *s); /* SIGKILL */

/* ---- one connection ---- */
struct fh {
	uint32_t len;
	uint8_t data[64];
};
struct client {
	int fd;
	uint32_t xid, uid, gid, ngroups, groups[16];
	bool no_auth;
	bool may_break, broken; /* that the connection goes is no failure; it went: statuses are NFS3ERR_SERVERFAULT */
	bool may_lack; /* replies may leave out what the RFC lets them */
	struct fh root;
};
/* Connects as uid/gid, and mounts. */
void client_open(struct client *c, const struct stack *s, uint32_t uid, uint32_t gid);
void client_close(struct client *c);
/* One call. 0, the RPC accept status (1 PROG_UNAVAIL ... 5), or -1: the connection is gone. res is decoded into zeroed space; free with xdr_free. */
int client_call(struct client *c, uint32_t prog, uint32_t vers, uint32_t proc, xdrproc_t xdr_args, void *args, xdrproc_t xdr_res, void *res);
int client_nfs(struct client *c, uint32_t proc, xdrproc_t xdr_args, void *args, xdrproc_t xdr_res, void *res); /* fails the test on RPC errors */
#define CALL(c, proc, args_type, args, res_type, res) client_nfs(c, proc, (xdrproc_t)xdr_##args_type, args, (xdrproc_t)xdr_##res_type, res)

/* ---- procedures: the status; what is found goes to the pointers that are not NULL ---- */
nfs_fh3 fh3(const struct fh *fh);
nfsstat3 client_getattr(struct client *c, const struct fh *fh, fattr3 *attr);
nfsstat3 client_setattr(struct client *c, const struct fh *fh, const sattr3 *set, const nfstime3 *guard, wcc_data *wcc);
nfsstat3 client_lookup(struct client *c, const struct fh *dir, const char *name, struct fh *fh, fattr3 *attr);
nfsstat3 client_path(struct client *c, const char *path, struct fh *fh, fattr3 *attr); /* from the root, names between slashes */
uint32_t client_access(struct client *c, const struct fh *fh, uint32_t bits);
nfsstat3 client_readlink(struct client *c, const struct fh *fh, char *target, size_t size);
nfsstat3 client_read(struct client *c, const struct fh *fh, uint64_t offset, uint32_t count, void *buf, uint32_t *got, bool *eof);
nfsstat3 client_write(struct client *c, const struct fh *fh, uint64_t offset, const void *buf, uint32_t len, stable_how stable, uint64_t *verf);
nfsstat3 client_commit(struct client *c, const struct fh *fh, uint64_t *verf);
nfsstat3 client_create(struct client *c, const struct fh *dir, const char *name, createmode3 mode, uint32_t perm, struct fh *fh);
nfsstat3 client_mkdir(struct client *c, const struct fh *dir, const char *name, uint32_t perm, struct fh *fh);
nfsstat3 client_symlink(struct client *c, const struct fh *dir, const char *name, const char *target, struct fh *fh);
nfsstat3 client_mknod(struct client *c, const struct fh *dir, const char *name, ftype3 type, uint32_t major, uint32_t minor, struct fh *fh);
nfsstat3 client_remove(struct client *c, const struct fh *dir, const char *name);
nfsstat3 client_rmdir(struct client *c, const struct fh *dir, const char *name);
nfsstat3 client_rename(struct client *c, const struct fh *from, const char *name, const struct fh *to, const char *new_name);
nfsstat3 client_link(struct client *c, const struct fh *fh, const struct fh *dir, const char *name);
/* Calls each for every entry of the directory, in as many READDIR calls of count bytes as it takes. The number of entries, or -status. */
long client_list(struct client *c, const struct fh *dir, uint32_t count, void (*each)(void *arg, const char *name, uint64_t fileid), void *arg);
long client_listplus(struct client *c, const struct fh *dir, uint32_t count,
		  void (*each)(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh), void *arg);
/* The whole file as a string, at most 64 KiB; freed by the caller. NULL: can't be read. */
char *client_content(struct client *c, const char *path);

#define assert_nfs(status, wanted) assert_int_equal(status, wanted)

#endif
