/* find.c: from an id to its object: the table, then the map, then a search through the merged tree. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

static bool same_id(const struct overlay_id *a, const struct overlay_id *b)
{
	return a->ino == b->ino && a->gen == b->gen && a->layer == b->layer;
}

struct candidates {
	size_t n;
	struct {
		struct overlay_id parent;
		char *name;
	} at[16];
};

static bool keep(void *arg, const struct overlay_id *parent, const char *name)
{
	struct candidates *c = arg;
	if (!(c->at[c->n].name = strdup(name)))
		return false;
	c->at[c->n].parent = *parent;
	return ++c->n < 16;
}

static int find_by_map(struct overlay *ov, const struct overlay_id *id, int depth, struct object **o);

static int find(struct overlay *ov, const struct overlay_id *id, int depth, struct object **o)
{
	if ((*o = table_find(ov, id)))
		return 0;
	return depth ? find_by_map(ov, id, depth - 1, o) : -ENOENT;
}

/* What the map says is checked: the walk down must end at an object with this id. */
static int find_by_map(struct overlay *ov, const struct overlay_id *id, int depth, struct object **o)
{
	struct candidates c = { 0 };
	int rc = -ENOENT;
	map_get_places(ov->map, id, keep, &c);
	for (size_t i = 0; i < c.n; i++) {
		struct object *parent = NULL;
		if (rc && !find(ov, &c.at[i].parent, depth, &parent) && parent->type == S_IFDIR) {
			pthread_rwlock_rdlock(&ov->rename_lock);
			pthread_mutex_lock(&parent->dir_lock);
			rc = lookup_locked(ov, parent, c.at[i].name, o);
			pthread_mutex_unlock(&parent->dir_lock);
			pthread_rwlock_unlock(&ov->rename_lock);
			if (!rc && !same_id(&(*o)->id, id)) {
				overlay_put(ov, *o);
				*o = NULL;
				rc = -ENOENT;
			}
		}
		overlay_put(ov, parent);
		free(c.at[i].name);
	}
	return rc;
}

struct search {
	struct overlay *ov;
	const struct overlay_id *id;
	struct object **dirs; /* still to be read, counted */
	size_t n, room;
	struct object *found;
	bool failed;
};

static bool look(void *arg, const struct overlay_entry *e, struct object *o, const struct overlay_attr *attr)
{
	struct search *s = arg;
	(void)attr;
	if (!o || !strcmp(e->name, ".") || !strcmp(e->name, ".."))
		return true;
	if (same_id(&o->id, s->id)) {
		s->found = object_get(o);
		return false;
	}
	if (o->type != S_IFDIR)
		return true;
	if (s->n == s->room) {
		struct object **more = realloc(s->dirs, (s->room + 256) * sizeof *more);
		if (!more) {
			s->failed = true;
			return false;
		}
		s->dirs = more;
		s->room += 256;
	}
	s->dirs[s->n++] = object_get(o);
	return true;
}

/* The whole merged tree, depth first: where the map is silent or wrong. */
static int search_tree(struct overlay *ov, const struct overlay_id *id, struct object **o)
{
	static const struct overlay_cred root;
	struct search s = { .ov = ov, .id = id };
	bool eof;
	will_block(ov);
	struct object *dir = overlay_root(ov);
	while (dir && !s.found && !s.failed) {
		overlay_readdir(ov, &root, dir, 0, true, look, &s, &eof);
		overlay_put(ov, dir);
		dir = s.n ? s.dirs[--s.n] : NULL;
	}
	overlay_put(ov, dir);
	while (s.n)
		overlay_put(ov, s.dirs[--s.n]);
	free(s.dirs);
	*o = s.found;
	return s.failed ? -ENOMEM : s.found ? 0 : -ESTALE;
}

/* A hard-linked object whose known name was removed: its upper place must be another of its names. */
void object_lose(struct overlay *ov, struct object *o, struct object *dir, const char *name)
{
	struct candidates c = { 0 };
	if (!o->upper || o->upper->layer == &ov->index_layer || o->upper->parent != dir->upper || strcmp(o->upper->name, name))
		return;
	map_get_places(ov->map, &o->id, keep, &c);
	for (size_t i = 0; i < c.n; i++) {
		struct object *parent = table_find(ov, &c.at[i].parent);
		struct statx st;
		struct place *p = parent && parent->upper ? place_new(&ov->layers[0], parent->upper, c.at[i].name) : NULL;
		if (p && !place_statx(ov, p, &st) && st.stx_ino == o->real_ino) {
			pthread_mutex_lock(&o->lock);
			struct place *old = o->upper;
			o->upper = p;
			p = old;
			o->attr_valid = false;
			pthread_mutex_unlock(&o->lock);
			place_put(ov, p);
			overlay_put(ov, parent);
			object_set_name(ov, o, &c.at[i].parent, c.at[i].name);
			break;
		}
		place_put(ov, p);
		overlay_put(ov, parent);
	}
	bool lost = o->upper->parent == dir->upper && !strcmp(o->upper->name, name);
	for (size_t i = 0; i < c.n; i++)
		free(c.at[i].name);
	if (lost)
		object_kill(ov, o); /* found again by its handle, through the map or a search */
}

int overlay_get(struct overlay *ov, const struct overlay_id *id, struct object **o)
{
	if ((*o = table_find(ov, id)))
		return 0;
	if (!find_by_map(ov, id, 4096, o))
		return 0;
	return search_tree(ov, id, o);
}
