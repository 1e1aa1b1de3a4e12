/* object.c: the table of objects in memory, bounded, found by id and by (parent, name). */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* By file id: the map's parents are known by that alone. Of two lives of an inode, one is dead. */
static size_t id_bucket(const struct table *t, uint64_t fileid)
{
	uint64_t h = fileid * 0x9e3779b97f4a7c15u;
	return (h ^ h >> 29) & (t->buckets - 1);
}

static size_t name_bucket(const struct table *t, const struct object *parent, const char *name)
{
	uint64_t h = (uintptr_t)parent >> 4;
	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3u;
	return (h ^ h >> 31) & (t->buckets - 1);
}

/* All empty. In large pages where the kernel has them: a look into a random bucket costs as much for the page table as for the bucket. */
static struct object **new_buckets(size_t n)
{
	void *p = mmap(NULL, n * sizeof(struct object *), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	(void)!madvise(p, n * sizeof(struct object *), MADV_HUGEPAGE);
	return p;
}

static void free_buckets(struct object **buckets, size_t n)
{
	if (buckets)
		munmap(buckets, n * sizeof *buckets);
}

int table_init(struct table *t, size_t max)
{
	pthread_mutex_init(&t->lock, NULL);
	slab_init(&t->slab, CACHE_LINE);
	t->max = max;
	for (t->buckets = 1024; t->buckets < max && t->buckets < 1u << 22; t->buckets *= 2)
		;
	t->by_id = new_buckets(t->buckets);
	t->by_name = new_buckets(t->buckets);
	t->clock = calloc(1, sizeof *t->clock);
	if (!t->by_id || !t->by_name || !t->clock)
		return -ENOMEM;
	t->clock->clock_next = t->clock->clock_prev = t->hand = t->clock;
	return 0;
}

struct object *object_get(struct object *o)
{
	atomic_fetch_add(&o->refs, 1);
	return o;
}

struct object *object_parent(struct overlay *ov, struct object *o)
{
	pthread_mutex_lock(&ov->table.lock);
	struct object *parent = o->parent ? object_get(o->parent) : NULL;
	pthread_mutex_unlock(&ov->table.lock);
	return parent;
}

bool object_is_up(struct object *o, bool with_data)
{
	pthread_mutex_lock(&o->lock);
	bool up = o->upper && !(with_data && o->metacopy);
	pthread_mutex_unlock(&o->lock);
	return up;
}

bool object_is_going(int rc, int *tries)
{
	enum { TRIES = 50, PAUSE_US = 200 };
	if (rc != -ESTALE || ++*tries > TRIES)
		return false;
	usleep(PAUSE_US);
	return true;
}

/* o->lock held. *dead: it is marked. */
typedef int pin_place(struct overlay *ov, struct place *place, enum fd_kind kind, struct fdent **ent);
static int pin_locked(struct overlay *ov, struct object *o, pin_place *pin, enum fd_kind kind, struct fdent **ent, bool *dead)
{
	struct place *p = o->upper;
	if (kind == FD_READ && o->metacopy)
		p = o->data;
	else if (kind != FD_WRITE && !p)
		p = o->lower[0];
	*dead = o->dead || (!p && !o->metacopy);
	if (*dead)
		return object_gone(o);
	int rc = !p ? -EIO /* a metacopy whose data is nowhere */ : pin(ov, p, kind, ent);
	return rc == -ENOENT || rc == -ENOTDIR || rc == -ENXIO /* a whiteout stands there */ ? -ESTALE : rc;
}

static int pin_by(struct overlay *ov, struct object *o, pin_place *pin, enum fd_kind kind, struct fdent **ent)
{
	int tries = 0, rc;
	bool dead;
	do {
		pthread_mutex_lock(&o->lock);
		rc = pin_locked(ov, o, pin, kind, ent, &dead);
		pthread_mutex_unlock(&o->lock);
	} while (!dead && object_is_going(rc, &tries));
	return rc;
}

int object_pin(struct overlay *ov, struct object *o, enum fd_kind kind, struct fdent **ent)
{
	return pin_by(ov, o, place_pin_lent, kind, ent);
}

int object_pin_unlent(struct overlay *ov, struct object *o, enum fd_kind kind, struct fdent **ent)
{
	return pin_by(ov, o, place_pin, kind, ent);
}

static void unname_locked(struct table *t, struct object *o)
{
	if (!o->named)
		return;
	struct object **p = &t->by_name[name_bucket(t, o->parent, o->name)];
	while (*p && *p != o)
		p = &(*p)->name_next;
	if (*p)
		*p = o->name_next;
	o->named = false;
}

static void name_locked(struct table *t, struct object *o)
{
	size_t b = name_bucket(t, o->parent, o->name);
	o->name_next = t->by_name[b];
	t->by_name[b] = o;
	o->named = true;
}

static void unhash_locked(struct table *t, struct object *o)
{
	if (!o->hashed)
		return;
	unname_locked(t, o);
	struct object **p = &t->by_id[id_bucket(t, id_fileid(&o->id))];
	while (*p && *p != o)
		p = &(*p)->id_next;
	if (*p)
		*p = o->id_next;
	o->hashed = false;
	if (t->hand == o)
		t->hand = o->clock_next;
	o->clock_prev->clock_next = o->clock_next;
	o->clock_next->clock_prev = o->clock_prev;
	t->count--;
}

/* Gives up a reference. True: it was the last one of an object that left the table, which the caller then frees. An object in the table stays
 * there when its count falls to 0. The lock is taken before the last reference goes, so that only one of eviction and this frees it. */
static bool release(struct overlay *ov, struct object *o)
{
	unsigned n = atomic_load(&o->refs);
	while (n > 1)
		if (atomic_compare_exchange_weak(&o->refs, &n, n - 1))
			return false;
	pthread_mutex_lock(&ov->table.lock);
	bool last = atomic_fetch_sub(&o->refs, 1) == 1 && !o->hashed;
	pthread_mutex_unlock(&ov->table.lock);
	return last;
}

static void free_name(struct object *o)
{
	if (o->name != o->first_name)
		free(o->name);
}

/* The object is out of the table and nobody holds it. The same may become true of its parent, and so on: a loop, as trees may be deep. */
static void object_free(struct overlay *ov, struct object *o)
{
	while (o) {
		struct object *parent = o->parent;
		if (o->type == S_IFDIR)
			listing_forget(ov, o);
		place_put(ov, o->upper);
		for (size_t i = 0; i < o->nlower; i++)
			place_put(ov, o->lower[i]);
		place_put(ov, o->data);
		if (o->lower != &o->only_lower)
			free(o->lower);
		free(o->lower_x);
		free_name(o);
		free(o->acl);
		pthread_mutex_destroy(&o->dir_lock);
		pthread_mutex_destroy(&o->lock);
		slab_free(&ov->table.slab, o, sizeof *o + strlen(o->first_name) + 1);
		o = parent && release(ov, parent) ? parent : NULL;
	}
}

void overlay_put(struct overlay *ov, struct object *o)
{
	if (o && release(ov, o))
		object_free(ov, o);
}

/* Second chance: while there are too many, takes a few unused objects out and returns them for object_free, linked by id_next. More than the one
 * that came: where all that were looked at were in use, the table is over its bound until later calls catch up. */
static struct object *evict_locked(struct table *t)
{
	enum { LOOKED_AT = 256, TAKEN = 8 };
	struct object *victims = NULL;
	for (int i = 0, n = 0; i < LOOKED_AT && n < TAKEN && t->count > t->max; i++) {
		struct object *o = t->hand;
		t->hand = o->clock_next;
		if (o == t->clock || atomic_load(&o->refs))
			continue;
		if (o->used) {
			o->used = false;
			continue;
		}
		unhash_locked(t, o);
		o->id_next = victims;
		victims = o;
		n++;
	}
	return victims;
}

static struct object *find_locked(struct table *t, const struct overlay_id *id)
{
	struct object *o = t->by_id[id_bucket(t, id_fileid(id))];
	while (o && !same_id(&o->id, id))
		o = o->id_next;
	if (o) {
		object_get(o);
		o->used = true;
	}
	return o;
}

struct object *table_find(struct overlay *ov, const struct overlay_id *id)
{
	pthread_mutex_lock(&ov->table.lock);
	struct object *o = find_locked(&ov->table, id);
	pthread_mutex_unlock(&ov->table.lock);
	return o;
}

struct object *table_find_fileid(struct overlay *ov, uint64_t fileid)
{
	struct table *t = &ov->table;
	pthread_mutex_lock(&t->lock);
	struct object *o = t->by_id[id_bucket(t, fileid)];
	while (o && id_fileid(&o->id) != fileid)
		o = o->id_next;
	if (o) {
		object_get(o);
		o->used = true;
	}
	pthread_mutex_unlock(&t->lock);
	return o;
}

struct object *table_find_name(struct overlay *ov, struct object *dir, const char *name)
{
	struct table *t = &ov->table;
	pthread_mutex_lock(&t->lock);
	struct object *o = t->by_name[name_bucket(t, dir, name)];
	while (o && (o->parent != dir || strcmp(o->name, name)))
		o = o->name_next;
	if (o) {
		object_get(o);
		o->used = true;
	}
	pthread_mutex_unlock(&t->lock);
	return o;
}

void found_free(struct overlay *ov, struct found *f)
{
	place_put(ov, f->upper);
	for (size_t i = 0; i < f->nlower; i++)
		place_put(ov, f->lower[i]);
	place_put(ov, f->data);
	free(f->lower);
	free(f->lower_x);
	memset(f, 0, sizeof *f);
}

/* There may be millions of them. */
static void keep_lean(struct object *o)
{
	if (o->nlower == 1) {
		o->only_lower = o->lower[0];
		free(o->lower);
		o->lower = &o->only_lower;
	}
	if (o->type != S_IFDIR) {
		free(o->lower_x);
		o->lower_x = NULL;
	}
}

static struct object *object_new(struct table *t, struct found *f, struct object *parent, const char *name)
{
	size_t len = name ? strlen(name) : 0;
	struct object *o = slab_alloc(&t->slab, sizeof *o + len + 1);
	if (!o)
		return NULL;
	if (name)
		o->name = memcpy(o->first_name, name, len);
	pthread_mutex_init(&o->dir_lock, NULL);
	pthread_mutex_init(&o->lock, NULL);
	o->id = f->id;
	o->type = f->st.stx_mode & S_IFMT;
	o->real_ino = f->st.stx_ino;
	o->metacopy = f->metacopy;
	o->indexed = f->indexed;
	o->upper = f->upper;
	o->lower = f->lower;
	o->lower_x = f->lower_x;
	o->nlower = (uint32_t)f->nlower;
	o->data = f->data;
	keep_lean(o);
	o->parent = parent ? object_get(parent) : NULL;
	o->used = true;
	atomic_store(&o->refs, 1);
	f->upper = NULL;
	f->lower = NULL;
	f->lower_x = NULL;
	f->nlower = 0;
	f->data = NULL;
	return o;
}

/* Known by another of its names from now on: place, name and parent at once, or a rename would move but one of them. An object's upper place stands in
 * its parent's: so that it moves when that does. Takes over place, which is not for a file that stands in the index or not in the upper. unnamed: only
 * where no other thread was faster. */
static void know_by(struct overlay *ov, struct object *o, struct object *parent, const char *name, struct place *place, bool unnamed)
{
	struct object *old_parent = NULL;
	char *copy = strdup(name);
	pthread_mutex_lock(&o->lock);
	pthread_mutex_lock(&ov->table.lock);
	if (!unnamed || (copy && !o->named && o->hashed)) {
		unname_locked(&ov->table, o);
		old_parent = o->parent;
		o->parent = object_get(parent);
		if (copy) {
			free_name(o);
			o->name = copy;
			copy = NULL;
			if (o->hashed)
				name_locked(&ov->table, o);
		}
		if (place && o->upper && o->upper->layer == place->layer) {
			struct place *old = o->upper;
			o->upper = place;
			o->attr_valid = false;
			place = old;
		}
	}
	pthread_mutex_unlock(&ov->table.lock);
	pthread_mutex_unlock(&o->lock);
	free(copy);
	place_put(ov, place);
	overlay_put(ov, old_parent);
}

int object_from(struct overlay *ov, struct found *f, struct object *parent, const char *name, struct object **out)
{
	struct table *t = &ov->table;
	struct object *victims = NULL;
	pthread_mutex_lock(&t->lock);
	struct object *o = find_locked(t, &f->id);
	bool unnamed = o && !o->named && o->parent && name; /* its known name went (a hard link); this one will do */
	if (!o && (o = object_new(t, f, parent, name))) {
		size_t b = id_bucket(t, id_fileid(&o->id));
		o->id_next = t->by_id[b];
		t->by_id[b] = o;
		o->hashed = true;
		o->clock_prev = t->clock->clock_prev;
		o->clock_next = t->clock;
		o->clock_prev->clock_next = o->clock_next->clock_prev = o;
		if (name)
			name_locked(t, o);
		t->count++;
		victims = evict_locked(t);
	}
	pthread_mutex_unlock(&t->lock);
	for (struct object *next; victims; victims = next) {
		next = victims->id_next;
		object_free(ov, victims);
	}
	if (unnamed)
		know_by(ov, o, parent, name, f->upper ? place_get(f->upper) : NULL, true);
	*out = o;
	return o ? 0 : -ENOMEM;
}

void object_unname(struct overlay *ov, struct object *o, struct object *parent, const char *name)
{
	pthread_mutex_lock(&ov->table.lock);
	if (o->named && o->parent == parent && !strcmp(o->name, name))
		unname_locked(&ov->table, o);
	pthread_mutex_unlock(&ov->table.lock);
}

void object_rename(struct overlay *ov, struct object *o, struct object *parent, char *name)
{
	struct object *old = NULL;
	pthread_mutex_lock(&ov->table.lock);
	unname_locked(&ov->table, o);
	if (o->hashed) {
		free_name(o);
		o->name = name;
		name = NULL;
		old = o->parent;
		o->parent = object_get(parent);
		name_locked(&ov->table, o);
	}
	pthread_mutex_unlock(&ov->table.lock);
	free(name);
	overlay_put(ov, old);
}

void object_forget_lowers(struct overlay *ov, struct object *o)
{
	while (o->nlower)
		place_put(ov, o->lower[--o->nlower]);
	attr_forget(o);
}

void object_set_name(struct overlay *ov, struct object *o, struct object *parent, const char *name, struct place *place)
{
	know_by(ov, o, parent, name, place, false);
}

void object_lost(struct overlay *ov, struct object *o)
{
	pthread_mutex_lock(&o->lock);
	pthread_mutex_lock(&ov->table.lock);
	if (!o->named) { /* else it was found by another name meanwhile */
		o->lost = true;
		o->dead = true;
		unhash_locked(&ov->table, o);
	}
	pthread_mutex_unlock(&ov->table.lock);
	pthread_mutex_unlock(&o->lock);
}

void object_kill(struct overlay *ov, struct object *o)
{
	pthread_mutex_lock(&o->lock);
	o->dead = true;
	pthread_mutex_unlock(&o->lock);
	pthread_mutex_lock(&ov->table.lock);
	unhash_locked(&ov->table, o);
	pthread_mutex_unlock(&ov->table.lock);
}

void table_destroy(struct overlay *ov, struct table *t)
{
	if (!t->hand)
		return;
	struct object *list = NULL, *o;
	while ((o = t->clock->clock_next) != t->clock) {
		unhash_locked(t, o);
		object_get(o); /* the list's own, so that a parent outlives its children's turn */
		o->id_next = list;
		list = o;
	}
	while ((o = list)) {
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the list has a reference of each, so it is there; the analyzer does not count */
		list = o->id_next;
		overlay_put(ov, o);
	}
	free_buckets(t->by_id, t->buckets);
	free_buckets(t->by_name, t->buckets);
	free(t->clock);
	slab_destroy(&t->slab);
	pthread_mutex_destroy(&t->lock);
}
