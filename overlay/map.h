/*
 * map.h: the handle map, an LMDB database that finds an object's place from its id. A cache of
 * what the layers say, and the keeper of three things: the MAC key, layer numbers, and the
 * identity of copied-up objects that can hold no xattr. No lock need be held by callers;
 * every function may be called from any thread. 0 or -errno (LMDB's own codes come as -EIO).
 */
#ifndef OVERNFSD_MAP_H
#define OVERNFSD_MAP_H

#include "overlay.h"

struct map;

/* Opens or makes the map in the directory dirfd (file names map.mdb, map.lock are relative to it; dirfd is
 * not kept). A truncated, zeroed or foreign file is set aside as map.mdb.bad-N and a new one made, with one log line. */
int map_open(int dirfd, void (*log)(int level, const char *fmt, ...), struct map **map);
void map_close(struct map *map); /* writes what is pending */

/* The 16-byte MAC key, made (libsodium's randombytes) at the first call. */
int map_key(struct map *map, uint8_t key[16]);
/* Layer number of the layer with this path and root inode identity; given at first use, counting up from 1, and never
 * again to another. moved: the same root identity was known under another path and is the same layer. Durable on return. */
int map_layer(struct map *map, const char *path, uint64_t root_ino, uint64_t root_gen, uint32_t *number);

/* Write-behind: returns at once; one writer thread commits in batches (at most a second late). An object may have
 * several places (hard links). Pending entries are seen by map_get_places. */
void map_put_place(struct map *map, const struct overlay_id *id, const struct overlay_id *parent, const char *name);
void map_del_place(struct map *map, const struct overlay_id *id, const struct overlay_id *parent, const char *name);
void map_del_object(struct map *map, const struct overlay_id *id); /* all its places */
/* Calls each for every known place until it returns false. */
int map_get_places(struct map *map, const struct overlay_id *id,
		   bool (*each)(void *arg, const struct overlay_id *parent, const char *name), void *arg);

/* Durable on return: the upper inode (ino, gen) is the copy of origin. For objects that can hold no xattr. */
int map_put_origin(struct map *map, uint64_t upper_ino, uint64_t upper_gen, const struct overlay_id *origin);
int map_get_origin(struct map *map, uint64_t upper_ino, uint64_t upper_gen, struct overlay_id *origin); /* -ENOENT */
void map_del_origin(struct map *map, uint64_t upper_ino, uint64_t upper_gen); /* behind */
int map_sync(struct map *map); /* all that was put before is durable */

#endif
