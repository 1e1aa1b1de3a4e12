/*
 * copyup.c: an object comes to the upper: made whole in the work directory, with all that it is (M3), then moved into place.
 * Of a large file only the attributes come at first (a metacopy, as in Linux); its bytes follow when they are to be changed.
 */
#include "internal.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { COPIED_WHOLE = 1 << 16 }; /* bytes: up to here a metacopy would not pay */
#define ALL UINT64_MAX

struct copying {
	struct object *o;
	struct fdent *dir; /* what is copied is dir->fd/name ... */
	const char *name;
	struct fdent *data; /* ... and its bytes, or NULL */
	struct statx st;
	bool metacopy; /* leave the bytes where they are */
	uint64_t size; /* how many to copy */
	char temp[24], hex[321]; /* hex: name in the index, or "" */
	int fd; /* of a regular file's copy, or -1 */
	bool ours; /* though the original is another's: without root there is no giving away */
	bool mode_last; /* it gets its mode where it belongs */
	bool written_next; /* it will be written to: its descriptor stays open for that */
	struct statx made; /* the copy when it was new */
};

static void to_timespec(struct timespec out[2], const struct statx *st)
{
	out[0] = (struct timespec){ .tv_sec = st->stx_atime.tv_sec, .tv_nsec = st->stx_atime.tv_nsec };
	out[1] = (struct timespec){ .tv_sec = st->stx_mtime.tv_sec, .tv_nsec = st->stx_mtime.tv_nsec };
}

static int fill_file(struct overlay *ov, struct copying *c)
{
	struct metacopy meta = { 0 };
	mode_t mode = (c->st.stx_mode & 0777) | (ov->privileged ? 0 : S_IWUSR); /* or it would take no xattrs */
	c->fd = openat(ov->work_fd, c->temp, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, mode);
	if (c->fd < 0)
		return -errno;
	int rc = c->metacopy ? format_metacopy(ov, c->dir->fd, c->name, &meta) : 0;
	if (c->metacopy && rc >= 0) /* a digest that a metacopy below carries goes along */
		rc = format_setxattr(ov, c->fd, "", "metacopy", &meta, meta.digest_algo ? meta.len : 0);
	if (!rc && c->metacopy)
		rc = ftruncate(c->fd, (off_t)c->st.stx_size) ? -errno : 0;
	if (!rc && !c->metacopy && c->size > 1 << 20)
		will_block(ov);
	if (!rc && !c->metacopy)
		rc = copy_data(c->data->fd, c->fd, c->size, true);
	return rc;
}

static int make_temp(struct overlay *ov, struct copying *c)
{
	char target[4097];
	ssize_t n;
	switch (c->st.stx_mode & S_IFMT) {
	case S_IFDIR: return mkdirat(ov->work_fd, c->temp, 0700) ? -errno : 0;
	case S_IFREG: return fill_file(ov, c);
	case S_IFLNK:
		n = readlinkat(c->dir->fd, c->name, target, sizeof target - 1);
		if (n < 0)
			return -errno;
		target[n] = 0;
		return symlinkat(target, ov->work_fd, c->temp) ? -errno : 0;
	default: return mknodat(ov->work_fd, c->temp, c->st.stx_mode, makedev(c->st.stx_rdev_major, c->st.stx_rdev_minor)) ? -errno : 0;
	}
}

/* What the copy is set by: its descriptor, else its name in the work directory. */
static int copy_at(const struct overlay *ov, const struct copying *c)
{
	return c->fd < 0 ? ov->work_fd : c->fd;
}

static const char *copy_name(const struct copying *c)
{
	return c->fd < 0 ? c->temp : "";
}

static int copy_owner(struct overlay *ov, struct copying *c)
{
	int rc = statx_at(copy_at(ov, c), copy_name(c), &c->made);
	if (rc)
		return rc;
	bool foreign = c->st.stx_uid != c->made.stx_uid || c->st.stx_gid != c->made.stx_gid;
	c->ours = foreign && fchownat(ov->work_fd, c->temp, c->st.stx_uid, c->st.stx_gid, AT_SYMLINK_NOFOLLOW);
	return c->ours && ov->privileged ? -errno : 0;
}

static mode_t mode_of_copy(const struct copying *c)
{
	mode_t mode = c->st.stx_mode & 07777;
	return c->ours ? mode & ~(mode_t)(S_ISUID | S_ISGID) : mode; /* set-id to the server's user was never meant */
}

/* Behind the owner, as a chown drops set-id bits, and behind the xattrs, which without root only what may be written takes. What is right from the
 * start is let be. */
static int copy_mode(struct overlay *ov, struct copying *c)
{
	mode_t mode = mode_of_copy(c);
	c->mode_last = !ov->privileged && S_ISDIR(c->st.stx_mode) && !(mode & S_IWUSR); /* its ".." is written when it is moved */
	if (c->mode_last)
		return 0;
	if (S_ISLNK(c->st.stx_mode) || mode == (c->made.stx_mode & 07777))
		return 0;
	return fchmodat(ov->work_fd, c->temp, mode, 0) ? -errno : 0;
}

static int copy_attributes(struct overlay *ov, struct copying *c)
{
	int rc = copy_owner(ov, c);
	if (!rc) /* behind the owner: a chown drops capabilities too */
		rc = copy_xattrs(ov, c->dir->fd, c->name, ov->work_fd, c->temp);
	/* Immutable and append-only files can't be worked with: as in Linux, the copy only says that it is one. */
	char flags[3] = "";
	bool flagged = c->o->lower[0]->layer->has_flags;
	if (flagged && c->st.stx_attributes & STATX_ATTR_APPEND)
		strcat(flags, "a");
	if (flagged && c->st.stx_attributes & STATX_ATTR_IMMUTABLE)
		strcat(flags, "i");
	if (!rc && *flags)
		rc = format_setxattr(ov, copy_at(ov, c), copy_name(c), "protattr", flags, strlen(flags));
	return rc;
}

/* origin for Linux, overnfsd for us; where no xattr can stand, the file of identities, durably, before the copy shows. */
static int mark_identity(struct overlay *ov, struct copying *c)
{
	uint8_t origin[160];
	uint64_t gen;
	int rc;
	/* A name that parts from its siblings has no origin: it is another file from now on. */
	if (S_ISDIR(c->st.stx_mode) || c->st.stx_nlink == 1 || *c->hex) {
		size_t len;
		if (*c->hex) /* Linux refuses an index with an entry that does not say what it is of */
			sodium_hex2bin(origin, sizeof origin, c->hex, strlen(c->hex), NULL, &len, NULL);
		else
			len = format_make_origin(c->o->lower[0]->layer, c->dir->fd, c->name, origin);
		rc = format_setxattr(ov, copy_at(ov, c), copy_name(c), "origin", origin, len);
		if (rc && rc != -EPERM && rc != -EOPNOTSUPP)
			return rc;
	}
	rc = format_set_identity(ov, copy_at(ov, c), copy_name(c), &c->o->id, c->made.stx_ino);
	bool readable = *ov->prefix != 'u' || c->st.stx_mode & S_IRUSR; /* else not without root, when it has its mode */
	if (rc ? rc != -EPERM && rc != -EOPNOTSUPP : readable)
		return rc;
	rc = inode_generation(&ov->layers[0], ov->work_fd, c->temp, &c->made, &gen);
	return rc ? rc : identity_put_origin(ov->identity, c->made.stx_ino, gen, &c->o->id);
}

/* The copy as it is to be, in the work directory. */
static int make_copy(struct overlay *ov, struct copying *c)
{
	struct timespec t[2];
	int rc = make_temp(ov, c);
	if (!rc)
		rc = copy_attributes(ov, c);
	if (!rc)
		rc = mark_identity(ov, c);
	if (!rc)
		rc = copy_mode(ov, c);
	to_timespec(t, &c->st);
	if (S_ISREG(c->st.stx_mode) && !c->metacopy && c->size < c->st.stx_size)
		t[1] = (struct timespec){ .tv_nsec = UTIME_NOW }; /* cut already, as the caller is about to */
	if (!rc && (c->fd < 0 ? utimensat(ov->work_fd, c->temp, t, AT_SYMLINK_NOFOLLOW) : futimens(c->fd, t)))
		rc = -errno;
	if (!rc && c->fd >= 0 && ov->config.sync) /* the data before the name, or a power cut leaves an empty file */
		rc = sync_fd(ov, c->fd, false);
	if (c->fd >= 0 && (rc || !c->written_next)) {
		if (close(c->fd) && !rc)
			rc = -errno;
		c->fd = -1;
	}
	return rc;
}

/* To its place, where a directory that may not be written gets its mode. */
static int move_copy(struct overlay *ov, struct copying *c, int dirfd, struct place *place)
{
	struct overlay_setattr mode = { .set_mode = true, .mode = mode_of_copy(c) };
	int note = -1, rc = c->mode_last ? intent_note(ov, INTENT_INNER, place, c->made.stx_ino, &mode, &note) : 0;
	if (!rc && renameat2(ov->work_fd, c->temp, dirfd, c->o->name, RENAME_NOREPLACE))
		rc = -errno;
	else if (!rc && c->mode_last && fchmodat(dirfd, c->o->name, mode.mode, 0))
		ov_log(ov, 4, "%s: the copy of a directory may be written by its owner, though it was not: %s", c->o->name, strerror(errno));
	intent_done(ov, note);
	return rc;
}

static int show_copy(struct overlay *ov, struct copying *c, int dirfd, struct place *place)
{
	struct object *o = c->o;
	int rc = *c->hex ? index_install(ov, ov->work_fd, c->temp, c->hex) : 0;
	if (rc)
		return rc;
	if (!o->named)
		work_remove(ov, c->temp); /* an indexed file whose known name went: the index holds it */
	else
		rc = move_copy(ov, c, dirfd, place);
	if (rc && *c->hex)
		index_uninstall(ov, c->hex);
	return rc;
}

/* Moves the finished copy into the merged tree, unless the object went meanwhile. For clients nothing happens: the parent's times do not
 * move, even if we are killed between the rename and the putting back. rename_lock shared. */
static int install(struct overlay *ov, struct copying *c)
{
	struct object *o = c->o, *parent = o->parent;
	struct kept_times times;
	struct fdent *dir;
	pthread_mutex_lock(&parent->dir_lock);
	int rc = o->dead || !parent->upper || (!o->named && !*c->hex) ? -ESTALE : place_pin(ov, parent->upper, FD_PATH, &dir);
	if (rc)
		goto unlock;
	struct place *place = *c->hex ? place_new(ov, &ov->index_layer, ov->index_layer.root, c->hex) : place_new(ov, &ov->layers[0], parent->upper, o->name);
	rc = place ? times_keep(ov, parent->upper, dir->fd, &parent->lock, &times) : -ENOMEM;
	if (rc)
		goto unpin;
	rc = mark_impure(ov, parent, dir->fd) ?: show_copy(ov, c, dir->fd, place);
	times_put_back(ov, &times);
	if (!rc) {
		pthread_mutex_lock(&o->lock);
		o->upper = place;
		o->real_ino = c->made.stx_ino;
		o->metacopy = c->metacopy;
		if (c->metacopy && !o->data)
			o->data = place_get(o->lower[0]);
		o->attr_valid = false;
		pthread_mutex_unlock(&o->lock);
		if (*c->hex)
			index_keep_nlink(ov, o);
		attr_forget(parent);
		place = NULL;
	}
unpin:
	place_put(ov, place);
	place_unpin(ov, dir);
unlock:
	pthread_mutex_unlock(&parent->dir_lock);
	return rc;
}

/* Pins what is to be copied. data is wanted: up to keep bytes of it. */
static int prepare(struct overlay *ov, struct copying *c, bool with_data, uint64_t keep)
{
	struct object *o = c->o;
	int rc = place_pin_parent(ov, o->lower[0], &c->dir, &c->name);
	if (!rc)
		rc = statx_at(c->dir->fd, c->name, &c->st);
	if (rc || !S_ISREG(c->st.stx_mode))
		return rc;
	c->metacopy = !with_data && ov->makes_metacopy && c->st.stx_size > COPIED_WHOLE;
	c->size = c->st.stx_size < keep ? c->st.stx_size : keep;
	struct place *data = o->metacopy ? o->data : o->lower[0];
	if (!c->metacopy && !data)
		return -EIO;
	return c->metacopy ? 0 : place_pin(ov, data, FD_READ, &c->data);
}

/* Between copying_begins and copying_ended; no lock is held. */
static int copy_new(struct overlay *ov, struct object *o, bool with_data, uint64_t keep)
{
	struct copying c = { .o = o, .fd = -1, .written_next = with_data };
	int rc = o->indexed ? index_open(ov) : 0; /* without it, names of one object would part */
	pthread_rwlock_rdlock(&ov->rename_lock);
	if (!rc)
		rc = prepare(ov, &c, with_data, keep);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (!rc && o->indexed)
		rc = index_name(ov, o->lower[0]->layer, c.dir->fd, c.name, c.st.stx_mode, c.hex);
	work_name(ov, c.temp);
	if (!rc)
		rc = make_copy(ov, &c);
	place_unpin(ov, c.dir);
	place_unpin(ov, c.data);
	if (!rc) {
		pthread_rwlock_rdlock(&ov->rename_lock);
		rc = install(ov, &c);
		if (!rc && c.fd >= 0)
			place_adopt(ov, o->upper, FD_WRITE, c.fd);
		pthread_rwlock_unlock(&ov->rename_lock);
	}
	if (rc && c.fd >= 0)
		close(c.fd);
	if (rc)
		work_remove(ov, c.temp);
	return rc;
}

/* The bytes come to where the attributes are. The mark goes last, when all is there: until then, and after a crash, the file is what it was.
 * o->dir_lock held: nobody sets attributes meanwhile. */
static int fill_metacopy(struct overlay *ov, struct object *o, int from, int to, uint64_t keep)
{
	struct statx st;
	struct timespec t[2];
	char name[64], capability[64];
	int rc = statx_at(to, "", &st);
	if (rc)
		return rc;
	snprintf(name, sizeof name, "%smetacopy", ov->prefix);
	ssize_t size = fgetxattr(to, "security.capability", capability, sizeof capability);
	bool cut = keep < st.stx_size;
	rc = copy_data(from, to, cut ? keep : st.stx_size, false);
	if (rc && !ftruncate(to, (off_t)st.stx_size)) /* no space: the part that came is given back, and the size never another, as it shows */
		(void)!fallocate(to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)st.stx_size);
	/* Writing took a file's capabilities away, though by the server it is not a change. */
	if (size > 0 && fsetxattr(to, "security.capability", capability, (size_t)size, 0) && !rc)
		rc = -errno;
	to_timespec(t, &st);
	if ((!cut || rc) && futimens(to, t) && !rc)
		rc = -errno;
	if (!rc)
		rc = sync_fd(ov, to, false);
	if (!rc && fremovexattr(to, name) && errno != ENODATA)
		rc = -errno;
	pthread_mutex_lock(&o->lock);
	o->metacopy = rc != 0;
	o->attr_valid = false;
	pthread_mutex_unlock(&o->lock);
	return rc;
}

/* Between copying_begins and copying_ended; no lock is held. */
static int complete_metacopy(struct overlay *ov, struct object *o, uint64_t keep)
{
	struct fdent *from = NULL, *to = NULL;
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = o->dead ? object_gone(o) : o->data ? place_pin(ov, o->data, FD_READ, &from) : -EIO;
	if (!rc)
		rc = object_pin(ov, o, FD_WRITE, &to);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (!rc) {
		will_block(ov);
		pthread_mutex_lock(&o->dir_lock);
		rc = fill_metacopy(ov, o, from->fd, to->fd, keep);
		pthread_mutex_unlock(&o->dir_lock);
	}
	place_unpin(ov, from);
	place_unpin(ov, to);
	return rc;
}

/* One copy-up of an object at a time: who comes meanwhile waits for its end, and finds it done. */
static void copying_begins(struct overlay *ov, struct object *o)
{
	pthread_mutex_lock(&ov->copies.lock);
	while (o->copying)
		pthread_cond_wait(&ov->copies.ended, &ov->copies.lock);
	o->copying = true;
	pthread_mutex_unlock(&ov->copies.lock);
}

static void copying_ended(struct overlay *ov, struct object *o)
{
	pthread_mutex_lock(&ov->copies.lock);
	o->copying = false;
	pthread_cond_broadcast(&ov->copies.ended);
	pthread_mutex_unlock(&ov->copies.lock);
}

/* The parent is in the upper already. */
static int copy_up_one(struct overlay *ov, struct object *o, bool with_data, uint64_t keep)
{
	bool copied = false;
	int rc = 0;
	copying_begins(ov, o);
	if (!object_is_up(o, false)) {
		rc = o->dead ? object_gone(o) : copy_new(ov, o, with_data, keep);
		copied = true;
	} else if (!object_is_up(o, with_data)) {
		rc = complete_metacopy(ov, o, keep);
	}
	copying_ended(ov, o);
	if (rc || !copied)
		return rc;
	struct object *parent = object_parent(ov, o);
	rc = index_has(ov, o) ? index_sync(ov) : 0;
	if (!rc)
		rc = sync_dirs(ov, parent, NULL);
	overlay_put(ov, parent);
	return rc;
}

/* The ancestors that are not in the upper yet, nearest first, counted; *n of them. A loop: trees may be deeper than a stack. One that is moved
 * meanwhile is in the upper then, and so is its new parent. */
static int ancestors_below(struct overlay *ov, struct object *o, struct object ***list, size_t *n)
{
	int rc = 0;
	*n = 0;
	*list = NULL;
	pthread_rwlock_rdlock(&ov->rename_lock);
	struct object *first = object_parent(ov, o), *p = first;
	for (; p && !object_is_up(p, false); p = p->parent)
		++*n;
	if (*n && !(*list = malloc(*n * sizeof(struct object *))))
		rc = -ENOMEM;
	p = first;
	for (size_t i = 0; *list && i < *n; i++, p = p->parent)
		(*list)[i] = object_get(p);
	overlay_put(ov, first);
	pthread_rwlock_unlock(&ov->rename_lock);
	return rc;
}

static int bring_up(struct overlay *ov, struct object *o, bool with_data, uint64_t keep)
{
	struct object **above;
	size_t n;
	if (!ov->writable)
		return -EROFS;
	if (object_is_up(o, with_data))
		return 0;
	if (o->dead)
		return object_gone(o);
	int rc = ancestors_below(ov, o, &above, &n);
	if (rc)
		return rc;
	while (n--) {
		rc = rc ? rc : copy_up_one(ov, above[n], false, ALL);
		overlay_put(ov, above[n]);
	}
	free(above);
	return rc ? rc : copy_up_one(ov, o, with_data, keep);
}

int copy_up(struct overlay *ov, struct object *o, bool with_data)
{
	return bring_up(ov, o, with_data, ALL);
}

int copy_up_truncated(struct overlay *ov, struct object *o, uint64_t size)
{
	return bring_up(ov, o, true, size);
}

bool wait_for_bytes(struct overlay *ov, struct object *o)
{
	bool wait = o->type == S_IFREG && o->upper && o->metacopy;
	if (wait)
		copying_begins(ov, o);
	return wait;
}

void bytes_waited_for(struct overlay *ov, struct object *o, bool waited)
{
	if (waited)
		copying_ended(ov, o);
}
