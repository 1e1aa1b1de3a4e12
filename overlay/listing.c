/*
 * listing.c: merged directories. A listing is sorted by a keyed hash of the name, and the cookie is the hash: so an entry that
 * stays is returned exactly once, whatever else comes and goes, with no state that a restart could lose (M5).
 *
 * Memory stays bounded however big a directory is: a listing is a window on it, the names that follow a cookie up to a number of bytes.
 * Where a directory is bigger than a window, it is read again for the next one.
 */
#include "listing.h"

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GETDENTS_BUFFER = 1 << 17, KEPT_BYTES = 64 << 20, WINDOWS = 8 }; /* a window is that part of the bytes of all that are kept */

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

size_t listing_bytes(const struct listing *l)
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

size_t kept_bytes(const struct overlay *ov)
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

int listing_read(struct overlay *ov, struct object *dir, uint64_t from, struct listing **out)
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
