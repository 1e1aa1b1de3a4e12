/* access.c: the caller against the object as shown: mode bits and POSIX ACL (acl(5)). */
#include "internal.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

bool in_group(const struct overlay_cred *cred, gid_t gid)
{
	if (cred->gid == gid)
		return true;
	for (uint32_t i = 0; i < cred->ngroups && i < 16; i++)
		if (cred->groups[i] == gid)
			return true;
	return false;
}

/* The entry that decides must give all of want: of the groups that the caller is in, one alone. Not for the owner. */
static bool acl_gives(const struct overlay_cred *cred, const struct overlay_attr *a, const void *acl, size_t size, int want)
{
	const struct acl_entry *e = (const void *)((const char *)acl + 4);
	size_t n = (size - 4) / sizeof *e;
	int mask = 7, user = -1, other = 0;
	bool in_any = false, by_group = false;
	for (size_t i = 0; i < n; i++) {
		int perm = le16toh(e[i].perm);
		uint32_t id = le32toh(e[i].id);
		switch (le16toh(e[i].tag)) {
		case ACL_MASK: mask = perm; break;
		case ACL_USER: user = id == cred->uid ? perm : user; break;
		case ACL_GROUP_OBJ:
		case ACL_GROUP:
			if (in_group(cred, le16toh(e[i].tag) == ACL_GROUP ? id : a->gid)) {
				in_any = true;
				by_group |= (perm & want) == want;
			}
			break;
		case ACL_OTHER: other = perm; break;
		default: break;
		}
	}
	if (user >= 0)
		return (user & mask & want) == want;
	return in_any ? by_group && (mask & want) == want : (other & want) == want;
}

/* want: bits, all of which are asked for at once. */
static bool attr_gives(const struct overlay_cred *cred, const struct overlay_attr *a, const void *acl, size_t acl_size, int want)
{
	if (!cred->uid) /* as CAP_DAC_OVERRIDE: everything, but executing what nobody may execute */
		return !(want & OVERLAY_EXEC) || S_ISDIR(a->mode) || a->mode & 0111;
	/* an ACL whose mask gives nothing is not looked at: its users are "others" then (Linux: acl_permission_check()) */
	if (acl && acl_size >= 4 && cred->uid != a->uid && a->mode & 070)
		return acl_gives(cred, a, acl, acl_size, want);
	int bits = cred->uid == a->uid ? a->mode >> 6 : in_group(cred, a->gid) ? a->mode >> 3 : a->mode;
	return (bits & want) == want;
}

/* o->lock held. -errno: it is not known, so nothing is given. */
static int acl_load(struct overlay *ov, struct object *o)
{
	enum { MOST = 65536 }; /* XATTR_SIZE_MAX */
	struct fdent *parent;
	const char *name;
	char path[300];
	if (o->acl_known || o->type == S_IFLNK)
		return 0;
	free(o->acl);
	o->acl = NULL;
	o->acl_size = 0;
	int rc = place_pin_parent(ov, o->upper ? o->upper : o->lower[0], &parent, &name);
	if (rc)
		return rc;
	snprintf(path, sizeof path, *name ? "/proc/self/fd/%d/%s" : "/proc/self/fd/%d/.", parent->fd, name);
	ssize_t n = lgetxattr(path, "system.posix_acl_access", NULL, 0);
	if (n > 4 && n <= MOST && (o->acl = malloc((size_t)n)))
		n = lgetxattr(path, "system.posix_acl_access", o->acl, (size_t)n);
	if (n > 4 && o->acl)
		o->acl_size = (size_t)n;
	else if (n > 4)
		rc = -ENOMEM;
	else if (n < 0 && errno != ENODATA && errno != EOPNOTSUPP)
		rc = -errno;
	place_unpin(ov, parent);
	o->acl_known = !rc;
	return rc;
}

uint8_t protection_from(const struct layer *layer, const struct statx *st)
{
	uint64_t flags = layer->has_flags ? st->stx_attributes : 0;
	return (uint8_t)(PROTECTION_KNOWN | (flags & STATX_ATTR_IMMUTABLE ? PROTECTION_IMMUTABLE : 0) | (flags & STATX_ATTR_APPEND ? PROTECTION_APPEND : 0));
}

/* Immutable or append-only, by the file system's own flags or, of a copy, by what it says of itself. o->lock held. */
static int protection_load(struct overlay *ov, struct object *o)
{
	struct fdent *parent;
	const char *name;
	struct statx st;
	char marks[32] = "";
	if (o->protection)
		return 0;
	struct place *p = o->upper ? o->upper : o->lower[0];
	int rc = place_pin_parent(ov, p, &parent, &name);
	if (rc)
		return rc;
	rc = statx_at(parent->fd, name, &st);
	uint8_t protection = rc ? 0 : protection_from(p->layer, &st);
	if (protection == PROTECTION_KNOWN && o->upper) {
		ssize_t n = format_getxattr(ov, parent->fd, name, "protattr", marks, sizeof marks - 1);
		rc = n < 0 && n != -ENODATA && n != -ERANGE ? (int)n : 0;
		protection |= (strchr(marks, 'i') ? PROTECTION_IMMUTABLE : 0) | (strchr(marks, 'a') ? PROTECTION_APPEND : 0);
	}
	place_unpin(ov, parent);
	if (!rc)
		o->protection = protection;
	return rc == -ENOENT || rc == -ENOTDIR ? 0 : rc; /* gone: the change will find out */
}

void protection_of_new(struct object *o, const struct layer *layer, const struct statx *st)
{
	pthread_mutex_lock(&o->lock);
	o->protection = o->protection ? o->protection : protection_from(layer, st); /* of its directory it may have some */
	pthread_mutex_unlock(&o->lock);
}

int changeable(struct overlay *ov, struct object *o, bool adds)
{
	if (!ov->writable)
		return 0; /* nothing changes anyway */
	pthread_mutex_lock(&o->lock);
	int rc = protection_load(ov, o);
	unsigned p = o->protection;
	pthread_mutex_unlock(&o->lock);
	if (rc)
		return rc;
	return p & PROTECTION_IMMUTABLE || (p & PROTECTION_APPEND && !adds) ? -EPERM : 0;
}

/* Of the bits in want, those given; with all set, all of them or none. */
static int given(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want, bool all)
{
	struct overlay_attr a;
	int bits = 0, rc = attr_get(ov, o, &a);
	if (rc)
		return rc;
	pthread_mutex_lock(&o->lock);
	if (cred->uid)
		rc = acl_load(ov, o);
	if (!rc && all && attr_gives(cred, &a, o->acl, o->acl_size, want))
		bits = want;
	for (int bit = 1; !rc && !all && bit <= 4; bit <<= 1)
		if (want & bit && attr_gives(cred, &a, o->acl, o->acl_size, bit))
			bits |= bit;
	pthread_mutex_unlock(&o->lock);
	return rc ? rc : bits;
}

int permitted(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want)
{
	int rc = want & OVERLAY_WRITE ? changeable(ov, o, true) : 0;
	if (rc && rc != -EPERM)
		return rc;
	if (rc)
		want &= ~OVERLAY_WRITE;
	return given(ov, cred, o, want, false);
}

int require(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want)
{
	int rc = want & OVERLAY_WRITE ? changeable(ov, o, true) : 0;
	int bits = rc ? rc : given(ov, cred, o, want, true);
	return bits < 0 ? bits : bits == want ? 0 : -EACCES;
}

int overlay_permitted(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want)
{
	pthread_rwlock_rdlock(&ov->rename_lock);
	int bits = permitted(ov, cred, o, want);
	pthread_rwlock_unlock(&ov->rename_lock);
	return bits;
}
