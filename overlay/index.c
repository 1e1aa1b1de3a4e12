/*
 * index.c: lower files of several names stay one object when they are copied up: the copy is linked in <work>/index under the hex of its origin,
 * and every name of the lower file leads to it, as in Linux with index=on. Names that are still the lower's count too, so the copy's own
 * count of links is wrong, and the right one stands in its xattr overlay.nlink: "U+n", relative to the copy's, moves along when a name
 * is linked or unlinked; "L+n", relative to the lower file's, stays when a lower's name becomes the copy's. So a crash at any moment leaves it right.
 */
#include "internal.h"

#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OVL_FB_HEAD = 21, OVL_FB_MAGIC = 0xfb };

static int index_fd(struct overlay *ov)
{
	return ov->index_layer.root->fds[FD_PATH]->fd;
}

static void to_hex(const uint8_t *bytes, size_t len, char hex[321])
{
	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", bytes[i]);
	hex[2 * len] = 0;
}

/* Where no origin of overlayfs can be made (no handles, or a file system that does not tell its uuid) all names of the file are one object all
 * the same: the entry has our id of it, in the form of a handle of a kind that no file system has. Linux takes it for that of a layer it does not know. */
static void own_name(const struct layer *layer, uint64_t ino, uint64_t gen, char hex[321])
{
	enum { OWN_TYPE = 0xfe };
	const uint64_t id[] = { htobe64(layer->number), htobe64(ino), htobe64(gen) };
	uint8_t own[OVL_FB_HEAD + sizeof id] = { [1] = OVL_FB_MAGIC, [2] = sizeof own, [4] = OWN_TYPE };
	memcpy(own + 5, layer->fs_id, sizeof layer->fs_id);
	memcpy(own + OVL_FB_HEAD, id, sizeof id);
	to_hex(own, sizeof own, hex);
}

/* user.* can stand on files and directories alone. */
static bool holds_xattrs(struct overlay *ov, mode_t mode)
{
	return *ov->prefix != 'u' || S_ISREG(mode);
}

/* NULL: it is not in the stack (any more). */
static const struct layer *lower_of(struct overlay *ov, const struct overlay_id *id)
{
	for (const struct layer *l = first_lower(ov); l < ov->layers + ov->nlayers; l++)
		if (l->number == id->layer)
			return l;
	return NULL;
}

enum { ANOTHERS, THIS_ONES, ANYONES };

/* Whose file the entry is of. ANYONES: of a layer that is not in the stack (any more). Where Linux made it, which does not say, this one's.
 * -ENOENT: there is none. */
static int is_of_layer(struct overlay *ov, const struct layer *layer, const char *hex)
{
	struct overlay_id id;
	struct statx st;
	int rc = ov->has_index ? statx_at(index_fd(ov), hex, &st) : -ENOENT;
	if (rc)
		return rc;
	rc = format_get_identity(ov, index_fd(ov), hex, st.stx_ino, &id);
	if (rc)
		return rc == -ENODATA ? THIS_ONES : rc;
	const struct layer *l = lower_of(ov, &id);
	return l == layer ? THIS_ONES : l ? ANOTHERS : ANYONES;
}

/* Layers on one file system may share an inode by links. It is an object in each, with a copy of its own, though overlayfs's origin is the same:
 * which names the copy that came first, and our id the others. It names those too that can't hold their origin. */
int index_name(struct overlay *ov, const struct layer *layer, int dirfd, const char *name, mode_t mode, char hex[321])
{
	uint8_t origin[160];
	size_t len = holds_xattrs(ov, mode) ? format_make_origin(layer, dirfd, name, origin) : 0;
	struct statx st;
	uint64_t gen;
	char own[321];
	int whose = ANOTHERS;
	if (len) {
		to_hex(origin, len, hex);
		whose = ov->has_index ? is_of_layer(ov, layer, hex) : THIS_ONES;
		if (whose == THIS_ONES || (whose < 0 && whose != -ENOENT))
			return whose < 0 ? whose : 0;
	}
	int rc = statx_at(dirfd, name, &st);
	if (!rc)
		rc = inode_generation(layer, dirfd, name, &st, &gen);
	if (rc)
		return rc;
	own_name(layer, st.stx_ino, gen, own);
	if (whose != ANOTHERS) { /* the origin's name may be had; but this one may have had to do without */
		rc = is_of_layer(ov, layer, own);
		if (rc < 0)
			return rc == -ENOENT ? 0 : rc;
	}
	memcpy(hex, own, sizeof own);
	return 0;
}

/* The name of the entry that an upper file says to be a copy of: by its origin, else by its identity. -ENODATA: it says nothing. */
static int name_by_copy(struct overlay *ov, int dirfd, const char *name, const struct overlay_id *id, char hex[321])
{
	uint8_t origin[160];
	ssize_t n = format_getxattr(ov, dirfd, name, "origin", origin, sizeof origin);
	if (n > 0) {
		to_hex(origin, (size_t)n, hex);
		return 0;
	}
	if (n < 0 && n != -ENODATA && n != -ERANGE)
		return (int)n;
	const struct layer *l = lower_of(ov, id);
	if (l)
		own_name(l, id->ino, id->gen, hex);
	return l ? 0 : -ENODATA;
}

int index_open(struct overlay *ov)
{
	int rc = 0;
	pthread_mutex_lock(&ov->index_lock);
	if (!ov->has_index) {
		char err[256];
		char path[64];
		if (mkdirat(ov->base_fd, "index", 0700) && errno != EEXIST)
			rc = -errno;
		snprintf(path, sizeof path, "/proc/self/fd/%d/index", ov->base_fd);
		if (!rc)
			rc = layer_open(ov, &ov->index_layer, path, false, err, sizeof err);
		if (!rc)
			claim_index(ov);
		ov->has_index = !rc;
	}
	pthread_mutex_unlock(&ov->index_lock);
	return rc;
}

/* -ENOENT: none is kept. */
static int kept_links(struct overlay *ov, int dirfd, const char *name, char v[LINKS_SIZE])
{
	uint64_t ino, gen;
	if (!identity_has_links(ov->identity))
		return -ENOENT;
	int rc = upper_inode(ov, dirfd, name, &ino, &gen);
	return rc ? rc : identity_get_links(ov->identity, ino, gen, v);
}

/* overlay.nlink, or what is kept in its place. */
static int get_links(struct overlay *ov, int dirfd, const char *name, char v[LINKS_SIZE])
{
	int rc = kept_links(ov, dirfd, name, v);
	if (rc != -ENOENT)
		return rc;
	ssize_t n = format_getxattr(ov, dirfd, name, "nlink", v, LINKS_SIZE - 1);
	return n < 0 ? (int)n : 0;
}

/* Some hold no xattr, and without root what may not be written takes none. What is kept once stays so: there is one place at a time. */
static int put_links(struct overlay *ov, int dirfd, const char *name, const char v[LINKS_SIZE])
{
	char old[LINKS_SIZE];
	uint64_t ino, gen;
	int rc = kept_links(ov, dirfd, name, old);
	if (rc == -ENOENT) {
		rc = format_setxattr(ov, dirfd, name, "nlink", v, strlen(v));
		if (!holds_no_xattr(rc))
			return rc;
		rc = 0;
	}
	if (!rc)
		rc = upper_inode(ov, dirfd, name, &ino, &gen);
	return rc ? rc : identity_put_links(ov->identity, ino, gen, v);
}

/* Parses overlay.nlink: *relative_to is 'U' or 'L', or 0 where there is none (that makes sense). */
static int read_nlink(struct overlay *ov, int dirfd, const char *name, char *relative_to, long *by)
{
	char v[LINKS_SIZE] = "", *end;
	int rc = get_links(ov, dirfd, name, v);
	*relative_to = 0;
	if (rc)
		return rc == -ENODATA || rc == -ERANGE ? 0 : rc;
	if (strlen(v) < 3 || (*v != 'U' && *v != 'L') || (v[1] != '+' && v[1] != '-'))
		return 0;
	*by = strtol(v + 1, &end, 10);
	*relative_to = *end ? 0 : *v;
	return 0;
}

static int write_nlink(struct overlay *ov, int dirfd, const char *name, char relative_to, long by)
{
	char v[LINKS_SIZE] = "";
	snprintf(v, sizeof v, "%c%+ld", relative_to, by);
	return put_links(ov, dirfd, name, v);
}

int index_nlink(struct overlay *ov, struct object *o, uint32_t upper_nlink, uint32_t *nlink)
{
	struct fdent *parent;
	const char *name;
	struct statx st;
	char relative_to;
	long by, n = -1;
	int rc = place_pin_parent(ov, o->upper, &parent, &name);
	if (rc)
		return rc;
	rc = read_nlink(ov, parent->fd, name, &relative_to, &by);
	if (!rc && relative_to == 'U')
		n = (long)upper_nlink + by;
	else if (!rc && relative_to == 'L' && o->nlower && !(rc = place_statx(ov, o->lower[0], &st)))
		n = (long)st.stx_nlink + by;
	place_unpin(ov, parent);
	*nlink = n > 0 ? (uint32_t)n : upper_nlink;
	return rc;
}

/* A crash left the count relative to the lower, here at hand for once: from now on it is relative to the copy. */
static int settle(struct overlay *ov, const char *hex, const struct statx *st, struct place *lower)
{
	struct statx below;
	char relative_to;
	long by;
	int rc = ov->writable ? read_nlink(ov, index_fd(ov), hex, &relative_to, &by) : 0;
	if (rc || !ov->writable || relative_to != 'L')
		return rc;
	rc = place_statx(ov, lower, &below);
	return rc ? rc : write_nlink(ov, index_fd(ov), hex, 'U', (long)below.stx_nlink + by - (long)st->stx_nlink);
}

int index_find_lower(struct overlay *ov, struct found *f)
{
	struct fdent *parent;
	const char *name;
	char hex[321];
	struct statx st;
	f->indexed = true;
	if (!ov->has_index)
		return 0;
	int rc = place_pin_parent(ov, f->lower[0], &parent, &name);
	if (rc)
		return rc;
	rc = index_name(ov, f->lower[0]->layer, parent->fd, name, f->st.stx_mode, hex);
	place_unpin(ov, parent);
	if (!rc)
		rc = statx_at(index_fd(ov), hex, &st);
	if (rc)
		return rc == -ENOENT ? 0 : rc; /* not copied up yet */
	if ((st.stx_mode & S_IFMT) != (f->st.stx_mode & S_IFMT))
		return -EIO; /* a whiteout there says that no name of it is left; yet here is one */
	rc = settle(ov, hex, &st, f->lower[0]);
	int meta = rc ? rc : format_metacopy(ov, index_fd(ov), hex, NULL);
	if (meta < 0)
		return meta;
	if (meta && !f->metacopy)
		f->data = place_get(f->lower[0]);
	f->metacopy = meta;
	f->st = st;
	f->upper = place_new(ov, &ov->index_layer, ov->index_layer.root, hex);
	return f->upper ? 0 : -ENOMEM;
}

/* The lower of this name, where the copy was not linked up under another before the crash. */
static int settle_by_name(struct overlay *ov, struct object *dir, const char *name, const char *hex, const struct statx *st)
{
	char own[321];
	int rc = 0;
	for (size_t i = 0; i < dir->nlower && !rc; i++) {
		struct place *p = place_new(ov, dir->lower[i]->layer, dir->lower[i], name);
		struct fdent *fd;
		if (!p)
			return -ENOMEM;
		rc = place_pin(ov, dir->lower[i], FD_PATH, &fd);
		if (!rc) {
			if (!index_name(ov, p->layer, fd->fd, name, st->stx_mode, own) && !strcmp(own, hex))
				rc = settle(ov, hex, st, p);
			place_unpin(ov, fd);
		}
		place_put(ov, p);
	}
	return rc;
}

/* Its place is the entry in the index then: that one stays whatever becomes of the name. */
int index_find_upper(struct overlay *ov, struct object *dir, const char *name, struct found *f)
{
	char hex[321];
	struct fdent *parent;
	const char *own;
	struct statx st;
	if (!ov->has_index)
		return 0;
	int rc = place_pin_parent(ov, f->upper, &parent, &own);
	if (rc)
		return rc;
	rc = name_by_copy(ov, parent->fd, own, &f->id, hex);
	place_unpin(ov, parent);
	if (rc)
		return rc == -ENODATA ? 0 : rc;
	rc = statx_at(index_fd(ov), hex, &st);
	if (rc || st.stx_ino != f->st.stx_ino)
		return rc == -ENOENT ? 0 : rc;
	struct place *entry = place_new(ov, &ov->index_layer, ov->index_layer.root, hex);
	if (!entry)
		return -ENOMEM;
	place_put(ov, f->upper);
	f->upper = entry;
	f->indexed = true;
	return settle_by_name(ov, dir, name, hex, &st);
}

bool index_has(struct overlay *ov, struct object *o)
{
	pthread_mutex_lock(&o->lock);
	bool has = o->indexed && o->upper && o->upper->layer == &ov->index_layer;
	pthread_mutex_unlock(&o->lock);
	return has;
}

int index_keep_nlink(struct overlay *ov, struct object *o)
{
	struct statx st;
	char relative_to;
	long by;
	uint32_t n;
	pthread_mutex_lock(&o->lock);
	int rc = read_nlink(ov, index_fd(ov), o->upper->name, &relative_to, &by);
	if (!rc && relative_to != 'U') {
		rc = statx_at(index_fd(ov), o->upper->name, &st);
		if (!rc)
			rc = index_nlink(ov, o, st.stx_nlink, &n);
		if (!rc)
			rc = write_nlink(ov, index_fd(ov), o->upper->name, 'U', (long)n - (long)st.stx_nlink);
	}
	pthread_mutex_unlock(&o->lock);
	return rc;
}

/* How many names the lower file under this name has. */
static int lower_nlink(struct overlay *ov, struct object *dir, const char *name, long *n)
{
	int rc = -ENOENT;
	for (size_t i = 0; i < dir->nlower && rc == -ENOENT; i++) {
		struct fdent *fd;
		struct statx st;
		rc = place_pin(ov, dir->lower[i], FD_PATH, &fd);
		if (rc)
			continue;
		rc = statx_at(fd->fd, name, &st);
		*n = rc ? 0 : st.stx_nlink;
		place_unpin(ov, fd);
	}
	return rc;
}

/* o->lock held. below: of the lower's names */
static int link_counted(struct overlay *ov, struct object *o, int dirfd, const char *name, long below)
{
	struct statx st;
	uint32_t n;
	int rc = statx_at(index_fd(ov), o->upper->name, &st);
	if (!rc)
		rc = index_nlink(ov, o, st.stx_nlink, &n);
	if (!rc)
		rc = write_nlink(ov, index_fd(ov), o->upper->name, 'L', (long)n - below);
	if (rc)
		return rc;
	rc = linkat(index_fd(ov), o->upper->name, dirfd, name, 0) ? -errno : 0;
	for (int tries = 0; tries < 2; tries++) {
		int rc2 = write_nlink(ov, index_fd(ov), o->upper->name, 'U', (long)n - (long)st.stx_nlink - !rc);
		if (!rc2)
			return rc;
	}
	ov_log(ov, 4, "index/%s: its count of names could not be written; it is right again after a restart", o->upper->name);
	return rc;
}

int index_link_up(struct overlay *ov, struct object *o, struct object *dir, int dirfd, const char *name)
{
	struct kept_times times;
	long below = 0;
	int rc = lower_nlink(ov, dir, name, &below);
	if (!rc)
		rc = mark_impure(ov, dir, dirfd);
	if (!rc)
		rc = times_keep(ov, dir->upper, dirfd, NULL, &times); /* for clients nothing happens */
	if (rc)
		return rc;
	pthread_mutex_lock(&o->lock); /* nobody looks at the count meanwhile */
	rc = link_counted(ov, o, dirfd, name, below);
	o->attr_valid = false;
	pthread_mutex_unlock(&o->lock);
	times_put_back(ov, &times);
	return rc;
}

int index_install(struct overlay *ov, int dirfd, const char *name, const char *hex)
{
	int rc = write_nlink(ov, dirfd, name, 'L', 0);
	if (!rc && linkat(dirfd, name, index_fd(ov), hex, 0))
		rc = errno == EEXIST ? -EAGAIN : -errno; /* of another layer this moment: asked again, this one gets a name of its own */
	return rc;
}

void index_uninstall(struct overlay *ov, const char *hex)
{
	if (unlinkat(index_fd(ov), hex, 0) && unlinkat(index_fd(ov), hex, 0)) /* it may have been for want of memory */
		ov_log(ov, 4, "index/%s: could not be removed: %s", hex, strerror(errno));
}

int index_sync(struct overlay *ov)
{
	return ov->config.sync ? sync_fd(ov, index_fd(ov), false) : 0;
}

void index_flush_removed(struct overlay *ov)
{
	if (atomic_load(&ov->index_unflushed) && atomic_exchange(&ov->index_unflushed, false))
		index_sync(ov); /* what came back after a power cut would hide nothing, but fill the disk: no error */
}

void index_remove(struct overlay *ov, struct object *o)
{
	struct statx st;
	if (statx_at(index_fd(ov), o->upper->name, &st) && statx_at(index_fd(ov), o->upper->name, &st))
		return;
	if (st.stx_nlink == 1) {
		uint64_t gen;
		if (identity_has_links(ov->identity) && !inode_generation(&ov->layers[0], index_fd(ov), o->upper->name, &st, &gen))
			identity_forget_links(ov->identity, st.stx_ino, gen);
		index_uninstall(ov, o->upper->name);
		atomic_store(&ov->index_unflushed, true);
	} else /* a lower got another name behind our back: as Linux, the names that are left count */
		write_nlink(ov, index_fd(ov), o->upper->name, 'U', -1);
}
