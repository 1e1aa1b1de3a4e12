/*
 * kept.c: listings that are kept for the calls that follow, so that a directory is not read anew for each. They are few for a directory, and
 * together bounded in bytes; one that is thrown away is read again.
 */
#include "listing.h"

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

int listing_get(struct overlay *ov, struct object *dir, uint64_t cookie, struct listing **out)
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
