/* listing.h: a window on a merged directory; between listing.c, which reads it, kept.c, which keeps it, and readdir.c, which gives it out. */
#ifndef OVERNFSD_LISTING_H
#define OVERNFSD_LISTING_H

#include "internal.h"

enum { FIRST_COOKIE = 3 }; /* 1 and 2 are "." and ".." */
/* OWN_INODE: what it is in its layer is what it is in the merged tree (but for directories, which merge): d_ino tells its id. */
enum { OWN_INODE = 1, WHITEOUT = 2, IS_DIR = 4 };
struct item {
	uint64_t hash; /* cookie */
	uint64_t ino;
	uint32_t name; /* offset in names */
	uint16_t layer; /* index in ov->layers */
	uint8_t flags;
};

struct listing {
	atomic_uint refs;
	uint64_t from, to; /* holds what has a hash above from and at most to */
	struct item *items;
	size_t count, room;
	char *names;
	size_t names_len, names_room, max; /* max: bytes that all may take */
	uint64_t version; /* of the directory when it was read */
};

/* ---- listing.c ---- */
/* rename_lock shared. It is let go while the disk is read, which may take long: a rename need not wait for that, nor those who come behind it. What
 * comes and goes meanwhile may show or not. -ESTALE: so did the directory. */
int listing_read(struct overlay *ov, struct object *dir, uint64_t from, struct listing **out);
void listing_put(struct listing *l); /* NULL is allowed */
size_t listing_bytes(const struct listing *l); /* what it takes of memory */
size_t kept_bytes(const struct overlay *ov); /* what all that are kept may take; a window is a part of it */

/* ---- kept.c ---- */
/* The window that holds what follows cookie: a kept one, or one that is read now and kept; for listing_put.
 * rename_lock shared, and let go now and then. -ESTALE: the directory was removed meanwhile. */
int listing_get(struct overlay *ov, struct object *dir, uint64_t cookie, struct listing **out);

#endif
