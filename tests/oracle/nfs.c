/* nfs.c: operations by NFS, as procedures by handle. */
#include "compare.h"

#include <stdlib.h>
#include <string.h>

enum { TABLE = 1 << 14 };

/* A handle that was seen. */
struct seen {
	struct fh fh;
	uint64_t fileid;
	char *path; /* where it was seen last */
	bool in_tree; /* at the last walk */
	bool answers; /* to GETATTR, since then */
	bool has_names; /* by its link count; not a directory */
};
struct handles {
	struct seen *slots[TABLE]; /* open addressing */
	size_t n;
};

static size_t slot_of(struct handles *h, const struct fh *fh)
{
	size_t i = hash_bytes(0, fh->data, fh->len) % TABLE;
	while (h->slots[i] && (h->slots[i]->fh.len != fh->len || memcmp(h->slots[i]->fh.data, fh->data, fh->len)))
		i = (i + 1) % TABLE;
	return i;
}

/* The file id under a handle never changes. */
static struct seen *see(struct nfs *n, const struct fh *fh, uint64_t fileid, const char *path)
{
	size_t i = slot_of(n->handles, fh);
	struct seen *s = n->handles->slots[i];
	if (!s) {
		if (n->handles->n == TABLE - 1)
			differ("too many handles for the oracle's table: take fewer operations");
		s = n->handles->slots[i] = calloc(1, sizeof *s);
		s->fh = *fh;
		s->fileid = fileid;
		s->answers = true; /* as it did just now */
		n->handles->n++;
	}
	if (s->fileid != fileid)
		differ("\"%s\": the file id under its handle was %llx and is %llx now", shown(path), (unsigned long long)s->fileid, (unsigned long long)fileid);
	if (!s->path || strcmp(s->path, path)) {
		free(s->path);
		s->path = strdup(path);
	}
	return s;
}

static void seen_free(struct seen *s)
{
	if (s)
		free(s->path);
	free(s);
}

void nfs_forget(struct nfs *n)
{
	for (size_t i = 0; n->handles && i < TABLE; i++)
		seen_free(n->handles->slots[i]);
	free(n->handles);
	n->handles = NULL;
}

void nfs_open(struct nfs *n, const struct stack *server)
{
	client_open(&n->client, server, 0, 0);
	if (!n->handles)
		n->handles = calloc(1, sizeof *n->handles);
}

void nfs_close(struct nfs *n)
{
	client_close(&n->client);
}

static void act_as(struct client *c, const struct user *u)
{
	c->uid = u->uid;
	c->gid = u->gid;
	c->ngroups = u->ngroups;
	memcpy(c->groups, u->groups, u->ngroups * sizeof *u->groups);
}

static void attr_of(const fattr3 *f, struct attr *a)
{
	static const mode_t types[] = { [NF3REG] = S_IFREG, [NF3DIR] = S_IFDIR, [NF3BLK] = S_IFBLK, [NF3CHR] = S_IFCHR,
					[NF3LNK] = S_IFLNK, [NF3SOCK] = S_IFSOCK, [NF3FIFO] = S_IFIFO };
	*a = (struct attr){ .mode = types[f->type] | f->mode, .uid = f->uid, .gid = f->gid, .nlink = f->nlink, .size = f->size, .id = f->fileid,
			    .atime = { f->atime.seconds, f->atime.nseconds }, .mtime = { f->mtime.seconds, f->mtime.nseconds },
			    .ctime = { f->ctime.seconds, f->ctime.nseconds } };
	if (f->type == NF3CHR || f->type == NF3BLK) {
		a->major = f->rdev.specdata1;
		a->minor = f->rdev.specdata2;
	}
}

/* Field by field: there is padding. */
static bool same_attr(const fattr3 *f, const fattr3 *g)
{
	struct attr a, b;
	attr_of(f, &a);
	attr_of(g, &b);
	return attr_same(&a, &b) && f->fsid == g->fsid;
}

/* As root, from name to name. */
static int resolve(struct nfs *n, const char *path, struct fh *fh, fattr3 *attr)
{
	char copy[4096], *save = NULL;
	*fh = n->client.root;
	act_as(&n->client, &users[0]);
	nfsstat3 st = attr && !*path ? client_getattr(&n->client, fh, attr) : NFS3_OK;
	snprintf(copy, sizeof copy, "%s", path);
	for (char *name = strtok_r(copy, "/", &save); name && !st; name = strtok_r(NULL, "/", &save)) {
		struct fh dir = *fh;
		fattr3 a;
		st = client_lookup(&n->client, &dir, name, fh, &a);
		if (!st)
			see(n, fh, a.fileid, path);
		if (!st && attr)
			*attr = a;
	}
	return (int)st;
}

int nfs_stat(struct nfs *n, const char *path, struct attr *a)
{
	struct fh fh;
	fattr3 f, again;
	int st = resolve(n, path, &fh, &f);
	if (st)
		return st;
	attr_of(&f, a);
	if (client_getattr(&n->client, &fh, &again) || !same_attr(&f, &again))
		differ("\"%s\": GETATTR says other than LOOKUP", shown(path));
	return NFS3_OK;
}

/* ---- operations ---- */
static int read_whole(struct client *c, const struct fh *fh, uint64_t *hash, uint64_t *size)
{
	static uint8_t buf[1 << 17];
	bool eof = false;
	while (!eof) {
		uint32_t got = 0;
		nfsstat3 st = client_read(c, fh, *size, sizeof buf, buf, &got, &eof);
		if (st)
			return (int)st;
		if (!got && !eof)
			differ("READ: nothing read, and no end of file");
		if (got)
			*hash = hash_bytes(*hash, buf, got);
		*size += got;
	}
	return NFS3_OK;
}

static void count_name(void *arg, const char *name, uint64_t fileid)
{
	struct outcome *out = arg;
	(void)fileid;
	out->content += hash_bytes(0, name, strlen(name));
	out->size++;
}

static int set(struct client *c, const struct fh *fh, const struct step *s)
{
	sattr3 a = { 0 };
	switch (s->verb) {
	case CHMOD:
		a.mode.set_it = TRUE;
		a.mode.set_uint32_u.value = (uint32)s->n[0];
		break;
	case CHOWN:
		a.uid.set_it = (uint32_t)s->n[0] != UINT32_MAX;
		a.gid.set_it = (uint32_t)s->n[1] != UINT32_MAX;
		a.uid.set_uint32_u.value = (uint32)s->n[0];
		a.gid.set_uint32_u.value = (uint32)s->n[1];
		break;
	case TRUNCATE:
		a.size.set_it = TRUE;
		a.size.set_uint64_u.value = s->n[0];
		break;
	case UTIMES:
		a.atime.set_it = a.mtime.set_it = SET_TO_CLIENT_TIME;
		a.atime.set_time_u.value = (nfstime3){ (uint32)s->n[0], (uint32)s->n[1] };
		a.mtime.set_time_u.value = (nfstime3){ (uint32)s->n[2], (uint32)s->n[3] };
		break;
	default: a.atime.set_it = a.mtime.set_it = SET_TO_SERVER_TIME;
	}
	return (int)client_setattr(c, fh, &a, NULL, NULL);
}

static int run_object(struct nfs *n, const struct step *s, struct outcome *out)
{
	static uint8_t buf[1 << 17];
	struct client *c = &n->client;
	struct fh fh;
	char target[4097];
	int st = resolve(n, s->s[0], &fh, NULL);
	if (st)
		return st;
	act_as(c, &users[s->user]);
	switch (s->verb) {
	case READ: return read_whole(c, &fh, &out->content, &out->size);
	case WRITE:
		fill_pattern(buf, s->n[0], s->n[1], s->n[2]);
		return (int)client_write(c, &fh, s->n[0], buf, (uint32_t)s->n[1], s->n[2] % 3 ? UNSTABLE : FILE_SYNC, NULL);
	case READLINK:
		st = (int)client_readlink(c, &fh, target, sizeof target);
		out->content = st ? 0 : hash_bytes(0, target, strlen(target));
		return st;
	case ACCESS: {
		uint32_t got = client_access(c, &fh, 0x3f);
		out->access = (got & ACCESS3_READ ? 4 : 0) | (got & (ACCESS3_MODIFY | ACCESS3_EXTEND) ? 2 : 0) |
			      (got & (ACCESS3_LOOKUP | ACCESS3_EXECUTE) ? 1 : 0);
		return NFS3_OK;
	}
	case LIST: {
		long r = client_list(c, &fh, 512 + (uint32_t)(out->size % 7) * 100, count_name, out);
		return r < 0 ? (int)-r : NFS3_OK;
	}
	default: return set(c, &fh, s);
	}
}

static int run_name(struct nfs *n, const struct step *s)
{
	struct client *c = &n->client;
	char dir[4096];
	const char *name = split_path(s->s[0], dir);
	struct fh parent, made;
	fattr3 attr;
	static const ftype3 types[] = { [S_IFIFO >> 12] = NF3FIFO, [S_IFSOCK >> 12] = NF3SOCK, [S_IFCHR >> 12] = NF3CHR, [S_IFBLK >> 12] = NF3BLK };
	int st = resolve(n, dir, &parent, NULL);
	if (st)
		return st;
	act_as(c, &users[s->user]);
	switch (s->verb) {
	case CREATE: return (int)client_create(c, &parent, name, UNCHECKED, (uint32_t)s->n[0], &made);
	case CREATE_GUARDED: return (int)client_create(c, &parent, name, GUARDED, (uint32_t)s->n[0], &made);
	case CREATE_EXCLUSIVE: return (int)client_create(c, &parent, name, EXCLUSIVE, (uint32_t)s->n[0], &made);
	case MKDIR: return (int)client_mkdir(c, &parent, name, (uint32_t)s->n[0], &made);
	case SYMLINK: return (int)client_symlink(c, &parent, name, s->s[1], &made);
	case MKNOD: return (int)client_mknod(c, &parent, name, types[s->n[0] >> 12], (uint32_t)s->n[1], (uint32_t)s->n[2], &made);
	case REMOVE: return (int)client_remove(c, &parent, name);
	case RMDIR: return (int)client_rmdir(c, &parent, name);
	default: st = (int)client_lookup(c, &parent, name, &made, &attr); return st;
	}
}

static int run_pair(struct nfs *n, const struct step *s)
{
	char dir[4096];
	struct fh object, from, to;
	const char *name = split_path(s->s[0], dir);
	fattr3 parent = { 0 };
	int st = resolve(n, dir, &from, &parent);
	if (!st && parent.type != NF3DIR)
		st = NFS3ERR_NOTDIR; /* as Linux, before the other path is looked at */
	if (!st && s->verb == LINK)
		st = resolve(n, s->s[0], &object, NULL);
	const char *new_name = split_path(s->s[1], dir);
	if (!st)
		st = resolve(n, dir, &to, NULL);
	if (st)
		return st;
	act_as(&n->client, &users[s->user]);
	return s->verb == LINK ? (int)client_link(&n->client, &object, &to, new_name) : (int)client_rename(&n->client, &from, name, &to, new_name);
}

void nfs_run(struct nfs *n, const struct step *s, struct outcome *out)
{
	memset(out, 0, sizeof *out);
	if (s->verb == RENAME || s->verb == LINK)
		out->status = run_pair(n, s);
	else if ((s->verb >= CREATE && s->verb <= RMDIR) || s->verb == LOOKUP)
		out->status = run_name(n, s);
	else
		out->status = run_object(n, s, out);
}

/* ---- the tree ---- */
struct entry {
	char *name;
	uint64_t fileid, plain; /* by READDIRPLUS and by READDIR */
	fattr3 attr;
	struct fh fh;
	bool complete;
};
struct entries {
	struct entry *list;
	size_t n, at;
	const char *path;
};

static void keep_plus(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh)
{
	struct entries *e = arg;
	e->list = realloc(e->list, (e->n + 1) * sizeof *e->list);
	struct entry *x = &e->list[e->n++];
	*x = (struct entry){ .name = strdup(name), .fileid = fileid, .complete = attr && fh };
	if (!x->complete)
		differ("READDIRPLUS of \"%s\" gives \"%s\" without attributes or handle", shown(e->path), shown(name));
	x->attr = *attr;
	x->fh.len = fh->data.data_len;
	memcpy(x->fh.data, fh->data.data_val, x->fh.len);
	if (attr->fileid != fileid)
		differ("READDIRPLUS of \"%s\": \"%s\" has file id %llx, its attributes say %llx", shown(e->path), shown(name), (unsigned long long)fileid,
		       (unsigned long long)attr->fileid);
}

static void check_plain(void *arg, const char *name, uint64_t fileid)
{
	struct entries *e = arg;
	if (e->at >= e->n || strcmp(e->list[e->at].name, name))
		differ("READDIR of \"%s\" gives \"%s\" where READDIRPLUS has \"%s\"", shown(e->path), shown(name), e->at < e->n ? shown(e->list[e->at].name) : "nothing more");
	if (e->list[e->at++].fileid != fileid)
		differ("READDIR of \"%s\": \"%s\" has file id %llx, GETATTR says %llx", shown(e->path), shown(name), (unsigned long long)fileid,
		       (unsigned long long)e->list[e->at - 1].fileid);
}

static void walk(struct nfs *n, struct tree *t, const struct fh *dir, const char *path);

static void visit(struct nfs *n, struct tree *t, const struct entry *e, const char *path)
{
	struct client *c = &n->client;
	char target[4097];
	fattr3 attr;
	uint64_t size = 0;
	int st;
	see(n, &e->fh, e->fileid, path)->in_tree = true;
	if ((st = (int)client_getattr(c, &e->fh, &attr)) || !same_attr(&attr, &e->attr))
		differ("\"%s\": GETATTR says other than READDIRPLUS (status %d, file ids %llx and %llx, nlink %u and %u)", shown(path), st,
		       (unsigned long long)attr.fileid, (unsigned long long)e->attr.fileid, attr.nlink, e->attr.nlink);
	struct node *node = tree_add(t, path);
	attr_of(&attr, &node->attr);
	if (attr.type == NF3LNK) {
		st = (int)client_readlink(c, &e->fh, target, sizeof target);
		node->content = st ? (uint64_t)st : hash_bytes(0, target, strlen(target));
	} else if (attr.type == NF3REG) {
		st = read_whole(c, &e->fh, &node->content, &size);
		if (st)
			node->content = (uint64_t)st;
	} else if (attr.type == NF3DIR) {
		walk(n, t, &e->fh, path);
	}
}

static void walk(struct nfs *n, struct tree *t, const struct fh *dir, const char *path)
{
	struct entries e = { .path = path };
	long got = client_listplus(&n->client, dir, 8192, keep_plus, &e);
	if (got < 0)
		differ("READDIRPLUS of \"%s\": status %ld", shown(path), -got);
	got = client_list(&n->client, dir, 4096, check_plain, &e);
	if (got != (long)e.n)
		differ("READDIR of \"%s\": %ld entries, READDIRPLUS has %zu", shown(path), got, e.n);
	for (size_t i = 0; i < e.n; i++) {
		char below[8192];
		snprintf(below, sizeof below, "%s%s%s", path, *path ? "/" : "", e.list[i].name);
		if (strcmp(e.list[i].name, ".") && strcmp(e.list[i].name, ".."))
			visit(n, t, &e.list[i], below);
		free(e.list[i].name);
	}
	free(e.list);
}

void nfs_tree(struct nfs *n, struct tree *t)
{
	fattr3 attr;
	memset(t, 0, sizeof *t);
	for (size_t i = 0; i < TABLE; i++)
		if (n->handles->slots[i])
			n->handles->slots[i]->in_tree = false;
	act_as(&n->client, &users[0]);
	assert_nfs(client_getattr(&n->client, &n->client.root, &attr), NFS3_OK);
	see(n, &n->client.root, attr.fileid, "")->in_tree = true;
	attr_of(&attr, &tree_add(t, "")->attr);
	walk(n, t, &n->client.root, "");
	tree_finish(t);
}

void nfs_check_handles(struct nfs *n)
{
	struct tree t;
	struct handles *left = calloc(1, sizeof *left);
	act_as(&n->client, &users[0]);
	for (size_t i = 0; i < TABLE; i++) { /* before the walk, so that nothing but the handle leads there */
		struct seen *s = n->handles->slots[i];
		fattr3 attr;
		if (!s)
			continue;
		nfsstat3 st;
		while ((st = client_getattr(&n->client, &s->fh, &attr)) == NFS3ERR_JUKEBOX)
			;
		if (st && st != NFS3ERR_STALE)
			differ("the handle of \"%s\": GETATTR says %d", shown(s->path), (int)st);
		if (!st)
			see(n, &s->fh, attr.fileid, s->path);
		s->answers = !st;
		s->has_names = !st && attr.type != NF3DIR && attr.nlink;
	}
	nfs_tree(n, &t);
	tree_free(&t);
	for (size_t i = 0; i < TABLE; i++) {
		struct seen *s = n->handles->slots[i];
		/* of a lower file's names, one may be hidden by another layer: the file then lives on unseen, in Linux's index as in ours */
		if (s && s->in_tree != s->answers && !(compare_hard_links && s->has_names))
			differ("the handle of \"%s\" %s", shown(s->path),
			       s->answers ? "answers, and its object is not in the tree" : "is stale, and its object is in the tree");
		if (s && s->in_tree) {
			left->slots[slot_of(left, &s->fh)] = s;
			left->n++;
		} else {
			seen_free(s);
		}
	}
	free(n->handles);
	n->handles = left;
}
