/* map.c: the handle map in LMDB: meta, layers, places (several an object) and origins. */
#include "map.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FORMAT = 1, ID_SIZE = 18, QUEUE_MAX = 200000, BUCKETS = 1 << 14 };

enum op { PUT_PLACE, DEL_PLACE, DEL_OBJECT, DEL_ORIGIN };

/* A change that the writer has not committed yet; readers look here first. */
struct pending {
	struct pending *next, *chain; /* in order; in the same bucket */
	enum op op;
	struct overlay_id id, parent; /* of DEL_ORIGIN: ino and gen of the upper inode */
	char name[];
};

struct map {
	MDB_env *env;
	MDB_dbi meta, layers, places, origins;
	void (*log)(int level, const char *fmt, ...);
	pthread_t writer;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t wake, done;
	struct pending *first, **last; /* queued */
	struct pending *buckets[BUCKETS]; /* queued and in commit, by id */
	size_t queued;
	bool stop, busy, complained;
	unsigned long taken, committed; /* batches */
};

static int lmdb_errno(int rc)
{
	return rc == MDB_NOTFOUND ? -ENOENT : rc == MDB_MAP_FULL ? -ENOSPC : rc > 0 ? -rc : rc ? -EIO : 0;
}

static void pack_id(uint8_t out[ID_SIZE], const struct overlay_id *id)
{
	uint16_t layer = htobe16((uint16_t)id->layer);
	uint64_t ino = htobe64(id->ino), gen = htobe64(id->gen);
	memcpy(out, &layer, 2);
	memcpy(out + 2, &ino, 8);
	memcpy(out + 10, &gen, 8);
}

static void unpack_id(const uint8_t in[ID_SIZE], struct overlay_id *id)
{
	uint16_t layer;
	uint64_t ino, gen;
	memcpy(&layer, in, 2);
	memcpy(&ino, in + 2, 8);
	memcpy(&gen, in + 10, 8);
	*id = (struct overlay_id){ .layer = be16toh(layer), .ino = be64toh(ino), .gen = be64toh(gen) };
}

static bool same_id(const struct overlay_id *a, const struct overlay_id *b)
{
	return a->ino == b->ino && a->gen == b->gen && a->layer == b->layer;
}

static size_t bucket(const struct overlay_id *id)
{
	uint64_t h = (id->ino ^ id->gen) * 0x9e3779b97f4a7c15u;
	return (h ^ h >> 32) & (BUCKETS - 1);
}

/* ---- the file: is it whole? ---- */

/* LMDB maps the file: a truncated one would end the process by SIGBUS, so the two meta pages are read first. */
static bool file_is_sound(int dirfd)
{
	struct meta {
		uint32_t magic, version;
		uint64_t address, mapsize;
		uint8_t dbs[96];
		uint64_t last_page, txnid;
	} m[2];
	struct stat st;
	int fd = openat(dirfd, "map.mdb", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT;
	bool sound = !fstat(fd, &st) && st.st_size == 0;
	long page = sysconf(_SC_PAGESIZE);
	if (!sound && st.st_size >= 2 * page && pread(fd, &m[0], sizeof m[0], 16) == sizeof m[0] &&
	    pread(fd, &m[1], sizeof m[1], page + 16) == sizeof m[1] && m[0].magic == 0xBEEFC0DE && m[1].magic == 0xBEEFC0DE) {
		const struct meta *newer = m[1].txnid > m[0].txnid ? &m[1] : &m[0];
		sound = newer->last_page < (uint64_t)st.st_size && (newer->last_page + 1) * (uint64_t)page <= (uint64_t)st.st_size;
	}
	close(fd);
	return sound;
}

static void set_aside(int dirfd, void (*log)(int, const char *, ...))
{
	char name[32];
	struct stat st;
	int n = 1;
	do
		snprintf(name, sizeof name, "map.mdb.bad-%d", n++);
	while (!fstatat(dirfd, name, &st, 0) && n < 1000);
	renameat(dirfd, "map.mdb", dirfd, name);
	unlinkat(dirfd, "map.mdb-lock", 0);
	if (log)
		log(4, "the handle map was damaged or foreign: set aside as %s, a new one is made as handles are used", name);
}

static int env_open(struct map *map, int dirfd)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d/map.mdb", dirfd);
	int rc = mdb_env_create(&map->env);
	if (rc)
		return rc;
	mdb_env_set_maxdbs(map->env, 8);
	mdb_env_set_maxreaders(map->env, 512);
	mdb_env_set_mapsize(map->env, (size_t)1 << 36);
	rc = mdb_env_open(map->env, path, MDB_NOSUBDIR | MDB_NOTLS, 0600);
	if (rc) {
		mdb_env_close(map->env);
		map->env = NULL;
	}
	return rc;
}

static int get_u32(MDB_txn *txn, MDB_dbi db, const char *key, uint32_t *value)
{
	MDB_val k = { strlen(key), (void *)key }, v;
	int rc = mdb_get(txn, db, &k, &v);
	if (!rc && v.mv_size != 4)
		return MDB_CORRUPTED;
	if (!rc)
		memcpy(value, v.mv_data, 4);
	return rc;
}

static int put_u32(MDB_txn *txn, MDB_dbi db, const char *key, uint32_t value)
{
	MDB_val k = { strlen(key), (void *)key }, v = { 4, &value };
	return mdb_put(txn, db, &k, &v, 0);
}

static int tables_open(struct map *map)
{
	MDB_txn *txn;
	uint32_t format = 0;
	int rc = mdb_txn_begin(map->env, NULL, 0, &txn);
	if (rc)
		return rc;
	rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &map->meta);
	if (!rc)
		rc = mdb_dbi_open(txn, "layers", MDB_CREATE, &map->layers);
	if (!rc)
		rc = mdb_dbi_open(txn, "places", MDB_CREATE | MDB_DUPSORT, &map->places);
	if (!rc)
		rc = mdb_dbi_open(txn, "origins", MDB_CREATE, &map->origins);
	if (!rc)
		rc = get_u32(txn, map->meta, "format", &format);
	if (rc == MDB_NOTFOUND)
		rc = put_u32(txn, map->meta, "format", FORMAT);
	else if (!rc && format != FORMAT)
		rc = MDB_VERSION_MISMATCH;
	if (rc) {
		mdb_txn_abort(txn);
		return rc;
	}
	return mdb_txn_commit(txn);
}

/* ---- the writer ---- */
static int apply(struct map *map, MDB_txn *txn, const struct pending *p)
{
	uint8_t key[ID_SIZE], value[ID_SIZE + 256];
	pack_id(key, &p->id);
	MDB_val k = { ID_SIZE, key }, v = { ID_SIZE + strlen(p->name), value };
	pack_id(value, &p->parent);
	memcpy(value + ID_SIZE, p->name, strlen(p->name));
	int rc = 0;
	switch (p->op) {
	case PUT_PLACE: rc = mdb_put(txn, map->places, &k, &v, MDB_NODUPDATA); break;
	case DEL_PLACE: rc = mdb_del(txn, map->places, &k, &v); break;
	case DEL_OBJECT: rc = mdb_del(txn, map->places, &k, NULL); break;
	case DEL_ORIGIN:
		k = (MDB_val){ 16, key + 2 };
		rc = mdb_del(txn, map->origins, &k, NULL);
		break;
	}
	return rc == MDB_KEYEXIST || rc == MDB_NOTFOUND ? 0 : rc;
}

static void forget(struct map *map, struct pending *p)
{
	struct pending **c = &map->buckets[bucket(&p->id)];
	while (*c && *c != p)
		c = &(*c)->chain;
	if (*c)
		*c = p->chain;
	free(p);
}

static void commit_batch(struct map *map, struct pending *batch)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(map->env, NULL, 0, &txn);
	for (struct pending *p = batch; p && !rc; p = p->next)
		rc = apply(map, txn, p);
	if (rc && txn)
		mdb_txn_abort(txn);
	else if (!rc)
		rc = mdb_txn_commit(txn);
	if (rc && !map->complained && map->log) /* a cache: handles are still found, by a search */
		map->log(4, "the handle map can't be written: %s; handles are found by searching until it can", mdb_strerror(rc));
	map->complained = rc;
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
		struct pending *batch = map->first;
		map->first = NULL;
		map->last = &map->first;
		map->taken++;
		pthread_mutex_unlock(&map->lock);
		commit_batch(map, batch);
		pthread_mutex_lock(&map->lock);
		for (struct pending *next; batch; batch = next) {
			next = batch->next;
			forget(map, batch);
			map->queued--;
		}
		map->committed++;
		pthread_cond_broadcast(&map->done);
		if (!map->stop) { /* let a batch gather */
			struct timespec t;
			clock_gettime(CLOCK_REALTIME, &t);
			t.tv_nsec += 200000000;
			t.tv_sec += t.tv_nsec / 1000000000;
			t.tv_nsec %= 1000000000;
			pthread_cond_timedwait(&map->done, &map->lock, &t);
		}
	}
	pthread_mutex_unlock(&map->lock);
	return NULL;
}

static void queue(struct map *map, enum op op, const struct overlay_id *id, const struct overlay_id *parent, const char *name)
{
	struct pending *p = malloc(sizeof *p + strlen(name) + 1);
	if (!p)
		return;
	*p = (struct pending){ .op = op, .id = *id };
	if (parent)
		p->parent = *parent;
	strcpy(p->name, name);
	pthread_mutex_lock(&map->lock);
	if (op == PUT_PLACE && map->queued >= QUEUE_MAX) { /* the disk does not keep up: a search finds what is missing */
		pthread_mutex_unlock(&map->lock);
		free(p);
		return;
	}
	struct pending **tail = &map->buckets[bucket(id)]; /* newest first */
	p->chain = *tail;
	*tail = p;
	*map->last = p;
	map->last = &p->next;
	map->queued++;
	pthread_cond_signal(&map->wake);
	pthread_mutex_unlock(&map->lock);
}

/* ---- open, close ---- */
static void map_free(struct map *map)
{
	if (map->env)
		mdb_env_close(map->env);
	pthread_mutex_destroy(&map->lock);
	pthread_cond_destroy(&map->wake);
	pthread_cond_destroy(&map->done);
	free(map);
}

int map_open(int dirfd, void (*log)(int level, const char *fmt, ...), struct map **out)
{
	struct map *map = calloc(1, sizeof *map);
	if (!map)
		return -ENOMEM;
	pthread_mutex_init(&map->lock, NULL);
	pthread_cond_init(&map->wake, NULL);
	pthread_cond_init(&map->done, NULL);
	map->last = &map->first;
	map->log = log;
	if (!file_is_sound(dirfd))
		set_aside(dirfd, log);
	int rc = env_open(map, dirfd);
	if (!rc)
		rc = tables_open(map);
	if (rc == MDB_INVALID || rc == MDB_VERSION_MISMATCH || rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND || rc == MDB_INCOMPATIBLE) {
		if (map->env)
			mdb_env_close(map->env);
		map->env = NULL;
		set_aside(dirfd, log);
		rc = env_open(map, dirfd);
		if (!rc)
			rc = tables_open(map);
	}
	if (!rc)
		rc = pthread_create(&map->writer, NULL, write_behind, map);
	if (rc) {
		map_free(map);
		return lmdb_errno(rc);
	}
	*out = map;
	return 0;
}

void map_close(struct map *map)
{
	pthread_mutex_lock(&map->lock);
	map->stop = true;
	pthread_cond_broadcast(&map->wake);
	pthread_cond_broadcast(&map->done);
	pthread_mutex_unlock(&map->lock);
	pthread_join(map->writer, NULL);
	map_free(map);
}

int map_sync(struct map *map)
{
	pthread_mutex_lock(&map->lock);
	unsigned long until = map->taken + (map->first ? 1 : 0);
	while (map->committed < until) {
		pthread_cond_broadcast(&map->done); /* no need to gather any longer */
		pthread_cond_wait(&map->done, &map->lock);
	}
	pthread_mutex_unlock(&map->lock);
	return 0;
}

/* ---- key and layers ---- */
int map_key(struct map *map, uint8_t key[16])
{
	MDB_txn *txn;
	MDB_val k = { 3, "key" }, v;
	int rc = mdb_txn_begin(map->env, NULL, 0, &txn);
	if (rc)
		return lmdb_errno(rc);
	rc = mdb_get(txn, map->meta, &k, &v);
	if (!rc && v.mv_size == 16) {
		memcpy(key, v.mv_data, 16);
		mdb_txn_abort(txn);
		return 0;
	}
	randombytes_buf(key, 16);
	v = (MDB_val){ 16, key };
	rc = mdb_put(txn, map->meta, &k, &v, 0);
	if (rc) {
		mdb_txn_abort(txn);
		return lmdb_errno(rc);
	}
	return lmdb_errno(mdb_txn_commit(txn));
}

/* layers: key = root ino, root gen; value = number (4 bytes), path. */
int map_layer(struct map *map, const char *path, uint64_t root_ino, uint64_t root_gen, uint32_t *number)
{
	struct {
		uint64_t ino, gen;
	} key = { htobe64(root_ino), htobe64(root_gen) };
	char value[4096 + 8];
	MDB_txn *txn;
	MDB_val k = { sizeof key, &key }, v;
	uint32_t next = 1;
	int rc = mdb_txn_begin(map->env, NULL, 0, &txn);
	if (rc)
		return lmdb_errno(rc);
	rc = mdb_get(txn, map->layers, &k, &v);
	if (!rc && v.mv_size >= 4) { /* the root's identity decides: a layer that moved stays the same layer */
		memcpy(number, v.mv_data, 4);
		mdb_txn_abort(txn);
		return 0;
	}
	rc = get_u32(txn, map->meta, "next layer", &next);
	if (rc == MDB_NOTFOUND)
		rc = 0;
	if (!rc)
		rc = put_u32(txn, map->meta, "next layer", next + 1);
	memcpy(value, &next, 4);
	snprintf(value + 4, sizeof value - 4, "%s", path);
	v = (MDB_val){ 4 + strlen(value + 4), value };
	if (!rc)
		rc = mdb_put(txn, map->layers, &k, &v, 0);
	if (rc) {
		mdb_txn_abort(txn);
		return lmdb_errno(rc);
	}
	*number = next;
	return lmdb_errno(mdb_txn_commit(txn));
}

/* ---- places ---- */
void map_put_place(struct map *map, const struct overlay_id *id, const struct overlay_id *parent, const char *name)
{
	if (map)
		queue(map, PUT_PLACE, id, parent, name);
}

void map_del_place(struct map *map, const struct overlay_id *id, const struct overlay_id *parent, const char *name)
{
	if (map)
		queue(map, DEL_PLACE, id, parent, name);
}

void map_del_object(struct map *map, const struct overlay_id *id)
{
	if (map)
		queue(map, DEL_OBJECT, id, NULL, "");
}

/* A place as read, and what is pending for it. */
struct places {
	size_t n;
	struct {
		struct overlay_id parent;
		char name[256];
	} at[32];
};

static void places_add(struct places *ps, const struct overlay_id *parent, const char *name, size_t len)
{
	if (ps->n == 32 || len > 255)
		return;
	for (size_t i = 0; i < ps->n; i++)
		if (same_id(&ps->at[i].parent, parent) && strlen(ps->at[i].name) == len && !memcmp(ps->at[i].name, name, len))
			return;
	ps->at[ps->n].parent = *parent;
	memcpy(ps->at[ps->n].name, name, len);
	ps->at[ps->n++].name[len] = 0;
}

static void places_del(struct places *ps, const struct overlay_id *parent, const char *name)
{
	for (size_t i = 0; i < ps->n; i++)
		if (same_id(&ps->at[i].parent, parent) && !strcmp(ps->at[i].name, name))
			ps->at[i--] = ps->at[--ps->n];
}

static void read_places(struct map *map, const struct overlay_id *id, struct places *ps)
{
	uint8_t key[ID_SIZE];
	MDB_txn *txn;
	MDB_cursor *cursor;
	struct overlay_id parent;
	pack_id(key, id);
	MDB_val k = { ID_SIZE, key }, v;
	if (mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn))
		return;
	if (!mdb_cursor_open(txn, map->places, &cursor)) {
		for (int rc = mdb_cursor_get(cursor, &k, &v, MDB_SET); !rc; rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT_DUP))
			if (v.mv_size > ID_SIZE) {
				unpack_id(v.mv_data, &parent);
				places_add(ps, &parent, (char *)v.mv_data + ID_SIZE, v.mv_size - ID_SIZE);
			}
		mdb_cursor_close(cursor);
	}
	mdb_txn_abort(txn);
}

/* Oldest first, as the writer will. The chain is newest first. */
static void apply_pending(struct places *ps, const struct pending *p, const struct overlay_id *id)
{
	const struct pending *stack[64] = { NULL };
	int n = 0;
	for (; p && n < 64; p = p->chain)
		if (same_id(&p->id, id))
			stack[n++] = p;
	while (n--) {
		if (stack[n]->op == PUT_PLACE)
			places_add(ps, &stack[n]->parent, stack[n]->name, strlen(stack[n]->name));
		else if (stack[n]->op == DEL_PLACE)
			places_del(ps, &stack[n]->parent, stack[n]->name);
		else if (stack[n]->op == DEL_OBJECT)
			ps->n = 0;
	}
}

int map_get_places(struct map *map, const struct overlay_id *id,
		   bool (*each)(void *arg, const struct overlay_id *parent, const char *name), void *arg)
{
	struct places *ps = map ? calloc(1, sizeof *ps) : NULL;
	if (!ps)
		return map ? -ENOMEM : 0;
	pthread_mutex_lock(&map->lock); /* held over both, so that a commit between them hides nothing */
	read_places(map, id, ps);
	apply_pending(ps, map->buckets[bucket(id)], id);
	pthread_mutex_unlock(&map->lock);
	for (size_t i = 0; i < ps->n && each(arg, &ps->at[i].parent, ps->at[i].name); i++)
		;
	free(ps);
	return 0;
}

/* ---- origins ---- */
int map_put_origin(struct map *map, uint64_t upper_ino, uint64_t upper_gen, const struct overlay_id *origin)
{
	uint64_t key[2] = { htobe64(upper_ino), htobe64(upper_gen) };
	uint8_t value[ID_SIZE];
	MDB_txn *txn;
	MDB_val k = { 16, key }, v = { ID_SIZE, value };
	pack_id(value, origin);
	int rc = mdb_txn_begin(map->env, NULL, 0, &txn);
	if (rc)
		return lmdb_errno(rc);
	rc = mdb_put(txn, map->origins, &k, &v, 0);
	if (rc) {
		mdb_txn_abort(txn);
		return lmdb_errno(rc);
	}
	return lmdb_errno(mdb_txn_commit(txn));
}

int map_get_origin(struct map *map, uint64_t upper_ino, uint64_t upper_gen, struct overlay_id *origin)
{
	uint64_t key[2] = { htobe64(upper_ino), htobe64(upper_gen) };
	MDB_txn *txn;
	MDB_val k = { 16, key }, v;
	if (!map)
		return -ENOENT;
	int rc = mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn);
	if (rc)
		return lmdb_errno(rc);
	rc = mdb_get(txn, map->origins, &k, &v);
	if (!rc && v.mv_size == ID_SIZE)
		unpack_id(v.mv_data, origin);
	else if (!rc)
		rc = MDB_NOTFOUND;
	mdb_txn_abort(txn);
	return lmdb_errno(rc);
}

void map_del_origin(struct map *map, uint64_t upper_ino, uint64_t upper_gen)
{
	struct overlay_id id = { .ino = upper_ino, .gen = upper_gen };
	if (map)
		queue(map, DEL_ORIGIN, &id, NULL, "");
}
