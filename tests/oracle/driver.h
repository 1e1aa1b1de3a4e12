/*
 * driver.h: one side of the comparison: a merged tree that operations are run on, by NFS or through a Linux mount.
 * Both speak of paths from the root (no leading slash; "" is the root) and of nfsstat3.
 */
#ifndef OVERNFSD_ORACLE_DRIVER_H
#define OVERNFSD_ORACLE_DRIVER_H

#include "step.h"

#include <sys/stat.h>
#include <time.h>

#include "client.h"

struct attr {
	mode_t mode;
	uint32_t uid, gid, nlink, major, minor;
	uint64_t size, id; /* id: inode number or file id */
	struct timespec atime, mtime, ctime;
};

bool attr_same(const struct attr *a, const struct attr *b); /* to the last bit */

struct outcome {
	int status; /* nfsstat3 */
	uint32_t access; /* ACCESS: bits as in access(2) */
	uint64_t content; /* hash of what was read or listed */
	uint64_t size; /* of it */
};

struct node {
	char *path;
	struct attr attr;
	uint64_t content; /* hash of data or link target */
	char *xattrs; /* "name=hex" lines, sorted; NULL: this driver can't tell */
	size_t same; /* index of the first node that is the same object */
};
struct tree {
	struct node *nodes; /* sorted by path */
	size_t n;
};

uint64_t hash_bytes(uint64_t h, const void *data, size_t len); /* h: 0 to begin with */
/* len bytes of the pattern that starts at offset of a file. */
void fill_pattern(uint8_t *buf, uint64_t offset, size_t len, uint64_t pattern);
struct node *tree_add(struct tree *t, const char *path);
void tree_finish(struct tree *t); /* sorts, and finds names of the same object */
void tree_free(struct tree *t);
/* Splits the path at its last slash. dir: at least 4096 bytes. */
const char *split_path(const char *path, char dir[4096]);
const char *shown(const char *path); /* for a person; good until the fourth call from now */
/* Ends the program with the story of a difference. */
void differ(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* ---- kernel.c: a Linux mount ---- */
struct kernel {
	int root; /* descriptor of the mount */
};
void kernel_run(struct kernel *k, const struct step *s, struct outcome *out);
int kernel_stat(struct kernel *k, const char *path, struct attr *a); /* nfsstat3 */
void kernel_tree(struct kernel *k, struct tree *t);
int status_of_errno(int err);

/* ---- nfs.c: the daemon; it also watches handles and file ids ---- */
struct handles; /* every handle that was ever seen */
struct nfs {
	struct client client;
	struct handles *handles;
};
void nfs_open(struct nfs *n, const struct stack *server); /* keeps handles of the last time */
void nfs_close(struct nfs *n);
void nfs_forget(struct nfs *n); /* the handles: somebody else has changed the layers */
void nfs_run(struct nfs *n, const struct step *s, struct outcome *out);
int nfs_stat(struct nfs *n, const char *path, struct attr *a);
void nfs_tree(struct nfs *n, struct tree *t);
/* Each handle ever seen answers with its file id, or is stale; those of objects in the tree are not. */
void nfs_check_handles(struct nfs *n);

#endif
