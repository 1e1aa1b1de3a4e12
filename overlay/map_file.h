/* map_file.h: the map's file: is it whole, where does it stand. What it knows of LMDB's files serves identity.c too. */
#ifndef OVERNFSD_MAP_FILE_H
#define OVERNFSD_MAP_FILE_H

#include "map.h"

#include <lmdb.h>

enum map_file { MAP_MAKE, MAP_KEPT, MAP_READ_ONLY };
int map_file_open(int dirfd, enum map_file how, MDB_env **env, MDB_dbi *places); /* LMDB's code; a damaged file is MDB_INVALID or the like */
int map_file_open_private(MDB_env **env, MDB_dbi *places); /* a nameless file in $TMPDIR */
bool map_file_is_damage(int code); /* does LMDB's code say that the file is not what it should be? */
/* 0: the file is whole, or not there; LMDB itself would end the process by SIGBUS over a truncated one. MDB_INVALID: it is damaged. An errno: who can tell? */
int map_file_verify(int dirfd, const char *name);
/* LMDB writes to its lock file through memory: one with holes on a full disk would end the process by SIGBUS. So before mdb_env_open() it is made
 * whole. path: of the database. An errno, or 0. */
int map_file_reserve_lock(const char *path);
void map_file_set_aside(int dirfd, const char *name, char bad[64]); /* as NAME.bad-N, which goes to bad */
void map_file_shrink(int dirfd, MDB_env *env, MDB_dbi places); /* writes it anew where more than half of it is free; the env is to be closed then */

#endif
