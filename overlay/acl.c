/* acl.c: default ACLs: what a new object takes from its directory (acl(5); Linux: posix_acl_create() in fs/posix_acl.c). */
#include "internal.h"

#include <endian.h>
#include <stdio.h>
#include <sys/xattr.h>

enum { DEFAULT_ACL_MAX = 4096 }; /* 511 entries; Linux's file systems hold less */

/* The bits of a permission class that both the ACL's entry and the mode give. */
static void narrow(struct acl_entry *e, mode_t *mode, int shift)
{
	uint16_t perm = le16toh(e->perm) & (*mode >> shift & 7);
	e->perm = htole16(perm);
	*mode = (*mode & ~(mode_t)(7 << shift)) | (mode_t)perm << shift;
}

/* Makes of a default ACL the access ACL of what is made with this mode. True: it says more than the mode does. */
static bool narrow_to_mode(struct acl_entry *e, size_t n, mode_t *mode)
{
	struct acl_entry *group = NULL, *mask = NULL;
	bool extended = false;
	for (; n; n--, e++)
		switch (le16toh(e->tag)) {
		case ACL_USER_OBJ: narrow(e, mode, 6); break;
		case ACL_GROUP_OBJ: group = e; break;
		case ACL_MASK: mask = e; break;
		case ACL_OTHER: narrow(e, mode, 0); break;
		default: extended = true;
		}
	if (mask || group)
		narrow(mask ? mask : group, mode, 3);
	return extended || mask;
}

int acl_inherit(int dirfd, int fd, const char *name, mode_t *mode, bool is_dir)
{
	struct {
		uint32_t version;
		struct acl_entry entries[(DEFAULT_ACL_MAX - 4) / sizeof(struct acl_entry)];
	} acl;
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d/.", dirfd);
	ssize_t size = getxattr(path, "system.posix_acl_default", &acl, sizeof acl);
	if (size < (ssize_t)sizeof acl.version)
		return size < 0 && errno != ENODATA && errno != EOPNOTSUPP ? -errno : 0;
	snprintf(path, sizeof path, "/proc/self/fd/%d/%s", fd, name);
	if (is_dir && lsetxattr(path, "system.posix_acl_default", &acl, (size_t)size, 0))
		return -errno;
	if (narrow_to_mode(acl.entries, ((size_t)size - sizeof acl.version) / sizeof *acl.entries, mode) &&
	    lsetxattr(path, "system.posix_acl_access", &acl, (size_t)size, 0))
		return -errno;
	return 0;
}
