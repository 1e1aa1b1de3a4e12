/* find.c: from an id to its object: the table, then the map, then a search (search.c). */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 8192, MAX_STEPS = 100000 };

int find_name(struct overlay *ov, struct object *dir, const char *name, struct object **o)
{
	*o = NULL;
	pthread_mutex_lock(&dir->dir_lock);
	int rc = dir->dead ? -ESTALE : dir->type != S_IFDIR ? -ENOTDIR : lookup_locked(ov, dir, name, o);
	pthread_mutex_unlock(&dir->dir_lock);
	return rc;
}

/* ---- the way up through the map, and down through the tree ----
 * The map says where an object and its ancestors may be: up, until one of them is in the table; then down by name, and each step must
 * meet the file id that it should. What proves wrong is taken out of the map, and the next place that the map knows is tried. */
struct level {
	uint64_t fileid;
	struct map_place *places; /* where it may be */
	size_t n, next;
};

struct way {
	struct overlay *ov;
	const struct overlay_id *id;
	struct level *levels; /* 0: the object; above: its ancestors */
	size_t n, room;
	size_t dropped; /* places */
	bool many; /* the map may know more places of one of them */
	struct object *found;
};

static int push(struct way *w, uint64_t fileid)
{
	struct map_place places[MAP_PLACES];
	if (w->n == MAX_DEPTH)
		return 0;
	for (size_t i = 0; i < w->n; i++)
		if (w->levels[i].fileid == fileid)
			return 0; /* in a circle: wrong, so the next place of the one below */
	if (w->n == w->room) {
		size_t room = w->room ? w->room * 2 : 16;
		struct level *more = realloc(w->levels, room * sizeof *more);
		if (!more)
			return -ENOMEM;
		w->levels = more;
		w->room = room;
	}
	size_t n = map_places(w->ov->map, fileid, places);
	w->many |= n == MAP_PLACES;
	struct level l = { .fileid = fileid, .n = n, .places = n ? malloc(n * sizeof *places) : NULL };
	if (n && !l.places)
		return -ENOMEM;
	if (n)
		memcpy(l.places, places, n * sizeof *places);
	w->levels[w->n++] = l;
	return 0;
}

static void pop_to(struct way *w, size_t n)
{
	while (w->n > n)
		free(w->levels[--w->n].places);
}

/* Does one object alone have the file id? Where a lower was changed between two starts, the inode number of something new there may be the one that the
 * copy of something older is known by. */
static bool is_of_one(const struct overlay *ov, const struct overlay_id *id)
{
	return !ov->has_upper || id->layer == ov->layers[0].number;
}

/* Then the map knows a place of each. */
static bool has_a_double(struct overlay *ov, const struct object *dir)
{
	struct map_place places[MAP_PLACES];
	return !is_of_one(ov, &dir->id) && map_places(ov->map, id_fileid(&dir->id), places) > 1;
}

/* One step down, from dir to what stands under the name that level i was said to have. The next object, or NULL and the entry is dropped,
 * under the directory's lock, so that the name can't have come to be right meanwhile. */
static int step_down(struct way *w, struct object *dir, const struct level *l, struct object **o)
{
	struct overlay *ov = w->ov;
	const struct map_place *p = &l->places[l->next - 1];
	*o = NULL;
	pthread_rwlock_rdlock(&ov->rename_lock);
	pthread_mutex_lock(&dir->dir_lock);
	int rc = dir->dead ? -ENOENT : dir->type != S_IFDIR ? -ENOTDIR : lookup_locked(ov, dir, p->name, o);
	if (!rc && id_fileid(&(*o)->id) != l->fileid)
		rc = -ENOENT;
	if ((rc == -ENOENT || rc == -ENOTDIR) && !has_a_double(ov, dir)) {
		map_drop_place(ov->map, l->fileid, p->parent, p->name);
		w->dropped++;
	}
	pthread_mutex_unlock(&dir->dir_lock);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (rc) {
		overlay_put(ov, *o);
		*o = NULL;
	}
	return rc;
}

/* The place of this level was wrong: its next, but for one that its parent may be at first. */
static void give_up(struct way *w, size_t level)
{
	pop_to(w, level + 1 < w->n && w->levels[level + 1].n > 1 ? level + 2 : level + 1);
}

/* From dir, the parent of the topmost level, to the object. Takes over dir's reference. */
static int go_down(struct way *w, struct object *dir)
{
	for (size_t i = w->n; i--;) {
		struct object *o;
		int rc = step_down(w, dir, &w->levels[i], &o); /* NOLINT(clang-analyzer-unix.Malloc): places are freed by pop_to() */
		overlay_put(w->ov, dir);
		if (rc) {
			give_up(w, i);
			return rc == -ENOTDIR ? -ENOENT : rc;
		}
		dir = o;
	}
	if (!same_id(&dir->id, w->id)) { /* its inode number lives again, as another: a proof that it is gone */
		overlay_put(w->ov, dir);
		give_up(w, 0);
		return is_of_one(w->ov, w->id) ? -ESTALE : -ENOENT;
	}
	w->found = dir;
	return 0;
}

/* -ENOENT: the map knows no place, or no right one. -ESTALE: proved to be gone. Another error: of the first place that can't be reached, where no other leads
 * there. *more: when what was dropped is off the disk, there are others. */
static int find_by_map(struct overlay *ov, const struct overlay_id *id, struct object **o, bool *more)
{
	struct way w = { .ov = ov, .id = id };
	int rc = push(&w, id_fileid(id)), unreachable = -ENOENT;
	for (int steps = 0; !rc && w.n && steps < MAX_STEPS; steps++) {
		struct level *l = &w.levels[w.n - 1];
		if (l->next == l->n) {
			pop_to(&w, w.n - 1);
			continue;
		}
		uint64_t parent = l->places[l->next++].parent;
		struct object *dir = parent == id_fileid(&ov->root->id) ? overlay_root(ov) : table_find_fileid(ov, parent);
		bool alone = dir && is_of_one(ov, &dir->id);
		size_t n = w.n;
		rc = dir ? go_down(&w, dir) : push(&w, parent);
		if (dir && !rc)
			break;
		if (rc == -ENOENT && dir && !alone && w.n == n && !(rc = push(&w, parent)) && w.n > n && w.levels[n].n < 2)
			pop_to(&w, n); /* else the table may have had its double */
		if (rc && rc != -ESTALE && !is_want(rc)) {
			unreachable = unreachable == -ENOENT ? rc : unreachable;
			rc = 0;
		}
	}
	pop_to(&w, 0);
	free(w.levels);
	*o = w.found;
	*more = w.many && w.dropped;
	return rc ? rc : w.found ? 0 : unreachable;
}

int find_object(struct overlay *ov, const struct overlay_id *id, struct object **o)
{
	unsigned renames;
	int rc;
	bool again;
	do { /* whoever climbed while a directory moved may have missed it */
		bool more = false;
		renames = atomic_load(&ov->renames);
		*o = table_find(ov, id);
		rc = *o ? 0 : find_by_map(ov, id, o, &more);
		again = rc == -ENOENT && renames != atomic_load(&ov->renames);
		if (rc == -ENOENT && more && !again) {
			will_block(ov);
			again = !map_sync(ov->map);
		}
	} while (again);
	return rc;
}

int overlay_get(struct overlay *ov, const struct overlay_id *id, struct object **o)
{
	if ((*o = table_find(ov, id)))
		return 0;
	int rc = find_object(ov, id, o);
	return rc == -ENOENT ? search_object(ov, id, o) : rc;
}

/* ---- a name of several went ---- */

/* If the object's inode has this name in the upper, it is known by it from now on. */
static bool known_by(struct overlay *ov, struct object *o, struct object *dir, const char *name)
{
	struct statx st;
	struct place *p = dir->upper && !dir->dead ? place_new(ov, &ov->layers[0], dir->upper, name) : NULL;
	if (!p || place_statx(ov, p, &st) || st.stx_ino != o->real_ino) {
		place_put(ov, p);
		return false;
	}
	object_set_name(ov, o, dir, name, p);
	return true;
}

/* A hard-linked object whose known name was removed. Where a directory that has another of its names is in memory, it goes there: places
 * follow a rename of what stands above them only where the object holds its parent. */
void object_lose(struct overlay *ov, struct object *o, struct object *dir, const char *name)
{
	struct map_place *at;
	bool found = false;
	pthread_mutex_lock(&o->lock); /* who finds it by another name may be about to give it that one's place */
	bool known = o->upper && o->upper->layer != &ov->index_layer && o->upper->parent == dir->upper && !strcmp(o->upper->name, name);
	pthread_mutex_unlock(&o->lock);
	if (!known)
		return;
	at = malloc(MAP_PLACES * sizeof *at);
	size_t n = at ? map_places(ov->map, id_fileid(&o->id), at) : 0;
	for (size_t i = 0; i < n && !found; i++) {
		struct object *parent = table_find_fileid(ov, at[i].parent);
		found = parent && known_by(ov, o, parent, at[i].name);
		overlay_put(ov, parent);
	}
	free(at);
	if (!found)
		object_lost(ov, o); /* found again by its handle, through the map or a search */
}
