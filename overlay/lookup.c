/* lookup.c: from a name to its object: what the layers have (merge.c), who it is, and its place in the table. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int id_of_place(struct overlay *ov, struct place *p, const struct statx *st, struct overlay_id *id)
{
	struct fdent *parent;
	const char *name;
	int rc = place_pin_parent(ov, p, &parent, &name);
	if (rc)
		return rc;
	id->layer = p->layer == &ov->index_layer ? ov->layers[0].number : p->layer->number;
	id->ino = st->stx_ino;
	rc = inode_generation(p->layer, parent->fd, name, st, &id->gen);
	place_unpin(ov, parent);
	return rc;
}

/* Is the lower at this place the one whose handle the upper's origin xattr holds? Then (1) id is its id. 0: it is not; or an error: who can tell? */
static int is_origin(struct overlay *ov, struct place *below, const uint8_t *origin, size_t len, struct overlay_id *id)
{
	uint8_t own[160];
	struct fdent *parent;
	const char *name;
	struct statx st;
	int rc = place_pin_parent(ov, below, &parent, &name);
	if (!rc) {
		rc = statx_at(parent->fd, name, &st);
		bool same = !rc && format_make_origin(below->layer, parent->fd, name, own) == len && !memcmp(origin, own, len);
		place_unpin(ov, parent);
		if (same)
			return id_of_place(ov, below, &st, id) ?: 1;
	}
	return rc == -ENOENT || rc == -ENOTDIR || rc == -ENAMETOOLONG || rc == -EACCES ? 0 : rc;
}

/* An upper file that Linux copied up carries its origin alone: found by its handle or, where that is not allowed, where its data is or under
 * the same name. One that carries an identity besides, which is not its own, is a copy that somebody made inside the upper: it is believed
 * under the same name alone, where it was put back. 1: found, 0: not, or an error. */
static int origin_below(struct overlay *ov, int dirfd, const char *name, struct object *dir, const char *shown, struct found *f)
{
	uint8_t origin[256];
	struct overlay_id id;
	uint32_t upper;
	uint64_t ino;
	ssize_t n = format_getxattr(ov, dirfd, name, "origin", origin, sizeof origin);
	if (n <= 21)
		return n >= 0 || n == -ENODATA || n == -ERANGE ? 0 : (int)n;
	int rc = format_read_identity(ov, dirfd, name, &id, &upper, &ino);
	bool copied = !rc;
	if (rc && rc != -ENODATA)
		return rc;
	rc = copied ? 0 : origin_find(ov, origin, (size_t)n, &f->id);
	if (!rc && f->nlower && !copied)
		rc = is_origin(ov, f->lower[0], origin, (size_t)n, &f->id);
	for (size_t i = 0; i < dir->nlower && !rc; i++) {
		struct place *p = place_new(ov, dir->lower[i]->layer, dir->lower[i], shown);
		rc = p ? is_origin(ov, p, origin, (size_t)n, &f->id) : -ENOMEM;
		place_put(ov, p);
	}
	return rc;
}

/* Of a directory's places below, the one that its identity is taken from: in the layer that joined the stack first, so that a layer more on
 * top or at the bottom changes no identity; of those that joined together, the bottom one, as a stack without state gains layers on top. */
static struct place *eldest(const struct found *f)
{
	struct place *best = f->lower[0];
	for (size_t i = 1; i < f->nown; i++)
		if (f->lower[i]->layer->age <= best->layer->age)
			best = f->lower[i];
	return best;
}

static int id_below(struct overlay *ov, const struct found *f, struct overlay_id *id)
{
	struct place *p = S_ISDIR(f->st.stx_mode) ? eldest(f) : f->lower[0];
	struct statx st = f->st;
	int rc = f->upper || p != f->lower[0] ? place_statx(ov, p, &st) : 0;
	return rc ? rc : id_of_place(ov, p, &st, id);
}

static int find_identity(struct overlay *ov, struct object *dir, const char *shown, struct found *f)
{
	struct fdent *parent;
	const char *name;
	struct overlay_id own;
	if (!f->upper)
		return id_below(ov, f, &f->id);
	int rc = place_pin_parent(ov, f->upper, &parent, &name);
	if (rc)
		return rc;
	rc = format_get_identity(ov, parent->fd, name, f->st.stx_ino, &f->id);
	if (rc != -ENODATA) /* one that can't be read may be there: another identity would be a lie */
		goto out;
	rc = id_of_place(ov, f->upper, &f->st, &own);
	if (rc)
		goto out;
	rc = identity_get_origin(ov->identity, own.ino, own.gen, &f->id);
	if (rc != -ENOENT) /* nor may what can't be looked for now be taken for none, here and below */
		goto out;
	if (S_ISDIR(f->st.stx_mode)) {
		char origin;
		ssize_t n = f->nlower && ov->layers[0].age < eldest(f)->layer->age ? format_getxattr(ov, parent->fd, name, "origin", &origin, 0) : 0;
		rc = n < 0 && n != -ENODATA ? (int)n : f->nlower && n >= 0;
		if (rc > 0)
			rc = id_below(ov, f, &f->id);
		else if (!rc)
			f->id = own;
	} else {
		rc = origin_below(ov, parent->fd, name, dir, shown, f);
		if (!rc)
			f->id = own;
		else if (rc > 0)
			rc = 0;
	}
out:
	place_unpin(ov, parent);
	return rc;
}

int keep_identity(struct overlay *ov, struct object *o, int dirfd, const char *name)
{
	struct overlay_id id;
	if (o->id.layer == ov->layers[0].number || !format_get_identity(ov, dirfd, name, o->real_ino, &id))
		return 0;
	int rc = format_set_identity(ov, dirfd, name, &o->id, o->real_ino);
	return holds_no_xattr(rc) ? keep_identity_in_file(ov, o, dirfd, name) : rc;
}

int keep_identity_in_file(struct overlay *ov, struct object *o, int dirfd, const char *name)
{
	struct overlay_id id;
	uint64_t ino, gen;
	int rc = upper_inode(ov, dirfd, name, &ino, &gen);
	if (!rc && identity_get_origin(ov->identity, ino, gen, &id))
		rc = identity_put_origin(ov->identity, ino, gen, &o->id);
	return rc;
}

static int merge(struct overlay *ov, struct object *dir, const char *name, const struct layer *topmost, struct found *f)
{
	int rc = merge_layers(ov, dir, name, topmost, f);
	if (!rc)
		rc = find_identity(ov, dir, name, f);
	if (!rc && !S_ISDIR(f->st.stx_mode) && f->st.stx_nlink > 1)
		rc = f->upper ? index_find_upper(ov, dir, name, f) : index_find_lower(ov, f);
	return rc;
}

int merge_name(struct overlay *ov, struct object *dir, const char *name, struct found *f)
{
	int rc = merge(ov, dir, name, NULL, f);
	if ((rc && rc != -ENOENT) || !dir->upper)
		return rc;
	if (!f->name_in_upper && !f->upper_whiteout)
		f->name_below = !rc; /* all that there is was looked at */
	else if (dir->nlower) {
		int rc2 = merge_shows_below(ov, dir, name, &f->name_below);
		if (rc2)
			return rc2;
	}
	return rc;
}

bool only_upper(const struct object *dir)
{
	return dir->upper && !dir->nlower;
}

int name_state(struct overlay *ov, struct object *dir, const char *name, struct object *o, struct found *f)
{
	struct statx st;
	memset(f, 0, sizeof *f);
	pthread_mutex_lock(&o->lock);
	bool up = o->upper;
	f->name_in_upper = up && o->upper->parent == dir->upper && !strcmp(o->upper->name, name);
	pthread_mutex_unlock(&o->lock);
	if (up && !f->name_in_upper && dir->upper) { /* of a file with several names, this one may be the lower's still */
		struct fdent *parent;
		int rc = place_pin(ov, dir->upper, FD_PATH, &parent);
		if (rc)
			return rc;
		rc = statx_at(parent->fd, name, &st);
		place_unpin(ov, parent);
		if (rc && rc != -ENOENT)
			return rc;
		f->name_in_upper = !rc;
	}
	f->name_below = !f->name_in_upper;
	return f->name_in_upper && dir->nlower ? merge_shows_below(ov, dir, name, &f->name_below) : 0;
}

int merge_root(struct overlay *ov, struct object **root)
{
	struct found f;
	int rc = merge_roots(ov, &f);
	/* The root's identity is its own: it must not change when a layer is added. */
	f.id = (struct overlay_id){ .layer = 0xffff, .ino = 1, .gen = 0 };
	if (!rc)
		rc = object_from(ov, &f, NULL, NULL, root);
	found_free(ov, &f);
	return rc;
}

int check_name(struct overlay *ov, struct object *dir, const char *name)
{
	if (dir->type != S_IFDIR)
		return -ENOTDIR;
	if (!*name || strchr(name, '/'))
		return -EINVAL;
	if (strlen(name) > 255)
		return -ENAMETOOLONG;
	if (ov->reserved_dir && dir == ov->root && !strcmp(name, ".overnfsd"))
		return -ENOENT;
	return 0;
}

/* Another file of the upper that carries the same identity: a copy made before the upper itself was copied, so that nothing tells which was first. */
static bool is_double(struct overlay *ov, struct object *o, const struct found *f)
{
	struct statx st;
	if (!f->upper || S_ISDIR(f->st.stx_mode) || f->indexed || o->indexed || !ov->layers[0].has_handles)
		return false;
	pthread_mutex_lock(&o->lock);
	bool other = !o->dead && o->upper && o->real_ino != f->st.stx_ino && !place_statx(ov, o->upper, &st) && st.stx_ino == o->real_ino;
	pthread_mutex_unlock(&o->lock);
	return other;
}

static int mark_place(struct overlay *ov, struct place *p, const struct overlay_id *id, uint64_t ino)
{
	struct fdent *parent;
	const char *name;
	int rc = place_pin_parent(ov, p, &parent, &name);
	if (rc)
		return rc;
	rc = format_set_identity(ov, parent->fd, name, id, ino);
	place_unpin(ov, parent);
	return holds_no_xattr(rc) ? 0 : rc; /* it has to do without */
}

/* The one that was met first stays the object; this one is a file of its own. Written on both, so that they stay so, whichever is met first again. */
static int part_from(struct overlay *ov, struct object *o, struct found *f)
{
	int rc = id_of_place(ov, f->upper, &f->st, &f->id);
	if (rc || !ov->writable || (ov->config.offline && !ov->config.repair))
		return rc;
	pthread_mutex_lock(&o->lock); /* the place's name is the object's only under it */
	rc = o->dead ? -EAGAIN : mark_place(ov, o->upper, &o->id, o->real_ino);
	pthread_mutex_unlock(&o->lock);
	return rc ? rc : mark_place(ov, f->upper, &f->id, f->st.stx_ino);
}

int lookup_listed(struct overlay *ov, struct object *dir, const char *name, const struct layer *topmost, struct object **o)
{
	struct found f;
	if ((*o = table_find_name(ov, dir, name)))
		return 0;
	int rc = merge(ov, dir, name, topmost, &f);
	bool plain = !rc && !f.metacopy && !f.indexed && (f.upper || f.nlower);
	if (!rc)
		rc = object_from(ov, &f, dir, name, o);
	if (!rc && is_double(ov, *o, &f)) {
		struct object *first = *o;
		*o = NULL;
		rc = part_from(ov, first, &f) ?: object_from(ov, &f, dir, name, o);
		overlay_put(ov, first);
	}
	if (!rc && plain && !f.upper && !f.nlower) /* it took over the places, so it is new */
		attr_keep(ov, *o, &f.st);
	if (!rc)
		map_put_place(ov->map, &(*o)->id, &dir->id, name);
	found_free(ov, &f);
	return rc;
}

int lookup_locked(struct overlay *ov, struct object *dir, const char *name, struct object **o)
{
	return lookup_listed(ov, dir, name, NULL, o);
}

int overlay_lookup(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		   struct object **o, struct overlay_attr *attr)
{
	*o = NULL;
	int rc = check_name(ov, dir, name);
	if (rc)
		return rc;
	pthread_rwlock_rdlock(&ov->rename_lock);
	rc = dir->dead ? -ESTALE : require(ov, cred, dir, OVERLAY_EXEC);
	if (!rc && !strcmp(name, "."))
		*o = object_get(dir);
	else if (!rc && !strcmp(name, ".."))
		*o = object_get(dir->parent ? dir->parent : dir);
	else if (!rc && !(*o = table_find_name(ov, dir, name))) {
		pthread_mutex_lock(&dir->dir_lock);
		rc = lookup_locked(ov, dir, name, o);
		pthread_mutex_unlock(&dir->dir_lock);
	}
	if (!rc && attr)
		rc = attr_get(ov, *o, attr);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (rc) {
		overlay_put(ov, *o);
		*o = NULL;
	}
	return rc;
}
