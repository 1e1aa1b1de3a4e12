/*
 * search.c: where table and map are silent, every merged directory is read, and every object's place put into the map. One search in the
 * background serves all that wait, and when it ends the map is complete: then an id without a place is known to be gone at the cost of a
 * look into the map, until an entry is lost. It reads directories alone (getdents): d_ino tells an untouched lower file; of what stands in
 * the upper it reads the identity. Memory: the names of the directories between the root and where it is.
 */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { WANTED = 1024, GONE = 4096, MAX_WAITING = 4, PATIENCE_MS = 1000, GLANCE_MS = 20, TRIES = 8, MOVED = 1024, SKIPPED = 64, LOOKS = 6, PAUSE_MS = 1000 };

/* ---- the walk ---- */
struct level {
	struct object *dir; /* counted */
	char *names; /* of its directories, one after the other */
	size_t len, room, at, count, done;
	double share; /* of the whole tree, for the progress */
};

struct walk {
	const struct fill *fill;
	struct level *levels;
	size_t n, room;
	double done;
	struct fdent *upper; /* of the directory that is being read; NULL: not in the upper */
};

static int keep_name(struct level *l, const char *name)
{
	size_t len = strlen(name) + 1;
	if (l->len + len > l->room) {
		size_t room = l->room ? l->room * 2 : 1024;
		char *more = realloc(l->names, room);
		if (!more)
			return -ENOMEM;
		l->names = more;
		l->room = room;
	}
	memcpy(l->names + l->len, name, len);
	l->len += len;
	l->count++;
	return 0;
}

/* Of a non-directory in the upper: the identity that it carries; else its own, unless Linux copied it up (0 and *look: look it up). -ENOENT: it is gone. */
static int upper_identity(struct walk *w, const char *name, uint64_t ino, struct overlay_id *id, bool *look)
{
	struct overlay *ov = w->fill->ov;
	char origin;
	*look = false;
	int known = format_get_identity(ov, w->upper->fd, name, ino, id);
	if (known != -ENODATA)
		return known;
	*id = (struct overlay_id){ .layer = ov->layers[0].number, .ino = ino };
	if (identity_has_origins(ov->identity)) {
		uint64_t now, gen;
		int rc = upper_inode(ov, w->upper->fd, name, &now, &gen);
		if (rc || (rc = identity_get_origin(ov->identity, now, gen, id)) != -ENOENT)
			return rc;
	}
	ssize_t n = format_getxattr(ov, w->upper->fd, name, "origin", &origin, 0);
	*look = n >= 0;
	return n >= 0 || n == -ENODATA ? 0 : (int)n;
}

static void put(struct walk *w, const struct overlay_id *id, const char *name)
{
	struct level *l = &w->levels[w->n - 1];
	map_put_place(w->fill->map, id, &l->dir->id, name);
	if (w->fill->wanted)
		w->fill->wanted(w->fill->arg, id_fileid(id), l->dir, name);
}

static int visit(void *arg, const char *name, const struct layer *layer, uint64_t ino, bool may_be_dir)
{
	struct walk *w = arg;
	struct overlay *ov = w->fill->ov;
	struct overlay_id id = { .layer = layer->number, .ino = ino };
	bool in_upper = ov->has_upper && layer == ov->layers;
	bool look = !layer->has_handles || (in_upper && !w->upper); /* d_ino may be anything there; the upper's part came this moment */
	if (may_be_dir)
		return keep_name(&w->levels[w->n - 1], name);
	int rc = in_upper && !look ? upper_identity(w, name, ino, &id, &look) : 0;
	if (rc == -ENOENT)
		return 0; /* gone since */
	if (look || rc)
		return keep_name(&w->levels[w->n - 1], name); /* looked up when its turn comes, as directories are */
	put(w, &id, name);
	return 0;
}

/* Reads the directory of the topmost level. */
static int read_directory(struct walk *w)
{
	struct overlay *ov = w->fill->ov;
	struct object *dir = w->levels[w->n - 1].dir;
	map_wait_for_room(w->fill->map);
	pthread_rwlock_rdlock(&ov->rename_lock);
	w->upper = NULL;
	int rc = dir->dead ? 0 : dir->upper ? place_pin(ov, dir->upper, FD_PATH, &w->upper) : 0;
	if (!rc && !dir->dead)
		rc = listing_walk(ov, dir, visit, w);
	pthread_rwlock_unlock(&ov->rename_lock);
	place_unpin(ov, w->upper);
	return rc == -ENOENT || rc == -ESTALE ? 0 : rc; /* it went meanwhile */
}

/* A directory that can't be read hides what is below it, and nothing else. */
static int unreadable(struct walk *w, struct object *dir, int rc)
{
	struct overlay *ov = w->fill->ov;
	if (!dir->parent || is_want(rc))
		return rc;
	pthread_rwlock_rdlock(&ov->rename_lock);
	struct object *parent = object_get(dir->parent);
	char name[256];
	snprintf(name, sizeof name, "%s", dir->name);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (w->fill->broken)
		w->fill->broken(w->fill->arg, parent, name, rc);
	overlay_put(ov, parent);
	return 0;
}

/* Takes over dir's reference. */
static int push(struct walk *w, struct object *dir, double share)
{
	if (w->n == w->room) {
		size_t room = w->room ? w->room * 2 : 32;
		struct level *more = realloc(w->levels, room * sizeof *more);
		if (!more) {
			overlay_put(w->fill->ov, dir);
			return -ENOMEM;
		}
		w->levels = more;
		w->room = room;
	}
	w->levels[w->n++] = (struct level){ .dir = dir, .share = share };
	int rc = read_directory(w);
	return rc ? unreadable(w, dir, rc) : 0;
}

static void pop(struct walk *w)
{
	struct level *l = &w->levels[--w->n];
	if (!l->count)
		w->done += l->share;
	overlay_put(w->fill->ov, l->dir);
	free(l->names);
}

static void tell_broken(struct walk *w, const char *name, int rc)
{
	if (w->fill->broken && rc != -ENOENT && rc != -ESTALE && !is_want(rc))
		w->fill->broken(w->fill->arg, w->levels[w->n - 1].dir, name, rc);
}

/* The next kept name of the topmost level. */
static int next(struct walk *w)
{
	struct level *l = &w->levels[w->n - 1];
	const char *name = l->names + l->at;
	double share = l->share / (double)l->count;
	struct object *o;
	l->at += strlen(name) + 1;
	l->done++;
	pthread_rwlock_rdlock(&w->fill->ov->rename_lock);
	int rc = find_name(w->fill->ov, l->dir, name, &o);
	if (!rc)
		put(w, &o->id, name);
	pthread_rwlock_unlock(&w->fill->ov->rename_lock);
	if (rc) {
		tell_broken(w, name, rc);
		w->done += share;
		return is_want(rc) ? rc : 0;
	}
	if (o->type == S_IFDIR)
		return push(w, o, share);
	overlay_put(w->fill->ov, o);
	w->done += share;
	return 0;
}

/* Takes over dir's reference. */
static int fill_below(const struct fill *fill, struct object *dir)
{
	struct walk w = { .fill = fill };
	int rc = push(&w, dir, 1);
	while (!rc && w.n) {
		struct level *l = &w.levels[w.n - 1];
		if (fill->progress && !fill->progress(fill->arg, w.done))
			rc = -ECANCELED;
		else if (l->done == l->count)
			pop(&w);
		else
			rc = next(&w);
	}
	while (w.n)
		pop(&w);
	free(w.levels);
	return rc;
}

int search_fill(const struct fill *fill)
{
	return fill_below(fill, overlay_root(fill->ov));
}

/* ---- in the background ---- */
struct search {
	pthread_mutex_t lock; /* guards all but the atomic ones */
	pthread_cond_t news; /* a search ended */
	pthread_t thread;
	bool running, has_thread;
	atomic_bool stop;
	unsigned waiting;
	/* Directories that got another name or parent while the search ran: one that went from where it had not been to where it had is read by itself, with
	 * all below. What is above it does not matter, as a place in the map is a name in a directory. */
	size_t nmoved;
	struct object *moved[MOVED]; /* counted */
	bool lost_count; /* there were more */
	/* Names that could not be looked up, for an error that may pass: they are tried again when all else is read. The searching thread's own. */
	struct skipped {
		struct object *dir; /* counted */
		char *name;
	} skipped[SKIPPED];
	size_t nskipped;
	bool lost_skipped; /* there were more */
	/* Looked out for, so that a map that can't be written stops nobody. What is met is held, or a small table might lose it before who waits has it:
	 * until as many others were met, or the map has all. */
	size_t nwanted, nmet;
	struct overlay_id wanted[WANTED];
	bool is_met[WANTED]; /* by the search that is under way, or was last */
	struct object *met[WANTED]; /* counted; a ring */
	size_t nnew; /* the last of wanted, which came when the search was under way */
	struct overlay_id gone[GONE]; /* not found by a whole search; by hash */
};

int search_create(struct search **out)
{
	struct search *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->news, NULL);
	*out = s;
	return 0;
}

static void let_go(struct overlay *ov)
{
	struct search *s = ov->search;
	for (size_t i = 0; i < WANTED; i++) {
		overlay_put(ov, s->met[i]);
		s->met[i] = NULL;
	}
}

void search_destroy(struct overlay *ov)
{
	struct search *s = ov->search;
	if (!s)
		return;
	atomic_store(&s->stop, true);
	if (s->has_thread)
		pthread_join(s->thread, NULL);
	let_go(ov);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->news);
	free(s);
}

void search_directory_moved(struct overlay *ov, struct object *dir)
{
	struct search *s = ov->search;
	pthread_mutex_lock(&s->lock);
	size_t i = 0;
	while (i < s->nmoved && s->moved[i] != dir)
		i++;
	if (!s->running || i < s->nmoved)
		; /* nobody reads, or it is to be read already */
	else if (i < MOVED)
		s->moved[s->nmoved++] = object_get(dir);
	else
		s->lost_count = true;
	pthread_mutex_unlock(&s->lock);
}

static struct object *next_moved(struct search *s)
{
	pthread_mutex_lock(&s->lock);
	struct object *dir = s->nmoved ? s->moved[--s->nmoved] : NULL;
	pthread_mutex_unlock(&s->lock);
	return dir;
}

static struct overlay_id *gone_slot(struct search *s, const struct overlay_id *id)
{
	uint64_t h = (id_fileid(id) ^ id->gen) * 0x9e3779b97f4a7c15u;
	return &s->gone[(h >> 32) % GONE];
}

static bool go_on(void *arg, double fraction)
{
	struct overlay *ov = arg;
	(void)fraction;
	return !atomic_load(&ov->search->stop);
}

/* An entry that somebody waits for comes into the table, and stays there for a while. */
static void meet(void *arg, uint64_t fileid, struct object *dir, const char *name)
{
	struct overlay *ov = arg;
	struct search *s = ov->search;
	struct object *o;
	bool is_wanted = false;
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->nwanted && !is_wanted; i++)
		is_wanted = id_fileid(&s->wanted[i]) == fileid;
	pthread_mutex_unlock(&s->lock);
	if (!is_wanted || find_name(ov, dir, name, &o))
		return;
	pthread_mutex_lock(&s->lock);
	size_t i = 0;
	while (i < s->nwanted && !same_id(&s->wanted[i], &o->id))
		i++;
	if (i < s->nwanted && !s->is_met[i]) {
		struct object **slot = &s->met[s->nmet++ % WANTED], *old = *slot;
		s->is_met[i] = true;
		*slot = o;
		o = old;
	}
	pthread_mutex_unlock(&s->lock);
	overlay_put(ov, o);
}

static void skip(void *arg, struct object *dir, const char *name, int rc)
{
	struct search *s = ((struct overlay *)arg)->search;
	if (rc == -EACCES)
		return; /* the server may not, and will not be allowed to by itself */
	char *copy = s->nskipped < SKIPPED ? strdup(name) : NULL;
	if (copy)
		s->skipped[s->nskipped++] = (struct skipped){ object_get(dir), copy };
	else
		s->lost_skipped = true;
}

/* One of the skipped. */
static int look_again(const struct fill *fill, const struct skipped *one)
{
	struct object *o;
	pthread_rwlock_rdlock(&fill->ov->rename_lock);
	int rc = find_name(fill->ov, one->dir, one->name, &o);
	if (!rc) {
		map_put_place(fill->map, &o->id, &one->dir->id, one->name);
		fill->wanted(fill->arg, id_fileid(&o->id), one->dir, one->name);
	}
	pthread_rwlock_unlock(&fill->ov->rename_lock);
	if (!rc && o->type == S_IFDIR)
		return fill_below(fill, o);
	if (!rc)
		overlay_put(fill->ov, o);
	else if (rc != -ENOENT && rc != -ESTALE)
		skip(fill->arg, one->dir, one->name, rc);
	return 0;
}

static int read_moved(const struct fill *fill, int rc)
{
	struct object *dir;
	while ((dir = next_moved(fill->ov->search))) {
		if (rc)
			overlay_put(fill->ov, dir);
		else
			rc = fill_below(fill, dir);
	}
	return rc;
}

/* What moved away from the search, or what an error hid: only what can't be read for seconds is given up. */
static int read_rest(const struct fill *fill, int rc)
{
	struct search *s = fill->ov->search;
	for (int looks = 0; !(rc = read_moved(fill, rc)) && s->nskipped && looks < LOOKS; looks++) {
		struct skipped again[SKIPPED];
		size_t n = s->nskipped;
		for (int ms = 0; ms < PAUSE_MS && !atomic_load(&s->stop); ms += GLANCE_MS)
			usleep(GLANCE_MS * 1000);
		memcpy(again, s->skipped, sizeof again);
		s->nskipped = 0;
		for (size_t i = 0; i < n; i++) {
			rc = rc ? rc : look_again(fill, &again[i]);
			overlay_put(fill->ov, again[i].dir);
			free(again[i].name);
		}
	}
	if (s->nskipped && !rc)
		ov_log(fill->ov, 4, "%s%zu names can't be read, the first is %s: old handles of what is below are stale until it is looked up",
		       s->lost_skipped ? "more than " : "", s->nskipped, s->skipped[0].name);
	while (s->nskipped) {
		overlay_put(fill->ov, s->skipped[--s->nskipped].dir);
		free(s->skipped[s->nskipped].name);
	}
	return rc;
}

/* True: there is nothing that was not seen. last: but for what still can't be. */
static bool search_all(const struct fill *fill, bool last, int *rc)
{
	struct search *s = fill->ov->search;
	pthread_mutex_lock(&s->lock);
	s->lost_count = false;
	pthread_mutex_unlock(&s->lock);
	s->lost_skipped = false;
	*rc = read_rest(fill, search_fill(fill));
	pthread_mutex_lock(&s->lock);
	bool all = !*rc && !s->nmoved && !s->lost_count && (last || !s->lost_skipped);
	pthread_mutex_unlock(&s->lock);
	return all;
}

/* What a whole search did not find is gone; what came while it ran has seen a part of it only. lock held */
static bool sort_out(struct overlay *ov, bool whole, bool complete)
{
	struct search *s = ov->search;
	size_t kept = 0, old = s->nwanted - s->nnew;
	for (size_t i = 0; i < s->nwanted; i++) {
		struct object *o = table_find(ov, &s->wanted[i]);
		bool found = o || s->is_met[i];
		if (!found && whole && i < old)
			*gone_slot(s, &s->wanted[i]) = s->wanted[i];
		else if (!found && i >= old)
			s->wanted[kept++] = s->wanted[i];
		overlay_put(ov, o);
	}
	s->nwanted = kept;
	s->nnew = 0;
	memset(s->is_met, 0, sizeof s->is_met);
	if (complete)
		let_go(ov);
	return kept > 0;
}

static void *search_run(void *arg)
{
	struct overlay *ov = arg;
	struct search *s = ov->search;
	struct fill fill = { .ov = ov, .map = ov->map, .progress = go_on, .wanted = meet, .broken = skip, .arg = ov };
	bool again = true;
	setpriority(PRIO_PROCESS, (id_t)gettid(), 10); /* of this thread: requests come first */
	for (int tries = 0; again && !atomic_load(&s->stop); tries++) {
		int rc;
		map_fill_begin(ov->map);
		bool whole = search_all(&fill, tries >= TRIES, &rc);
		bool complete = whole && map_fill_end(ov->map);
		if (rc && rc != -ECANCELED)
			ov_log(ov, 4, "a search for old handles failed: %s; it is tried again when one comes", strerror(-rc));
		pthread_mutex_lock(&s->lock);
		again = sort_out(ov, whole, complete) && !rc && !complete;
		if (!whole && !rc && tries < TRIES)
			again = true;
		s->running = again && !atomic_load(&s->stop);
		while (!s->running && s->nmoved) /* since the last look */
			overlay_put(ov, s->moved[--s->nmoved]);
		pthread_cond_broadcast(&s->news);
		pthread_mutex_unlock(&s->lock);
	}
	return NULL;
}

/* lock held */
static int want(struct overlay *ov, const struct overlay_id *id)
{
	struct search *s = ov->search;
	bool known = false;
	for (size_t i = 0; i < s->nwanted && !known; i++)
		known = same_id(&s->wanted[i], id);
	if (!known && s->nwanted < WANTED) {
		s->wanted[s->nwanted] = *id;
		s->nwanted++;
		s->nnew += s->running;
	}
	if (s->running)
		return 0;
	if (s->has_thread)
		pthread_join(s->thread, NULL);
	s->has_thread = !pthread_create(&s->thread, NULL, search_run, ov);
	s->running = s->has_thread;
	return s->has_thread ? 0 : -EAGAIN;
}

static void add_ms(struct timespec *t, long ms)
{
	t->tv_nsec += ms * 1000000;
	t->tv_sec += t->tv_nsec / 1000000000;
	t->tv_nsec %= 1000000000;
}

/* lock held, and let go while it is looked for. A search puts what it finds into the map as it goes: so a glance now and then. */
static int wait_for(struct overlay *ov, const struct overlay_id *id, struct object **o)
{
	struct search *s = ov->search;
	struct timespec until, glance;
	int rc = -ENOENT;
	clock_gettime(CLOCK_REALTIME, &glance);
	until = glance;
	add_ms(&until, PATIENCE_MS);
	s->waiting++;
	while (rc == -ENOENT && s->running && (glance.tv_sec < until.tv_sec || (glance.tv_sec == until.tv_sec && glance.tv_nsec < until.tv_nsec))) {
		add_ms(&glance, GLANCE_MS);
		pthread_cond_timedwait(&s->news, &s->lock, &glance);
		pthread_mutex_unlock(&s->lock);
		rc = find_object(ov, id, o);
		pthread_mutex_lock(&s->lock);
	}
	s->waiting--;
	return rc;
}

int search_object(struct overlay *ov, const struct overlay_id *id, struct object **o)
{
	struct search *s = ov->search;
	if (map_is_complete(ov->map)) {
		/* asked after the look into the map, which could have been complete only since: so once more */
		int rc = find_object(ov, id, o);
		return rc == -ENOENT ? -ESTALE : rc;
	}
	pthread_mutex_lock(&s->lock);
	int rc = -ESTALE;
	if (!same_id(gone_slot(s, id), id)) {
		rc = want(ov, id);
		if (!rc && s->waiting < MAX_WAITING) {
			will_block(ov);
			rc = wait_for(ov, id, o);
		} else {
			rc = -EAGAIN;
		}
		if (rc == -ENOENT)
			rc = same_id(gone_slot(s, id), id) ? -ESTALE : -EAGAIN;
	}
	pthread_mutex_unlock(&s->lock);
	if (rc == -EAGAIN && map_is_complete(ov->map))
		rc = find_object(ov, id, o) ?: 0;
	return rc == -ENOENT ? -ESTALE : rc;
}
