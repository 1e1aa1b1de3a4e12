/*
 * claim.c: before an upper and its work directory are used: does somebody else use them, and do they carry what overnfsd
 * does not know? Then the start fails, and says what and why. (Linux: ovl_get_upper(), ovl_get_workdir(), ovl_get_indexdir() in fs/overlayfs/super.c)
 */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { OVL_FH_MAGIC = 0xfb, OVL_FH_FLAGS = 7, OVL_FH_UPPER = 4, OVL_FB_SIZE = 21 };

/* ---- somebody else ---- */
/* Two servers over one upper would empty each other's work directory. The lock goes with the process. */
static int lock_dir(int fd, const char *path, char *err, size_t errlen)
{
	if (!flock(fd, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) /* where a file system knows no locks, the user has to know */
		return 0;
	snprintf(err, errlen, "%s is in use by another overnfsd: stop that one first, or take another upper and work directory", path);
	return -EBUSY;
}

/* Undoes mountinfo's "\040", then the mount options' "\,": in place. */
static void unescape(char *s)
{
	char *to = s;
	for (const char *from = s; *from; to++)
		if (*from == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3]) {
			*to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	*to = 0;
	to = s;
	for (const char *from = s; *from; from++) {
		from += *from == '\\' && from[1];
		*to++ = *from;
	}
	*to = 0;
}

static bool same_directory(const char *path, const struct stat *dir)
{
	struct stat st;
	return !stat(path, &st) && st.st_dev == dir->st_dev && st.st_ino == dir->st_ino;
}

/* Is the directory the value of one of the option's in a line of mountinfo? */
static bool option_names(char *options, const char *option, const struct stat *dir)
{
	char *save = NULL;
	size_t n = strlen(option);
	for (char *o = strtok_r(options, ",\n", &save); o; o = strtok_r(NULL, ",\n", &save))
		if (!strncmp(o, option, n)) {
			unescape(o + n);
			if (same_directory(o + n, dir))
				return true;
		}
	return false;
}

/* Linux marks what it uses in memory alone; but its mounts are listed (those of this mount namespace; a relative path can't be told from here). */
static int check_mounts(const char *option, const char *path, int fd, char *err, size_t errlen)
{
	struct stat dir;
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;
	int rc = 0;
	if (!mounts || fstat(fd, &dir)) {
		if (mounts)
			fclose(mounts);
		return 0; /* no /proc: nobody can tell */
	}
	while (!rc && getline(&line, &room, mounts) > 0) {
		char *options = strstr(line, " - overlay ");
		if (options && option_names(options, option, &dir)) {
			rc = -EBUSY;
			snprintf(err, errlen, "%s is in use by a mounted Linux overlay: unmount that first", path);
		}
	}
	free(line);
	fclose(mounts);
	return rc;
}

/* ---- what we do not know ---- */
/* overlayfs leaves a note where a work directory must not be used again; anything unknown under incompat/ is refused. */
int claim_incompat(int base, char *err, size_t errlen)
{
	int fd = open_beneath(base, "work/incompat", O_RDONLY | O_DIRECTORY);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	int rc = 0;
	for (struct dirent *e; d && !rc && (e = readdir(d));)
		if (*e->d_name != '.') {
			rc = -EINVAL;
			snprintf(err, errlen, "the work directory says work/incompat/%s: %s", e->d_name,
				 strcmp(e->d_name, "volatile") ? "a feature that overnfsd does not know" :
								 "a volatile mount crashed here; its upper can't be trusted");
		}
	if (d)
		closedir(d);
	return rc;
}

/* A reserved work directory goes with the upper. */
int claim_lock(struct overlay *ov, char *err, size_t errlen)
{
	const struct overlay_config *c = &ov->config;
	int upper = ov->layers[0].root->fds[FD_READ]->fd;
	int rc = lock_dir(upper, c->upper, err, errlen);
	if (!rc)
		rc = check_mounts("upperdir=", c->upper, upper, err, errlen);
	if (rc || !c->work)
		return rc;
	ov->base_fd = open(c->work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (ov->base_fd < 0) {
		rc = -errno;
		snprintf(err, errlen, "work directory %s: %s", c->work, strerror(-rc));
		return rc;
	}
	rc = lock_dir(ov->base_fd, c->work, err, errlen);
	if (!rc)
		rc = check_mounts("workdir=", c->work, ov->base_fd, err, errlen);
	return rc ? rc : claim_incompat(ov->base_fd, err, errlen);
}

/* A handle's hex, of a version and with flags that are known: ovl_verify_index() in fs/overlayfs/namei.c. */
static bool index_entry_is_known(const char *name)
{
	uint8_t fb[NAME_MAX / 2 + 1];
	size_t len;
	return !sodium_hex2bin(fb, sizeof fb, name, strlen(name), NULL, &len, NULL) && len >= OVL_FB_SIZE && !fb[0] && fb[1] == OVL_FH_MAGIC &&
	       fb[2] == len && !(fb[3] & ~OVL_FH_FLAGS);
}

static int check_index_entries(struct overlay *ov, bool *used, char *err, size_t errlen)
{
	int rc = 0, fd = open_beneath(ov->index_layer.root->fds[FD_READ]->fd, "", O_RDONLY | O_DIRECTORY);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		rc = fd < 0 ? fd : -errno;
		snprintf(err, errlen, "the work directory's index can't be read: %s", strerror(-rc));
	}
	for (struct dirent *e; d && !rc && (e = readdir(d));) {
		if (*e->d_name == '.')
			continue;
		if (*e->d_name == '#') { /* left by a crash of Linux, as in work/ */
			if (!ov->config.offline)
				unlinkat(fd, e->d_name, 0);
			continue;
		}
		*used = true;
		if (!index_entry_is_known(e->d_name)) {
			rc = -EINVAL;
			snprintf(err, errlen, "the work directory's index/%.100s: a kind of entry that overnfsd does not know", e->d_name);
		}
	}
	if (d)
		closedir(d);
	return rc;
}

static size_t make_upper_handle(struct overlay *ov, uint8_t buf[160])
{
	size_t len = format_make_origin(&ov->layers[0], ov->layers[0].root->fds[FD_READ]->fd, "", buf);
	if (len)
		buf[3] |= OVL_FH_UPPER;
	return len;
}

/* The index was made for one upper: entries are links to its files. */
static int check_index_upper(struct overlay *ov, bool used, char *err, size_t errlen)
{
	uint8_t kept[256], own[160];
	int fd = ov->index_layer.root->fds[FD_READ]->fd;
	ssize_t n = format_getxattr(ov, fd, "", "upper", kept, sizeof kept);
	size_t len = make_upper_handle(ov, own);
	if (n <= 0 || !len || ((size_t)n == len && !memcmp(kept, own, len)))
		return 0;
	if (!used) {
		if (!ov->config.offline)
			format_removexattr(ov, fd, "", "upper"); /* empty: it may as well be this upper's */
		return 0;
	}
	snprintf(err, errlen,
		 "the work directory's index was made for another upper: where hard links between the two were kept in copying, "
		 "setfattr -x %supper WORK/index lets it be used",
		 ov->prefix);
	return -ESTALE;
}

/* Under index=on Linux ties an upper to its topmost lower. Other lowers besides do no harm here: ids and the index name the inode. */
static int check_lower(struct overlay *ov, char *err, size_t errlen)
{
	uint8_t kept[256], own[160];
	int fd = ov->layers[0].root->fds[FD_READ]->fd;
	ssize_t n = format_getxattr(ov, fd, "", "origin", kept, sizeof kept);
	bool any = false;
	for (struct layer *l = first_lower(ov); n > 0 && l < ov->layers + ov->nlayers; l++) {
		size_t len = format_make_origin(l, l->root->fds[FD_READ]->fd, "", own);
		if (!len || ((size_t)n == len && !memcmp(kept, own, len)))
			return 0;
		any = true;
	}
	if (n <= 0 || !any)
		return 0;
	snprintf(err, errlen,
		 "upper %s was used over other lower directories (with index=on); over these it shows wrong files. Give it the ones that it had; "
		 "or, sure that they are the same, setfattr -x %sorigin %s",
		 ov->layers[0].path, ov->prefix, ov->layers[0].path);
	return -ESTALE;
}

int claim_upper(struct overlay *ov, char *err, size_t errlen)
{
	bool used = false;
	int rc = check_lower(ov, err, errlen);
	if (!rc && ov->has_index)
		rc = check_index_entries(ov, &used, err, errlen);
	if (!rc && ov->has_index)
		rc = check_index_upper(ov, used, err, errlen);
	if (!rc && ov->has_index && ov->writable && !ov->config.offline)
		claim_index(ov);
	return rc;
}

void claim_index(struct overlay *ov)
{
	uint8_t handle[160];
	char there;
	int upper = ov->layers[0].root->fds[FD_READ]->fd, index = ov->index_layer.root->fds[FD_READ]->fd;
	struct layer *lower = first_lower(ov);
	size_t len = make_upper_handle(ov, handle);
	if (len && format_getxattr(ov, index, "", "upper", &there, 1) == -ENODATA)
		format_setxattr(ov, index, "", "upper", handle, len);
	if (lower == ov->layers + ov->nlayers)
		return;
	len = format_make_origin(lower, lower->root->fds[FD_READ]->fd, "", handle);
	if (len) /* of the topmost: another may have been added on top of it */
		format_setxattr(ov, upper, "", "origin", handle, len);
}

bool claim_uuid(struct overlay *ov, uint8_t uuid[16])
{
	int upper = ov->layers[0].root->fds[FD_READ]->fd;
	ssize_t n = format_getxattr(ov, upper, "", "uuid", uuid, 16);
	if (n != -ENODATA || ov->config.offline) /* made of what is served read-only, too: handles hang on it, and one day it may be written to */
		return n == 16;
	randombytes_buf(uuid, 16);
	uuid[6] = (uuid[6] & 0x0f) | 0x40; /* RFC 9562: version 4, of random bits */
	uuid[8] = (uuid[8] & 0x3f) | 0x80;
	return !format_setxattr(ov, upper, "", "uuid", uuid, 16);
}
