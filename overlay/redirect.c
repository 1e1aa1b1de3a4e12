/* redirect.c: writes redirects: where an object that gets another place or name has its parts below (Linux: ovl_set_redirect() in fs/overlayfs/dir.c). */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FITS_ANYWHERE = 256 };

/* The name by which the layers below know it: by its redirect, else by its own. malloc'ed. *parent: counted, or NULL: it is the root's. The name that
 * the table has of a linked file may have been removed meanwhile; the lower that it named is there all the same. */
static int name_below(struct overlay *ov, struct object *o, int dirfd, const char *own, char **name, struct object **parent)
{
	int rc = format_redirect(ov, dirfd, own, name);
	pthread_mutex_lock(&ov->table.lock);
	if (!rc && !*name && !(*name = strdup(o->name)))
		rc = -ENOMEM;
	*parent = object_get(o->parent);
	pthread_mutex_unlock(&ov->table.lock);
	return rc;
}

static int directory_below(struct overlay *ov, struct object *dir, char **name, struct object **parent)
{
	struct fdent *fd;
	const char *own;
	*parent = NULL;
	int rc = place_pin_parent(ov, dir->upper, &fd, &own);
	if (rc)
		return rc;
	rc = name_below(ov, dir, fd->fd, own, name, parent);
	place_unpin(ov, fd);
	return rc;
}

/* The path by which the layers below, merged, know it: not the path in one layer, for what a layer in between has moved is found there by its new
 * name. Its ancestors are in the upper; one with an absolute redirect ends the way up. malloc'ed. */
static int path_below(struct overlay *ov, struct object *o, int dirfd, const char *own, char **path)
{
	struct object *at, *up;
	*path = NULL;
	int rc = name_below(ov, o, dirfd, own, path, &at);
	while (!rc && at && **path != '/') {
		char *name = NULL, *longer = NULL;
		up = NULL;
		if (at->parent)
			rc = directory_below(ov, at, &name, &up);
		if (!rc && asprintf(&longer, "%s/%s", name ? name : "", *path) < 0)
			rc = -ENOMEM;
		free(name);
		overlay_put(ov, at);
		at = up;
		if (!rc) {
			free(*path);
			*path = longer;
		}
	}
	overlay_put(ov, at);
	if (rc) {
		free(*path);
		*path = NULL;
	}
	return rc;
}

int redirect_set(struct overlay *ov, struct object *o, int dirfd, const char *name, bool same_parent)
{
	char *old = NULL, *value = NULL;
	struct statx below;
	int rc = format_redirect(ov, dirfd, name, &old);
	if (rc || (old && (*old == '/' || same_parent)))
		goto out; /* right wherever it goes, or still right */
	if (!ov->makes_redirects) {
		rc = -EXDEV;
		goto out;
	}
	/* A bare name is enough within a directory; but the names of a linked file may part later. */
	bool bare = same_parent && (o->type == S_IFDIR || (!place_statx(ov, o->lower[0], &below) && below.stx_nlink == 1));
	if (bare)
		value = strdup(o->name); /* of one name alone, which only a rename changes */
	else
		rc = path_below(ov, o, dirfd, name, &value);
	if (!rc && !value)
		rc = -ENOMEM;
	if (!rc && value)
		rc = format_setxattr(ov, dirfd, name, "redirect", value, strlen(value));
	/* Some file systems hold no more than a block in an xattr: a way that is too long for this one can't be kept, and the client copies, as
	 * between file systems (Linux does so above 256 bytes). */
	if ((rc == -ENOSPC || rc == -E2BIG || rc == -ERANGE) && value && strlen(value) > FITS_ANYWHERE)
		rc = -EXDEV;
out:
	free(old);
	free(value);
	return rc;
}
