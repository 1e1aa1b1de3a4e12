/*
 * sync.c: what is done is on disk. Calls that wait for that at the same time share it: a flush of the whole file system costs hardly more than one of
 * a file, so whoever comes while enough flushes are under way waits for the next, which is for all who came meanwhile.
 */
#include "internal.h"

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

/* For those who wait: one flush of a file if it is the same for all, else one of the file system, which (since Linux 5.8) tells of every writeback that
 * failed. Where much else is dirty that may cost more than a flush for each: then each does its own. */
static bool flush_all(struct overlay *ov, const struct waiter *first, int *rc)
{
	struct syncs *s = &ov->syncs;
	unsigned files = 1;
	bool data_only = first->data_only;
	for (const struct waiter *w = first->next; w; w = w->next) {
		files += w->fd != first->fd;
		data_only &= w->data_only;
	}
	if (files == 1) {
		*rc = flush_one(ov, first->fd, data_only);
		return true;
	}
	if (atomic_load(&s->all_ns) > files * atomic_load(&s->one_ns) && atomic_fetch_add(&s->avoided, 1) % TRY_AGAIN)
		return false;
	uint64_t t = now_ns();
	*rc = TEMP_FAILURE_RETRY(syncfs(first->fd)) ? failed(ov, -errno) : 0;
	note(&s->all_ns, t);
	return true;
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
	uint64_t usual = atomic_load(&s->one_ns);
	if (!usual || usual > SHORT_NS) /* memory, or a disk as fast: nobody need take over */
		will_block(ov);
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

static int sync_dir(struct overlay *ov, struct object *dir)
{
	struct fdent *fd;
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = dir->dead || !dir->upper ? 1 : place_pin(ov, dir->upper, FD_READ, &fd);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (rc)
		return rc > 0 ? 0 : rc;
	rc = sync_fd(ov, fd->fd, false);
	place_unpin(ov, fd);
	return rc;
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
