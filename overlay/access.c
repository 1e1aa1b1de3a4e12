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

static int acl_bits(const struct overlay_cred *cred, const struct overlay_attr *a, const void *acl, size_t size)
{
	const struct acl_entry *e = (const void *)((const char *)acl + 4);
	size_t n = (size - 4) / sizeof *e;
	int mask = 7, user = -1, groups = 0, other = 0;
	bool in_any = false;
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
				groups |= perm;
			}
			break;
		case ACL_OTHER: other = perm; break;
		default: break;
		}
	}
	if (cred->uid == a->uid)
		return a->mode >> 6 & 7;
	if (user >= 0)
		return user & mask;
	return in_any ? groups & mask : other;
}

/* acl_bits joins the groups' bits; acl(5) wants one entry that has all of them, so bits are asked for one at a time. */
bool attr_gives(const struct overlay_cred *cred, const struct overlay_attr *a, const void *acl, size_t acl_size, int bit)
{
	if (!cred->uid) /* as CAP_DAC_OVERRIDE: everything, but executing what nobody may execute */
		return bit != OVERLAY_EXEC || S_ISDIR(a->mode) || a->mode & 0111;
	/* an ACL whose mask gives nothing is not looked at: its users are "others" then (Linux: acl_permission_check()) */
	if (acl && acl_size >= 4 && cred->uid != a->uid && a->mode & 070)
		return acl_bits(cred, a, acl, acl_size) & bit;
	int bits = cred->uid == a->uid ? a->mode >> 6 : in_group(cred, a->gid) ? a->mode >> 3 : a->mode;
	return bits & bit;
}

/* o->lock held */
static void acl_load(struct overlay *ov, struct object *o)
{
	struct fdent *parent;
	const char *name;
	char path[300], buf[4096];
	if (o->acl_known || o->type == S_IFLNK)
		return;
	free(o->acl);
	o->acl = NULL;
	o->acl_size = 0;
	if (place_pin_parent(ov, o->upper ? o->upper : o->lower[0], &parent, &name))
		return;
	snprintf(path, sizeof path, *name ? "/proc/self/fd/%d/%s" : "/proc/self/fd/%d/.", parent->fd, name);
	ssize_t n = lgetxattr(path, "system.posix_acl_access", buf, sizeof buf);
	place_unpin(ov, parent);
	if (n > 4 && (o->acl = malloc((size_t)n))) {
		memcpy(o->acl, buf, (size_t)n);
		o->acl_size = (size_t)n;
	}
	o->acl_known = true;
}

int permitted(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want)
{
	struct overlay_attr a;
	int bits = 0, rc = attr_get(ov, o, &a);
	if (rc)
		return rc;
	pthread_mutex_lock(&o->lock);
	if (cred->uid)
		acl_load(ov, o);
	for (int bit = 1; bit <= 4; bit <<= 1)
		if (want & bit && attr_gives(cred, &a, o->acl, o->acl_size, bit))
			bits |= bit;
	pthread_mutex_unlock(&o->lock);
	return bits;
}

int require(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want)
{
	int bits = permitted(ov, cred, o, want);
	return bits < 0 ? bits : bits == want ? 0 : -EACCES;
}

int overlay_permitted(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want)
{
	pthread_rwlock_rdlock(&ov->rename_lock);
	int bits = permitted(ov, cred, o, want);
	pthread_rwlock_unlock(&ov->rename_lock);
	return bits;
}
