/* redirect.c: writes redirects: where an object that gets another place or name has its parts below (Linux: ovl_set_redirect() in fs/overlayfs/dir.c). */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FITS_ANYWHERE = 256 };

/* The name by which the layers below know it: by its redirect, else by its own. malloc'ed. */
static int name_below(struct overlay *ov, struct object *o, char **name)
{
	struct fdent *parent;
	const char *own;
	int rc = place_pin_parent(ov, o->upper, &parent, &own);
	if (rc)
		return rc;
	rc = format_redirect(ov, parent->fd, own, name);
	place_unpin(ov, parent);
	if (!rc && !*name && !(*name = strdup(o->name)))
		rc = -ENOMEM;
	return rc;
}

/* The path by which the layers below, merged, know it: not the path in one layer, for what a layer in between has moved is found there by its new
 * name. Its ancestors are in the upper; one with an absolute redirect ends the way up. malloc'ed. */
static int path_below(struct overlay *ov, struct object *o, char **path)
{
	int rc = 0;
	char *done = strdup("");
	for (; done && !rc && o->parent && *done != '/'; o = o->parent) {
		char *name = NULL, *longer = NULL;
		rc = name_below(ov, o, &name);
		if (!rc && asprintf(&longer, "%s%s%s", name, *done ? "/" : "", done) < 0)
			rc = -ENOMEM;
		free(name);
		if (!rc) {
			free(done);
			done = longer;
		}
	}
	if (!done || rc || (*done != '/' && asprintf(path, "/%s", done) < 0)) {
		free(done);
		return rc ? rc : -ENOMEM;
	}
	if (*done == '/')
		*path = done;
	else
		free(done);
	return 0;
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
		value = strdup(o->name);
	else
		rc = path_below(ov, o, &value);
	if (!rc && !value)
		rc = -ENOMEM;
	if (!rc)
		rc = format_setxattr(ov, dirfd, name, "redirect", value, strlen(value));
	/* Some file systems hold no more than a block in an xattr: a way that is too long for this one can't be kept, and the client copies, as
	 * between file systems (Linux does so above 256 bytes). */
	if ((rc == -ENOSPC || rc == -E2BIG || rc == -ERANGE) && strlen(value) > FITS_ANYWHERE)
		rc = -EXDEV;
out:
	free(old);
	free(value);
	return rc;
}
