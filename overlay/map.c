/* map.c: the handle map in LMDB: a queue of changes, the thread that writes them, and reading that sees both. */
#include "internal.h"
#include "map_file.h"

#include <assert.h>
#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { QUEUE_MAX = 1 << 17, BATCH = 1 << 13, BUCKETS = 1 << 14, GATHER_NS = 500000000 };

enum op { PUT_PLACE, DEL_PLACE };

/* A change that the writer has not committed yet; readers look here first. */
struct pending {
	struct pending *next; /* in order */
	struct pending *chain, **chained; /* in the same bucket, newest first; and what points to this one there */
	uint64_t id, parent; /* file ids */
	uint64_t sequence;
	enum op op;
	char name[];
};

struct map {
	MDB_env *env; /* with places, exchanged by the writer alone, under env_lock held exclusively: */
	MDB_dbi places;
	pthread_rwlock_t env_lock;
	int dirfd; /* -1: a private map */
	map_log *log;
	pthread_t writer;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t wake, done;
	struct pending *first, **last; /* queued */
	struct pending *buckets[BUCKETS]; /* queued and in commit, by id */
	size_t queued; /* in commit too */
	uint64_t sequence, committed; /* the newest change's; all up to this one are done with */
	int error; /* of the last commit */
	bool stop, hurry, filling, complete; /* filling: no entry was lost since map_fill_begin */
};

static int lmdb_errno(int rc)
{
	return rc == MDB_NOTFOUND ? -ENOENT : rc == MDB_MAP_FULL ? -ENOSPC : rc > 0 ? -rc : rc ? -EIO : 0;
}

static size_t bucket(uint64_t id)
{
	uint64_t h = id * 0x9e3779b97f4a7c15u;
	return (h ^ h >> 32) & (BUCKETS - 1);
}

/* ---- entries on disk ---- */
struct entry {
	uint64_t key;
	uint8_t value[8 + MAP_NAME];
	MDB_val k, v;
};

static void entry_fill(struct entry *e, uint64_t id, uint64_t parent, const char *name)
{
	size_t len = strnlen(name, MAP_NAME - 1);
	parent = htobe64(parent);
	e->key = htobe64(id);
	memcpy(e->value, &parent, 8);
	memcpy(e->value + 8, name, len);
	e->k = (MDB_val){ 8, &e->key };
	e->v = (MDB_val){ 8 + len, e->value };
}

/* false: no entry of ours. */
static bool entry_read(const MDB_val *k, const MDB_val *v, uint64_t *id, struct map_place *p)
{
	if (k->mv_size != 8 || v->mv_size < 9 || v->mv_size > 8 + MAP_NAME - 1)
		return false;
	memcpy(id, k->mv_data, 8);
	memcpy(&p->parent, v->mv_data, 8);
	*id = be64toh(*id);
	p->parent = be64toh(p->parent);
	memcpy(p->name, (const char *)v->mv_data + 8, v->mv_size - 8);
	p->name[v->mv_size - 8] = 0;
	return true;
}

/* ---- the writer ---- */
static bool same_place(const struct pending *x, const struct pending *y)
{
	return x->id == y->id && x->parent == y->parent && !strcmp(x->name, y->name);
}

/* By object, then place, then age. What deletes the whole object comes first: it has neither parent nor name. */
static int by_place(const void *a, const void *b)
{
	const struct pending *x = *(struct pending *const *)a, *y = *(struct pending *const *)b;
	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	if (x->parent != y->parent)
		return x->parent < y->parent ? -1 : 1;
	int c = strcmp(x->name, y->name);
	return c ? c : x->sequence < y->sequence ? -1 : 1;
}

/* *last: the greatest key, so that what comes behind it is appended, which fills pages to the brim. */
static int apply(MDB_cursor *cursor, const struct pending *p, uint64_t *last)
{
	struct entry e;
	entry_fill(&e, p->id, p->parent, p->name);
	MDB_val k = e.k, v = e.v;
	int rc;
	if (p->op == PUT_PLACE && p->id > *last) {
		*last = p->id;
		return mdb_cursor_put(cursor, &e.k, &e.v, MDB_APPEND);
	}
	/* looked for first: a put of what is there would dirty its page all the same */
	rc = mdb_cursor_get(cursor, &k, &v, MDB_GET_BOTH);
	if (p->op == PUT_PLACE)
		return rc == MDB_NOTFOUND ? mdb_cursor_put(cursor, &e.k, &e.v, 0) : rc;
	if (!rc)
		rc = mdb_cursor_del(cursor, 0);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static uint64_t last_key(MDB_cursor *cursor)
{
	MDB_val k, v;
	uint64_t key = 0;
	if (!mdb_cursor_get(cursor, &k, &v, MDB_LAST) && k.mv_size == 8)
		memcpy(&key, k.mv_data, 8);
	return be64toh(key);
}

static int commit_batch(struct map *map, struct pending **batch, size_t n)
{
	MDB_txn *txn;
	MDB_cursor *cursor;
	int rc = map->env ? mdb_txn_begin(map->env, NULL, 0, &txn) : MDB_INVALID;
	if (rc)
		return rc;
	rc = mdb_cursor_open(txn, map->places, &cursor);
	if (!rc) {
		uint64_t last = last_key(cursor);
		qsort(batch, n, sizeof *batch, by_place);
		for (size_t i = 0; i < n && !rc; i++) {
			if (i + 1 < n && same_place(batch[i], batch[i + 1]))
				continue; /* what was said last of a place holds */
			rc = apply(cursor, batch[i], &last);
		}
		mdb_cursor_close(cursor);
	}
	if (rc) {
		mdb_txn_abort(txn);
		return rc;
	}
	return mdb_txn_commit(txn);
}

static void set_aside(int dirfd, map_log *log)
{
	char bad[64];
	map_file_set_aside(dirfd, "map.mdb", bad);
	if (log)
		log(4, "the handle map was damaged or foreign: set aside as overnfsd/%s, a new one is made; no handle is lost", bad);
}

/* The file proved damaged while in use. */
static void replace_file(struct map *map)
{
	pthread_rwlock_wrlock(&map->env_lock);
	if (map->env)
		mdb_env_close(map->env);
	map->env = NULL;
	set_aside(map->dirfd, map->log);
	map_file_open(map->dirfd, MAP_MAKE, &map->env, &map->places);
	pthread_rwlock_unlock(&map->env_lock);
}

/* Oldest first, so that what was said last of a place is known the longest. lock held, and let go now and then: calls wait for it. */
static void forget_batch(struct map *map, struct pending *oldest, size_t n)
{
	enum { AT_ONCE = 64 };
	for (size_t i = 0; i < n; i++) {
		struct pending *p = oldest;
		oldest = p->next;
		*p->chained = p->chain;
		if (p->chain)
			p->chain->chained = p->chained;
		free(p);
		if (i % AT_ONCE == AT_ONCE - 1) {
			pthread_mutex_unlock(&map->lock);
			pthread_mutex_lock(&map->lock);
		}
	}
}

/* lock held. An entry is lost: what has no place may live all the same. */
static void lose(struct map *map)
{
	map->complete = map->filling = false;
}

/* lock held, and let go while the disk is written */
static void write_batch(struct map *map)
{
	static_assert(sizeof(struct pending *) * BATCH <= 1 << 16, "it stands on the stack");
	struct pending *batch[BATCH], *oldest = map->first;
	size_t n = 0;
	uint64_t newest = 0;
	for (; map->first && n < BATCH; map->first = map->first->next) {
		newest = map->first->sequence;
		batch[n++] = map->first;
	}
	if (!map->first)
		map->last = &map->first;
	pthread_mutex_unlock(&map->lock);
	int rc = commit_batch(map, batch, n);
	if (map_file_is_damage(rc) && map->dirfd >= 0) {
		replace_file(map);
		rc = commit_batch(map, batch, n);
		pthread_mutex_lock(&map->lock);
		lose(map);
		pthread_mutex_unlock(&map->lock);
	}
	if (rc && !map->error && map->log) /* a cache: handles are still found, by a search */
		map->log(4, "the handle map can't be written: %s; handles are found by searching until it can", mdb_strerror(rc));
	pthread_mutex_lock(&map->lock);
	map->error = lmdb_errno(rc);
	if (rc)
		lose(map);
	forget_batch(map, oldest, n);
	map->queued -= n;
	map->committed = newest;
	pthread_cond_broadcast(&map->done);
}

static void *write_behind(void *arg)
{
	struct map *map = arg;
	pthread_mutex_lock(&map->lock);
	while (true) {
		while (!map->first && !map->stop)
			pthread_cond_wait(&map->wake, &map->lock);
		if (!map->first)
			break;
		struct timespec t;
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += GATHER_NS;
		t.tv_sec += t.tv_nsec / 1000000000;
		t.tv_nsec %= 1000000000;
		while (!map->stop && !map->hurry && map->queued < BATCH && !pthread_cond_timedwait(&map->wake, &map->lock, &t))
			; /* a batch gathers */
		write_batch(map);
		if (!map->first)
			map->hurry = false;
	}
	pthread_mutex_unlock(&map->lock);
	return NULL;
}

static void queue(struct map *map, enum op op, uint64_t id, uint64_t parent, const char *name)
{
	struct pending *p = malloc(sizeof *p + strlen(name) + 1);
	pthread_mutex_lock(&map->lock);
	if (!p || (op == PUT_PLACE && map->queued >= QUEUE_MAX)) { /* the disk does not keep up: a search finds what is missing */
		lose(map);
		pthread_mutex_unlock(&map->lock);
		free(p);
		return;
	}
	struct pending **chain = &map->buckets[bucket(id)];
	*p = (struct pending){ .op = op, .id = id, .parent = parent, .sequence = ++map->sequence, .chain = *chain, .chained = chain };
	if (p->chain)
		p->chain->chained = &p->chain;
	strcpy(p->name, name);
	*chain = p;
	*map->last = p;
	map->last = &p->next;
	if (++map->queued == 1 || map->queued == BATCH)
		pthread_cond_signal(&map->wake);
	pthread_mutex_unlock(&map->lock);
}

/* ---- open, close ---- */
static void map_free(struct map *map)
{
	if (map->env)
		mdb_env_close(map->env);
	pthread_rwlock_destroy(&map->env_lock);
	pthread_mutex_destroy(&map->lock);
	pthread_cond_destroy(&map->wake);
	pthread_cond_destroy(&map->done);
	free(map);
}

static int map_start(int dirfd, enum map_file how, map_log *log, struct map **out)
{
	struct map *map = calloc(1, sizeof *map);
	if (!map)
		return -ENOMEM;
	pthread_rwlock_init(&map->env_lock, NULL);
	pthread_mutex_init(&map->lock, NULL);
	pthread_cond_init(&map->wake, NULL);
	pthread_cond_init(&map->done, NULL);
	map->last = &map->first;
	map->dirfd = dirfd;
	map->log = log;
	int rc = dirfd < 0 ? map_file_open_private(&map->env, &map->places) : map_file_open(dirfd, how, &map->env, &map->places);
	if (map_file_is_damage(rc) && dirfd >= 0 && how == MAP_MAKE) {
		set_aside(dirfd, log);
		rc = map_file_open(dirfd, how, &map->env, &map->places);
	}
	if (!rc)
		rc = pthread_create(&map->writer, NULL, write_behind, map);
	if (rc)
		map_free(map);
	else
		*out = map;
	return map_file_is_damage(rc) ? -EUCLEAN : lmdb_errno(rc);
}

int map_open(int dirfd, map_log *log, struct map **map)
{
	return map_start(dirfd, MAP_MAKE, log, map);
}

int map_open_kept(int dirfd, bool writable, map_log *log, struct map **map)
{
	return map_start(dirfd, writable ? MAP_KEPT : MAP_READ_ONLY, log, map);
}

int map_open_private(map_log *log, struct map **map)
{
	return map_start(-1, MAP_MAKE, log, map);
}

void map_close(struct map *map)
{
	pthread_mutex_lock(&map->lock);
	map->stop = true;
	pthread_cond_broadcast(&map->wake);
	pthread_mutex_unlock(&map->lock);
	pthread_join(map->writer, NULL);
	if (map->dirfd >= 0 && map->env)
		map_file_shrink(map->dirfd, map->env, map->places);
	map_free(map);
}

/* lock held */
static void wait_until_queued(struct map *map, size_t most)
{
	while (map->queued > most) {
		map->hurry = true;
		pthread_cond_signal(&map->wake);
		pthread_cond_wait(&map->done, &map->lock);
	}
}

int map_sync(struct map *map)
{
	pthread_mutex_lock(&map->lock);
	uint64_t until = map->sequence;
	while (map->committed < until) {
		map->hurry = true;
		pthread_cond_signal(&map->wake);
		pthread_cond_wait(&map->done, &map->lock);
	}
	int rc = map->error;
	pthread_mutex_unlock(&map->lock);
	return rc;
}

void map_wait_for_room(struct map *map)
{
	if (!map)
		return;
	pthread_mutex_lock(&map->lock);
	if (map->queued > QUEUE_MAX / 2)
		wait_until_queued(map, QUEUE_MAX / 4);
	pthread_mutex_unlock(&map->lock);
}

/* ---- places ---- */
void map_put_place(struct map *map, const struct overlay_id *id, const struct overlay_id *parent, const char *name)
{
	if (map)
		queue(map, PUT_PLACE, id_fileid(id), id_fileid(parent), name);
}

void map_del_place(struct map *map, const struct overlay_id *id, const struct overlay_id *parent, const char *name)
{
	if (map)
		queue(map, DEL_PLACE, id_fileid(id), id_fileid(parent), name);
}

void map_add_place(struct map *map, uint64_t fileid, uint64_t parent, const char *name)
{
	queue(map, PUT_PLACE, fileid, parent, name);
}

void map_drop_place(struct map *map, uint64_t fileid, uint64_t parent, const char *name)
{
	if (map)
		queue(map, DEL_PLACE, fileid, parent, name);
}

/* A small set of places that were deleted while they may still stand on disk. */
struct gathered {
	struct map_place *at;
	size_t n;
	struct map_place gone[MAP_PLACES];
	size_t ngone;
};

static bool holds(const struct map_place *at, size_t n, uint64_t parent, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (at[i].parent == parent && !strcmp(at[i].name, name))
			return true;
	return false;
}

static void add(struct map_place *at, size_t *n, uint64_t parent, const char *name)
{
	if (*n == MAP_PLACES || holds(at, *n, parent, name))
		return;
	at[*n].parent = parent;
	strncpy(at[*n].name, name, MAP_NAME - 1);
	at[(*n)++].name[MAP_NAME - 1] = 0;
}

/* lock held. Newest first: what was said last of a place holds. */
static void gather_pending(struct map *map, uint64_t id, struct gathered *g)
{
	for (const struct pending *p = map->buckets[bucket(id)]; p; p = p->chain) {
		if (p->id != id)
			continue;
		if (p->op == DEL_PLACE && !holds(g->at, g->n, p->parent, p->name))
			add(g->gone, &g->ngone, p->parent, p->name);
		else if (p->op == PUT_PLACE && !holds(g->gone, g->ngone, p->parent, p->name))
			add(g->at, &g->n, p->parent, p->name);
	}
}

/* A private map's file is never replaced; and two maps that are compared are read from within each other. */
static void env_lock(struct map *map)
{
	if (map->dirfd >= 0)
		pthread_rwlock_rdlock(&map->env_lock);
}

static void env_unlock(struct map *map)
{
	if (map->dirfd >= 0)
		pthread_rwlock_unlock(&map->env_lock);
}

static int gather_written(struct map *map, uint64_t id, struct gathered *g)
{
	struct entry e;
	MDB_txn *txn;
	MDB_cursor *cursor;
	entry_fill(&e, id, 0, "");
	int rc = map->env ? mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn) : MDB_INVALID;
	if (rc)
		return rc;
	rc = mdb_cursor_open(txn, map->places, &cursor);
	if (!rc) {
		struct map_place p;
		uint64_t found;
		for (rc = mdb_cursor_get(cursor, &e.k, &e.v, MDB_SET); !rc && g->n < MAP_PLACES; rc = mdb_cursor_get(cursor, &e.k, &e.v, MDB_NEXT_DUP))
			if (entry_read(&e.k, &e.v, &found, &p) && !holds(g->gone, g->ngone, p.parent, p.name))
				add(g->at, &g->n, p.parent, p.name);
		mdb_cursor_close(cursor);
	}
	mdb_txn_abort(txn);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

size_t map_places(struct map *map, uint64_t fileid, struct map_place places[MAP_PLACES])
{
	struct gathered g = { .at = places };
	if (!map)
		return 0;
	pthread_mutex_lock(&map->lock);
	gather_pending(map, fileid, &g); /* before the disk is read: what is committed between is seen there */
	pthread_mutex_unlock(&map->lock);
	env_lock(map);
	int rc = gather_written(map, fileid, &g);
	env_unlock(map);
	if (rc) {
		pthread_mutex_lock(&map->lock);
		lose(map);
		pthread_mutex_unlock(&map->lock);
	}
	return g.n;
}

int map_each(struct map *map, bool (*each)(void *arg, uint64_t fileid, const struct map_place *place), void *arg)
{
	MDB_txn *txn;
	MDB_cursor *cursor;
	MDB_val k, v;
	struct map_place p;
	uint64_t id;
	bool more = true;
	env_lock(map);
	int rc = map->env ? mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn) : MDB_INVALID;
	if (!rc) {
		rc = mdb_cursor_open(txn, map->places, &cursor);
		if (!rc) {
			while (more && !(rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)))
				if (entry_read(&k, &v, &id, &p))
					more = each(arg, id, &p);
			mdb_cursor_close(cursor);
		}
		mdb_txn_abort(txn);
	}
	env_unlock(map);
	return map_file_is_damage(rc) ? -EUCLEAN : rc == MDB_NOTFOUND ? 0 : lmdb_errno(rc);
}

bool map_has(struct map *map, uint64_t fileid, const struct map_place *place)
{
	struct entry e;
	MDB_txn *txn;
	MDB_cursor *cursor;
	entry_fill(&e, fileid, place->parent, place->name);
	env_lock(map);
	int rc = map->env ? mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn) : MDB_INVALID;
	if (!rc) {
		rc = mdb_cursor_open(txn, map->places, &cursor);
		if (!rc) {
			rc = mdb_cursor_get(cursor, &e.k, &e.v, MDB_GET_BOTH);
			mdb_cursor_close(cursor);
		}
		mdb_txn_abort(txn);
	}
	env_unlock(map);
	return !rc;
}

void map_size(struct map *map, size_t *entries, size_t *bytes)
{
	MDB_envinfo info = { 0 };
	MDB_stat st = { 0 };
	MDB_txn *txn;
	env_lock(map);
	if (map->env && !mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn)) {
		mdb_stat(txn, map->places, &st);
		mdb_txn_abort(txn);
		mdb_env_info(map->env, &info);
	}
	env_unlock(map);
	*entries = st.ms_entries;
	*bytes = (info.me_last_pgno + 1) * st.ms_psize;
}

bool map_is_complete(struct map *map)
{
	if (!map)
		return false;
	pthread_mutex_lock(&map->lock);
	bool complete = map->complete;
	pthread_mutex_unlock(&map->lock);
	return complete;
}

void map_fill_begin(struct map *map)
{
	if (!map)
		return;
	pthread_mutex_lock(&map->lock);
	map->filling = true;
	pthread_mutex_unlock(&map->lock);
}

bool map_fill_end(struct map *map)
{
	if (!map || map_sync(map))
		return false;
	pthread_mutex_lock(&map->lock);
	bool complete = map->complete = map->filling;
	pthread_mutex_unlock(&map->lock);
	return complete;
}
