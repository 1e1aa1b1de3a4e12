/* trees.c: see trees.h. */
#include "trees.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

struct text {
	char *lines[4096];
	size_t n;
};

static void add(struct text *t, char *line)
{
	assert_true(t->n < 4096 && line);
	t->lines[t->n++] = line;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static char *joined(struct text *t)
{
	size_t len = 1;
	for (size_t i = 0; i < t->n; i++)
		len += strlen(t->lines[i]);
	char *all = calloc(1, len), *end = all;
	qsort(t->lines, t->n, sizeof *t->lines, by_text);
	for (size_t i = 0; i < t->n; i++) {
		end = stpcpy(end, t->lines[i]);
		free(t->lines[i]);
	}
	return all;
}

static uint64_t hash(uint64_t h, const void *p, size_t n)
{
	for (const uint8_t *b = p; n--; b++)
		h = (h ^ *b) * 0x100000001b3u;
	return h;
}

static char *line(const char *path, const char *what)
{
	char *l;
	return asprintf(&l, "%s %s\n", path, what) < 0 ? NULL : l;
}

static char *line_of(const char *path, char type, unsigned mode, unsigned uid, unsigned gid, unsigned nlink, uint64_t size, unsigned major, unsigned minor,
		     int64_t sec, long nsec, const char *content)
{
	char *l;
	return asprintf(&l, "%s %c %04o %u:%u links %u size %llu dev %u,%u mtime %lld.%09ld %s\n", path, type, mode, uid, gid, nlink,
			(unsigned long long)(type == 'd' ? 0 : size), major, minor, (long long)sec, nsec, content) < 0 ?
		       NULL :
		       l;
}

/* ---- over NFS ---- */
struct names {
	char *name[1024];
	size_t n;
};

static void keep(void *arg, const char *name, uint64_t fileid)
{
	struct names *n = arg;
	(void)fileid;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return;
	assert_true(n->n < 1024);
	n->name[n->n++] = strdup(name);
}

static void content_over_nfs(struct client *c, const struct fh *fh, char content[64])
{
	static char buf[65536];
	uint64_t h = 0xcbf29ce484222325u, at = 0;
	uint32_t got;
	bool eof = false;
	while (!eof) {
		if (client_read(c, fh, at, sizeof buf, buf, &got, &eof)) {
			strcpy(content, "unreadable");
			return;
		}
		h = hash(h, buf, got);
		at += got;
	}
	snprintf(content, 64, "%016llx", (unsigned long long)h);
}

static void walk_nfs(struct client *c, const struct fh *dir, const char *path, struct text *t)
{
	struct names n = { 0 };
	if (client_list(c, dir, 8192, keep, &n) < 0)
		add(t, line(path, "can't be listed"));
	for (size_t i = 0; i < n.n; i++) {
		char child[4096], content[4097] = "";
		struct fh fh;
		fattr3 a;
		snprintf(child, sizeof child, "%s/%s", path, n.name[i]);
		nfsstat3 rc = client_lookup(c, dir, n.name[i], &fh, &a);
		free(n.name[i]);
		if (!rc)
			rc = client_getattr(c, &fh, &a);
		if (rc) {
			add(t, line(child, "error"));
			continue;
		}
		if (a.type == NF3REG)
			content_over_nfs(c, &fh, content);
		if (a.type == NF3LNK)
			client_readlink(c, &fh, content, sizeof content);
		add(t, line_of(child, " -dbclsp"[a.type], a.mode, a.uid, a.gid, a.nlink, a.size, a.rdev.specdata1, a.rdev.specdata2, (int32_t)a.mtime.seconds,
			       a.mtime.nseconds, content));
		if (a.type == NF3DIR)
			walk_nfs(c, &fh, child, t);
	}
}

char *tree_over_nfs(struct client *c)
{
	struct text t = { 0 };
	walk_nfs(c, &c->root, "", &t);
	return joined(&t);
}

/* ---- through a mount ---- */
static void content_of(int dir, const char *name, char content[64])
{
	static char buf[65536];
	uint64_t h = 0xcbf29ce484222325u;
	ssize_t n = -1;
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	while (fd >= 0 && (n = read(fd, buf, sizeof buf)) > 0)
		h = hash(h, buf, (size_t)n);
	if (fd >= 0)
		close(fd);
	if (fd < 0 || n < 0)
		strcpy(content, "unreadable");
	else
		snprintf(content, 64, "%016llx", (unsigned long long)h);
}

static char type_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return 'd';
	case S_IFBLK: return 'b';
	case S_IFCHR: return 'c';
	case S_IFLNK: return 'l';
	case S_IFSOCK: return 's';
	case S_IFIFO: return 'p';
	default: return '-';
	}
}

static void walk(int at, const char *name, const char *path, struct text *t)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		add(t, line(path, "can't be listed"));
		return;
	}
	for (struct dirent *e; (e = readdir(d));) {
		char child[4096], content[4097] = "";
		struct stat st;
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(child, sizeof child, "%s/%s", path, e->d_name);
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW)) {
			add(t, line(child, "error"));
			continue;
		}
		if (S_ISREG(st.st_mode))
			content_of(fd, e->d_name, content);
		if (S_ISLNK(st.st_mode))
			content[readlinkat(fd, e->d_name, content, sizeof content - 1)] = 0;
		add(t, line_of(child, type_of(st.st_mode), st.st_mode & 07777, st.st_uid, st.st_gid, (unsigned)st.st_nlink, (uint64_t)st.st_size,
			       S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode) ? major(st.st_rdev) : 0, S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode) ? minor(st.st_rdev) : 0,
			       st.st_mtim.tv_sec, st.st_mtim.tv_nsec, content));
		if (S_ISDIR(st.st_mode))
			walk(fd, e->d_name, child, t);
	}
	closedir(d);
}

char *tree_of(const char *dir)
{
	struct text t = { 0 };
	walk(AT_FDCWD, dir, "", &t);
	return joined(&t);
}

void trees_equal(const char *what, const char *nfs, const char *linux_tree)
{
	const char *a = nfs, *b = linux_tree;
	while (*a && *b && !strncmp(a, b, strcspn(a, "\n") + 1)) {
		a += strcspn(a, "\n") + 1;
		b += strcspn(b, "\n") + 1;
	}
	if (*a || *b)
		fail_msg("%s:\n  over NFS:  %.*s\n  by Linux:  %.*s", what, (int)strcspn(a, "\n"), a, (int)strcspn(b, "\n"), b);
}

/* ---- Linux's own ---- */
void mounts_begin(void)
{
	int status = 0;
	if (geteuid() || unshare(CLONE_NEWNS | CLONE_NEWPID) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		puts("needs root, to mount Linux overlayfs and compare");
		exit(77);
	}
	/* The first process of the namespace takes all others with it when it goes: the servers that a failed test left. The tests run in its child, for
	 * a leak checker can't look at the first one. */
	for (int i = 0; i < 2; i++) {
		pid_t child = fork();
		if (child < 0)
			_exit(1);
		if (child) {
			waitpid(child, &status, 0);
			_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
		}
	}
	if (mount("proc", "/proc", "proc", 0, NULL))
		exit(1);
}

bool linux_mounts(const struct stack *s, const char *lowers, bool with_upper, const char *more)
{
	char cmd[2048];
	snprintf(cmd, sizeof cmd, "mkdir -p m; mount -t overlay overlay -o lowerdir=%s%s%s%s m 2>mount.err", lowers,
		 with_upper ? ",upperdir=upper,workdir=work" : "", more ? "," : "", more ? more : "");
	return stack_says(s, cmd);
}

void linux_mount(const struct stack *s, const char *lowers, bool with_upper, const char *more)
{
	if (!linux_mounts(s, lowers, with_upper, more)) {
		(void)!system("dmesg 2>/dev/null | tail -n 5 >&2");
		fail_msg("Linux does not mount the layers (%s; %s)", lowers, more ? more : "");
	}
}

void linux_unmount(const struct stack *s)
{
	stack_sh(s, "umount m");
}

void compare_with_linux(struct stack *s, const char *layers, const char *args, const char *lowers, bool with_upper, const char *more)
{
	struct client c;
	char mount_point[128];
	char all[512];
	snprintf(all, sizeof all, "--no-root-squash %s", args ? args : "");
	server_start_with(s, layers, all);
	client_open(&c, s, 0, 0);
	char *ours = tree_over_nfs(&c);
	client_close(&c);
	server_stop(s);
	linux_mount(s, lowers, with_upper, more);
	snprintf(mount_point, sizeof mount_point, "%s/m", s->dir);
	char *theirs = tree_of(mount_point);
	linux_unmount(s);
	assert_true(*ours && *theirs);
	trees_equal(layers, ours, theirs);
	free(ours);
	free(theirs);
}
