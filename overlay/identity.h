/*
 * identity.h: what can be found nowhere else, in one small file beside the map: the key of the handles, the layers' numbers, and the
 * identity of copied-up objects that can hold no xattr. The map (map.h) is a cache: with this file kept, it may be lost at any time.
 *
 * The file (<work>/overnfsd/identity.mdb) is LMDB's: tables "keys" (and counts of links, and marks), "layers" (by number), "origins" (by upper inode) and "copies" (by origin),
 * numbers big-endian. Written rarely, and durably before the call returns; so not in the map's file, whose commits are many and lazy.
 * Every function may be called from any thread.
 */
#ifndef OVERNFSD_IDENTITY_H
#define OVERNFSD_IDENTITY_H

#include "overlay.h"

struct identity;

/* Opens or makes the file in dirfd, which stays open with the caller. With writable false nothing is changed, not even a missing file made.
 * A damaged or foreign one is set aside as identity.mdb.bad-N and a new one made, with one log line; the key has a second home (state.c), layers get
 * the same numbers anew. */
int identity_open(int dirfd, bool writable, void (*log)(int level, const char *fmt, ...), struct identity **out);
void identity_close(struct identity *id);
bool identity_is_damaged(const struct identity *id); /* was it, at the time of opening? */

int identity_key(struct identity *id, uint8_t key[16]); /* -ENOENT: none is kept yet */
int identity_set_key(struct identity *id, const uint8_t key[16]); /* durable on return */

/* How a file system is told from others: by what it says of itself and keeps over a remount. */
enum fs_kind { FS_UNKNOWN, FS_UUID, FS_ID, FS_IMAGE };
struct layer_identity {
	uint32_t number; /* 1 to 0x7ffe; 0: none yet */
	uint32_t age; /* the how manyeth to join, from 1; at one start from the bottom: directories keep the ids that the oldest gave them */
	enum fs_kind kind;
	uint8_t fs[16];
	uint64_t ino, gen; /* of its root */
	const char *path;
};
/*
 * Gives each layer its number and age: the one that it had, by what its file system says of itself and its root inode, then by its path, then
 * by moves; else a new one, made from a hash of what tells it from others, so that the same layers get the same numbers with no state (id NULL)
 * and on any machine. No two layers of one call get one number, and no number is ever given to another layer. Durable on return.
 * One log line for each layer that is not the one that was at its path. -ENOSPC: all numbers are used.
 */
int identity_number(struct identity *id, struct layer_identity *layers, size_t n, const struct layer_move *moves, size_t nmoves,
		    void (*log)(int level, const char *fmt, ...));

/* The upper inode (ino, gen) is the copy of origin. Durable on return: before the copy shows. */
int identity_put_origin(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, const struct overlay_id *origin);
int identity_get_origin(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, struct overlay_id *origin); /* -ENOENT */
bool identity_has_origins(struct identity *id);
void identity_forget(struct identity *id, const struct overlay_id *origin); /* the copy was removed */
/* What the xattr overlay.nlink of an upper inode would say, as text: where it can't be written. Durable on return. -ENOENT: none. */
enum { LINKS_SIZE = 32 };
bool identity_has_links(struct identity *id); /* of any? */
int identity_put_links(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, const char links[LINKS_SIZE]);
int identity_get_links(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, char links[LINKS_SIZE]);
void identity_forget_links(struct identity *id, uint64_t upper_ino, uint64_t upper_gen);
/* The same of a directory's mark ("opaque" or "redirect"), for one whose xattrs can't be read; len 0: none. Durable on return. When the directory goes,
 * or can be read again, it stays and does no harm: it is asked for alone of what can't be read, and written anew when that begins. */
int identity_put_mark(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, const char *mark, const void *value, size_t len);
ssize_t identity_get_mark(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, const char *mark, void *buf, size_t size); /* as getxattr(2): -ENODATA, -ERANGE */

#endif
