/* tree.h: what a client sees below a directory, kept to be compared: with the same tree later, with a like one elsewhere, with what Linux shows. */
#ifndef OVERNFSD_TESTS_TREE_H
#define OVERNFSD_TESTS_TREE_H

#include "client.h"

struct tree_node {
	char *path; /* from the top, "" for the top itself, else "a/b" */
	fattr3 attr;
	struct fh fh; /* len 0: of a tree that was not read over NFS */
	char *content; /* of a file, or the target of a symlink; NULL: none */
	uint32_t len;
};

struct tree {
	struct tree_node *nodes; /* sorted by path */
	size_t n, room;
	nfsstat3 status; /* of the first call that failed: the tree is not whole */
};

/* Reads everything below top, by READDIRPLUS, READ and READLINK. */
void tree_read(struct tree *t, struct client *c, const struct fh *top);
/* And checks that READDIR says the same as READDIRPLUS. */
void tree_read_twice(struct tree *t, struct client *c, const struct fh *top);
/* The same from a local directory: a mount of Linux overlayfs. */
void tree_read_local(struct tree *t, const char *top);
void tree_free(struct tree *t);
struct tree_node *tree_find(const struct tree *t, const char *path); /* NULL: none */
struct tree_node *tree_find_handle(const struct tree *t, const struct fh *fh);

/* Are they the same, handles, file ids and times but atime and ctime too? why tells the first difference. */
bool tree_same(const struct tree *a, const struct tree *b, char *why, size_t size);
/* Did a change lead from before to after as, in an equal tree elsewhere, from model_before to model_after? What a handle names must have moved alike;
 * what is new must be new; times must have moved or stayed alike. */
bool tree_changed_alike(const struct tree *before, const struct tree *after, const struct tree *model_before, const struct tree *model_after, char *why,
			size_t size);
/* Type, mode, owner, size, mtime, content, and of files the number of names: what both NFS and a local mount show. */
bool tree_looks_same(const struct tree *a, const struct tree *b, bool nlink, char *why, size_t size);

#endif
