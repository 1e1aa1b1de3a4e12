/*
 * listing.c: merged directories. A listing is sorted by a keyed hash of the name, and the cookie is the hash: so an entry that
 * stays is returned exactly once, whatever else comes and goes, with no state that a restart could lose (M5).
 *
 * Memory stays bounded however big a directory is: a listing is a window on it, the names that follow a cookie up to a number of bytes.
 * Where a directory is bigger than a window, it is read again for the next one.
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

/* OWN_INODE: what it is in its layer is what it is in the merged tree (but for directories, which merge): d_ino tells its id. */
enum { OWN_INODE = 1, WHITEOUT = 2, IS_DIR = 4 };
enum { FIRST_COOKIE = 3, GETDENTS_BUFFER = 1 << 17 }; /* cookies 1 and 2 are "." and ".." */
enum { KEPT_BYTES = 64 << 20, WINDOWS = 8 }; /* a window is that part of the bytes of all that are kept */

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

/* Keyed like the handles: a hash that anybody can compute, anybody can make two names collide in, and one of them would be lost to a client
 * whose reply ended between the two. */
static uint64_t name_hash(const struct overlay *ov, const char *name)
{
	uint64_t h;
	crypto_shorthash((uint8_t *)&h, (const uint8_t *)name, strlen(name), ov->key);
	h = le64toh(h) & 0x7fffffffffffffff; /* some clients keep cookies signed */
	return h < FIRST_COOKIE ? h + FIRST_COOKIE : h;
}

static void listing_put(struct listing *l)
{
	if (!l || atomic_fetch_sub(&l->refs, 1) != 1)
		return;
	free(l->items);
	free(l->names);
	free(l);
}

static size_t listing_bytes(const struct listing *l)
{
	return sizeof *l + l->room * sizeof *l->items + l->names_room;
}

static int by_hash(const void *a, const void *b, void *names)
{
	const struct item *x = a, *y = b;
	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	int c = strcmp((char *)names + x->name, (char *)names + y->name);
	return c ? c : (int)x->layer - (int)y->layer;
}

static void sort_items(struct listing *l)
{
	if (l->count)
		qsort_r(l->items, l->count, sizeof *l->items, by_hash, l->names);
}

/* Makes the window end in its middle. All of one hash stay together: a whiteout and what it hides. */
static int narrow(struct listing *l)
{
	sort_items(l);
	size_t keep = l->count / 2;
	while (keep && keep < l->count && l->items[keep].hash == l->items[keep - 1].hash)
		keep++;
	char *names = malloc(l->names_room);
	if (!names)
		return -ENOMEM;
	l->count = keep;
	l->to = l->items[keep - 1].hash;
	l->names_len = 0;
	for (size_t i = 0; i < keep; i++) {
		size_t len = strlen(l->names + l->items[i].name) + 1;
		memcpy(names + l->names_len, l->names + l->items[i].name, len);
		l->items[i].name = (uint32_t)l->names_len;
		l->names_len += len;
	}
	free(l->names);
	l->names = names;
	return 0;
}

static int add_item(struct listing *l, const char *name, struct item item)
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
	memcpy(l->names + l->names_len, name, len);
	l->names_len += len;
	l->items[l->count++] = item;
	return l->count > 1 && l->count * sizeof item + l->names_len > l->max ? narrow(l) : 0;
}

/* ---- reading a layer's directory ---- */
struct linux_dirent64 {
	uint64_t d_ino;
	int64_t d_off;
	uint16_t d_reclen;
	uint8_t d_type;
	char d_name[];
};

/* 1: a whiteout, 0: not (any more), or an error: what can't be told must not show. */
static int hides(struct overlay *ov, int fd, const struct linux_dirent64 *d, bool x)
{
	struct statx st;
	char v;
	if (d->d_type != DT_CHR && d->d_type != DT_UNKNOWN && !(x && d->d_type == DT_REG))
		return 0;
	int rc = statx_at(fd, d->d_name, &st);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	if (format_is_whiteout(&st))
		return 1;
	if (!x || !S_ISREG(st.stx_mode) || st.stx_size)
		return 0;
	ssize_t n = format_getxattr(ov, fd, d->d_name, "whiteout", &v, 1);
	return n >= 0 || n == -ERANGE ? 1 : n == -ENODATA || n == -ENOENT ? 0 : (int)n;
}

/* Its own open file each time: the position is not shared. */
static int open_to_read(struct overlay *ov, struct place *place)
{
	struct fdent *path;
	int rc = place_pin(ov, place, FD_PATH, &path);
	if (rc)
		return rc;
	int fd = open_beneath(path->fd, "", O_RDONLY | O_DIRECTORY | O_NOATIME);
	if (fd == -EPERM)
		fd = open_beneath(path->fd, "", O_RDONLY | O_DIRECTORY);
	place_unpin(ov, path);
	return fd;
}

/* Calls each for every name in the open directory, until it returns other than 0, which then is the result. */
typedef int each_name(void *arg, int fd, const struct linux_dirent64 *d);
static int read_names(struct overlay *ov, const struct object *dir, int fd, each_name *each, void *arg)
{
	char *buf = malloc(GETDENTS_BUFFER);
	int rc = buf ? 0 : -ENOMEM;
	long n = 0;
	for (int reads = 0; !rc && (n = syscall(SYS_getdents64, fd, buf, GETDENTS_BUFFER)) > 0; reads++) {
		if (reads == 1)
			will_block(ov); /* a big one */
		for (long at = 0; at < n && !rc;) {
			struct linux_dirent64 *d = (void *)(buf + at);
			at += d->d_reclen;
			if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..") ||
			    (ov->reserved_dir && dir == ov->root && !strcmp(d->d_name, ".overnfsd")))
				continue;
			rc = each(arg, fd, d);
		}
	}
	if (!rc && n < 0)
		rc = -errno;
	free(buf);
	return rc;
}

/* The same for what stands at a place of the directory; nothing may, any more. */
static int read_layer(struct overlay *ov, const struct object *dir, struct place *place, each_name *each, void *arg)
{
	int fd = open_to_read(ov, place);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	int rc = read_names(ov, dir, fd, each, arg);
	close(fd);
	return rc;
}

/* ---- merging ---- */
struct part { /* one layer's part of a listing that is being read */
	struct overlay *ov;
	struct listing *l;
	uint16_t layer;
	uint8_t flags;
	bool x; /* may hold xattr whiteouts */
};

static int gather(void *arg, int fd, const struct linux_dirent64 *d)
{
	struct part *p = arg;
	struct item item = { .hash = name_hash(p->ov, d->d_name), .ino = d->d_ino, .layer = p->layer, .flags = p->flags };
	if (item.hash <= p->l->from || item.hash > p->l->to)
		return 0;
	int hidden = hides(p->ov, fd, d, p->x);
	if (hidden < 0)
		return hidden;
	if (hidden)
		item.flags |= WHITEOUT;
	if (d->d_type == DT_DIR || d->d_type == DT_UNKNOWN)
		item.flags |= IS_DIR; /* or it may be one: it is looked up */
	return add_item(p->l, d->d_name, item);
}

/* Of the entries with one name, the topmost stays, unless it is a whiteout. */
static void merge_items(struct listing *l)
{
	size_t out = 0;
	for (size_t i = 0, next; i < l->count; i = next) {
		for (next = i + 1; next < l->count && l->items[next].hash == l->items[i].hash &&
				   !strcmp(l->names + l->items[next].name, l->names + l->items[i].name);
		     next++)
			l->items[i].flags &= ~OWN_INODE;
		if (!(l->items[i].flags & WHITEOUT))
			l->items[out++] = l->items[i];
	}
	l->count = out;
}

/* Gives back what growing by doubling took too much. */
static void fit(struct listing *l)
{
	struct item *items = l->count ? realloc(l->items, l->count * sizeof *items) : NULL;
	char *names = l->names_len ? realloc(l->names, l->names_len) : NULL;
	if (items) {
		l->items = items;
		l->room = l->count;
	}
	if (names) {
		l->names = names;
		l->names_room = l->names_len;
	}
}

static size_t kept_bytes(const struct overlay *ov)
{
	return ov->config.listing_bytes ? ov->config.listing_bytes : KEPT_BYTES;
}

/* In a directory that is not marked impure, all that the upper holds was born there. The mark is looked for afterwards: it is made before the
 * first entry that it tells of. */
static void mark_own(struct part *p, int fd)
{
	if (!p->ov->layers[0].has_handles || !format_is_pure(p->ov, fd))
		return;
	for (size_t i = 0; i < p->l->count; i++)
		p->l->items[i].flags |= OWN_INODE;
}

/* What stands at the place; nothing may, any more. */
static int read_part(struct part *p, const struct object *dir, struct place *place, bool upper)
{
	int fd = open_to_read(p->ov, place);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	pthread_rwlock_unlock(&p->ov->rename_lock);
	int rc = read_names(p->ov, dir, fd, gather, p);
	if (!rc && upper)
		mark_own(p, fd);
	close(fd);
	pthread_rwlock_rdlock(&p->ov->rename_lock);
	return rc;
}

static void in_order(struct overlay *ov, struct listing *l)
{
	pthread_rwlock_unlock(&ov->rename_lock);
	sort_items(l);
	merge_items(l);
	fit(l);
	pthread_rwlock_rdlock(&ov->rename_lock);
}

/* rename_lock shared. It is let go while the disk is read, which may take long: a rename need not wait for that, nor those who come behind it. What
 * comes and goes meanwhile may show or not. -ESTALE: so did the directory. */
static int listing_read(struct overlay *ov, struct object *dir, uint64_t from, struct listing **out)
{
	struct listing *l = calloc(1, sizeof *l);
	int rc = 0;
	if (!l)
		return -ENOMEM;
	*l = (struct listing){ .refs = 1, .from = from < FIRST_COOKIE ? 0 : from, .to = UINT64_MAX, .max = kept_bytes(ov) / WINDOWS };
	struct part p = { .ov = ov, .l = l };
	if (dir->upper)
		rc = read_part(&p, dir, dir->upper, true);
	for (size_t i = 0; !rc && i < dir->nlower; i++) {
		struct layer *layer = dir->lower[i]->layer;
		p.layer = (uint16_t)(layer - ov->layers);
		p.flags = layer->has_handles ? OWN_INODE : 0; /* elsewhere d_ino may be anything */
		p.x = dir->lower_x[i];
		rc = read_part(&p, dir, dir->lower[i], false);
	}
	if (!rc)
		in_order(ov, l);
	if (!rc && dir->dead)
		rc = -ESTALE;
	if (rc)
		listing_put(l);
	else
		*out = l;
	return rc;
}

int listing_walk(struct overlay *ov, struct object *dir, listing_visit *visit, void *arg)
{
	struct listing *l;
	uint64_t from = 0;
	int rc = 0;
	while (!rc && from != UINT64_MAX && !(rc = listing_read(ov, dir, from, &l))) { /* window by window */
		for (size_t i = 0; i < l->count && !rc; i++) {
			const struct item *item = &l->items[i];
			rc = visit(arg, l->names + item->name, &ov->layers[item->layer], item->ino, item->flags & IS_DIR);
		}
		from = l->to;
		listing_put(l);
	}
	return rc;
}

/* ---- is it empty? ---- */
struct emptiness {
	struct overlay *ov;
	struct object *dir;
	size_t above; /* number of the directory's places that were looked at: what they hold are whiteouts */
	bool x;
};

static struct place *nth_place(const struct object *dir, size_t n)
{
	return dir->upper ? n ? dir->lower[n - 1] : dir->upper : dir->lower[n];
}

/* -ENOTEMPTY at the first name that shows: neither a whiteout nor hidden by one. Holds no names: a removed directory's may be a million. */
static int look_for_any(void *arg, int fd, const struct linux_dirent64 *d)
{
	struct emptiness *e = arg;
	int hidden = hides(e->ov, fd, d, e->x);
	for (size_t i = 0; i < e->above && !hidden; i++) {
		struct fdent *dir;
		struct statx st;
		int rc = place_pin(e->ov, nth_place(e->dir, i), FD_PATH, &dir);
		if (!rc) {
			rc = statx_at(dir->fd, d->d_name, &st);
			hidden = !rc;
			place_unpin(e->ov, dir);
		}
		if (rc && rc != -ENOENT)
			return rc;
	}
	return hidden < 0 ? hidden : hidden ? 0 : -ENOTEMPTY;
}

int directory_is_empty(struct overlay *ov, struct object *dir)
{
	struct emptiness e = { .ov = ov, .dir = dir };
	int rc = 0;
	for (size_t n = dir->nlower + (dir->upper ? 1 : 0); !rc && e.above < n; e.above++) {
		e.x = !(dir->upper && !e.above) && dir->lower_x[e.above - (dir->upper ? 1 : 0)];
		rc = read_layer(ov, dir, nth_place(dir, e.above), look_for_any, &e);
	}
	return rc;
}

/* ---- listings that are kept ---- */
static void drop_kept(struct overlay *ov, struct kept_listing *k)
{
	ov->listings_bytes -= k->l ? listing_bytes(k->l) : 0;
	listing_put(k->l);
	*k = (struct kept_listing){ 0 };
}

/* Where a directory's listings are: WAYS of them. */
static struct kept_listing *kept_of(struct overlay *ov, const struct object *dir)
{
	uint64_t h = (uintptr_t)dir * 0x9e3779b97f4a7c15u;
	return &ov->listings[(h >> 32) % (LISTINGS / LISTING_WAYS) * LISTING_WAYS];
}

/* The least recently used of a directory's; empty ones first. */
static struct kept_listing *oldest_kept(struct kept_listing *kept)
{
	struct kept_listing *oldest = kept;
	for (struct kept_listing *k = kept; k < kept + LISTING_WAYS; k++)
		if (k->used < oldest->used)
			oldest = k;
	return oldest;
}

static struct kept_listing *oldest_of_all(struct overlay *ov)
{
	struct kept_listing *oldest = NULL;
	for (struct kept_listing *k = ov->listings; k < ov->listings + LISTINGS; k++)
		if (k->l && (!oldest || k->used < oldest->used))
			oldest = k;
	return oldest;
}

static void make_room(struct overlay *ov, size_t bytes)
{
	struct kept_listing *k;
	while (ov->listings_bytes + bytes > kept_bytes(ov) && (k = oldest_of_all(ov)))
		drop_kept(ov, k);
}

/* A scan from the start throws away the other windows: they may be older than the scan, and would miss what was there when it began. */
static void keep(struct overlay *ov, struct object *dir, struct listing *l, unsigned changes)
{
	struct kept_listing *kept = kept_of(ov, dir);
	pthread_mutex_lock(&ov->listings_lock);
	for (struct kept_listing *k = kept; k < kept + LISTING_WAYS; k++)
		if (k->dir == dir && (!l->from || k->l->from == l->from))
			drop_kept(ov, k);
	make_room(ov, listing_bytes(l));
	struct kept_listing *k = oldest_kept(kept);
	drop_kept(ov, k);
	atomic_fetch_add(&l->refs, 1);
	*k = (struct kept_listing){ .dir = dir, .l = l, .changes = changes, .used = ++ov->listings_clock };
	ov->listings_bytes += listing_bytes(l);
	pthread_mutex_unlock(&ov->listings_lock);
}

/* A scan that goes on uses the window that it finds, if one is kept: what came or went since may show or not, what stayed
 * shows once. A scan that begins needs one in which nothing changed. */
static struct listing *find_kept(struct overlay *ov, struct object *dir, uint64_t cookie, uint64_t version)
{
	struct listing *l = NULL;
	uint64_t from = cookie < FIRST_COOKIE ? 0 : cookie;
	struct kept_listing *kept = kept_of(ov, dir);
	pthread_mutex_lock(&ov->listings_lock);
	for (struct kept_listing *k = kept; !l && k < kept + LISTING_WAYS; k++)
		if (k->dir == dir && k->l->from <= from && from < k->l->to &&
		    (cookie || (k->l->version == version && k->changes == atomic_load(&dir->changes)))) {
			l = k->l;
			atomic_fetch_add(&l->refs, 1);
			k->used = ++ov->listings_clock;
		}
	pthread_mutex_unlock(&ov->listings_lock);
	return l;
}

/* rename_lock shared, and let go now and then. -ESTALE: the directory was removed meanwhile. */
static int listing_get(struct overlay *ov, struct object *dir, uint64_t cookie, struct listing **out)
{
	struct overlay_attr a;
	int rc = attr_get(ov, dir, &a);
	if (rc)
		return rc;
	uint64_t version = (uint64_t)a.ctime.tv_sec * 1000000000u + (uint64_t)a.ctime.tv_nsec;
	if ((*out = find_kept(ov, dir, cookie, version)))
		return 0;
	/* One reader at a time: the others find what it read, and not as many are in memory as there are threads. Nobody waits for it with rename_lock
	 * held, which it takes. */
	pthread_mutex_t *reader = &ov->listing_readers[(uintptr_t)dir / sizeof *dir % LISTING_READERS];
	pthread_rwlock_unlock(&ov->rename_lock);
	pthread_mutex_lock(reader);
	pthread_rwlock_rdlock(&ov->rename_lock);
	if (dir->dead) {
		rc = -ESTALE;
	} else if (!(*out = find_kept(ov, dir, cookie, version))) {
		unsigned changes = atomic_load(&dir->changes);
		rc = listing_read(ov, dir, cookie, out);
		if (!rc) {
			(*out)->version = version;
			keep(ov, dir, *out, changes);
		}
	}
	pthread_mutex_unlock(reader);
	return rc;
}

void listing_forget(struct overlay *ov, struct object *dir)
{
	struct kept_listing *kept = kept_of(ov, dir);
	pthread_mutex_lock(&ov->listings_lock);
	for (struct kept_listing *k = kept; k < kept + LISTING_WAYS; k++)
		if (k->dir == dir)
			drop_kept(ov, k);
	pthread_mutex_unlock(&ov->listings_lock);
}

/* ---- giving entries out ---- */
/* The entry's file id, as GETATTR says it: of a name in one lower alone it can be told from d_ino; the others are looked up. */
static int resolve(struct overlay *ov, struct object *dir, const char *name, const struct item *item, bool plus, uint64_t *fileid,
		   struct object **o)
{
	*o = NULL;
	if (!plus && item->flags & OWN_INODE && !(item->flags & IS_DIR)) {
		struct overlay_id id = { .layer = ov->layers[item->layer].number, .ino = item->ino };
		*fileid = id_fileid(&id);
		return 0;
	}
	if (!(*o = table_find_name(ov, dir, name))) {
		pthread_mutex_lock(&dir->dir_lock);
		int rc = lookup_listed(ov, dir, name, &ov->layers[item->layer], o);
		pthread_mutex_unlock(&dir->dir_lock);
		if (rc == -ENOENT)
			return rc;
		if (rc) { /* broken: it stands there all the same, as in Linux, though it can't be looked up */
			struct overlay_id id = { .layer = ov->layers[item->layer].number, .ino = item->ino };
			*fileid = id_fileid(&id);
			*o = NULL;
			return 0;
		}
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

/* What the window holds behind cookie, as long as it is wanted. */
static void give_window(struct overlay *ov, struct scan *s, struct object *dir, const struct listing *l, uint64_t cookie)
{
	for (size_t i = first_behind(l, cookie); s->more && i < l->count; i++) {
		const struct item *item = &l->items[i];
		struct overlay_entry e = { .name = l->names + item->name, .cookie = item->hash };
		struct object *o;
		if (resolve(ov, dir, e.name, item, s->plus, &e.fileid, &o))
			continue; /* gone since */
		give(ov, s, &e, o);
		overlay_put(ov, o);
	}
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
		rc = listing_get(ov, dir, cookie, &l);
	if (!rc)
		give_dots(ov, &s, dir, cookie);
	while (!rc && s.more) {
		give_window(ov, &s, dir, l, cookie);
		if (!s.more || l->to == UINT64_MAX)
			break;
		cookie = l->to;
		listing_put(l);
		l = NULL;
		rc = listing_get(ov, dir, cookie, &l);
	}
	*eof = !rc && s.more;
	pthread_rwlock_unlock(&ov->rename_lock);
	listing_put(l);
	return rc;
}
