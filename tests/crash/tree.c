/* tree.c: see tree.h. */
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { CONTENT_MAX = 1 << 18 };

static struct tree_node *add(struct tree *t, const char *dir, const char *name)
{
	if (t->n == t->room) {
		t->room = t->room ? 2 * t->room : 64;
		t->nodes = realloc(t->nodes, t->room * sizeof *t->nodes);
		assert_non_null(t->nodes);
	}
	struct tree_node *n = &t->nodes[t->n++];
	memset(n, 0, sizeof *n);
	assert_true(asprintf(&n->path, "%s%s%s", dir, *dir && *name ? "/" : "", name) >= 0);
	return n;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct tree_node *)a)->path, ((const struct tree_node *)b)->path);
}

void tree_free(struct tree *t)
{
	for (size_t i = 0; i < t->n; i++) {
		free(t->nodes[i].path);
		free(t->nodes[i].content);
	}
	free(t->nodes);
	memset(t, 0, sizeof *t);
}

struct tree_node *tree_find(const struct tree *t, const char *path)
{
	for (size_t i = 0; i < t->n; i++)
		if (!strcmp(t->nodes[i].path, path))
			return &t->nodes[i];
	return NULL;
}

static bool same_handle(const struct fh *a, const struct fh *b)
{
	return a->len == b->len && !memcmp(a->data, b->data, a->len);
}

struct tree_node *tree_find_handle(const struct tree *t, const struct fh *fh)
{
	for (size_t i = 0; i < t->n; i++)
		if (same_handle(&t->nodes[i].fh, fh))
			return &t->nodes[i];
	return NULL;
}

/* ---- over NFS ---- */
struct listing {
	struct tree *tree;
	char *dir;
	long n; /* of entries that READDIR gave, less those of READDIRPLUS */
	uint64_t fileids; /* their sum: order does not matter */
};

static bool is_dot(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

static void add_entry(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh)
{
	struct listing *l = arg;
	l->n--;
	l->fileids -= fileid;
	if (is_dot(name))
		return;
	struct tree_node *n = add(l->tree, l->dir, name);
	if (!attr || !fh) { /* a reply may leave them out; our server does so for what can't be reached */
		l->tree->status = NFS3ERR_IO;
		return;
	}
	assert_int_equal(attr->fileid, fileid);
	n->attr = *attr;
	n->fh.len = fh->data.data_len;
	memcpy(n->fh.data, fh->data.data_val, n->fh.len);
}

static void count_entry(void *arg, const char *name, uint64_t fileid)
{
	struct listing *l = arg;
	(void)name;
	l->n++;
	l->fileids += fileid;
}

static nfsstat3 read_content(struct tree_node *n, struct client *c)
{
	nfsstat3 st = NFS3_OK;
	if (n->attr.type == NF3LNK) {
		n->content = calloc(1, 4097);
		assert_non_null(n->content);
		st = client_readlink(c, &n->fh, n->content, 4097);
		n->len = (uint32_t)strlen(n->content);
	} else if (n->attr.type == NF3REG) {
		bool eof = false;
		assert_true(n->attr.size <= CONTENT_MAX);
		n->content = calloc(1, n->attr.size + 1);
		assert_non_null(n->content);
		while (!st && !eof) {
			uint32_t got = 0;
			st = client_read(c, &n->fh, n->len, (uint32_t)n->attr.size - n->len + 1, n->content + n->len, &got, &eof);
			n->len += got;
		}
	}
	return st;
}

static void fail_with(struct tree *t, nfsstat3 st)
{
	if (st && !t->status)
		t->status = st;
}

static void read_tree(struct tree *t, struct client *c, const struct fh *top, bool twice)
{
	memset(t, 0, sizeof *t);
	struct tree_node *n = add(t, "", "");
	n->fh = *top;
	fail_with(t, client_getattr(c, top, &n->attr));
	for (size_t i = 0; i < t->n && !t->status; i++) { /* what is found is put behind */
		n = &t->nodes[i];
		if (n->attr.type != NF3DIR) {
			fail_with(t, read_content(n, c));
			continue;
		}
		struct listing l = { .tree = t, .dir = strdup(n->path) };
		struct fh fh = n->fh; /* n moves as nodes are added */
		assert_non_null(l.dir);
		long rc = client_listplus(c, &fh, 8192, add_entry, &l);
		fail_with(t, rc < 0 ? (nfsstat3)-rc : NFS3_OK);
		rc = twice ? client_list(c, &fh, 8192, count_entry, &l) : 0;
		fail_with(t, rc < 0 ? (nfsstat3)-rc : NFS3_OK);
		if (twice && !t->status && (l.n || l.fileids))
			fail_msg("READDIR and READDIRPLUS of %s do not agree", l.dir);
		free(l.dir);
	}
	qsort(t->nodes, t->n, sizeof *t->nodes, by_path);
}

void tree_read(struct tree *t, struct client *c, const struct fh *top)
{
	read_tree(t, c, top, false);
}

void tree_read_twice(struct tree *t, struct client *c, const struct fh *top)
{
	read_tree(t, c, top, true);
}

/* ---- a local directory ---- */
static ftype3 type_of(mode_t mode)
{
	return S_ISDIR(mode) ? NF3DIR : S_ISLNK(mode) ? NF3LNK : S_ISREG(mode) ? NF3REG : S_ISFIFO(mode) ? NF3FIFO : S_ISSOCK(mode) ? NF3SOCK : S_ISBLK(mode) ? NF3BLK : NF3CHR;
}

static int read_local(struct tree_node *n, const char *top)
{
	char path[4096];
	struct stat st;
	snprintf(path, sizeof path, "%s/%s", top, n->path);
	if (lstat(path, &st))
		return -errno;
	n->attr = (fattr3){ .type = type_of(st.st_mode), .mode = st.st_mode & 07777, .nlink = (uint32)st.st_nlink, .uid = st.st_uid, .gid = st.st_gid,
			    .size = (uint64)st.st_size, .rdev = { major(st.st_rdev), minor(st.st_rdev) },
			    .mtime = { (uint32)st.st_mtim.tv_sec, (uint32)st.st_mtim.tv_nsec } };
	if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return 0;
	n->content = calloc(1, (size_t)st.st_size + 1);
	assert_non_null(n->content);
	ssize_t got;
	if (S_ISLNK(st.st_mode)) {
		got = readlink(path, n->content, (size_t)st.st_size);
	} else {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		got = fd < 0 ? -1 : read(fd, n->content, (size_t)st.st_size);
		if (fd >= 0)
			close(fd);
	}
	n->len = got < 0 ? 0 : (uint32_t)got;
	return got < 0 ? -errno : 0;
}

static int list_local(struct tree *t, const char *top, const char *dir)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", top, dir);
	DIR *d = opendir(path);
	if (!d)
		return -errno;
	for (struct dirent *e; (e = readdir(d));)
		if (!is_dot(e->d_name))
			add(t, dir, e->d_name);
	closedir(d);
	return 0;
}

void tree_read_local(struct tree *t, const char *top)
{
	memset(t, 0, sizeof *t);
	add(t, "", "");
	for (size_t i = 0; i < t->n; i++) {
		int rc = read_local(&t->nodes[i], top);
		if (rc == -ENOENT && i) { /* Linux lists whiteouts that hide nothing, yet nobody can reach them */
			free(t->nodes[i].path);
			t->nodes[i--] = t->nodes[--t->n];
			continue;
		}
		char *dir = t->nodes[i].attr.type == NF3DIR ? strdup(t->nodes[i].path) : NULL;
		if (!rc && dir)
			rc = list_local(t, top, dir);
		free(dir);
		if (rc)
			fail_with(t, NFS3ERR_IO);
	}
	qsort(t->nodes, t->n, sizeof *t->nodes, by_path);
}

/* ---- comparisons ---- */
static bool same_time(const nfstime3 *a, const nfstime3 *b)
{
	return a->seconds == b->seconds && a->nseconds == b->nseconds;
}

/* The first thing that differs, or NULL. */
static const char *looks_different(const struct tree_node *a, const struct tree_node *b, bool nlink, bool mtime)
{
	if (a->attr.type != b->attr.type)
		return "type";
	if (a->attr.mode != b->attr.mode)
		return "mode";
	if (a->attr.uid != b->attr.uid || a->attr.gid != b->attr.gid)
		return "owner";
	if (a->attr.rdev.specdata1 != b->attr.rdev.specdata1 || a->attr.rdev.specdata2 != b->attr.rdev.specdata2)
		return "device";
	if (nlink && a->attr.type != NF3DIR && a->attr.nlink != b->attr.nlink)
		return "nlink";
	if (a->attr.type == NF3REG && a->attr.size != b->attr.size)
		return "size";
	if (a->len != b->len || (a->len && memcmp(a->content, b->content, a->len) != 0))
		return "content";
	if (mtime && !same_time(&a->attr.mtime, &b->attr.mtime))
		return "mtime";
	return NULL;
}

static bool say(char *why, size_t size, const char *path, const char *what)
{
	snprintf(why, size, "/%s: %s", path, what);
	return false;
}

/* Walks two sorted trees; each node must have its like. */
static bool compare(const struct tree *a, const struct tree *b, const char *(*different)(const struct tree_node *, const struct tree_node *, void *),
		    void *arg, char *why, size_t size)
{
	if (a->status || b->status) {
		snprintf(why, size, "can't be read: status %d", a->status ? a->status : b->status);
		return false;
	}
	for (size_t i = 0; i < a->n || i < b->n; i++) {
		int order = i == a->n ? 1 : i == b->n ? -1 : strcmp(a->nodes[i].path, b->nodes[i].path);
		if (order)
			return say(why, size, order < 0 ? a->nodes[i].path : b->nodes[i].path, order < 0 ? "is missing" : "is too many");
		const char *what = different(&a->nodes[i], &b->nodes[i], arg);
		if (what)
			return say(why, size, a->nodes[i].path, what);
	}
	return true;
}

static const char *differs(const struct tree_node *a, const struct tree_node *b, void *arg)
{
	(void)arg;
	if (a->attr.fileid != b->attr.fileid)
		return "file id";
	if (a->attr.fsid != b->attr.fsid)
		return "fsid";
	if (!same_handle(&a->fh, &b->fh))
		return "handle";
	return looks_different(a, b, true, true);
}

bool tree_same(const struct tree *a, const struct tree *b, char *why, size_t size)
{
	return compare(a, b, differs, NULL, why, size);
}

static const char *looks(const struct tree_node *a, const struct tree_node *b, void *arg)
{
	return looks_different(a, b, *(bool *)arg, true);
}

bool tree_looks_same(const struct tree *a, const struct tree *b, bool nlink, char *why, size_t size)
{
	return compare(a, b, looks, &nlink, why, size);
}

struct models {
	const struct tree *before, *model_before;
};

/* a: after; b: its like in the model */
static const char *changed_otherwise(const struct tree_node *a, const struct tree_node *b, void *arg)
{
	const struct models *m = arg;
	const struct tree_node *was = tree_find_handle(m->before, &a->fh), *model_was = tree_find_handle(m->model_before, &b->fh);
	if (!was != !model_was)
		return model_was ? "should still have the handle that it had" : "has the handle of something that was there before";
	if (was && a->attr.fileid != was->attr.fileid)
		return "file id changed";
	if (was && strcmp(was->path, model_was->path) != 0) {
		/* names of one file share a handle: that one of them is found first means nothing */
		const struct tree_node *other = tree_find(m->before, model_was->path);
		if (!other || !same_handle(&other->fh, &a->fh))
			return "has the handle of something else";
	}
	const char *what = looks_different(a, b, true, false);
	if (what || !was)
		return what;
	bool stayed = same_time(&b->attr.mtime, &model_was->attr.mtime), set = b->attr.mtime.seconds < 1500000000;
	bool moved = !same_time(&a->attr.mtime, &was->attr.mtime);
	if (stayed ? moved : set ? !same_time(&a->attr.mtime, &b->attr.mtime) : !moved && was->attr.mtime.seconds < 1500000000)
		return "mtime";
	return NULL;
}

bool tree_changed_alike(const struct tree *before, const struct tree *after, const struct tree *model_before, const struct tree *model_after, char *why,
			size_t size)
{
	struct models m = { before, model_before };
	return compare(after, model_after, changed_otherwise, &m, why, size);
}
