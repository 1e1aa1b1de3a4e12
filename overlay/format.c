/* format.c: overlayfs's marks on disk, read and written (Linux: fs/overlayfs/util.c, namei.c, copy_up.c). */
#include "internal.h"

#include <endian.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* dirfd/name as a path: *xattrat() came only with Linux 6.13, and /proc works everywhere. */
static const char *proc_path(char buf[300], int dirfd, const char *name)
{
	snprintf(buf, 300, *name ? "/proc/self/fd/%d/%s" : "/proc/self/fd/%d/.", dirfd, name);
	return buf;
}

static const char *full_name(struct overlay *ov, char buf[64], const char *suffix)
{
	snprintf(buf, 64, "%s%s", ov->prefix, suffix);
	return buf;
}

bool format_is_whiteout(const struct statx *st)
{
	return S_ISCHR(st->stx_mode) && st->stx_rdev_major == 0 && st->stx_rdev_minor == 0;
}

bool format_is_xattr_whiteout(struct overlay *ov, int dirfd, const char *name, const struct statx *st)
{
	return S_ISREG(st->stx_mode) && !st->stx_size && format_getxattr(ov, dirfd, name, "whiteout", NULL, 0) >= 0;
}

/* Half of what a cold lookup costs is xattrs: one walk through /proc for each is saved where the kernel can do without. */
static ssize_t getxattr_at(int dirfd, const char *name, const char *xattr, void *buf, size_t size)
{
#ifdef __x86_64__
	enum { GETXATTRAT = 464 }; /* Linux 6.13 */
	static atomic_bool missing;
	struct {
		uint64_t value;
		uint32_t size, flags;
	} args = { (uintptr_t)buf, (uint32_t)size, 0 };
	if (!atomic_load_explicit(&missing, memory_order_relaxed)) {
		ssize_t n = syscall(GETXATTRAT, dirfd, name, AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH), xattr, &args, sizeof args);
		if (n >= 0 || errno != ENOSYS)
			return n;
		atomic_store_explicit(&missing, true, memory_order_relaxed);
	}
#endif
	char path[300];
	return lgetxattr(proc_path(path, dirfd, name), xattr, buf, size);
}

/* The marks without which a directory would show other things than it holds. */
static bool is_kept(const char *suffix)
{
	return !strcmp(suffix, "opaque") || !strcmp(suffix, "redirect");
}

/* user.* of what its owner may not read can't be read without root: of a directory in the upper, the file of identities has them. */
static ssize_t kept_mark(struct overlay *ov, int dirfd, const char *name, const char *suffix, void *buf, size_t size)
{
	struct statx st;
	uint64_t gen;
	if (!ov->identity || !is_kept(suffix))
		return -ENODATA;
	int rc = statx_at(dirfd, name, &st);
	if (!rc && !S_ISDIR(st.stx_mode))
		return -ENODATA;
	if (!rc)
		rc = inode_generation(&ov->layers[0], dirfd, name, &st, &gen);
	return rc ? rc : identity_get_mark(ov->identity, st.stx_ino, gen, suffix, buf, size);
}

int format_keep_mark(struct overlay *ov, int dirfd, const char *name, const char *suffix, const void *value, size_t len)
{
	uint64_t ino, gen;
	int rc = upper_inode(ov, dirfd, name, &ino, &gen);
	if (!rc && !len && identity_get_mark(ov->identity, ino, gen, suffix, NULL, 0) == -ENODATA)
		return 0;
	return rc ? rc : identity_put_mark(ov->identity, ino, gen, suffix, value, len);
}

ssize_t format_getxattr(struct overlay *ov, int dirfd, const char *name, const char *suffix, void *buf, size_t size)
{
	char full[64];
	ssize_t n = getxattr_at(dirfd, name, full_name(ov, full, suffix), buf, size);
	if (n >= 0)
		return n;
	if (errno == EACCES && *ov->prefix == 'u')
		return kept_mark(ov, dirfd, name, suffix, buf, size);
	if (errno == EOPNOTSUPP || errno == EPERM)
		return -ENODATA;
	return -errno;
}

static int set_xattr(struct overlay *ov, int dirfd, const char *name, const char *suffix, const void *buf, size_t size)
{
	char path[300], full[64];
	full_name(ov, full, suffix);
	int rc = *name ? -EBADF : fsetxattr(dirfd, full, buf, size, 0) ? -errno : 0;
	if (rc != -EBADF) /* it was not opened with O_PATH */
		return rc;
	return lsetxattr(proc_path(path, dirfd, name), full, buf, size, 0) ? -errno : 0;
}

int format_setxattr(struct overlay *ov, int dirfd, const char *name, const char *suffix, const void *buf, size_t size)
{
	struct statx st;
	int rc = set_xattr(ov, dirfd, name, suffix, buf, size);
	if (rc || *ov->prefix != 'u' || !is_kept(suffix))
		return rc;
	rc = statx_at(dirfd, name, &st);
	return rc || !S_ISDIR(st.stx_mode) || st.stx_mode & S_IRUSR ? rc : format_keep_mark(ov, dirfd, name, suffix, buf, size);
}

int format_removexattr(struct overlay *ov, int dirfd, const char *name, const char *suffix)
{
	char path[300], full[64];
	return lremovexattr(proc_path(path, dirfd, name), full_name(ov, full, suffix)) && errno != ENODATA ? -errno : 0;
}

bool format_is_pure(struct overlay *ov, int dirfd)
{
	char path[300], full[64], v;
	return lgetxattr(proc_path(path, dirfd, ""), full_name(ov, full, "impure"), &v, 1) < 0 && errno == ENODATA;
}

char format_opaque(struct overlay *ov, int dirfd, const char *name)
{
	char v;
	return format_getxattr(ov, dirfd, name, "opaque", &v, 1) == 1 && (v == 'y' || v == 'x') ? v : 0;
}

/* No empty component, no "." and "..": ovl_check_redirect() in fs/overlayfs/namei.c. */
static bool redirect_is_sound(const char *s)
{
	const char *p = *s == '/' ? s + 1 : s;
	if (*s != '/' && strchr(s, '/'))
		return false;
	while (true) {
		size_t len = strcspn(p, "/");
		if (!len || len > 255 || (len == 1 && *p == '.') || (len == 2 && !strncmp(p, "..", 2)))
			return false;
		p += len;
		if (!*p++)
			return true;
	}
}

int format_redirect(struct overlay *ov, int dirfd, const char *name, char **redirect)
{
	char small[512], *buf = small;
	*redirect = NULL;
	ssize_t n = format_getxattr(ov, dirfd, name, "redirect", small, sizeof small - 1);
	if (n == -ERANGE) { /* from deep in a tree: as long as an xattr can be */
		if (!(buf = malloc(XATTR_SIZE_MAX + 1)))
			return -ENOMEM;
		n = format_getxattr(ov, dirfd, name, "redirect", buf, XATTR_SIZE_MAX);
	}
	int rc = n < 0 && n != -ENODATA ? (int)n : 0;
	if (n >= 0) {
		buf[n] = 0;
		if (strlen(buf) != (size_t)n || !redirect_is_sound(buf))
			rc = -EIO;
		else if (!(*redirect = strdup(buf)))
			rc = -ENOMEM;
	}
	if (buf != small)
		free(buf);
	return rc;
}

/*
 * overlay.overnfsd, big-endian: version 1 (1 byte), zero (1), layer (4), ino (8), gen (8), number of the
 * upper that it was written in (4), the inode there (8). The last two tell an object from a copy of it that somebody made behind our back.
 */
enum { IDENTITY_SIZE = 34 };

static void put_be(uint8_t *p, uint64_t v, int n)
{
	while (n--) {
		p[n] = (uint8_t)v;
		v >>= 8;
	}
}

static uint64_t get_be(const uint8_t *p, int n)
{
	uint64_t v = 0;
	while (n--)
		v = v << 8 | *p++;
	return v;
}

bool holds_no_xattr(int rc)
{
	return rc == -EPERM || rc == -EOPNOTSUPP || rc == -EACCES;
}

int format_set_identity(struct overlay *ov, int dirfd, const char *name, const struct overlay_id *id, uint64_t upper_ino)
{
	uint8_t b[IDENTITY_SIZE] = { 1 };
	put_be(b + 2, id->layer, 4);
	put_be(b + 6, id->ino, 8);
	put_be(b + 14, id->gen, 8);
	put_be(b + 22, ov->layers[0].number, 4);
	put_be(b + 26, upper_ino, 8);
	return format_setxattr(ov, dirfd, name, IDENTITY_SUFFIX, b, sizeof b);
}

int format_read_identity(struct overlay *ov, int dirfd, const char *name, struct overlay_id *id, uint32_t *upper, uint64_t *upper_ino)
{
	uint8_t b[IDENTITY_SIZE];
	ssize_t n = format_getxattr(ov, dirfd, name, IDENTITY_SUFFIX, b, sizeof b);
	if (n < 0)
		return n == -ERANGE ? -ENODATA : (int)n; /* longer than any of ours */
	if (n != sizeof b || b[0] != 1)
		return -ENODATA;
	*id = (struct overlay_id){ .layer = (uint32_t)get_be(b + 2, 4), .ino = get_be(b + 6, 8), .gen = get_be(b + 14, 8) };
	*upper = (uint32_t)get_be(b + 22, 4);
	*upper_ino = get_be(b + 26, 8);
	return 0;
}

int format_get_identity(struct overlay *ov, int dirfd, const char *name, uint64_t upper_ino, struct overlay_id *id)
{
	uint32_t upper;
	uint64_t ino;
	int rc = format_read_identity(ov, dirfd, name, id, &upper, &ino);
	if (!rc && ov->layers[0].has_handles && upper == ov->layers[0].number && ino != upper_ino)
		return -ENODATA; /* copied within this upper: not the same object. (Without handles, inode numbers may change with each mount.) */
	return rc;
}

bool format_private_xattr(struct overlay *ov, const char *name)
{
	size_t n = strlen(ov->prefix);
	return !strncmp(name, ov->prefix, n) && strncmp(name + n, "overlay.", 8) != 0;
}

int format_metacopy(struct overlay *ov, int dirfd, const char *name, struct metacopy *meta)
{
	struct metacopy m = { 0 };
	ssize_t n = format_getxattr(ov, dirfd, name, "metacopy", &m, sizeof m);
	if (n == -ENODATA)
		return 0;
	if (n < 0)
		return n == -ERANGE ? -EIO : (int)n;
	if (n && (n < 4 || m.version || m.len != n))
		return -EIO; /* of a version to come: where its data is can't be told */
	if (meta)
		*meta = m;
	return 1;
}
