/*
 * merge.c: one name of a merged directory, searched through the layers from the top: what Linux does in ovl_lookup()
 * (fs/overlayfs/namei.c), redirects, metacopies and data-only layers included.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The search goes down the layers. Each thing that it meets may end it, or change where it looks in the layers further down. */
struct merging {
	struct overlay *ov;
	struct found *found;
	char *path; /* owned: a bare name, looked up in the directory's own places, or "/a/b", from each layer's root */
	const struct layer *topmost; /* no lower above it has the name; NULL: not known */
	bool have; /* something was found */
	bool stop; /* what is further down does not count */
	bool is_dir;
	bool metacopy; /* the file met last has its data further down */
	bool absolute; /* so had its redirect */
	bool moved; /* a lower's redirect was followed */
	struct metacopy meta; /* what the first file says of its data */
};

struct level { /* one layer's turn */
	struct layer *layer;
	bool upper, lowest;
};

struct seen {
	struct place *place; /* NULL: nothing here */
	struct statx st;
	bool x; /* a lower directory that may hold xattr whiteouts */
};

struct layer *first_lower(struct overlay *ov)
{
	return ov->layers + ov->has_upper;
}

static bool absent(int rc)
{
	return rc == -ENOENT || rc == -ENOTDIR || rc == -ENAMETOOLONG;
}

static int found_add_lower(struct found *f, struct place *p, bool x)
{
	struct place **lower = realloc(f->lower, (f->nlower + 1) * sizeof *lower);
	if (lower)
		f->lower = lower;
	uint8_t *lower_x = realloc(f->lower_x, f->nlower + 1);
	if (lower_x)
		f->lower_x = lower_x;
	if (!lower || !lower_x)
		return -ENOMEM;
	f->lower_x[f->nlower] = x;
	f->lower[f->nlower++] = place_get(p);
	return 0;
}

/* A redirect of the last component or of one on the way to it: from now on another path counts. prefix: what precedes the component in
 * s->path, in bytes; rest: what follows it. */
static int follow_redirect(struct merging *s, const struct level *level, bool file, int dirfd, const char *name, size_t prefix, const char *rest)
{
	char *redirect, *path;
	s->absolute = false;
	int rc = format_redirect(s->ov, dirfd, name, &redirect);
	if (rc || !redirect)
		return rc;
	if (!file && !level->upper && s->ov->distrusts_lowers) { /* where a file's leads is judged in the end */
		free(redirect);
		return -EACCES;
	}
	s->absolute = *redirect == '/';
	s->moved |= !level->upper;
	if (s->absolute) {
		s->stop = false; /* an opaque directory above does not hide what is named in full */
		prefix = 0;
	}
	if (asprintf(&path, "%.*s%s%s", (int)prefix, s->path, redirect, rest) < 0)
		path = NULL;
	free(redirect);
	if (!path)
		return -ENOMEM;
	free(s->path);
	s->path = path;
	return 0;
}

/* What the thing means for the search; *hidden: it is not to be shown. */
static int judge(struct merging *s, const struct level *level, int dirfd, const char *name, size_t prefix, const char *rest, struct seen *seen,
		 bool *hidden)
{
	const struct statx *st = &seen->st;
	bool final = !*rest;
	*hidden = true;
	if (format_is_whiteout(st) || format_is_xattr_whiteout(s->ov, dirfd, name, st)) {
		s->stop = true;
		s->found->upper_whiteout |= level->upper;
		return 0;
	}
	if ((final && s->metacopy && !S_ISREG(st->stx_mode)) || (!S_ISDIR(st->stx_mode) && (s->is_dir || !final))) {
		s->stop = true; /* a file ends the merge of directories, and what is no file has no data */
		return 0;
	}
	*hidden = false;
	if (S_ISDIR(st->stx_mode)) {
		s->is_dir |= final;
		char opaque = format_opaque(s->ov, dirfd, name);
		seen->x = final && !level->upper && opaque == 'x';
		if (opaque == 'y') {
			s->stop = true;
			return 0;
		}
	} else {
		int meta = S_ISREG(st->stx_mode) ? format_metacopy(s->ov, dirfd, name, s->have ? NULL : &s->meta) : 0;
		if (meta < 0)
			return meta;
		s->metacopy = meta;
		s->stop = !meta;
		if (!meta)
			return 0;
	}
	bool file = !S_ISDIR(st->stx_mode), more = !level->lowest || (s->ov->ndata_layers && file);
	return more ? follow_redirect(s, level, file, dirfd, name, prefix, rest) : 0;
}

/* One component in base. */
static int look_at(struct merging *s, const struct level *level, struct place *base, const char *name, size_t prefix, const char *rest,
		   struct seen *seen)
{
	struct fdent *dir;
	bool hidden = true;
	int rc = place_pin(s->ov, base, FD_PATH, &dir);
	if (rc)
		return absent(rc) ? 0 : rc;
	rc = statx_at(dir->fd, name, &seen->st);
	if (!rc && seen->st.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		rc = -EIO; /* another file system, whose inode numbers may be the same: could not be kept out (see layer_open) */
	else if (!rc)
		rc = judge(s, level, dir->fd, name, prefix, rest, seen, &hidden);
	else if (absent(rc))
		rc = 0;
	if (!rc && !hidden && !(seen->place = place_new(s->ov, level->layer, base, name)))
		rc = -ENOMEM;
	place_unpin(s->ov, dir);
	return rc;
}

/* The whole path in one layer. What is left of it is counted from its end: a redirect on the way changes its beginning. */
static int walk(struct merging *s, const struct level *level, struct place *base, struct seen *seen)
{
	size_t left = strlen(s->path) - (*s->path == '/');
	struct place *at = place_get(base);
	int rc = 0;
	while (at) {
		char name[256];
		size_t prefix = strlen(s->path) - left, len = strcspn(s->path + prefix, "/");
		bool final = !s->path[prefix + len];
		if (len < sizeof name) {
			memcpy(name, s->path + prefix, len);
			name[len] = 0;
			/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): a redirect gives s->path another value, and frees the old one */
			rc = look_at(s, level, at, name, prefix, s->path + prefix + len, seen);
		}
		place_put(s->ov, at);
		at = NULL;
		if (!rc && !final) { /* on from there */
			at = seen->place;
			seen->place = NULL;
			left -= len + 1;
		}
	}
	return rc;
}

/* Of directories all count; of files the attributes of the first, and the data of the first that has data. */
static int take(struct merging *s, const struct level *level, const struct seen *seen)
{
	struct found *f = s->found;
	int rc = 0;
	if (level->upper)
		f->upper = place_get(seen->place);
	else if (S_ISDIR(seen->st.stx_mode) || !f->nlower)
		rc = found_add_lower(f, seen->place, seen->x);
	if (!s->have) {
		f->st = seen->st;
		f->metacopy = s->metacopy;
	} else if (f->metacopy && !s->metacopy) {
		f->data = place_get(seen->place);
	}
	s->have = true;
	if (s->moved && !f->nown)
		f->nown = f->nlower;
	return rc;
}

static int look(struct merging *s, struct layer *layer, struct place *base)
{
	const struct level level = { .layer = layer, .upper = s->ov->has_upper && layer == s->ov->layers,
				     .lowest = layer == s->ov->layers + s->ov->nlayers - 1 };
	struct seen seen = { 0 };
	int rc = walk(s, &level, base, &seen);
	if (!rc && seen.place)
		rc = take(s, &level, &seen);
	place_put(s->ov, seen.place);
	return rc;
}

static int look_below(struct merging *s, struct object *dir)
{
	struct layer *next = first_lower(s->ov), *end = s->ov->layers + s->ov->nlayers;
	int rc = 0;
	for (size_t i = 0; !rc && i < dir->nlower && !s->stop && *s->path != '/'; i++) {
		if (s->topmost && dir->lower[i]->layer < s->topmost)
			continue;
		rc = look(s, dir->lower[i]->layer, dir->lower[i]);
		next = dir->lower[i]->layer + 1;
	}
	for (; !rc && next < end && !s->stop && *s->path == '/'; next++)
		rc = look(s, next, next->root);
	return rc;
}

/* Data-only layers: the path is walked as it stands; only a regular file will do. */
static int look_in_data_layer(struct merging *s, struct layer *layer)
{
	struct overlay *ov = s->ov;
	struct place *p = place_get(layer->root);
	char *path = strdup(s->path), *save = NULL;
	struct statx st;
	int rc = path ? 0 : -ENOMEM;
	for (char *c = path ? strtok_r(path, "/", &save) : NULL; c && p; c = strtok_r(NULL, "/", &save)) {
		struct place *child = place_new(ov, layer, p, c);
		place_put(ov, p);
		p = child;
	}
	free(path);
	if (!rc)
		rc = p ? place_statx(ov, p, &st) : -ENOMEM;
	if (!rc && S_ISREG(st.stx_mode))
		s->found->data = p;
	else
		place_put(ov, p);
	return absent(rc) || rc == -EACCES ? 0 : rc;
}

/* Where none has it, the attributes are there all the same; only reading fails, as in Linux. */
static int look_in_data_layers(struct merging *s)
{
	int rc = 0;
	for (size_t i = 0; !rc && !s->found->data && i < s->ov->ndata_layers; i++)
		rc = look_in_data_layer(s, &s->ov->data_layers[i]);
	return rc;
}

/* What the search came to. */
static int conclude(struct merging *s)
{
	struct found *f = s->found;
	int rc = 0;
	if (!s->have)
		return -ENOENT;
	if (!f->nown)
		f->nown = f->nlower;
	if (!f->metacopy)
		return 0;
	if (s->metacopy && f->nlower && s->ov->ndata_layers && s->absolute)
		rc = look_in_data_layers(s);
	else if (s->metacopy || !f->nlower)
		rc = -EIO; /* data that is nowhere: an error for this object alone */
	else if (!s->ov->follows_metacopy)
		rc = -EACCES;
	int allowed = !rc && f->data ? verity_allows(s->ov, &s->meta, f->data) : 1;
	if (!allowed) {
		ov_log(s->ov, 3, "%s: the data of a metacopy there is not what its fs-verity digest says; it is not given out", s->path);
		place_put(s->ov, f->data);
		f->data = NULL;
	}
	return allowed < 0 ? allowed : rc;
}

int merge_layers(struct overlay *ov, struct object *dir, const char *name, const struct layer *topmost, struct found *f)
{
	struct merging s = { .ov = ov, .topmost = topmost, .found = f, .path = strdup(name) };
	int rc = s.path ? 0 : -ENOMEM;
	memset(f, 0, sizeof *f);
	if (!rc && dir->upper)
		rc = look(&s, dir->upper->layer, dir->upper);
	f->name_in_upper = s.have;
	if (!rc)
		rc = look_below(&s, dir);
	if (!rc)
		rc = conclude(&s);
	free(s.path);
	return rc;
}

int merge_shows_below(struct overlay *ov, struct object *dir, const char *name, bool *shows)
{
	*shows = false;
	for (size_t i = 0; i < dir->nlower; i++) {
		struct fdent *fd;
		struct statx st;
		int rc = place_pin(ov, dir->lower[i], FD_PATH, &fd);
		if (!rc) {
			rc = statx_at(fd->fd, name, &st);
			if (!rc)
				*shows = !format_is_whiteout(&st) && !format_is_xattr_whiteout(ov, fd->fd, name, &st);
			place_unpin(ov, fd);
		}
		if (!absent(rc))
			return rc;
	}
	return 0;
}

/* The roots merge whatever marks they carry, but for opaque=x: a layer that was made as an upper may have been opaque once. */
int merge_roots(struct overlay *ov, struct found *f)
{
	int rc = 0;
	memset(f, 0, sizeof *f);
	for (struct layer *l = first_lower(ov); !rc && l < ov->layers + ov->nlayers; l++)
		rc = found_add_lower(f, l->root, format_opaque(ov, l->root->fds[FD_READ]->fd, "") == 'x');
	if (ov->has_upper)
		f->upper = place_get(ov->layers[0].root);
	return rc ? rc : place_statx(ov, ov->layers[0].root, &f->st);
}
