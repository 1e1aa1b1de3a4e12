/*
 * kernel.c: operations through a Linux mount, as a server of NFS would do them (Linux: fs/nfsd/vfs.c): directories and objects are
 * reached as root, as by handle, and the operation itself runs as the caller.
 */
#include "driver.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

int status_of_errno(int err)
{
	static const struct {
		int err, status;
	} table[] = {
		{ 0, NFS3_OK }, { EPERM, NFS3ERR_PERM }, { ENOENT, NFS3ERR_NOENT }, { EIO, NFS3ERR_IO }, { EACCES, NFS3ERR_ACCES },
		{ EEXIST, NFS3ERR_EXIST }, { EXDEV, NFS3ERR_XDEV }, { ENOTDIR, NFS3ERR_NOTDIR }, { EISDIR, NFS3ERR_ISDIR },
		{ EINVAL, NFS3ERR_INVAL }, { EFBIG, NFS3ERR_FBIG }, { ENOSPC, NFS3ERR_NOSPC }, { EROFS, NFS3ERR_ROFS }, { EMLINK, NFS3ERR_MLINK },
		{ ENAMETOOLONG, NFS3ERR_NAMETOOLONG }, { ENOTEMPTY, NFS3ERR_NOTEMPTY }, { EDQUOT, NFS3ERR_DQUOT }, { ESTALE, NFS3ERR_STALE },
		{ EOPNOTSUPP, NFS3ERR_NOTSUPP }, { ELOOP, NFS3ERR_NOTDIR }, /* a symlink on the way: only resolve() meets one */
	};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (table[i].err == err)
			return table[i].status;
	differ("Linux answers with an errno that NFS has no name for: %s", strerror(err));
}

/* ---- who acts ---- */
static void act_as(const struct user *u)
{
	/* the system calls themselves: glibc's setgroups() would signal threads that are not there */
	syscall(SYS_setgroups, u->ngroups, u->groups);
	setfsgid(u->gid);
	setfsuid(u->uid);
	if (setfsuid(u->uid) != (int)u->uid)
		differ("this process can't act as uid %u", u->uid);
}

/* The result and errno of an expression that runs as the user. */
#define AS(user_, expression)                                    \
	({                                                       \
		act_as(user_);                                   \
		__typeof__(expression) r_ = (expression);        \
		int e_ = errno;                                  \
		act_as(&users[0]);                               \
		errno = e_;                                      \
		r_;                                              \
	})

static int resolve(struct kernel *k, const char *path)
{
	struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
	size_t len = strlen(path);
	long fd;
	if (!*path)
		return dup(k->root);
	do
		fd = syscall(SYS_openat2, k->root, path, &how, sizeof how);
	while (fd < 0 && errno == EAGAIN);
	if (fd < 0 && errno == ELOOP && len) { /* RESOLVE_NO_SYMLINKS refuses one at the end too */
		char dir[4096];
		const char *name = split_path(path, dir);
		how.flags |= O_DIRECTORY;
		int parent = *dir ? (int)syscall(SYS_openat2, k->root, dir, &how, sizeof how) : dup(k->root);
		if (parent < 0)
			return -1;
		fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		int e = errno;
		close(parent);
		errno = e;
	}
	return (int)fd;
}

/* Where an operation is to happen. */
struct place {
	int dir; /* descriptor, or -1 and errno */
	const char *name; /* in the path */
};

static struct place parent_of(struct kernel *k, const char *path)
{
	char dir[4096];
	struct place p = { .name = split_path(path, dir) };
	p.dir = resolve(k, dir);
	struct stat st;
	if (p.dir >= 0 && !fstat(p.dir, &st) && !S_ISDIR(st.st_mode)) {
		close(p.dir);
		p.dir = -1;
		errno = ENOTDIR;
	}
	return p;
}

static bool is_owner(const struct user *u, const struct stat *st)
{
	return !u->uid || u->uid == st->st_uid;
}

static bool may(const struct user *u, int fd, int mode)
{
	return !AS(u, faccessat(fd, "", mode, AT_EACCESS | AT_EMPTY_PATH));
}

static const char *by_number(int fd)
{
	static char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return path;
}

/* A file opened for data: its owner always may (RFC 1813 3.3.6), and whoever may execute may read. -1 and errno. */
static int open_data(const struct user *u, int object, int flags)
{
	struct stat st;
	fstat(object, &st);
	errno = EINVAL;
	if (!S_ISREG(st.st_mode))
		return -1;
	errno = EACCES;
	if (!is_owner(u, &st) && !(flags == O_RDONLY ? may(u, object, R_OK) || may(u, object, X_OK) : may(u, object, W_OK)))
		return -1;
	return open(by_number(object), flags | O_CLOEXEC | (flags == O_RDONLY ? O_NOATIME : 0));
}

/* ---- names ---- */
static int exclusive(const struct user *u, struct place p, uint64_t verifier)
{
	struct timespec t[2] = { { .tv_sec = (uint32_t)verifier & 0x7fffffff }, { .tv_sec = verifier >> 32 & 0x7fffffff } };
	struct stat st;
	int fd = AS(u, openat(p.dir, p.name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644));
	if (fd >= 0) {
		futimens(fd, t);
		return close(fd);
	}
	if (errno == EEXIST && !fstatat(p.dir, p.name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode) && !st.st_size &&
	    st.st_atim.tv_sec == t[0].tv_sec && st.st_mtim.tv_sec == t[1].tv_sec)
		return 0; /* the same call again */
	return -1;
}

static int create(const struct user *u, struct place p, mode_t mode, bool guarded)
{
	struct stat st;
	int fd = AS(u, openat(p.dir, p.name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, mode));
	if (fd >= 0)
		return close(fd);
	int e = errno;
	if (e == EEXIST && !guarded && !fstatat(p.dir, p.name, &st, AT_SYMLINK_NOFOLLOW) && !S_ISDIR(st.st_mode))
		return 0;
	errno = e;
	return -1;
}

/* Of two paths. */
static int run_pair(struct kernel *k, const struct step *s)
{
	const struct user *u = &users[s->user];
	struct place from = parent_of(k, s->s[0]), to;
	if (from.dir < 0)
		return -1;
	int rc = -1, object = -1;
	if (s->verb == LINK && (object = resolve(k, s->s[0])) < 0) {
		int e = errno;
		close(from.dir);
		errno = e;
		return -1;
	}
	to = parent_of(k, s->s[1]);
	if (to.dir >= 0 && s->verb == RENAME) {
		rc = AS(u, renameat(from.dir, from.name, to.dir, to.name));
	} else if (to.dir >= 0) {
		rc = AS(u, linkat(AT_FDCWD, by_number(object), to.dir, to.name, AT_SYMLINK_FOLLOW));
		/* fs.protected_hardlinks is for local processes; no server of NFS looks at it */
		if (rc && errno == EPERM) {
			errno = EACCES;
			rc = may(u, to.dir, W_OK | X_OK) ? linkat(AT_FDCWD, by_number(object), to.dir, to.name, AT_SYMLINK_FOLLOW) : -1;
		}
	}
	int e = errno;
	close(from.dir);
	if (to.dir >= 0)
		close(to.dir);
	if (object >= 0)
		close(object);
	errno = e;
	return rc;
}

static int run_name(struct kernel *k, const struct step *s)
{
	const struct user *u = &users[s->user];
	struct place p = parent_of(k, s->s[0]);
	int rc = -1;
	if (p.dir < 0)
		return -1;
	switch (s->verb) {
	case CREATE: rc = create(u, p, (mode_t)s->n[0], false); break;
	case CREATE_GUARDED: rc = create(u, p, (mode_t)s->n[0], true); break;
	case CREATE_EXCLUSIVE: rc = exclusive(u, p, s->n[0]); break;
	case MKDIR: rc = AS(u, mkdirat(p.dir, p.name, (mode_t)s->n[0])); break;
	case SYMLINK: rc = AS(u, symlinkat(s->s[1], p.dir, p.name)); break;
	case MKNOD: rc = AS(u, mknodat(p.dir, p.name, (mode_t)s->n[0], makedev(s->n[1], s->n[2]))); break;
	case REMOVE: rc = AS(u, unlinkat(p.dir, p.name, 0)); break;
	case RMDIR: rc = AS(u, unlinkat(p.dir, p.name, AT_REMOVEDIR)); break;
	default: /* LOOKUP */
		rc = AS(u, openat(p.dir, p.name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
		rc = rc >= 0 ? close(rc) : -1;
	}
	int e = errno;
	close(p.dir);
	errno = e;
	return rc;
}

/* ---- objects ---- */
/* Linux reads a directory of one layer as it is: a whiteout that hides nothing is listed there, and can't be reached (compare.c). */
static bool is_stray_whiteout(int dir, const char *name)
{
	struct stat st;
	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) && errno == ENOENT;
}

static int list(const struct user *u, int object, struct outcome *out)
{
	int fd = AS(u, open(by_number(object), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -1;
	for (struct dirent *e; (e = readdir(d));)
		if (!is_stray_whiteout(dirfd(d), e->d_name)) {
			out->content += hash_bytes(0, e->d_name, strlen(e->d_name)); /* whatever the order */
			out->size++;
		}
	return closedir(d);
}

static int read_whole(int fd, uint64_t *hash, uint64_t *size)
{
	static uint8_t buf[1 << 17];
	ssize_t n;
	while ((n = read(fd, buf, sizeof buf)) > 0) {
		*hash = hash_bytes(*hash, buf, (size_t)n);
		*size += (uint64_t)n;
	}
	return n < 0 ? -1 : 0;
}

static int data(const struct user *u, int object, const struct step *s, struct outcome *out)
{
	static uint8_t buf[1 << 17];
	int fd = open_data(u, object, s->verb == READ ? O_RDONLY : O_WRONLY);
	int rc = -1;
	if (fd < 0)
		return -1;
	if (s->verb == READ) {
		rc = read_whole(fd, &out->content, &out->size);
	} else if (s->verb == TRUNCATE) {
		rc = AS(u, ftruncate(fd, (off_t)s->n[0]));
	} else {
		fill_pattern(buf, s->n[0], s->n[1], s->n[2]);
		rc = AS(u, pwrite(fd, buf, s->n[1], (off_t)s->n[0])) == (ssize_t)s->n[1] ? 0 : -1;
	}
	int e = errno;
	close(fd);
	errno = e;
	return rc;
}

static int set_attributes(const struct user *u, int object, const struct stat *st, const struct step *s)
{
	struct timespec t[2] = { { .tv_sec = (time_t)s->n[0], .tv_nsec = (long)s->n[1] }, { .tv_sec = (time_t)s->n[2], .tv_nsec = (long)s->n[3] } };
	switch (s->verb) {
	case CHMOD:
		if (S_ISLNK(st->st_mode)) { /* NFS knows no difference: a symlink's mode is nothing that can be set */
			errno = EPERM;
			return is_owner(u, st) ? 0 : -1;
		}
		return AS(u, chmod(by_number(object), (mode_t)s->n[0]));
	case CHOWN: return AS(u, fchownat(object, "", (uid_t)s->n[0], (gid_t)s->n[1], AT_EMPTY_PATH));
	case UTIMES: return AS(u, utimensat(object, "", t, AT_EMPTY_PATH));
	default: return AS(u, utimensat(object, "", NULL, AT_EMPTY_PATH)); /* TOUCH */
	}
}

static int set_xattr(int object, const struct step *s)
{
	uint8_t value[512];
	size_t len = 0;
	for (const char *c = s->s[2]; c[0] && c[1] && len < sizeof value; c += 2)
		sscanf(c, "%2hhx", &value[len++]);
	return setxattr(by_number(object), s->s[1], value, len, 0);
}

static int run_object(struct kernel *k, const struct step *s, struct outcome *out)
{
	const struct user *u = &users[s->user];
	static const int bits[] = { R_OK, W_OK, X_OK };
	char target[4097];
	struct stat st;
	int object = resolve(k, s->s[0]), rc = -1;
	if (object < 0)
		return -1;
	fstat(object, &st);
	switch (s->verb) {
	case READ:
	case WRITE:
	case TRUNCATE: rc = data(u, object, s, out); break;
	case LIST: rc = list(u, object, out); break;
	case ACCESS:
		for (int i = 0; i < 3; i++)
			out->access |= may(u, object, bits[i]) ? (uint32_t)bits[i] : 0;
		rc = 0;
		break;
	case READLINK:
		errno = EINVAL;
		ssize_t n = S_ISLNK(st.st_mode) ? readlinkat(object, "", target, sizeof target) : -1;
		out->content = n < 0 ? 0 : hash_bytes(0, target, (size_t)n);
		rc = n < 0 ? -1 : 0;
		break;
	case SETXATTR: rc = set_xattr(object, s); break;
	default: rc = set_attributes(u, object, &st, s);
	}
	int e = errno;
	close(object);
	errno = e;
	return rc;
}

void kernel_run(struct kernel *k, const struct step *s, struct outcome *out)
{
	int rc;
	memset(out, 0, sizeof *out);
	if (s->verb == RENAME || s->verb == LINK)
		rc = run_pair(k, s);
	else if ((s->verb >= CREATE && s->verb <= RMDIR) || s->verb == LOOKUP)
		rc = run_name(k, s);
	else
		rc = run_object(k, s, out);
	out->status = rc ? status_of_errno(errno) : NFS3_OK;
}

/* ---- the tree ---- */
static void attr_of(const struct stat *st, struct attr *a)
{
	*a = (struct attr){ .mode = st->st_mode, .uid = st->st_uid, .gid = st->st_gid, .nlink = (uint32_t)st->st_nlink, .size = (uint64_t)st->st_size,
			    .id = st->st_ino, .atime = st->st_atim, .mtime = st->st_mtim, .ctime = st->st_ctim };
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		a->major = major(st->st_rdev);
		a->minor = minor(st->st_rdev);
	}
}

int kernel_stat(struct kernel *k, const char *path, struct attr *a)
{
	struct stat st;
	int fd = resolve(k, path);
	if (fd < 0)
		return status_of_errno(errno);
	fstat(fd, &st);
	close(fd);
	attr_of(&st, a);
	return NFS3_OK;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All that Linux shows, overlayfs's own being hidden by it. */
static char *xattrs_of(const char *path)
{
	char names[4096], *lines[64], *text = NULL;
	uint8_t value[4096];
	size_t n = 0, size;
	ssize_t len = llistxattr(path, names, sizeof names);
	for (char *name = names; len > 0 && name < names + len && n < 64; name += strlen(name) + 1) {
		ssize_t got = lgetxattr(path, name, value, sizeof value);
		FILE *f = open_memstream(&lines[n++], &size);
		fprintf(f, "%s=", name);
		for (ssize_t i = 0; i < got; i++)
			fprintf(f, "%02x", value[i]);
		if (got < 0)
			fprintf(f, "(%s)", strerror(errno));
		fclose(f);
	}
	if (n)
		qsort(lines, n, sizeof *lines, by_text);
	FILE *f = open_memstream(&text, &size);
	for (size_t i = 0; i < n; i++) {
		fprintf(f, "%s%s", i ? " " : "", lines[i]);
		free(lines[i]);
	}
	fclose(f);
	return text;
}

static void walk(struct tree *t, int dir, const char *path)
{
	DIR *d = fdopendir(dir);
	struct dirent *e;
	while ((e = readdir(d))) {
		char below[8192], target[4097], proc[300];
		struct stat st;
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || is_stray_whiteout(dirfd(d), e->d_name))
			continue;
		snprintf(below, sizeof below, "%s%s%s", path, *path ? "/" : "", e->d_name);
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			differ("Linux lists \"%s\" and can't stat it: %s", shown(below), strerror(errno));
		struct node *n = tree_add(t, below);
		attr_of(&st, &n->attr);
		snprintf(proc, sizeof proc, "/proc/self/fd/%d/%s", dirfd(d), e->d_name);
		n->xattrs = xattrs_of(proc);
		if (S_ISLNK(st.st_mode)) {
			ssize_t got = readlinkat(dirfd(d), e->d_name, target, sizeof target);
			n->content = got < 0 ? 1 : hash_bytes(0, target, (size_t)got);
		} else if (S_ISREG(st.st_mode)) {
			uint64_t size = 0;
			int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC | O_NOATIME);
			if (fd < 0 || read_whole(fd, &n->content, &size))
				n->content = (uint64_t)errno;
			if (fd >= 0)
				close(fd);
		} else if (S_ISDIR(st.st_mode)) {
			walk(t, openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), below);
		}
	}
	closedir(d);
}

void kernel_tree(struct kernel *k, struct tree *t)
{
	struct stat st;
	memset(t, 0, sizeof *t);
	struct node *root = tree_add(t, "");
	fstat(k->root, &st);
	attr_of(&st, &root->attr);
	char proc[64];
	snprintf(proc, sizeof proc, "/proc/self/fd/%d/.", k->root);
	root->xattrs = xattrs_of(proc);
	walk(t, openat(k->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "");
	tree_finish(t);
}
