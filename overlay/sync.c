/*
 * sync.c: what is done is on disk. Calls that need that at the same time share it, as a flush of the whole file system costs hardly more than one of
 * a file. Most put it off (overlay_defer) and are flushed for together by whoever has their replies. Those that can't go on without it wait: whoever
 * comes while enough flushes are under way waits for the next, which is for all who came meanwhile.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ALONE = 2, TRY_AGAIN = 16, SHORT_NS = 30000 };

struct waiter {
	struct waiter *next;
	int fd, rc;
	bool data_only;
	enum { WAITING, LEADS, ON_ITS_OWN, DONE } state;
	pthread_cond_t wake;
};

void syncs_init(struct syncs *s)
{
	pthread_mutex_init(&s->lock, NULL);
	s->tail = &s->queue;
}

void syncs_destroy(struct syncs *s)
{
	pthread_mutex_destroy(&s->lock);
}

void will_block(struct overlay *ov)
{
	if (ov->config.before_block)
		ov->config.before_block();
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int failed(struct overlay *ov, int rc)
{
	atomic_fetch_add(&ov->verifier, 1); /* clients must send again what they had not committed */
	ov_log(ov, 3, "writing back to the upper layer failed: %s", strerror(-rc));
	return rc;
}

/* The cost of each way, as an average that follows. */
static void note(_Atomic uint64_t *average, uint64_t since)
{
	uint64_t old = atomic_load(average), took = now_ns() - since;
	atomic_store(average, old ? old - old / 8 + took / 8 : took);
}

static int flush_one(struct overlay *ov, int fd, bool data_only)
{
	uint64_t t = now_ns();
	int rc = TEMP_FAILURE_RETRY(data_only ? fdatasync(fd) : fsync(fd)) && errno != EINVAL ? -errno : 0;
	note(&ov->syncs.one_ns, t);
	return rc ? failed(ov, rc) : 0;
}

/* One flush of the file system that fd is on, instead of one for each of so many files. It tells (since Linux 5.8) of every writeback that failed. Where
 * much else is dirty it may cost more than those: then false, and nothing was done. */
static bool flush_file_system(struct overlay *ov, int fd, size_t files, int *rc)
{
	struct syncs *s = &ov->syncs;
	if (atomic_load(&s->all_ns) > files * atomic_load(&s->one_ns) && atomic_fetch_add(&s->avoided, 1) % TRY_AGAIN)
		return false;
	uint64_t t = now_ns();
	*rc = TEMP_FAILURE_RETRY(syncfs(fd)) ? failed(ov, -errno) : 0;
	note(&s->all_ns, t);
	return true;
}

/* For those who wait. False: each has to do its own. */
static bool flush_all(struct overlay *ov, const struct waiter *first, int *rc)
{
	size_t files = 1;
	bool data_only = first->data_only;
	for (const struct waiter *w = first->next; w; w = w->next) {
		files += w->fd != first->fd;
		data_only &= w->data_only;
	}
	if (files == 1) {
		*rc = flush_one(ov, first->fd, data_only);
		return true;
	}
	return flush_file_system(ov, first->fd, files, rc);
}

/* lock held: one flush has ended; who came meanwhile is led by the first of them. */
static void pass_on(struct syncs *s)
{
	if (!s->queue) {
		s->running--;
		return;
	}
	s->queue->state = LEADS;
	pthread_cond_signal(&s->queue->wake);
}

/* lock held, and given up while flushing */
static void lead(struct overlay *ov, struct waiter *self)
{
	struct syncs *s = &ov->syncs;
	int rc = 0;
	s->queue = NULL; /* self and all behind it are this one's to flush for */
	s->tail = &s->queue;
	pthread_mutex_unlock(&s->lock);
	bool done = flush_all(ov, self, &rc);
	pthread_mutex_lock(&s->lock);
	for (struct waiter *w = self, *next; w; w = next) {
		next = w->next;
		w->rc = rc;
		w->state = done ? DONE : ON_ITS_OWN;
		if (w != self)
			pthread_cond_signal(&w->wake);
	}
	pass_on(s);
}

static int wait_for_flush(struct overlay *ov, int fd, bool data_only)
{
	struct syncs *s = &ov->syncs;
	struct waiter w = { .fd = fd, .data_only = data_only };
	pthread_cond_init(&w.wake, NULL);
	*s->tail = &w;
	s->tail = &w.next;
	while (w.state == WAITING)
		pthread_cond_wait(&w.wake, &s->lock);
	if (w.state == LEADS)
		lead(ov, &w);
	pthread_mutex_unlock(&s->lock);
	pthread_cond_destroy(&w.wake);
	return w.state == ON_ITS_OWN ? flush_one(ov, fd, data_only) : w.rc;
}

/* Flushes take so long that others should take over the thread's connection, unless the upper is memory or a disk as fast. */
static void will_flush(struct overlay *ov)
{
	uint64_t usual = atomic_load(&ov->syncs.one_ns);
	if (!usual || usual > SHORT_NS)
		will_block(ov);
}

/* Is it on the file system that a flush of the upper's is for? */
static bool is_on_upper(struct overlay *ov, int fd)
{
	struct statx st;
	const struct layer *l = &ov->layers[0];
	return !statx_at(fd, "", &st) && st.stx_dev_major == l->dev_major && st.stx_dev_minor == l->dev_minor;
}

int sync_fd(struct overlay *ov, int fd, bool data_only)
{
	struct syncs *s = &ov->syncs;
	will_flush(ov);
	pthread_mutex_lock(&s->lock);
	if (s->running >= ALONE && is_on_upper(ov, fd))
		return wait_for_flush(ov, fd, data_only);
	s->running++;
	pthread_mutex_unlock(&s->lock);
	int rc = flush_one(ov, fd, data_only);
	pthread_mutex_lock(&s->lock);
	pass_on(s);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* ---- calls that put it off ---- */
static _Thread_local struct overlay_unflushed *deferred;

void overlay_defer(struct overlay_unflushed *u)
{
	if (u)
		*u = (struct overlay_unflushed){ 0 };
	deferred = u;
}

/* Each holds a descriptor: they must not take all that there are. */
static bool can_defer(struct overlay *ov)
{
	return deferred && deferred->n < OVERLAY_UNFLUSHED && atomic_load(&ov->syncs.deferred) < ov->fds.max / 4;
}

int sync_file(struct overlay *ov, struct fdent *file, bool data_only)
{
	if (can_defer(ov)) {
		deferred->ov = ov;
		deferred->file[deferred->n++] = file;
		atomic_fetch_add(&ov->syncs.deferred, 1);
		return 0;
	}
	int rc = sync_fd(ov, file->fd, data_only);
	place_unpin(ov, file);
	return rc;
}

/* A failure is told to one flush of a file, and its bytes count as written from then on: who flushed next has to ask again, and a commit to see the
 * verifier. */
static int told_to_another(struct overlay *ov, uint64_t verifier)
{
	return verifier != atomic_load(&ov->verifier) ? -EAGAIN : 0;
}

int sync_bytes(struct overlay *ov, struct fdent *file, uint64_t verifier, bool data_only)
{
	if (can_defer(ov))
		deferred->verifier = verifier;
	int rc = sync_file(ov, file, data_only);
	return rc ? rc : told_to_another(ov, verifier);
}

/* The files of a batch, each once. */
struct batch {
	size_t n;
	struct flushed {
		const struct fdent *file;
		int rc;
	} files[];
};

static struct flushed *find_flushed(struct batch *b, const struct fdent *file)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->files[i].file == file)
			return &b->files[i];
	return NULL;
}

static struct batch *gather(struct overlay_unflushed *const u[], size_t n)
{
	struct batch *b = malloc(sizeof *b + n * OVERLAY_UNFLUSHED * sizeof b->files[0]);
	if (!b)
		return NULL;
	b->n = 0;
	for (size_t i = 0; i < n; i++)
		for (unsigned j = 0; j < u[i]->n; j++)
			if (!find_flushed(b, u[i]->file[j]))
				b->files[b->n++] = (struct flushed){ .file = u[i]->file[j] };
	return b;
}

static bool all_on_upper(struct overlay *ov, const struct batch *b)
{
	size_t i = 0;
	while (i < b->n && is_on_upper(ov, b->files[i].file->fd))
		i++;
	return i == b->n;
}

static void flush_batch(struct overlay *ov, struct batch *b)
{
	int rc;
	if (b->n > 1 && all_on_upper(ov, b) && flush_file_system(ov, b->files[0].file->fd, b->n, &rc)) {
		for (size_t i = 0; i < b->n; i++)
			b->files[i].rc = rc;
		return;
	}
	for (size_t i = 0; i < b->n; i++)
		b->files[i].rc = flush_one(ov, b->files[i].file->fd, false);
}

/* What became of it. Without memory for a batch, each file is flushed for each call. */
static void settle(struct overlay *ov, struct batch *b, struct overlay_unflushed *u)
{
	u->rc = 0;
	for (unsigned j = 0; j < u->n; j++) {
		int rc = b ? find_flushed(b, u->file[j])->rc : flush_one(ov, u->file[j]->fd, false);
		u->rc = u->rc ? u->rc : rc;
		place_unpin(ov, u->file[j]);
	}
	atomic_fetch_sub(&ov->syncs.deferred, u->n);
	if (!u->rc && u->verifier)
		u->rc = told_to_another(ov, u->verifier);
}

void overlay_flush(struct overlay_unflushed *const u[], size_t n)
{
	struct overlay *ov = u[0]->ov;
	will_flush(ov);
	struct batch *b = gather(u, n);
	if (b)
		flush_batch(ov, b);
	for (size_t i = 0; i < n; i++)
		settle(ov, b, u[i]);
	free(b);
}

static int sync_dir(struct overlay *ov, struct object *dir)
{
	struct fdent *fd;
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = dir->upper ? object_pin(ov, dir, FD_READ, &fd) : -ESTALE;
	pthread_rwlock_unlock(&ov->rename_lock);
	if (rc)
		return rc == -ESTALE ? 0 : rc; /* it went, with all that is to be durable */
	return sync_file(ov, fd, false);
}

int sync_dirs(struct overlay *ov, struct object *a, struct object *b)
{
	if (!ov->config.sync)
		return 0;
	int rc = sync_dir(ov, a);
	if (!rc && b && b != a)
		rc = sync_dir(ov, b);
	return rc;
}
