/*
 * origin.c: from overlayfs's origin xattr to the identity of the lower file that an upper one was copied from, by its handle alone: Linux leaves
 * nothing else on what it has copied up, and may have renamed and linked it since (Linux: ovl_check_origin_fh() in fs/overlayfs/namei.c). All
 * names of the copy then are one object, whichever is looked up first.
 */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FB_SIZE = 21, FID_MAX = 128 }; /* struct ovl_fb without its fid */

/* A handle tells the file system and the inode, not the layer; where several layers stand on one file system, all their files are listed once. */
struct origins {
	struct listed {
		uint64_t ino;
		const struct layer *layer;
	} *files; /* sorted by ino, then from the top layer down */
	size_t n, room;
};

void origins_free(struct origins *o)
{
	if (o)
		free(o->files);
	free(o);
}

static int add(struct origins *o, uint64_t ino, const struct layer *layer)
{
	if (o->n == o->room) {
		size_t room = o->room ? 2 * o->room : 1024;
		struct listed *more = realloc(o->files, room * sizeof *more);
		if (!more)
			return -ENOMEM;
		o->files = more;
		o->room = room;
	}
	o->files[o->n++] = (struct listed){ ino, layer };
	return 0;
}

/* Directories that are still to be read: a list, as trees may be deeper than there are descriptors. */
struct pending {
	struct place **dirs; /* counted */
	size_t n, room;
};

/* Takes over the reference. */
static int put_off(struct overlay *ov, struct pending *p, struct place *dir)
{
	if (dir && p->n == p->room) {
		size_t room = p->room ? 2 * p->room : 64;
		struct place **more = realloc(p->dirs, room * sizeof *more);
		if (!more) {
			place_put(ov, dir);
			return -ENOMEM;
		}
		p->dirs = more;
		p->room = room;
	}
	if (dir)
		p->dirs[p->n++] = dir;
	return dir ? 0 : -ENOMEM;
}

static int list_directory(struct overlay *ov, struct origins *o, struct pending *p, struct place *dir)
{
	struct fdent *path;
	int rc = place_pin(ov, dir, FD_PATH, &path);
	if (rc)
		return rc;
	int fd = open_beneath(path->fd, "", O_RDONLY | O_DIRECTORY | O_NOATIME);
	if (is_want(fd) && dir->parent && dir->parent->parent) { /* the cache holds one for each on the way */
		place_close(ov, dir->parent);
		fd = open_beneath(path->fd, "", O_RDONLY | O_DIRECTORY | O_NOATIME);
	}
	place_unpin(ov, path);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		rc = fd < 0 ? fd : -errno;
		if (fd >= 0)
			close(fd);
		return rc;
	}
	for (struct dirent *e; !rc && (e = readdir(d));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		struct statx st = { .stx_mode = e->d_type == DT_DIR ? S_IFDIR : S_IFREG };
		if (e->d_type == DT_UNKNOWN)
			rc = statx_at(dirfd(d), e->d_name, &st);
		if (!rc)
			rc = S_ISDIR(st.stx_mode) ? put_off(ov, p, place_new(ov, dir->layer, dir, e->d_name)) : add(o, e->d_ino, dir->layer);
	}
	closedir(d);
	return rc;
}

static int list_files(struct overlay *ov, struct origins *o, struct layer *layer)
{
	struct pending p = { 0 };
	int rc = put_off(ov, &p, place_get(layer->root));
	while (p.n) {
		struct place *dir = p.dirs[--p.n];
		if (!rc)
			rc = list_directory(ov, o, &p, dir);
		place_put(ov, dir);
	}
	free(p.dirs);
	return rc;
}

static int by_inode(const void *a, const void *b)
{
	const struct listed *x = a, *y = b;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->layer < y->layer ? -1 : 1;
}

static bool same_fs(const struct layer *a, const struct layer *b)
{
	return a->dev_major == b->dev_major && a->dev_minor == b->dev_minor;
}

/* *found is NULL where it is not listed, or the layers can't be read. ov->origins_lock held. */
static int layer_of(struct overlay *ov, const struct layer *like, uint64_t ino, const struct layer **found)
{
	int rc = 0;
	*found = NULL;
	if (!ov->origins) {
		if (!(ov->origins = calloc(1, sizeof *ov->origins)))
			return -ENOMEM;
		will_block(ov);
		for (size_t i = ov->has_upper; !rc && i < ov->nlayers; i++)
			rc = list_files(ov, ov->origins, &ov->layers[i]);
		if (is_want(rc)) { /* it may be had the next time */
			origins_free(ov->origins);
			ov->origins = NULL;
			return rc;
		}
		if (rc) {
			ov_log(ov, 4, "the lower layers' files can't be listed, to find what Linux copied up from them: %s", strerror(-rc));
			ov->origins->n = 0;
		}
		if (ov->origins->n)
			qsort(ov->origins->files, ov->origins->n, sizeof *ov->origins->files, by_inode);
	}
	size_t low = 0, high = ov->origins->n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (ov->origins->files[mid].ino < ino)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < ov->origins->n && ov->origins->files[low].ino == ino; low++)
		if (same_fs(ov->origins->files[low].layer, like)) {
			*found = ov->origins->files[low].layer;
			break;
		}
	return 0;
}

/* The inode that the handle names on the layer's file system. */
static int inode_of(const struct layer *layer, const uint8_t *fb, size_t len, struct overlay_id *id)
{
	uint64_t space[(sizeof(struct file_handle) + FID_MAX) / 8 + 1];
	struct file_handle *fh = (struct file_handle *)space;
	static const uint8_t no_uuid[16];
	struct statx st;
	if (!layer->has_handles || (memcmp(fb + 5, layer->uuid, 16) && memcmp(fb + 5, no_uuid, 16)))
		return -ENOENT;
	fh->handle_bytes = (unsigned)(len - FB_SIZE);
	fh->handle_type = fb[4];
	memcpy(fh->f_handle, fb + FB_SIZE, len - FB_SIZE);
	int fd = open_by_handle_at(layer->root->fds[FD_READ]->fd, fh, O_PATH | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) /* else there is none, or it is not allowed */
		return is_want(-errno) ? -errno : -ENOENT;
	int rc = statx_at(fd, "", &st);
	id->ino = st.stx_ino;
	if (!rc)
		rc = inode_generation(layer, fd, "", &st, &id->gen);
	close(fd);
	return rc;
}

int origin_find(struct overlay *ov, const uint8_t *fb, size_t len, struct overlay_id *id)
{
	const struct layer *found = NULL;
	if (len <= FB_SIZE || len > FB_SIZE + FID_MAX || fb[1] != 0xfb || fb[2] != len)
		return 0;
	for (size_t i = ov->has_upper; i < ov->nlayers; i++) {
		const struct layer *l = &ov->layers[i];
		if (found && same_fs(found, l)) { /* one more on the file system: it may be there */
			pthread_mutex_lock(&ov->origins_lock);
			int rc = layer_of(ov, l, id->ino, &found);
			pthread_mutex_unlock(&ov->origins_lock);
			if (rc)
				return rc;
			break;
		}
		int rc = found ? 0 : inode_of(l, fb, len, id);
		if (rc && rc != -ENOENT)
			return rc;
		if (!found && !rc)
			found = l;
	}
	id->layer = found ? found->number : 0;
	return found ? 1 : 0;
}
