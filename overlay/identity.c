/* identity.c: see identity.h. */
#include "identity.h"
#include "layers.h"
#include "map_file.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char file[] = "identity.mdb";
enum { MAP_SIZE = 1 << 30, PATH_BYTES = 4096 };

struct identity {
	MDB_env *env; /* NULL: opened for reading, and there is none */
	MDB_dbi keys, layer_table, origins, copies;
	bool writable, damaged;
	atomic_size_t norigins, nlinks; /* of the latter at least so many rows were there or came */
	/* read at start; changed only then too, by one thread */
	struct layer_identity *layers; /* paths owned */
	size_t nlayers;
};

/* ---- rows ---- */
struct origin_row { /* key of origins: upper inode and generation. Key of copies: the origin. Each is the other's value; big-endian */
	uint64_t a, b;
	uint32_t layer;
} __attribute__((packed));

static struct origin_row upper_row(uint64_t ino, uint64_t gen)
{
	return (struct origin_row){ .a = htobe64(ino), .b = htobe64(gen) };
}

static struct origin_row id_row(const struct overlay_id *id)
{
	return (struct origin_row){ .a = htobe64(id->ino), .b = htobe64(id->gen), .layer = htobe32(id->layer) };
}

static struct overlay_id row_id(const struct origin_row *r)
{
	return (struct overlay_id){ .layer = be32toh(r->layer), .ino = be64toh(r->a), .gen = be64toh(r->b) };
}

struct layer_row { /* key of layers: the number; the path follows */
	uint32_t age, kind;
	uint8_t fs[16];
	uint64_t ino, gen;
} __attribute__((packed));

static int code_errno(int code)
{
	return code == MDB_NOTFOUND ? -ENOENT : code == MDB_MAP_FULL ? -ENOSPC : code > 0 ? -code : code ? -EIO : 0;
}

static int put(MDB_txn *txn, MDB_dbi table, const void *key, size_t key_len, const void *value, size_t len)
{
	MDB_val k = { key_len, (void *)(uintptr_t)key }, v = { len, (void *)(uintptr_t)value };
	return mdb_put(txn, table, &k, &v, 0);
}

/* A row of just len bytes, copied out. -ENOENT. */
static int get(struct identity *id, MDB_dbi table, const void *key, size_t key_len, void *value, size_t len)
{
	MDB_txn *txn;
	MDB_val k = { key_len, (void *)(uintptr_t)key }, v;
	int rc = id->env ? mdb_txn_begin(id->env, NULL, MDB_RDONLY, &txn) : MDB_NOTFOUND;
	if (rc)
		return code_errno(rc);
	rc = mdb_get(txn, table, &k, &v);
	if (!rc && v.mv_size != len)
		rc = MDB_NOTFOUND;
	if (!rc)
		memcpy(value, v.mv_data, len);
	mdb_txn_abort(txn);
	return code_errno(rc);
}

static int begin(struct identity *id, MDB_txn **txn)
{
	return id->writable ? code_errno(mdb_txn_begin(id->env, NULL, 0, txn)) : -EROFS;
}

/* Durable on return. */
static int end(MDB_txn *txn, int code)
{
	if (!code)
		return code_errno(mdb_txn_commit(txn));
	mdb_txn_abort(txn);
	return code_errno(code);
}

/* ---- opening ---- */
static int open_tables(struct identity *id)
{
	unsigned create = id->writable ? MDB_CREATE : 0;
	MDB_txn *txn;
	MDB_stat st;
	int rc = mdb_txn_begin(id->env, NULL, id->writable ? 0 : MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = mdb_dbi_open(txn, "keys", create, &id->keys);
	if (!rc)
		rc = mdb_dbi_open(txn, "layers", create, &id->layer_table);
	if (!rc)
		rc = mdb_dbi_open(txn, "origins", create, &id->origins);
	if (!rc)
		rc = mdb_dbi_open(txn, "copies", create, &id->copies);
	if (!rc)
		rc = mdb_stat(txn, id->origins, &st);
	if (rc) {
		mdb_txn_abort(txn);
		return rc;
	}
	atomic_store(&id->norigins, st.ms_entries);
	MDB_val k = { 7, "handles" }, v;
	if (!mdb_stat(txn, id->keys, &st)) /* the handles' key is none, but is not there where it was given (--key-file) */
		atomic_store(&id->nlinks, st.ms_entries - !mdb_get(txn, id->keys, &k, &v));
	return mdb_txn_commit(txn);
}

static int open_env(struct identity *id, int dirfd)
{
	char path[64];
	int rc = map_file_verify(dirfd, file);
	if (rc)
		return rc;
	if (!id->writable && faccessat(dirfd, file, F_OK, 0))
		return 0;
	snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dirfd, file);
	rc = id->writable ? map_file_reserve_lock(path) : 0;
	if (!rc)
		rc = mdb_env_create(&id->env);
	if (rc)
		return rc;
	mdb_env_set_maxdbs(id->env, 4);
	mdb_env_set_maxreaders(id->env, 1024);
	mdb_env_set_mapsize(id->env, MAP_SIZE);
	rc = mdb_env_open(id->env, path, MDB_NOSUBDIR | MDB_NOTLS | (id->writable ? 0 : MDB_RDONLY | MDB_NOLOCK), 0600);
	if (!rc)
		rc = open_tables(id);
	if (rc) {
		mdb_env_close(id->env);
		id->env = NULL;
	}
	return rc;
}

static int layer_keep(struct identity *id, const struct layer_identity *l)
{
	char *path = strdup(l->path);
	size_t i = 0;
	while (i < id->nlayers && id->layers[i].number != l->number)
		i++;
	struct layer_identity *more = path && i == id->nlayers ? realloc(id->layers, (i + 1) * sizeof *more) : id->layers;
	if (!path || !more) {
		free(path);
		return -ENOMEM;
	}
	id->layers = more;
	if (i == id->nlayers)
		id->nlayers++;
	else
		free((char *)id->layers[i].path);
	id->layers[i] = *l;
	id->layers[i].path = path;
	return 0;
}

static int read_layer(struct identity *id, const MDB_val *k, const MDB_val *v)
{
	struct layer_row row;
	uint32_t number;
	char path[PATH_BYTES];
	size_t len = v->mv_size - sizeof row;
	if (k->mv_size != sizeof number || v->mv_size < sizeof row || len >= sizeof path)
		return 0; /* none of ours */
	memcpy(&number, k->mv_data, sizeof number);
	memcpy(&row, v->mv_data, sizeof row);
	memcpy(path, (const char *)v->mv_data + sizeof row, len);
	path[len] = 0;
	struct layer_identity l = { .number = be32toh(number), .age = be32toh(row.age), .kind = be32toh(row.kind), .ino = be64toh(row.ino),
				    .gen = be64toh(row.gen), .path = path };
	memcpy(l.fs, row.fs, sizeof l.fs);
	return layer_keep(id, &l);
}

/* Calls each for every row of the table until it returns other than 0. */
static int each_row(struct identity *id, MDB_dbi table, int (*each)(void *arg, const MDB_val *k, const MDB_val *v), void *arg)
{
	MDB_txn *txn;
	MDB_cursor *cursor;
	MDB_val k, v;
	int rc = id->env ? mdb_txn_begin(id->env, NULL, MDB_RDONLY, &txn) : 0, stop = 0;
	if (rc || !id->env)
		return code_errno(rc);
	rc = mdb_cursor_open(txn, table, &cursor);
	if (!rc) {
		while (!stop && !(rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)))
			stop = each(arg, &k, &v);
		mdb_cursor_close(cursor);
	}
	mdb_txn_abort(txn);
	return stop ? stop : rc == MDB_NOTFOUND ? 0 : code_errno(rc);
}

static int layer_row_read(void *arg, const MDB_val *k, const MDB_val *v)
{
	return read_layer(arg, k, v);
}

int identity_open(int dirfd, bool writable, void (*log)(int level, const char *fmt, ...), struct identity **out)
{
	struct identity *id = calloc(1, sizeof *id);
	if (!id)
		return -ENOMEM;
	id->writable = writable;
	int rc = open_env(id, dirfd);
	if (map_file_is_damage(rc) || rc == MDB_NOTFOUND) { /* the latter: an LMDB file, but without our tables */
		id->damaged = true;
		rc = 0;
		if (writable) {
			char bad[64];
			map_file_set_aside(dirfd, file, bad);
			if (log)
				log(4, "the file of identities was damaged: set aside as overnfsd/%s, a new one is made", bad);
			rc = open_env(id, dirfd);
		}
	}
	rc = rc ? code_errno(rc) : each_row(id, id->layer_table, layer_row_read, id);
	if (rc)
		identity_close(id);
	else
		*out = id;
	return rc;
}

void identity_close(struct identity *id)
{
	if (id->env)
		mdb_env_close(id->env);
	for (size_t i = 0; i < id->nlayers; i++)
		free((char *)id->layers[i].path);
	free(id->layers);
	free(id);
}

bool identity_is_damaged(const struct identity *id)
{
	return id->damaged;
}

/* ---- the key ---- */
int identity_key(struct identity *id, uint8_t key[16])
{
	return get(id, id->keys, "handles", 7, key, 16);
}

int identity_set_key(struct identity *id, const uint8_t key[16])
{
	MDB_txn *txn;
	int rc = begin(id, &txn);
	return rc ? rc : end(txn, put(txn, id->keys, "handles", 7, key, 16));
}

/* ---- layers ---- */
const struct layer_identity *identity_layers(struct identity *id, size_t *n)
{
	*n = id->nlayers;
	return id->layers;
}

int identity_put_layer(struct identity *id, const struct layer_identity *l)
{
	struct {
		struct layer_row row;
		char path[PATH_BYTES];
	} value = { .row = { .age = htobe32(l->age), .kind = htobe32((uint32_t)l->kind), .ino = htobe64(l->ino), .gen = htobe64(l->gen) } };
	uint32_t number = htobe32(l->number);
	size_t len = strnlen(l->path, PATH_BYTES - 1);
	memcpy(value.row.fs, l->fs, sizeof l->fs);
	memcpy(value.path, l->path, len);
	MDB_txn *txn;
	int rc = id->writable ? begin(id, &txn) : 0; /* opened to look: kept in memory alone */
	if (!rc && id->writable)
		rc = end(txn, put(txn, id->layer_table, &number, sizeof number, &value, sizeof value.row + len));
	return rc ? rc : layer_keep(id, l);
}

/* ---- origins ---- */
int identity_put_origin(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, const struct overlay_id *origin)
{
	struct origin_row upper = upper_row(upper_ino, upper_gen), below = id_row(origin);
	MDB_txn *txn;
	int rc = begin(id, &txn);
	if (rc)
		return rc;
	int code = put(txn, id->origins, &upper, sizeof upper, &below, sizeof below);
	if (!code)
		code = put(txn, id->copies, &below, sizeof below, &upper, sizeof upper);
	rc = end(txn, code);
	if (!rc)
		atomic_fetch_add(&id->norigins, 1);
	return rc;
}

int identity_get_origin(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, struct overlay_id *origin)
{
	struct origin_row upper = upper_row(upper_ino, upper_gen), below = { 0 };
	if (!id || !atomic_load(&id->norigins))
		return -ENOENT;
	int rc = get(id, id->origins, &upper, sizeof upper, &below, sizeof below);
	if (!rc)
		*origin = row_id(&below);
	return rc;
}

bool identity_has_origins(struct identity *id)
{
	return id && atomic_load(&id->norigins);
}

struct row_key { /* in the table of keys: an older server passes it over */
	char what[8];
	struct origin_row upper;
} __attribute__((packed));

static struct row_key row_key(uint64_t upper_ino, uint64_t upper_gen, const char *what)
{
	struct row_key key = { .upper = upper_row(upper_ino, upper_gen) };
	memcpy(key.what, what, strnlen(what, sizeof key.what));
	return key;
}

int identity_put_mark(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, const char *mark, const void *value, size_t len)
{
	struct row_key key = row_key(upper_ino, upper_gen, mark);
	MDB_txn *txn;
	int rc = begin(id, &txn);
	return rc ? rc : end(txn, put(txn, id->keys, &key, sizeof key, value, len));
}

int identity_put_links(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, const char links[LINKS_SIZE])
{
	int rc = identity_put_mark(id, upper_ino, upper_gen, "links", links, LINKS_SIZE);
	if (!rc)
		atomic_fetch_add(&id->nlinks, 1);
	return rc;
}

bool identity_has_links(struct identity *id)
{
	return id && atomic_load(&id->nlinks);
}

int identity_get_links(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, char links[LINKS_SIZE])
{
	struct row_key key = row_key(upper_ino, upper_gen, "links");
	int rc = get(id, id->keys, &key, sizeof key, links, LINKS_SIZE);
	if (!rc)
		links[LINKS_SIZE - 1] = 0;
	return rc;
}

ssize_t identity_get_mark(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, const char *mark, void *buf, size_t size)
{
	struct row_key key = row_key(upper_ino, upper_gen, mark);
	MDB_txn *txn;
	MDB_val k = { sizeof key, &key }, v;
	int rc = id->env ? mdb_txn_begin(id->env, NULL, MDB_RDONLY, &txn) : MDB_NOTFOUND;
	if (rc)
		return rc == MDB_NOTFOUND ? -ENODATA : code_errno(rc);
	rc = mdb_get(txn, id->keys, &k, &v);
	ssize_t n = rc == MDB_NOTFOUND || (!rc && !v.mv_size) ? -ENODATA : rc ? code_errno(rc) : size && v.mv_size > size ? -ERANGE : (ssize_t)v.mv_size;
	if (n > 0 && size)
		memcpy(buf, v.mv_data, v.mv_size);
	mdb_txn_abort(txn);
	return n;
}

void identity_forget_links(struct identity *id, uint64_t upper_ino, uint64_t upper_gen)
{
	struct row_key key = row_key(upper_ino, upper_gen, "links");
	MDB_val k = { sizeof key, &key };
	MDB_txn *txn;
	if (!begin(id, &txn))
		end(txn, mdb_del(txn, id->keys, &k, NULL)); /* as below: harmless where it fails */
}

void identity_forget(struct identity *id, const struct overlay_id *origin)
{
	struct origin_row below = id_row(origin), upper = { 0 };
	MDB_txn *txn;
	if (!atomic_load(&id->norigins) || get(id, id->copies, &below, sizeof below, &upper, sizeof upper) || begin(id, &txn))
		return; /* where it fails, the row names an inode that is no more: harmless */
	MDB_val k = { sizeof below, &below }, u = { sizeof upper, &upper }, v;
	int code = mdb_del(txn, id->copies, &k, NULL);
	if (!code && !mdb_get(txn, id->origins, &u, &v) && v.mv_size == sizeof below && !memcmp(v.mv_data, &below, sizeof below))
		code = mdb_del(txn, id->origins, &u, NULL); /* else the upper inode lives again, as another's copy */
	end(txn, code);
}
