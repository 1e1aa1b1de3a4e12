/* lookup.c: one name of a merged directory, through all layers (Linux: ovl_lookup() in fs/overlayfs/namei.c). */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where to look in the layers below: in the directory's own places under a name, or, behind an absolute redirect, by path from each layer's root. */
struct search {
	struct object *dir;
	char *name; /* owned */
	char *path; /* owned; absolute redirect, or NULL */
};

static bool absent(int rc)
{
	return rc == -ENOENT || rc == -ENOTDIR || rc == -ENAMETOOLONG;
}

static struct layer *first_lower(struct overlay *ov)
{
	return ov->layers + ov->has_upper;
}

/* The place of an absolute path in a layer; its directories must be plain ones there. NULL: absent or no memory. */
static struct place *place_by_path(struct overlay *ov, struct layer *layer, const char *path)
{
	struct place *p = place_get(layer->root);
	char *copy = strdup(path), *save = NULL;
	for (char *c = copy ? strtok_r(copy, "/", &save) : NULL; c && p; c = strtok_r(NULL, "/", &save)) {
		struct place *child = place_new(layer, p, c);
		place_put(ov, p);
		p = child;
	}
	free(copy);
	return p;
}

static int found_add_lower(struct found *f, struct place *p, char opaque)
{
	struct place **lower = realloc(f->lower, (f->nlower + 1) * sizeof *lower);
	if (lower)
		f->lower = lower;
	uint8_t *x = realloc(f->lower_x, f->nlower + 1);
	if (x)
		f->lower_x = x;
	if (!lower || !x)
		return -ENOMEM;
	f->lower_x[f->nlower] = opaque == 'x';
	f->lower[f->nlower++] = place_get(p);
	return 0;
}

/* An xattr whiteout: an empty file so marked, in a directory that says it may hold such. */
static bool is_xattr_whiteout(struct overlay *ov, const struct statx *st, int dirfd, const char *name)
{
	char v;
	return S_ISREG(st->stx_mode) && !st->stx_size && format_getxattr(ov, dirfd, name, "whiteout", &v, 1) >= 0;
}

static int follow_redirect(struct overlay *ov, struct search *s, int dirfd, const char *name)
{
	char *redirect;
	int rc = format_redirect(ov, dirfd, name, &redirect);
	if (rc || !redirect)
		return rc;
	if (*redirect == '/') {
		free(s->path);
		s->path = redirect;
	} else if (s->path) { /* bare, below an absolute one: the last component changes */
		char *slash = strrchr(s->path, '/'), *joined = NULL;
		if (slash && asprintf(&joined, "%.*s/%s", (int)(slash - s->path), s->path, redirect) < 0)
			joined = NULL;
		free(redirect);
		if (!joined)
			return -ENOMEM;
		free(s->path);
		s->path = joined;
	} else {
		free(s->name);
		s->name = redirect;
	}
	return 0;
}

enum step { GO_ON, STOP };

/* Looks in one layer place. Adds what it finds to f. *rc < 0 and STOP on error. */
static enum step look_at(struct overlay *ov, struct found *f, struct search *s, struct place *p, bool upper, bool x_whiteouts,
			 bool last, bool *have, int *rc)
{
	struct fdent *parent;
	const char *name;
	struct statx st;
	enum step step = STOP;
	*rc = place_pin_parent(ov, p, &parent, &name);
	if (*rc) {
		*rc = absent(*rc) ? 0 : *rc;
		return *rc ? STOP : GO_ON;
	}
	*rc = statx_at(parent->fd, name, &st);
	if (*rc) {
		*rc = absent(*rc) ? 0 : *rc;
		step = *rc ? STOP : GO_ON;
		goto out;
	}
	if (st.stx_attributes & STATX_ATTR_MOUNT_ROOT && p->parent) {
		*rc = -EIO; /* another file system, whose inode numbers may be the same: could not be kept out (see layer_open) */
		goto out;
	}
	if (format_is_whiteout(&st) || (x_whiteouts && is_xattr_whiteout(ov, &st, parent->fd, name))) {
		f->upper_whiteout |= upper;
		goto out;
	}
	if (!S_ISDIR(st.stx_mode)) {
		if (*have && !f->metacopy)
			goto out; /* a file ends the merge of directories */
		char meta[64];
		bool is_meta = S_ISREG(st.stx_mode) && !last && format_getxattr(ov, parent->fd, name, "metacopy", meta, sizeof meta) >= 0;
		if (upper)
			f->upper = place_get(p);
		else if (!*have || !is_meta) /* of a chain of metacopies, the attributes come from the first and the data from the last */
			*rc = found_add_lower(f, p, 0);
		if (!*have)
			f->st = st;
		*have = true;
		f->metacopy = is_meta;
		if (!*rc && is_meta) {
			*rc = follow_redirect(ov, s, parent->fd, name);
			step = *rc ? STOP : GO_ON;
		}
		goto out;
	}
	if (*have && f->metacopy)
		goto out; /* broken: no data below */
	if (*have && !S_ISDIR(f->st.stx_mode))
		goto out;
	char opaque = format_opaque(ov, parent->fd, name); /* in the last layer too: it may hold xattr whiteouts */
	if (upper)
		f->upper = place_get(p);
	else
		*rc = found_add_lower(f, p, opaque);
	if (!*have)
		f->st = st;
	*have = true;
	if (*rc || opaque == 'y')
		goto out;
	*rc = follow_redirect(ov, s, parent->fd, name);
	step = *rc ? STOP : GO_ON;
out:
	place_unpin(ov, parent);
	return step;
}

/* Goes down the lowers from the first that may have it. */
static int look_below(struct overlay *ov, struct found *f, struct search *s, struct layer *after, bool *have)
{
	int rc = 0;
	enum step step = GO_ON;
	struct layer *end = ov->layers + ov->nlayers;
	if (!s->path) {
		for (size_t i = 0; i < s->dir->nlower && step == GO_ON && !s->path; i++) {
			struct place *dir = s->dir->lower[i], *p = place_new(dir->layer, dir, s->name);
			if (!p)
				return -ENOMEM;
			step = look_at(ov, f, s, p, false, s->dir->lower_x[i], dir->layer == end - 1, have, &rc);
			after = dir->layer;
			place_put(ov, p);
		}
	}
	if (s->path)
		for (struct layer *l = after + 1; l < end && step == GO_ON; l++) {
			struct place *p = place_by_path(ov, l, s->path);
			if (!p)
				return -ENOMEM;
			step = look_at(ov, f, s, p, false, false, l == end - 1, have, &rc);
			place_put(ov, p);
		}
	return rc;
}

/* The index entry of a lower file with several names: there, or not yet. */
static int look_in_index(struct overlay *ov, struct found *f)
{
	uint8_t origin[160];
	char hex[2 * sizeof origin + 1];
	struct fdent *parent;
	const char *name;
	struct statx st;
	if (!ov->has_index)
		return 0;
	int rc = place_pin_parent(ov, f->lower[0], &parent, &name);
	if (rc)
		return rc;
	size_t len = format_make_origin(f->lower[0]->layer, parent->fd, name, origin);
	place_unpin(ov, parent);
	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", origin[i]);
	if (!len || statx_at(ov->index_layer.root->fds[FD_PATH]->fd, hex, &st))
		return 0;
	f->upper = place_new(&ov->index_layer, ov->index_layer.root, hex);
	f->st = st;
	return f->upper ? 0 : -ENOMEM;
}

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

/* An upper file that Linux copied up carries its origin alone: the lower of the same name, if its handle is the one. */
static bool origin_below(struct overlay *ov, int dirfd, const char *name, struct search *s, struct overlay_id *id)
{
	uint8_t origin[256], below[160];
	bool same = false;
	ssize_t n = format_getxattr(ov, dirfd, name, "origin", origin, sizeof origin);
	for (size_t i = 0; n > 21 && i < s->dir->nlower && !same; i++) {
		struct place *dir = s->dir->lower[i], *p = place_new(dir->layer, dir, s->name);
		struct fdent *parent;
		struct statx st;
		if (!p)
			return false;
		if (!place_pin(ov, dir, FD_PATH, &parent)) {
			if (!statx_at(parent->fd, s->name, &st))
				same = format_make_origin(dir->layer, parent->fd, s->name, below) == (size_t)n &&
				       !memcmp(origin + 4, below + 4, (size_t)n - 4) && !id_of_place(ov, p, &st, id);
			place_unpin(ov, parent);
		}
		place_put(ov, p);
	}
	return same;
}

/* Of a directory's places below, the one that its identity is taken from: in the layer that joined the stack first, so that a layer more on
 * top or at the bottom changes no identity; of those that joined together, the bottom one, as a stack without state gains layers on top. */
static struct place *eldest(const struct found *f)
{
	struct place *best = f->lower[0];
	for (size_t i = 1; i < f->nlower; i++)
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

static int find_identity(struct overlay *ov, struct found *f, struct search *s)
{
	struct fdent *parent;
	const char *name;
	struct overlay_id own;
	if (!f->upper && !f->nlower)
		return -ENOENT;
	if (!f->upper)
		return id_below(ov, f, &f->id);
	int rc = place_pin_parent(ov, f->upper, &parent, &name);
	if (rc)
		return rc;
	if (!format_get_identity(ov, parent->fd, name, f->st.stx_ino, &f->id))
		goto out;
	rc = id_of_place(ov, f->upper, &f->st, &own);
	if (rc)
		goto out;
	if (!identity_get_origin(ov->identity, own.ino, own.gen, &f->id))
		goto out;
	char origin;
	if (S_ISDIR(f->st.stx_mode) && f->nlower &&
	    (ov->layers[0].age >= eldest(f)->layer->age || format_getxattr(ov, parent->fd, name, "origin", &origin, 0) >= 0))
		rc = id_below(ov, f, &f->id);
	else if (S_ISDIR(f->st.stx_mode) || !origin_below(ov, parent->fd, name, s, &f->id))
		f->id = own;
out:
	place_unpin(ov, parent);
	return rc;
}

static int merge(struct overlay *ov, struct object *dir, const char *name, struct found *f)
{
	struct search s = { .dir = dir, .name = strdup(name) };
	bool have = false;
	int rc = 0;
	enum step step = GO_ON;
	memset(f, 0, sizeof *f);
	if (!s.name)
		return -ENOMEM;
	if (dir->upper) {
		struct place *p = place_new(dir->upper->layer, dir->upper, name);
		if (p)
			step = look_at(ov, f, &s, p, true, false, false, &have, &rc);
		else
			rc = -ENOMEM;
		place_put(ov, p);
	}
	f->name_in_upper = have;
	if (!rc && step == GO_ON)
		rc = look_below(ov, f, &s, first_lower(ov) - 1, &have);
	if (!rc && have && f->metacopy)
		rc = -EIO; /* data that is nowhere: an error for this object alone */
	f->metacopy = f->upper && S_ISREG(f->st.stx_mode) && f->nlower;
	if (!rc && have && !f->upper && S_ISREG(f->st.stx_mode) && f->nlower > 1)
		f->metacopy = true;
	f->indexed = !rc && have && !S_ISDIR(f->st.stx_mode) && !f->upper && f->st.stx_nlink > 1;
	if (!rc && !have)
		rc = -ENOENT;
	if (!rc)
		rc = find_identity(ov, f, &s);
	if (!rc && f->indexed)
		rc = look_in_index(ov, f);
	free(s.name);
	free(s.path);
	return rc;
}

/* Would the name show from below if the upper had nothing under it? */
static int shows_below(struct overlay *ov, struct object *dir, const char *name, bool *shows)
{
	struct found f = { 0 };
	struct search s = { .dir = dir, .name = strdup(name) };
	bool have = false;
	int rc = s.name ? look_below(ov, &f, &s, first_lower(ov) - 1, &have) : -ENOMEM;
	*shows = have;
	found_free(ov, &f);
	free(s.name);
	free(s.path);
	return rc;
}

int merge_name(struct overlay *ov, struct object *dir, const char *name, struct found *f)
{
	int rc = merge(ov, dir, name, f);
	if ((rc && rc != -ENOENT) || !dir->upper)
		return rc;
	if (!f->name_in_upper && !f->upper_whiteout)
		f->name_below = !rc; /* all that there is was looked at */
	else if (dir->nlower) {
		int rc2 = shows_below(ov, dir, name, &f->name_below);
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
	return f->name_in_upper && dir->nlower ? shows_below(ov, dir, name, &f->name_below) : 0;
}

int merge_root(struct overlay *ov, struct object **root)
{
	struct found f = { 0 };
	size_t n = ov->nlayers - ov->has_upper;
	struct statx st;
	int rc = 0;
	for (size_t i = 0; i < n && !rc; i++) {
		struct layer *l = first_lower(ov) + i;
		char opaque = format_opaque(ov, l->root->fds[FD_READ]->fd, "");
		rc = found_add_lower(&f, l->root, opaque);
		if (opaque == 'y')
			break;
	}
	if (ov->has_upper)
		f.upper = place_get(ov->layers[0].root);
	if (!rc)
		rc = place_statx(ov, ov->layers[0].root, &f.st);
	/* The root's identity is its own: it must not change when a layer is added. */
	f.id = (struct overlay_id){ .layer = 0xffff, .ino = 1, .gen = 0 };
	(void)st;
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

int lookup_locked(struct overlay *ov, struct object *dir, const char *name, struct object **o)
{
	struct found f;
	if ((*o = table_find_name(ov, dir, name)))
		return 0;
	int rc = merge_name(ov, dir, name, &f);
	if (!rc)
		rc = object_from(ov, &f, dir, name, o);
	if (!rc)
		map_put_place(ov->map, &(*o)->id, &dir->id, name);
	found_free(ov, &f);
	return rc;
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
