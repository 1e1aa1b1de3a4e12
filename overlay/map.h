/*
 * map.h: the handle map, an LMDB database that finds an object's places from its file id (which is made of layer number and inode
 * number; the generation is not in it, so what the map says is a hint, and the walk to the place checks it). It is a cache of what
 * the layers say and holds nothing that they, or the file of identities (identity.h), do not: it may be deleted at any time.
 *
 * One table, "places": key = file id (8 bytes, big-endian), values = file id of the parent (8) and name, one for each name of the object.
 * About 60 bytes an object. Written behind by one thread in batches; no lock need be held by callers, and every function may be called
 * from any thread. 0 or -errno (LMDB's own codes come as -EIO).
 */
#ifndef OVERNFSD_MAP_H
#define OVERNFSD_MAP_H

#include "overlay.h"

struct map;
typedef void map_log(int level, const char *fmt, ...);

/* Opens or makes the map in the directory dirfd (files map.mdb and map.mdb-lock; dirfd stays open with the caller). A truncated, zeroed or
 * foreign file is set aside as map.mdb.bad-N and a new one made, with one log line; so is one that proves damaged later. */
int map_open(int dirfd, map_log *log, struct map **map);
/* One that is there already, or not at all. With writable false it is read alone. -ENOENT: there is none. -EUCLEAN: damaged. */
int map_open_kept(int dirfd, bool writable, map_log *log, struct map **map);
/* A map that goes with the process, in a nameless file below $TMPDIR: for a stack that keeps no state, and for a comparison. */
int map_open_private(map_log *log, struct map **map);
void map_close(struct map *map); /* writes what is pending; makes the file small again where most of it is free */

/* Each returns at once: the writer commits in batches, at most a second late. Until then map_places sees what is pending. A
 * map that is NULL takes and gives nothing. */
void map_put_place(struct map *map, const struct overlay_id *id, const struct overlay_id *parent, const char *name);
void map_del_place(struct map *map, const struct overlay_id *id, const struct overlay_id *parent, const char *name);
void map_add_place(struct map *map, uint64_t fileid, uint64_t parent, const char *name);
void map_drop_place(struct map *map, uint64_t fileid, uint64_t parent, const char *name); /* it proved wrong */
void map_wait_for_room(struct map *map); /* for who puts many: returns when the writer has caught up by half; may block on the disk */
int map_sync(struct map *map); /* all that was put before is durable, or the error that kept it from being so */

enum { MAP_PLACES = 32, MAP_NAME = 256 };
struct map_place {
	uint64_t parent;
	char name[MAP_NAME];
};
/* Up to MAP_PLACES places of the object; the number of them. */
size_t map_places(struct map *map, uint64_t fileid, struct map_place places[MAP_PLACES]);
/* Every entry on disk, in the order of the keys, until each returns false. What is pending is not seen: map_sync first. -EUCLEAN: damaged. */
int map_each(struct map *map, bool (*each)(void *arg, uint64_t fileid, const struct map_place *place), void *arg);
bool map_has(struct map *map, uint64_t fileid, const struct map_place *place); /* on disk */
void map_size(struct map *map, size_t *entries, size_t *bytes); /* on disk; bytes of the file */

/* Has every object a place in the map, so that one without is none? Said by who put them all between map_fill_begin and map_fill_end (true: it
 * is complete now); no longer so when an entry is lost, for want of room or memory, or by damage. */
bool map_is_complete(struct map *map);
void map_fill_begin(struct map *map);
bool map_fill_end(struct map *map);

#endif
