/*
 * intent.c: what takes several system calls, between which a client would see neither the old nor the new, is noted before the first of them and
 * struck out behind the last. A start that finds a note does all of it again: so a kill leaves no half. Each note says which attributes what
 * stands at a place of the upper is to get; getting them twice does no harm.
 *
 * The notes are a page each in <work>/overnfsd/intents. They are for the death of the process alone, so nothing waits for a disk: after a power cut
 * nobody knows which of a note and of what it speaks of came to the disk first, and a note of another boot is void.
 */
#include "internal.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Who holds an outer note may wait for an inner one, and nobody the other way: each kind has as many of its own. */
enum { KIND = 16, NOTES = 2 * KIND, PAGE = 4096, VERSION = 1 };

struct note {
	uint8_t checksum[8]; /* of all behind it, to the path's end; a note that is struck out has 0 */
	uint32_t version, size; /* size: of this struct, so that another build's is not misread */
	char boot[40];
	uint64_t ino; /* of what stands there */
	struct overlay_setattr set;
	bool in_index; /* the place is below <work>/index, not below the upper */
	uint32_t path_len;
	char path[];
};

struct intents {
	int fd;
	char boot[40];
	pthread_mutex_t lock; /* guards taken */
	pthread_cond_t freed;
	bool taken[NOTES];
};

static void sum(const struct note *n, uint8_t out[8])
{
	static const unsigned char key[crypto_shorthash_KEYBYTES] = "overnfsd intent";
	crypto_shorthash(out, (const unsigned char *)n + sizeof n->checksum, sizeof *n - sizeof n->checksum + n->path_len, key);
}

/* The way from the layer's root, "a/b"; false: longer than a note holds. */
static bool write_path(struct note *n, size_t room, const struct place *place)
{
	size_t len = 0;
	for (const struct place *p = place; p->parent; p = p->parent)
		len += strlen(p->name) + (p->parent->parent != NULL);
	if (len > room)
		return false;
	n->path_len = (uint32_t)len;
	for (const struct place *p = place; p->parent; p = p->parent) {
		size_t part = strlen(p->name);
		len -= part;
		memcpy(n->path + len, p->name, part);
		if (p->parent->parent)
			n->path[--len] = '/';
	}
	return true;
}

static int write_at(int fd, const char *data, size_t len, off_t at)
{
	for (ssize_t n; len; data += n, at += n, len -= (size_t)n) {
		n = TEMP_FAILURE_RETRY(pwrite(fd, data, len, at));
		if (n <= 0)
			return n ? -errno : -EIO;
	}
	return 0;
}

int intent_note(struct overlay *ov, enum intent_kind kind, const struct place *place, uint64_t ino, const struct overlay_setattr *set, int *number)
{
	struct intents *in = ov->intents;
	char page[PAGE] __attribute__((aligned(16))) = "";
	struct note *n = (struct note *)page;
	int i, first = kind * KIND;
	*number = -1;
	if (!in || !write_path(n, sizeof page - sizeof *n, place))
		return 0;
	n->version = VERSION;
	n->size = sizeof *n;
	memcpy(n->boot, in->boot, sizeof n->boot);
	n->ino = ino;
	n->set = *set;
	n->in_index = place->layer == &ov->index_layer;
	sum(n, n->checksum);
	pthread_mutex_lock(&in->lock);
	while (true) {
		for (i = first; i < first + KIND && in->taken[i]; i++)
			;
		if (i < first + KIND)
			break;
		pthread_cond_wait(&in->freed, &in->lock);
	}
	in->taken[i] = true;
	pthread_mutex_unlock(&in->lock);
	*number = i;
	int rc = write_at(in->fd, page, sizeof *n + n->path_len, (off_t)i * PAGE);
	if (rc) {
		intent_done(ov, *number);
		*number = -1;
	}
	return rc;
}

void intent_done(struct overlay *ov, int number)
{
	static const char struck_out[8];
	struct intents *in = ov->intents;
	if (number < 0)
		return;
	int rc = write_at(in->fd, struck_out, sizeof struck_out, (off_t)number * PAGE);
	if (rc && (rc = write_at(in->fd, struck_out, sizeof struck_out, (off_t)number * PAGE)))
		ov_log(ov, 3, "work directory: overnfsd/intents: %s: a kill now could undo later changes of attributes", strerror(-rc));
	pthread_mutex_lock(&in->lock);
	in->taken[number] = false;
	pthread_cond_broadcast(&in->freed); /* of either kind */
	pthread_mutex_unlock(&in->lock);
}

/* Without root the owner's permissions bind the server as well, though an owner may change them at will: are these (bits) to be had that way alone? */
static bool can_lend(const struct overlay *ov, const struct place *place, const struct statx *st, mode_t bits)
{
	bool ours = ov->writable && (place->layer == &ov->layers[0] || place->layer == &ov->index_layer) && st->stx_uid == ov->uid;
	bool kept = !(st->stx_mode & S_ISGID) || st->stx_gid == ov->gid || group_member(st->stx_gid); /* else a chmod would take it */
	return ours && kept && !S_ISLNK(st->stx_mode) && (st->stx_mode & bits) != bits;
}

static int give_bits(struct overlay *ov, struct place *place, const struct statx *st, mode_t bits)
{
	struct overlay_setattr more = { .set_mode = true, .mode = (st->stx_mode & 07777) | bits };
	return apply_setattr(ov, place, &more, st->stx_mode & S_IFMT);
}

int lend(struct overlay *ov, struct place *place, mode_t bits, struct lent *lent)
{
	struct statx st;
	*lent = (struct lent){ .place = place, .note = -1 };
	int rc = place_statx(ov, place, &st);
	if (!rc && !can_lend(ov, place, &st, bits))
		rc = -EACCES;
	if (rc)
		return rc;
	lent->type = st.stx_mode & S_IFMT;
	lent->set = (struct overlay_setattr){ .set_mode = true, .mode = st.stx_mode & 07777 };
	rc = intent_note(ov, INTENT_INNER, place, st.stx_ino, &lent->set, &lent->note);
	if (!rc && (rc = give_bits(ov, place, &st, bits)))
		intent_done(ov, lent->note);
	return rc;
}

void lent_back(struct overlay *ov, struct lent *lent)
{
	int rc = apply_setattr(ov, lent->place, &lent->set, lent->type);
	if (rc && (rc = apply_setattr(ov, lent->place, &lent->set, lent->type))) /* it may have been for want of memory */
		ov_log(ov, 4, "%s: its owner has permissions for good that were only lent: %s", lent->place->name, strerror(-rc));
	intent_done(ov, lent->note);
}

int place_pin_lent(struct overlay *ov, struct place *place, enum fd_kind kind, struct fdent **ent)
{
	struct lent lent;
	int rc = place_pin(ov, place, kind, ent);
	if (rc != -EACCES || lend(ov, place, kind == FD_WRITE ? S_IRUSR | S_IWUSR : S_IRUSR, &lent))
		return rc;
	rc = place_pin(ov, place, kind, ent);
	lent_back(ov, &lent);
	return rc;
}

int times_keep(struct overlay *ov, struct place *place, int dirfd, pthread_mutex_t *lock, struct kept_times *kept)
{
	enum { TO_CHANGE = S_IWUSR | S_IXUSR };
	struct statx st;
	*kept = (struct kept_times){ .place = place, .set = { .set_atime = TIME_CLIENT, .set_mtime = TIME_CLIENT }, .note = -1 };
	int rc = statx_at(dirfd, "", &st);
	if (rc)
		return rc;
	kept->set.atime = (struct timespec){ .tv_sec = st.stx_atime.tv_sec, .tv_nsec = st.stx_atime.tv_nsec };
	kept->set.mtime = (struct timespec){ .tv_sec = st.stx_mtime.tv_sec, .tv_nsec = st.stx_mtime.tv_nsec };
	if (lock && can_lend(ov, place, &st, TO_CHANGE) && faccessat(dirfd, ".", W_OK | X_OK, AT_EACCESS)) {
		pthread_mutex_lock(kept->lock = lock);
		rc = statx_at(dirfd, "", &st); /* other permissions may have been lent */
		kept->set.set_mode = true;
		kept->set.mode = st.stx_mode & 07777;
	}
	if (!rc)
		rc = intent_note(ov, INTENT_OUTER, place, st.stx_ino, &kept->set, &kept->note);
	if (!rc && kept->lock && (rc = give_bits(ov, place, &st, TO_CHANGE)))
		intent_done(ov, kept->note);
	if (rc && kept->lock)
		pthread_mutex_unlock(kept->lock);
	return rc;
}

void times_put_back(struct overlay *ov, struct kept_times *kept)
{
	int rc = apply_setattr(ov, kept->place, &kept->set, S_IFDIR);
	if (rc && (rc = apply_setattr(ov, kept->place, &kept->set, S_IFDIR))) /* it may have been for want of memory */
		ov_log(ov, 4, "times (or permissions) of a directory were moved by a copy-up and can't be put back: %s", strerror(-rc));
	intent_done(ov, kept->note);
	if (kept->lock)
		pthread_mutex_unlock(kept->lock);
}

/* ---- start ---- */
static bool is_valid(const struct intents *in, const struct note *n, size_t len)
{
	uint8_t wanted[8];
	if (len < sizeof *n || n->version != VERSION || n->size != sizeof *n || n->path_len > len - sizeof *n || n->path_len > PAGE - sizeof *n)
		return false;
	sum(n, wanted);
	return !memcmp(wanted, n->checksum, sizeof wanted) && !strncmp(n->boot, in->boot, sizeof n->boot);
}

static struct place *place_of(struct overlay *ov, const struct note *n)
{
	struct layer *layer = n->in_index ? &ov->index_layer : &ov->layers[0];
	char *path = layer->root ? strndup(n->path, n->path_len) : NULL, *save = NULL;
	struct place *p = path ? place_get(layer->root) : NULL;
	for (char *name = path ? strtok_r(path, "/", &save) : NULL; name && p; name = strtok_r(NULL, "/", &save)) {
		struct place *child = place_new(ov, layer, p, name);
		place_put(ov, p);
		p = child;
	}
	free(path);
	return p;
}

static int do_again(struct overlay *ov, const struct note *n)
{
	struct place *p = place_of(ov, n);
	struct statx st;
	int rc = p ? place_statx(ov, p, &st) : -ENOMEM;
	if (!rc && st.stx_ino != n->ino)
		rc = -ENOENT;
	if (!rc)
		rc = apply_setattr(ov, p, &n->set, st.stx_mode & S_IFMT);
	place_put(ov, p);
	return rc;
}

static int finish_all(struct overlay *ov)
{
	char page[PAGE] __attribute__((aligned(16)));
	struct note *n = (struct note *)page;
	for (int i = NOTES; i--;) { /* the inner ones first: an outer one may set what one of them puts back */
		ssize_t len = pread(ov->intents->fd, page, sizeof page, (off_t)i * PAGE);
		if (len < 0)
			return -errno;
		if (is_valid(ov->intents, n, (size_t)len)) {
			int rc = do_again(ov, n);
			if (rc && rc != -ENOENT) /* it had not come yet, or has gone */
				ov_log(ov, 4, "%.*s: what a kill cut short can't be done again: %s", (int)n->path_len, n->path, strerror(-rc));
		}
		memset(page, 0, sizeof page); /* written whole, so that a note never needs space */
		int rc = write_at(ov->intents->fd, page, sizeof page, (off_t)i * PAGE);
		if (rc)
			return rc;
	}
	return 0;
}

int intents_open(struct overlay *ov)
{
	struct intents *in = calloc(1, sizeof *in);
	if (!in)
		return -ENOMEM;
	int boot = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = boot < 0 ? -1 : read(boot, in->boot, sizeof in->boot - 1);
	if (boot >= 0)
		close(boot);
	in->fd = n <= 0 ? -1 : openat(ov->map_fd, "intents", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (in->fd < 0) {
		int rc = n <= 0 ? -ENOENT : -errno;
		free(in);
		return rc;
	}
	pthread_mutex_init(&in->lock, NULL);
	pthread_cond_init(&in->freed, NULL);
	ov->intents = in;
	int rc = finish_all(ov);
	if (rc)
		intents_close(ov);
	return rc;
}

void intents_close(struct overlay *ov)
{
	struct intents *in = ov->intents;
	if (!in)
		return;
	close(in->fd);
	pthread_mutex_destroy(&in->lock);
	pthread_cond_destroy(&in->freed);
	free(in);
	ov->intents = NULL;
}
