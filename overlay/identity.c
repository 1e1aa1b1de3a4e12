/* identity.c: see identity.h. Everything is read into memory at start; each change is one record appended. */
#include "identity.h"
#include "layers.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = "ovnfsid1";
enum { HEAD = 3, SUM = 8, MAX_DATA = 8192, ORIGIN_SIZE = 34, LAYER_SIZE = 41, MUCH_HISTORY = 1 << 16 };
enum record { KEY = 'k', LAYER = 'l', ORIGIN = 'o', FORGET = 'f' };

struct origin {
	struct origin *next, *next_by_id;
	uint64_t ino, gen; /* of the copy in the upper */
	struct overlay_id id;
};

struct identity {
	int dirfd, fd; /* fd < 0: nothing may be written */
	pthread_mutex_t lock; /* guards all below */
	uint64_t end; /* of the file */
	uint64_t live; /* bytes of it that are not history */
	size_t damage;
	bool has_key;
	uint8_t key[16];
	struct layer_identity *layers; /* paths owned */
	size_t nlayers;
	struct origin **by_upper, **by_id;
	size_t buckets, norigins;
};

/* ---- numbers in records ---- */
static void put_number(uint8_t **p, uint64_t v, int bytes)
{
	for (int i = bytes; i--; v >>= 8)
		(*p)[i] = (uint8_t)v;
	*p += bytes;
}

static uint64_t get_number(const uint8_t **p, int bytes)
{
	uint64_t v = 0;
	while (bytes--)
		v = v << 8 | *(*p)++;
	return v;
}

/* ---- origins in memory ---- */
static size_t mix(const struct identity *id, uint64_t a, uint64_t b)
{
	uint64_t h = (a ^ b >> 7) * 0x9e3779b97f4a7c15u;
	return (h ^ h >> 32) & (id->buckets - 1);
}

static void origin_link(struct identity *id, struct origin *o)
{
	struct origin **u = &id->by_upper[mix(id, o->ino, o->gen)], **i = &id->by_id[mix(id, o->id.ino, o->id.gen)];
	o->next = *u;
	*u = o;
	o->next_by_id = *i;
	*i = o;
}

static int origins_grow(struct identity *id)
{
	size_t old = id->buckets;
	struct origin **by_upper = id->by_upper, **upper = calloc(old * 2, sizeof *upper), **by_id = calloc(old * 2, sizeof *by_id);
	if (!upper || !by_id) {
		free(upper);
		free(by_id);
		return -ENOMEM;
	}
	free(id->by_id);
	id->by_upper = upper;
	id->by_id = by_id;
	id->buckets = old * 2;
	for (size_t i = 0; i < old; i++)
		for (struct origin *o = by_upper[i], *next; o; o = next) {
			next = o->next;
			origin_link(id, o);
		}
	free(by_upper);
	return 0;
}

static struct origin *origin_find(struct identity *id, uint64_t ino, uint64_t gen)
{
	struct origin *o = id->by_upper[mix(id, ino, gen)];
	while (o && (o->ino != ino || o->gen != gen))
		o = o->next;
	return o;
}

static void origin_drop(struct identity *id, struct origin *o)
{
	struct origin **u = &id->by_upper[mix(id, o->ino, o->gen)], **i = &id->by_id[mix(id, o->id.ino, o->id.gen)];
	while (*u != o)
		u = &(*u)->next;
	*u = o->next;
	while (*i != o)
		i = &(*i)->next_by_id;
	*i = o->next_by_id;
	id->norigins--;
	free(o);
}

static int origin_keep(struct identity *id, uint64_t ino, uint64_t gen, const struct overlay_id *origin)
{
	struct origin *old = origin_find(id, ino, gen), *o = malloc(sizeof *o);
	if (!o || (id->norigins >= id->buckets && origins_grow(id))) {
		free(o);
		return -ENOMEM;
	}
	if (old)
		origin_drop(id, old);
	*o = (struct origin){ .ino = ino, .gen = gen, .id = *origin };
	origin_link(id, o);
	id->norigins++;
	return 0;
}

/* ---- layers in memory ---- */
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

/* ---- records ---- */
static size_t encode(uint8_t *out, enum record type, const uint8_t *data, size_t len)
{
	static const uint8_t fixed[crypto_shorthash_KEYBYTES] = "overnfsd record";
	uint8_t *p = out;
	put_number(&p, type, 1);
	put_number(&p, len, 2);
	memcpy(p, data, len);
	crypto_shorthash(p + len, out, HEAD + len, fixed);
	return HEAD + len + SUM;
}

static size_t encode_origin(uint8_t *out, const struct origin *o)
{
	uint8_t data[ORIGIN_SIZE], *p = data;
	put_number(&p, o->ino, 8);
	put_number(&p, o->gen, 8);
	put_number(&p, o->id.layer, 2);
	put_number(&p, o->id.ino, 8);
	put_number(&p, o->id.gen, 8);
	return encode(out, ORIGIN, data, sizeof data);
}

static size_t encode_layer(uint8_t *out, const struct layer_identity *l)
{
	uint8_t data[MAX_DATA], *p = data;
	size_t len = strnlen(l->path, MAX_DATA - LAYER_SIZE);
	put_number(&p, l->number, 4);
	put_number(&p, l->age, 4);
	put_number(&p, l->kind, 1);
	memcpy(p, l->fs, 16);
	p += 16;
	put_number(&p, l->ino, 8);
	put_number(&p, l->gen, 8);
	memcpy(p, l->path, len);
	return encode(out, LAYER, data, LAYER_SIZE + len);
}

/* What the record says, taken into memory. */
static int learn(struct identity *id, enum record type, const uint8_t *data, size_t len)
{
	const uint8_t *p = data;
	if (type == KEY && len == 16) {
		memcpy(id->key, data, 16);
		id->has_key = true;
	} else if (type == ORIGIN && len == ORIGIN_SIZE) {
		struct overlay_id origin;
		uint64_t ino = get_number(&p, 8), gen = get_number(&p, 8);
		origin.layer = (uint32_t)get_number(&p, 2);
		origin.ino = get_number(&p, 8);
		origin.gen = get_number(&p, 8);
		return origin_keep(id, ino, gen, &origin);
	} else if (type == FORGET && len == 16) {
		uint64_t ino = get_number(&p, 8), gen = get_number(&p, 8);
		struct origin *o = origin_find(id, ino, gen);
		if (o)
			origin_drop(id, o);
	} else if (type == LAYER && len > LAYER_SIZE) {
		char path[MAX_DATA];
		struct layer_identity l = { .number = (uint32_t)get_number(&p, 4), .age = (uint32_t)get_number(&p, 4), .path = path };
		l.kind = (enum fs_kind)get_number(&p, 1);
		memcpy(l.fs, p, 16);
		p += 16;
		l.ino = get_number(&p, 8);
		l.gen = get_number(&p, 8);
		memcpy(path, p, len - LAYER_SIZE);
		path[len - LAYER_SIZE] = 0;
		return layer_keep(id, &l);
	}
	return 0; /* a type that a later version knows is not damage */
}

/* The length of the record at p, or 0: none stands here whole. */
static size_t record_at(const uint8_t *p, size_t left)
{
	uint8_t again[HEAD + MAX_DATA + SUM];
	const uint8_t *at = p + 1;
	if (left < HEAD + SUM)
		return 0;
	size_t len = get_number(&at, 2);
	if (len > MAX_DATA || HEAD + len + SUM > left)
		return 0;
	encode(again, p[0], at, len);
	return memcmp(again + HEAD + len, at + len, SUM) ? 0 : HEAD + len + SUM;
}

/* *good: the end of the last whole record. */
static int read_records(struct identity *id, const uint8_t *buf, size_t size, size_t *good)
{
	size_t at = size >= sizeof magic && !memcmp(buf, magic, sizeof magic) ? sizeof magic : 0;
	int rc = 0;
	while (!rc && at < size) {
		size_t len = record_at(buf + at, size - at);
		if (len)
			rc = learn(id, buf[at], buf + at + HEAD, len - HEAD - SUM);
		else
			id->damage++;
		at += len ? len : 1;
		*good = len ? at : *good;
	}
	return rc;
}

static uint64_t live_size(const struct identity *id)
{
	uint64_t size = sizeof magic + HEAD + SUM + 16 + id->norigins * (HEAD + SUM + ORIGIN_SIZE);
	for (size_t i = 0; i < id->nlayers; i++)
		size += HEAD + SUM + LAYER_SIZE + strlen(id->layers[i].path);
	return size;
}

static int read_file(int dirfd, uint8_t **buf, size_t *size)
{
	struct stat st;
	int fd = openat(dirfd, "identity", O_RDONLY | O_CLOEXEC), rc = 0;
	*size = 0;
	*buf = NULL;
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st) || !(*buf = malloc((size_t)st.st_size + 1)))
		rc = errno ? -errno : -ENOMEM;
	while (!rc && *size < (size_t)st.st_size) {
		ssize_t n = read(fd, *buf + *size, (size_t)st.st_size - *size);
		if (n <= 0)
			rc = n ? -errno : -EIO;
		else
			*size += (size_t)n;
	}
	close(fd);
	return rc;
}

static bool put_file(FILE *f, const uint8_t *buf, size_t len)
{
	return fwrite(buf, 1, len, f) == len;
}

/* The file anew, without history; shows by a rename. */
static int rewrite(struct identity *id)
{
	uint8_t buf[HEAD + MAX_DATA + SUM];
	int fd = openat(id->dirfd, "identity.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FILE *f = fd < 0 ? NULL : fdopen(dup(fd), "w");
	bool ok = f && put_file(f, (const uint8_t *)magic, sizeof magic);
	if (ok && id->has_key)
		ok = put_file(f, buf, encode(buf, KEY, id->key, 16));
	for (size_t i = 0; ok && i < id->nlayers; i++)
		ok = put_file(f, buf, encode_layer(buf, &id->layers[i]));
	for (size_t i = 0; ok && i < id->buckets; i++)
		for (struct origin *o = id->by_upper[i]; ok && o; o = o->next)
			ok = put_file(f, buf, encode_origin(buf, o));
	long size = f ? ftell(f) : -1;
	if (f && fclose(f))
		ok = false;
	if (!ok || size < 0 || fdatasync(fd) || renameat(id->dirfd, "identity.new", id->dirfd, "identity") || fsync(id->dirfd)) {
		int rc = errno ? -errno : -EIO;
		if (fd >= 0)
			close(fd);
		unlinkat(id->dirfd, "identity.new", 0);
		return rc;
	}
	if (id->fd >= 0)
		close(id->fd);
	id->fd = fd;
	id->end = (uint64_t)size;
	return 0;
}

static void set_aside(int dirfd, const uint8_t *buf, size_t size, void (*log)(int, const char *, ...))
{
	char name[32];
	int fd = -1;
	for (int n = 1; fd < 0 && n < 1000; n++) {
		snprintf(name, sizeof name, "identity.bad-%d", n);
		fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	}
	if (fd >= 0) {
		(void)!write(fd, buf, size);
		close(fd);
	}
	if (log)
		log(4, "the file of identities was damaged: set aside as %s; what could be read of it is kept", name);
}

int identity_open(int dirfd, bool writable, void (*log)(int level, const char *fmt, ...), struct identity **out)
{
	struct identity *id = calloc(1, sizeof *id);
	uint8_t *buf = NULL;
	size_t size = 0, good = 0;
	if (!id)
		return -ENOMEM;
	pthread_mutex_init(&id->lock, NULL);
	id->dirfd = dirfd;
	id->fd = -1;
	id->buckets = 1024;
	id->by_upper = calloc(id->buckets, sizeof(struct origin *));
	id->by_id = calloc(id->buckets, sizeof(struct origin *));
	int rc = id->by_upper && id->by_id ? read_file(dirfd, &buf, &size) : -ENOMEM;
	if (!rc)
		rc = read_records(id, buf, size, &good);
	bool torn = id->has_key && id->damage == size - good; /* by a crash, while the last one was written */
	if (!rc && id->damage && writable && !torn)
		set_aside(dirfd, buf, size, log);
	if (!rc && writable && (!size || id->damage || (size > MUCH_HISTORY && size > 2 * live_size(id)))) {
		rc = rewrite(id);
	} else if (!rc && writable) {
		id->fd = openat(dirfd, "identity", O_RDWR | O_CLOEXEC);
		id->end = size;
		rc = id->fd < 0 ? -errno : 0;
	}
	free(buf);
	if (rc)
		identity_close(id);
	else
		*out = id;
	return rc;
}

void identity_close(struct identity *id)
{
	for (size_t i = 0; id->by_upper && i < id->buckets; i++)
		for (struct origin *o = id->by_upper[i], *next; o; o = next) {
			next = o->next;
			free(o);
		}
	for (size_t i = 0; i < id->nlayers; i++)
		free((char *)id->layers[i].path);
	if (id->fd >= 0)
		close(id->fd);
	pthread_mutex_destroy(&id->lock);
	free(id->layers);
	free(id->by_upper);
	free(id->by_id);
	free(id);
}

size_t identity_damage(const struct identity *id)
{
	return id->damage;
}

/* lock held. On failure the file is as it was. */
static int append(struct identity *id, const uint8_t *record, size_t len, bool durable)
{
	if (id->fd < 0)
		return -EROFS;
	ssize_t n = pwrite(id->fd, record, len, (off_t)id->end);
	int rc = n == (ssize_t)len ? 0 : n < 0 ? -errno : -ENOSPC;
	if (!rc && durable && fdatasync(id->fd))
		rc = -errno;
	if (rc)
		(void)!ftruncate(id->fd, (off_t)id->end);
	else
		id->end += len;
	return rc;
}

bool identity_key(struct identity *id, uint8_t key[16])
{
	if (id->has_key)
		memcpy(key, id->key, 16);
	return id->has_key;
}

int identity_set_key(struct identity *id, const uint8_t key[16])
{
	uint8_t buf[HEAD + 16 + SUM];
	pthread_mutex_lock(&id->lock);
	int rc = append(id, buf, encode(buf, KEY, key, 16), true);
	if (!rc)
		memcpy(id->key, key, 16);
	id->has_key |= !rc;
	pthread_mutex_unlock(&id->lock);
	return rc;
}

const struct layer_identity *identity_layers(struct identity *id, size_t *n)
{
	*n = id->nlayers;
	return id->layers;
}

int identity_put_layer(struct identity *id, const struct layer_identity *l)
{
	uint8_t buf[HEAD + MAX_DATA + SUM];
	pthread_mutex_lock(&id->lock);
	int rc = append(id, buf, encode_layer(buf, l), true);
	if (!rc)
		rc = layer_keep(id, l);
	pthread_mutex_unlock(&id->lock);
	return rc;
}

int identity_put_origin(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, const struct overlay_id *origin)
{
	struct origin o = { .ino = upper_ino, .gen = upper_gen, .id = *origin };
	uint8_t buf[HEAD + ORIGIN_SIZE + SUM];
	pthread_mutex_lock(&id->lock);
	int rc = append(id, buf, encode_origin(buf, &o), true);
	if (!rc)
		rc = origin_keep(id, upper_ino, upper_gen, origin);
	pthread_mutex_unlock(&id->lock);
	return rc;
}

int identity_get_origin(struct identity *id, uint64_t upper_ino, uint64_t upper_gen, struct overlay_id *origin)
{
	if (!id)
		return -ENOENT;
	pthread_mutex_lock(&id->lock);
	const struct origin *o = id->norigins ? origin_find(id, upper_ino, upper_gen) : NULL;
	if (o)
		*origin = o->id;
	pthread_mutex_unlock(&id->lock);
	return o ? 0 : -ENOENT;
}

static struct origin *origin_of(struct identity *id, const struct overlay_id *origin)
{
	struct origin *o = id->by_id[mix(id, origin->ino, origin->gen)];
	while (o && (o->id.ino != origin->ino || o->id.gen != origin->gen || o->id.layer != origin->layer))
		o = o->next_by_id;
	return o;
}

bool identity_has_origins(struct identity *id)
{
	if (!id)
		return false;
	pthread_mutex_lock(&id->lock);
	bool has = id->norigins;
	pthread_mutex_unlock(&id->lock);
	return has;
}

uint64_t identity_copy_of(struct identity *id, const struct overlay_id *origin)
{
	pthread_mutex_lock(&id->lock);
	const struct origin *o = origin_of(id, origin);
	uint64_t ino = o ? o->ino : 0;
	pthread_mutex_unlock(&id->lock);
	return ino;
}

void identity_forget(struct identity *id, const struct overlay_id *origin)
{
	uint8_t data[16], *p = data, buf[HEAD + 16 + SUM];
	pthread_mutex_lock(&id->lock);
	struct origin *o = id->norigins ? origin_of(id, origin) : NULL;
	if (o) {
		put_number(&p, o->ino, 8);
		put_number(&p, o->gen, 8);
		append(id, buf, encode(buf, FORGET, data, 16), false); /* where it fails, the record names an inode that is no more: harmless */
		origin_drop(id, o);
	}
	pthread_mutex_unlock(&id->lock);
}

void identity_each_origin(struct identity *id, bool (*each)(void *arg, uint64_t upper_ino, uint64_t upper_gen, const struct overlay_id *origin), void *arg)
{
	bool more = true;
	pthread_mutex_lock(&id->lock);
	for (size_t i = 0; more && i < id->buckets; i++)
		for (struct origin *o = id->by_upper[i]; more && o; o = o->next)
			more = each(arg, o->ino, o->gen, &o->id);
	pthread_mutex_unlock(&id->lock);
}
