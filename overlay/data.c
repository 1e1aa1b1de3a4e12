/* data.c: read, write, commit. */
#include "internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { EARLY_FROM = 1 << 18 }; /* bytes */

/* The owner may always: clients check at open, and an open file must not break (RFC 1813 3.3.6). */
static int may_use(struct overlay *ov, const struct overlay_cred *cred, struct object *o, bool write)
{
	struct overlay_attr a;
	if (o->type != S_IFREG)
		return -EINVAL; /* of directories too: READ and WRITE list no ISDIR */
	int rc = attr_get(ov, o, &a);
	if (!rc && write)
		rc = changeable(ov, o, false);
	if (rc || a.uid == cred->uid || !cred->uid)
		return rc;
	int bits = permitted(ov, cred, o, write ? OVERLAY_WRITE : OVERLAY_READ | OVERLAY_EXEC);
	return bits < 0 ? bits : bits ? 0 : -EACCES;
}

/* Where the kernel's offsets end, so does any file: to read there is no mistake but finds nothing (RFC 1813 3.3.6). */
static size_t len_from(uint64_t offset, size_t len)
{
	uint64_t most = offset < INT64_MAX ? INT64_MAX - offset : 0;
	return len < most ? len : (size_t)most;
}

static int read_all(int fd, void *buf, size_t len, uint64_t offset, size_t *got)
{
	while (*got < len) {
		ssize_t n = pread(fd, (char *)buf + *got, len - *got, (off_t)(offset + *got));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && !*got)
			return -errno;
		if (n <= 0)
			break;
		*got += (size_t)n;
	}
	return 0;
}

int overlay_read(struct overlay *ov, const struct overlay_cred *cred, struct object *o, uint64_t offset, void *buf,
		 size_t len, size_t *got, bool *eof, struct overlay_attr *attr)
{
	struct fdent *file = NULL;
	struct overlay_attr a;
	*got = 0;
	len = len_from(offset, len);
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = may_use(ov, cred, o, false);
	if (!rc)
		rc = attr_get(ov, o, &a);
	if (!rc)
		rc = object_pin(ov, o, FD_READ, &file);
	pthread_rwlock_unlock(&ov->rename_lock);
	/* Not where nothing is: the time of access of a file that was made exclusively says by whom, until it has bytes. */
	for (int tries = 2; !rc && tries; tries--) {
		bool reads = len && offset < a.size;
		if (reads)
			rc = read_all(file->fd, buf, len, offset, got);
		if (!rc && reads)
			attr_was_read(ov, o);
		if (!rc)
			rc = overlay_getattr(ov, o, &a);
		if (*got || offset >= a.size)
			break; /* else it has grown since */
	}
	place_unpin(ov, file);
	if (rc)
		return rc;
	uint64_t left = offset < a.size ? a.size - offset : 0;
	if (*got > left)
		*got = (size_t)left; /* a metacopy that was cut, by a server that was killed then, has its data whole below */
	/* Nothing is the end, though another may have appended since: that it is not would be an error to clients (as Linux: nfsd_eof_on_read()) */
	*eof = offset + *got >= a.size || (len && !*got);
	if (attr)
		*attr = a;
	return 0;
}

/* At both ends, that is: who sends from the file must not wait for a disk. */
static bool is_cached(int fd, uint64_t offset, size_t len)
{
	char c;
	struct iovec one = { &c, 1 };
	return !len || (preadv2(fd, &one, 1, (off_t)offset, RWF_NOWAIT) == 1 && preadv2(fd, &one, 1, (off_t)(offset + len - 1), RWF_NOWAIT) == 1);
}

struct overlay_file {
	struct overlay *ov;
	struct fdent *pin;
};

int overlay_read_file(struct overlay *ov, const struct overlay_cred *cred, struct object *o, uint64_t offset, size_t len, size_t *got, bool *eof,
		      struct overlay_attr *attr, struct overlay_file **out)
{
	struct overlay_file *file = malloc(sizeof *file);
	if (!file)
		return -ENOMEM;
	file->ov = ov;
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = may_use(ov, cred, o, false);
	if (!rc)
		rc = attr_get(ov, o, attr);
	if (!rc)
		rc = object_pin(ov, o, FD_READ, &file->pin);
	pthread_rwlock_unlock(&ov->rename_lock);
	uint64_t left = !rc && offset < attr->size ? attr->size - offset : 0;
	*got = len < left ? len : (size_t)left;
	*eof = offset + *got >= attr->size;
	if (!rc && !is_cached(file->pin->fd, offset, *got)) {
		place_unpin(ov, file->pin);
		rc = -EWOULDBLOCK;
	}
	if (rc) {
		free(file);
		return rc;
	}
	if (*got)
		attr_was_read(ov, o); /* the look at what is in memory did it */
	*out = file;
	return file->pin->fd;
}

void overlay_file_done(struct overlay_file *file)
{
	place_unpin(file->ov, file->pin);
	free(file);
}

static int write_all(int fd, const void *buf, size_t len, uint64_t offset)
{
	size_t done = 0;
	while (done < len) {
		ssize_t n = pwrite(fd, (const char *)buf + done, len - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		done += (size_t)n;
	}
	return 0;
}

int overlay_write(struct overlay *ov, const struct overlay_cred *cred, struct object *o, uint64_t offset,
		  const void *buf, size_t len, enum overlay_stable stable, struct overlay_wcc *wcc)
{
	struct fdent *file = NULL;
	struct overlay_attr a;
	memset(wcc, 0, sizeof *wcc);
	if (!ov->writable)
		return -EROFS;
	if ((int64_t)offset < 0 || (int64_t)(offset + len) < 0)
		return -EFBIG;
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = may_use(ov, cred, o, true);
	pthread_rwlock_unlock(&ov->rename_lock);
	if (!rc)
		rc = copy_up(ov, o, true);
	if (rc)
		return rc;
	uint64_t verifier = overlay_verifier(ov); /* before the data */
	pthread_rwlock_rdlock(&ov->rename_lock);
	rc = object_pin(ov, o, FD_WRITE, &file);
	if (!rc) {
		pthread_mutex_lock(&o->dir_lock); /* for a wcc that is atomic with the write */
		wcc_before(ov, o, wcc);
		rc = attr_get(ov, o, &a);
		if (!rc && len && mode_after_write(cred, &a) != a.mode) /* a write of nothing changes nothing */
			(void)!fchmod(file->fd, mode_after_write(cred, &a) & 07777);
		if (!rc)
			rc = write_all(file->fd, buf, len, offset);
		if (!rc && !stable && len >= EARLY_FROM && offset + len > a.size) /* a file is being written, and will be committed: the disk need not wait for that */
			sync_file_range(file->fd, (off_t)offset, (off_t)len, SYNC_FILE_RANGE_WRITE);
		wcc_after(ov, o, wcc);
		pthread_mutex_unlock(&o->dir_lock);
	}
	pthread_rwlock_unlock(&ov->rename_lock);
	if (!rc && stable)
		return sync_bytes(ov, file, verifier, stable == WRITE_DATA_SYNC);
	place_unpin(ov, file);
	return rc;
}

int overlay_commit(struct overlay *ov, const struct overlay_cred *cred, struct object *o, struct overlay_wcc *wcc)
{
	struct fdent *file = NULL;
	memset(wcc, 0, sizeof *wcc);
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = may_use(ov, cred, o, true);
	wcc_unchanged(ov, o, wcc);
	if (!rc && object_is_up(o, false))
		rc = object_pin(ov, o, FD_WRITE, &file);
	pthread_rwlock_unlock(&ov->rename_lock);
	return file ? sync_bytes(ov, file, overlay_verifier(ov), false) : rc;
}
