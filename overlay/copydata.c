/* copydata.c: the bytes and the extended attributes of a file, from one layer to another. */
#include "internal.h"

#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { ONE_BLOCK = 4096 };

static int copy_range(int from, int to, off_t at, off_t end)
{
	static _Thread_local char buf[1 << 16];
	off_t in = at, out = at;
	while (in < end) {
		ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - in), 0);
		if (n > 0)
			continue;
		if (!n)
			return 0; /* the file is shorter than it was */
		if (errno == EINTR)
			continue;
		if (errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP && errno != EBADF)
			return -errno;
		n = pread(from, buf, (size_t)(end - in) < sizeof buf ? (size_t)(end - in) : sizeof buf, in);
		if (n <= 0)
			return n ? -errno : 0;
		for (ssize_t done = 0; done < n;) {
			ssize_t w = pwrite(to, buf + done, (size_t)(n - done), out + done);
			if (w < 0 && errno != EINTR)
				return -errno;
			done += w > 0 ? w : 0;
		}
		in += n;
		out += n;
	}
	return 0;
}

/* A file of one block is read and written: a clone and a look for holes cost more system calls than that. False: not done, as it may be a hole. */
static bool copy_block(int from, int to, uint64_t size)
{
	char block[ONE_BLOCK];
	if (!size || size > sizeof block || pread(from, block, (size_t)size, 0) != (ssize_t)size)
		return false;
	bool zeros = !block[0] && !memcmp(block, block + 1, (size_t)size - 1);
	return !zeros && pwrite(to, block, (size_t)size, 0) == (ssize_t)size;
}

int copy_data(int from, int to, uint64_t size, bool fresh)
{
	off_t at = 0, end = (off_t)size;
	if (size <= ONE_BLOCK && fresh && copy_block(from, to, size))
		return 0;
	bool cloned = size && !ioctl(to, FICLONE, from); /* of the whole: a clone costs nothing, and a part of a block can't be cloned */
	while (!cloned && at < end) { /* holes stay holes */
		off_t data = lseek(from, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		if (data < 0)
			data = at;
		if (data >= end)
			break;
		off_t hole = lseek(from, data, SEEK_HOLE);
		if (hole < 0 || hole > end)
			hole = end;
		int rc = copy_range(from, to, data, hole);
		if (rc)
			return rc;
		at = hole;
	}
	return ftruncate(to, end) ? -errno : 0; /* last: a copy that fails cuts nothing */
}

/* What the upper can't hold at all is left, but for what guards the file: as in Linux, better no copy than an open one. */
static bool may_leave(struct overlay *ov, const char *name, int error)
{
	if (error == EOPNOTSUPP)
		return strncmp(name, "security.", 9) != 0 && strncmp(name, "system.posix_acl", 16) != 0;
	return error == EPERM && !ov->privileged; /* all belongs to the server's user then */
}

int copy_xattrs(struct overlay *ov, int dirfd, const char *name, int dirfd2, const char *name2)
{
	char from[300], to[300];
	snprintf(from, sizeof from, "/proc/self/fd/%d/%s", dirfd, name);
	snprintf(to, sizeof to, "/proc/self/fd/%d/%s", dirfd2, name2);
	ssize_t len = llistxattr(from, NULL, 0);
	if (len <= 0)
		return len < 0 && errno != EOPNOTSUPP ? -errno : 0;
	char *names = malloc((size_t)len), *value = malloc(65536);
	int rc = names && value ? 0 : -ENOMEM;
	len = rc ? 0 : llistxattr(from, names, (size_t)len);
	if (len < 0)
		rc = -errno;
	for (char *n = names; !rc && n < names + len; n += strlen(n) + 1) {
		if (format_private_xattr(ov, n))
			continue;
		ssize_t size = lgetxattr(from, n, value, 65536);
		if (size < 0 && errno == ENODATA)
			continue;
		if (size < 0)
			rc = -errno;
		else if (lsetxattr(to, n, value, (size_t)size, 0) && !may_leave(ov, n, errno))
			rc = -errno;
	}
	free(names);
	free(value);
	return rc;
}
