/*
 * listing.c: merged directories. A listing is sorted by a keyed hash of the name, and the cookie is the hash: so an entry that
 * stays is returned exactly once, whatever else comes and goes, with no state that a restart could lose (M5).
 */
#include "internal.h"

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ONLY_ONE_LAYER = 1, WHITEOUT = 2, IS_DIR = 4, XATTR_WHITEOUTS = 8 };
enum { FIRST_COOKIE = 3, GETDENTS_BUFFER = 1 << 17 }; /* cookies 1 and 2 are "." and ".." */

struct item {
	uint64_t hash; /* cookie */
	uint64_t ino;
	uint32_t name; /* offset in names */
	uint16_t layer; /* index in ov->layers */
	uint8_t flags;
};

struct listing {
	atomic_uint refs;
	struct item *items;
	size_t count, room;
	char *names;
	size_t names_len, names_room;
	uint64_t version; /* of the directory when it was read */
};

/* Keyed like the handles: a hash that anybody can compute, anybody can make two names collide in, and one of them would be lost to a client
 * whose reply ended between the two. */
static uint64_t name_hash(const struct overlay *ov, const char *name)
{
	uint64_t h;
	crypto_shorthash((uint8_t *)&h, (const uint8_t *)name, strlen(name), ov->key);
	h = le64toh(h) & 0x7fffffffffffffff; /* some clients keep cookies signed */
	return h < FIRST_COOKIE ? h + FIRST_COOKIE : h;
}

void listing_put(struct listing *l)
{
	if (!l || atomic_fetch_sub(&l->refs, 1) != 1)
		return;
	free(l->items);
	free(l->names);
	free(l);
}

static int add_item(const struct overlay *ov, struct listing *l, const char *name, struct item item)
{
	size_t len = strlen(name) + 1;
	if (l->count == l->room) {
		size_t room = l->room ? l->room * 2 : 64;
		struct item *more = realloc(l->items, room * sizeof *more);
		if (!more)
			return -ENOMEM;
		l->items = more;
		l->room = room;
	}
	if (l->names_len + len > l->names_room) {
		size_t room = l->names_room ? l->names_room * 2 : 1024;
		char *more = room > UINT32_MAX ? NULL : realloc(l->names, room);
		if (!more)
			return -ENOMEM;
		l->names = more;
		l->names_room = room;
	}
	item.name = (uint32_t)l->names_len;
	item.hash = name_hash(ov, name);
	memcpy(l->names + l->names_len, name, len);
	l->names_len += len;
	l->items[l->count++] = item;
	return 0;
}

struct linux_dirent64 {
	uint64_t d_ino;
	int64_t d_off;
	uint16_t d_reclen;
	uint8_t d_type;
	char d_name[];
};

static bool hides(struct overlay *ov, int fd, const struct linux_dirent64 *d, bool x)
{
	struct statx st;
	char v;
	if (d->d_type != DT_CHR && d->d_type != DT_UNKNOWN && !(x && d->d_type == DT_REG))
		return false;
	if (statx_at(fd, d->d_name, &st))
		return false;
	return format_is_whiteout(&st) || (x && S_ISREG(st.stx_mode) && !st.stx_size && format_getxattr(ov, fd, d->d_name, "whiteout", &v, 1) >= 0);
}

/* Reads one layer's part. Each call has its own open file: the position is not shared. */
static int read_layer(struct overlay *ov, struct object *dir, struct place *place, bool x, uint8_t flags, struct listing *l)
{
	struct fdent *path;
	char *buf = malloc(GETDENTS_BUFFER);
	if (!buf)
		return -ENOMEM;
	int rc = place_pin(ov, place, FD_PATH, &path);
	if (rc) {
		free(buf);
		return rc == -ENOENT ? 0 : rc;
	}
	int fd = open_beneath(path->fd, "", O_RDONLY | O_DIRECTORY | O_NOATIME);
	if (fd == -EPERM)
		fd = open_beneath(path->fd, "", O_RDONLY | O_DIRECTORY);
	long n = rc = fd < 0 ? fd : 0;
	while (!rc && (n = syscall(SYS_getdents64, fd, buf, GETDENTS_BUFFER)) > 0)
		for (long at = 0; at < n && !rc;) {
			struct linux_dirent64 *d = (void *)(buf + at);
			at += d->d_reclen;
			if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..") ||
			    (ov->reserved_dir && dir == ov->root && !strcmp(d->d_name, ".overnfsd")))
				continue;
			struct item item = { .ino = d->d_ino, .layer = (uint16_t)(place->layer - ov->layers), .flags = flags };
			if (hides(ov, fd, d, x))
				item.flags |= WHITEOUT;
			if (d->d_type == DT_DIR)
				item.flags |= IS_DIR;
			rc = add_item(ov, l, d->d_name, item);
		}
	if (!rc && n < 0)
		rc = -errno;
	if (fd >= 0)
		close(fd);
	place_unpin(ov, path);
	free(buf);
	return rc;
}

static int by_hash(const void *a, const void *b, void *names)
{
	const struct item *x = a, *y = b;
	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	int c = strcmp((char *)names + x->name, (char *)names + y->name);
	return c ? c : (int)x->layer - (int)y->layer;
}

/* Of the entries with one name, the topmost stays, unless it is a whiteout. */
static void merge_items(struct listing *l)
{
	size_t out = 0;
	for (size_t i = 0, next; i < l->count; i = next) {
		for (next = i + 1; next < l->count && l->items[next].hash == l->items[i].hash &&
				   !strcmp(l->names + l->items[next].name, l->names + l->items[i].name);
		     next++)
			l->items[i].flags &= ~ONLY_ONE_LAYER;
		if (!(l->items[i].flags & WHITEOUT))
			l->items[out++] = l->items[i];
	}
	l->count = out;
}

static int listing_read(struct overlay *ov, struct object *dir, struct listing **out)
{
	struct listing *l = calloc(1, sizeof *l);
	int rc = 0;
	if (!l)
		return -ENOMEM;
	atomic_store(&l->refs, 1);
	if (dir->upper)
		rc = read_layer(ov, dir, dir->upper, false, 0, l);
	for (size_t i = 0; !rc && i < dir->nlower; i++)
		rc = read_layer(ov, dir, dir->lower[i], dir->lower_x[i], ONLY_ONE_LAYER, l);
	if (rc) {
		listing_put(l);
		return rc;
	}
	if (l->count)
		qsort_r(l->items, l->count, sizeof *l->items, by_hash, l->names);
	merge_items(l);
	*out = l;
	return 0;
}

int directory_is_empty(struct overlay *ov, struct object *dir)
{
	struct listing *l;
	int rc = listing_read(ov, dir, &l);
	if (rc)
		return rc;
	rc = l->count ? -ENOTEMPTY : 0;
	listing_put(l);
	return rc;
}

/* A scan that goes on uses the listing that it began with, where that is still kept: what came or went since may show or not, what stayed
 * shows once. A scan that begins reads anew if anything changed. */
static int listing_get(struct overlay *ov, struct object *dir, bool from_start, struct listing **out)
{
	struct overlay_attr a;
	int rc = attr_get(ov, dir, &a);
	if (rc)
		return rc;
	uint64_t version = (uint64_t)a.ctime.tv_sec * 1000000000u + (uint64_t)a.ctime.tv_nsec;
	pthread_mutex_lock(&ov->listings_lock);
	for (int i = 0; i < LISTINGS; i++)
		if (ov->listings[i].dir == dir && (!from_start || (ov->listings[i].l->version == version && ov->listings[i].changes == atomic_load(&dir->changes)))) {
			*out = ov->listings[i].l;
			atomic_fetch_add(&(*out)->refs, 1);
			pthread_mutex_unlock(&ov->listings_lock);
			return 0;
		}
	pthread_mutex_unlock(&ov->listings_lock);
	unsigned changes = atomic_load(&dir->changes);
	rc = listing_read(ov, dir, out);
	if (rc)
		return rc;
	(*out)->version = version;
	pthread_mutex_lock(&ov->listings_lock);
	int slot = -1;
	for (int i = 0; i < LISTINGS; i++)
		if (ov->listings[i].dir == dir)
			slot = i;
	if (slot < 0)
		slot = (int)(ov->next_listing++ % LISTINGS);
	struct listing *old = ov->listings[slot].l;
	ov->listings[slot].dir = dir; /* compared by address and forgotten with the object */
	ov->listings[slot].l = *out;
	ov->listings[slot].changes = changes;
	atomic_fetch_add(&(*out)->refs, 1);
	pthread_mutex_unlock(&ov->listings_lock);
	listing_put(old);
	return 0;
}

void listing_forget(struct overlay *ov, struct object *dir)
{
	struct listing *old = NULL;
	pthread_mutex_lock(&ov->listings_lock);
	for (int i = 0; i < LISTINGS; i++)
		if (ov->listings[i].dir == dir) {
			old = ov->listings[i].l;
			ov->listings[i].dir = NULL;
			ov->listings[i].l = NULL;
		}
	pthread_mutex_unlock(&ov->listings_lock);
	listing_put(old);
}

/* The entry's file id, as GETATTR says it: of a name in one lower alone it can be told from d_ino; the others are looked up. */
static int resolve(struct overlay *ov, struct object *dir, const char *name, const struct item *item, bool plus, uint64_t *fileid,
		   struct object **o)
{
	*o = NULL;
	if (!plus && item->flags & ONLY_ONE_LAYER && !(item->flags & IS_DIR)) {
		struct overlay_id id = { .layer = ov->layers[item->layer].number, .ino = item->ino };
		*fileid = id_fileid(&id);
		return 0;
	}
	if (!(*o = table_find_name(ov, dir, name))) {
		pthread_mutex_lock(&dir->dir_lock);
		int rc = lookup_locked(ov, dir, name, o);
		pthread_mutex_unlock(&dir->dir_lock);
		if (rc)
			return rc;
	}
	*fileid = id_fileid(&(*o)->id);
	return 0;
}

struct scan {
	bool plus, more;
	overlay_fill *fill;
	void *arg;
};

static void give(struct overlay *ov, struct scan *s, const struct overlay_entry *e, struct object *o)
{
	struct overlay_attr a;
	bool have = s->plus && o && !attr_get(ov, o, &a);
	s->more = s->fill(s->arg, e, have ? o : NULL, have ? &a : NULL);
}

static void give_dots(struct overlay *ov, struct scan *s, struct object *dir, uint64_t cookie)
{
	struct object *up = dir->parent ? dir->parent : dir;
	if (cookie < 1)
		give(ov, s, &(struct overlay_entry){ ".", id_fileid(&dir->id), 1 }, dir);
	if (s->more && cookie < 2)
		give(ov, s, &(struct overlay_entry){ "..", id_fileid(&up->id), 2 }, up);
}

static size_t first_behind(const struct listing *l, uint64_t cookie)
{
	size_t low = 0, high = l->count;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (l->items[mid].hash > cookie)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

int overlay_readdir(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, uint64_t cookie, bool plus,
		    overlay_fill *fill, void *arg, bool *eof)
{
	struct scan s = { .plus = plus, .more = true, .fill = fill, .arg = arg };
	struct listing *l = NULL;
	*eof = false;
	if (dir->type != S_IFDIR)
		return -ENOTDIR;
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = dir->dead ? -ESTALE : require(ov, cred, dir, OVERLAY_READ);
	if (!rc)
		rc = listing_get(ov, dir, cookie == 0, &l);
	if (rc)
		goto out;
	give_dots(ov, &s, dir, cookie);
	size_t i = first_behind(l, cookie);
	for (; s.more && i < l->count; i++) {
		const struct item *item = &l->items[i];
		struct overlay_entry e = { .name = l->names + item->name, .cookie = item->hash };
		struct object *o;
		if (resolve(ov, dir, e.name, item, plus, &e.fileid, &o))
			continue; /* gone since, or broken: then it can't be reached either */
		give(ov, &s, &e, o);
		overlay_put(ov, o);
	}
	*eof = s.more;
out:
	pthread_rwlock_unlock(&ov->rename_lock);
	listing_put(l);
	return rc;
}
