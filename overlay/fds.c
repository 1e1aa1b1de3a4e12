/* fds.c: the cache of places' descriptors: opened at need below that of the parent, pinned while they are used, closed when there are too many. */
#include "internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

void fds_init(struct fds *fds, size_t max)
{
	pthread_mutex_init(&fds->lock, NULL);
	fds->lru.next = fds->lru.prev = &fds->lru;
	fds->max = max;
}

static void lru_remove(struct fdent *e)
{
	e->prev->next = e->next;
	e->next->prev = e->prev;
}

static void lru_add(struct fds *fds, struct fdent *e)
{
	e->next = fds->lru.next;
	e->prev = &fds->lru;
	e->next->prev = e;
	fds->lru.next = e;
}

/* Takes e out of the cache; frees it unless somebody still uses it (place_unpin then does). Returns the descriptor to close, or -1. */
static int drop_locked(struct fds *fds, struct fdent *e)
{
	int fd = -1;
	if (e->place)
		e->place->fds[e->kind] = NULL;
	e->place = NULL;
	lru_remove(e);
	fds->count--;
	if (!e->pins) {
		fd = e->fd;
		free(e);
	}
	return fd;
}

void fds_destroy(struct fds *fds)
{
	for (struct fdent *e = fds->lru.next, *next; e && e != &fds->lru; e = next) {
		next = e->next;
		int fd = drop_locked(fds, e);
		if (fd >= 0)
			close(fd);
	}
	pthread_mutex_destroy(&fds->lock);
}

void place_close(struct overlay *ov, struct place *place)
{
	int fd[FD_KINDS];
	pthread_mutex_lock(&ov->fds.lock);
	for (int k = 0; k < FD_KINDS; k++)
		fd[k] = place->fds[k] ? drop_locked(&ov->fds, place->fds[k]) : -1;
	pthread_mutex_unlock(&ov->fds.lock);
	for (int k = 0; k < FD_KINDS; k++)
		if (fd[k] >= 0)
			close(fd[k]);
}

static struct fdent *cached(struct overlay *ov, struct place *place, enum fd_kind kind)
{
	pthread_mutex_lock(&ov->fds.lock);
	struct fdent *e = place->fds[kind];
	if (e) {
		e->pins++;
		if (e->next) { /* a root's is on no list */
			lru_remove(e);
			lru_add(&ov->fds, e);
		}
	}
	pthread_mutex_unlock(&ov->fds.lock);
	return e;
}

enum { EVICT = 2 };

/* Takes the longest unused out of a full cache: two for each that comes, so that it shrinks again after a crowd had more in use than it may hold.
 * What is in use goes to the other end, or many slow users would hide all that could be closed. Returns how many descriptors to close. */
static int evict_locked(struct fds *fds, int fd[EVICT])
{
	int n = 0;
	for (int tries = 0; fds->count > fds->max && n < EVICT && tries < 64; tries++) {
		struct fdent *victim = fds->lru.prev;
		if (victim->pins) { /* NOLINT(clang-analyzer-unix.Malloc): what was freed is off the list; the analyzer does not follow it */
			lru_remove(victim);
			lru_add(fds, victim);
		} else {
			fd[n++] = drop_locked(fds, victim);
		}
	}
	return n;
}

/* Adds fd to the cache, pinned; another thread's for the same place wins. */
static struct fdent *cache(struct overlay *ov, struct place *place, enum fd_kind kind, int fd)
{
	struct fdent *e = calloc(1, sizeof *e), *old;
	int close_fd[EVICT], n = 0;
	if (!e) {
		close(fd);
		return NULL;
	}
	pthread_mutex_lock(&ov->fds.lock);
	if ((old = place->fds[kind])) {
		old->pins++;
		free(e);
		e = old;
		close_fd[n++] = fd;
	} else {
		*e = (struct fdent){ .fd = fd, .pins = 1, .place = place, .kind = kind };
		place->fds[kind] = e;
		lru_add(&ov->fds, e);
		ov->fds.count++;
		n = evict_locked(&ov->fds, close_fd);
	}
	pthread_mutex_unlock(&ov->fds.lock);
	while (n)
		close(close_fd[--n]);
	return e;
}

/* The process has no descriptor left: those that nobody uses right now are worth less. False: there were none. */
static bool give_back(struct overlay *ov)
{
	int fd[16], n = 0;
	pthread_mutex_lock(&ov->fds.lock);
	for (struct fdent *e = ov->fds.lru.prev, *next; e != &ov->fds.lru && n < 16; e = next) {
		next = e->prev;
		if (!e->pins)
			fd[n++] = drop_locked(&ov->fds, e);
	}
	pthread_mutex_unlock(&ov->fds.lock);
	for (int i = 0; i < n; i++)
		close(fd[i]);
	return n;
}

/* Opens the place below its parent's descriptor. */
static int open_place(struct overlay *ov, struct place *place, enum fd_kind kind, const struct fdent *parent, struct fdent **ent)
{
	static const int flags[FD_KINDS] = { [FD_PATH] = O_PATH, [FD_READ] = O_RDONLY | O_NONBLOCK, [FD_WRITE] = O_RDWR | O_NONBLOCK };
	/* reading must not move a lower's access times; O_NOATIME is for the owner and root alone */
	int noatime = kind == FD_READ && place->layer != ov->layers ? O_NOATIME : 0;
	int fd = open_beneath(parent->fd, place->name, flags[kind] | noatime);
	if (fd == -EPERM && noatime)
		fd = open_beneath(parent->fd, place->name, flags[kind]);
	if ((fd == -EMFILE || fd == -ENFILE) && give_back(ov))
		fd = open_beneath(parent->fd, place->name, flags[kind]);
	if (fd < 0)
		return fd;
	*ent = cache(ov, place, kind, fd);
	return *ent ? 0 : -ENOMEM;
}

/* Goes up to the nearest ancestor that has a descriptor (the root does), then opens all below it: a loop, as trees may be deeper than a stack. */
static int pin_directory(struct overlay *ov, struct place *dir, struct fdent **ent)
{
	size_t depth = 0;
	struct place *p = dir;
	while (p && !(*ent = cached(ov, p, FD_PATH))) {
		p = p->parent;
		depth++;
	}
	if (!p)
		return -EBADF; /* a layer's root whose layer was closed */
	if (!depth)
		return 0;
	struct place **way = malloc(depth * sizeof(struct place *));
	int rc = 0;
	if (!way) {
		place_unpin(ov, *ent);
		return -ENOMEM;
	}
	p = dir;
	for (size_t i = depth; i--; p = p->parent)
		way[i] = p;
	for (size_t i = 0; i < depth && !rc; i++) {
		struct fdent *above = *ent;
		rc = open_place(ov, way[i], FD_PATH, above, ent);
		place_unpin(ov, above);
	}
	free(way);
	return rc;
}

int place_pin(struct overlay *ov, struct place *place, enum fd_kind kind, struct fdent **ent)
{
	struct fdent *parent;
	if ((*ent = cached(ov, place, kind)))
		return 0;
	if (!place->parent)
		return -EBADF;
	int rc = pin_directory(ov, place->parent, &parent);
	if (rc)
		return rc;
	rc = open_place(ov, place, kind, parent, ent);
	place_unpin(ov, parent);
	return rc;
}

void place_adopt(struct overlay *ov, struct place *place, enum fd_kind kind, int fd)
{
	place_unpin(ov, cache(ov, place, kind, fd));
}

void place_unpin(struct overlay *ov, struct fdent *ent)
{
	int fd = -1;
	if (!ent)
		return;
	pthread_mutex_lock(&ov->fds.lock);
	if (!--ent->pins && !ent->place) {
		fd = ent->fd;
		free(ent);
	}
	pthread_mutex_unlock(&ov->fds.lock);
	if (fd >= 0)
		close(fd);
}

int place_pin_parent(struct overlay *ov, struct place *place, struct fdent **ent, const char **name)
{
	*name = place->parent ? place->name : "";
	return place_pin(ov, place->parent ? place->parent : place, FD_PATH, ent);
}

int place_statx(struct overlay *ov, struct place *place, struct statx *st)
{
	struct fdent *ent;
	const char *name;
	int rc = place_pin_parent(ov, place, &ent, &name);
	if (rc)
		return rc;
	rc = statx_at(ent->fd, name, st);
	place_unpin(ov, ent);
	return rc;
}
