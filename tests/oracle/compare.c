/* compare.c: see compare.h. The differences that are right stand here, each with its reason. */
#include "compare.h"

#include <string.h>

struct timespec compare_epoch;
bool compare_hard_links;

/* What is compared otherwise than by equality, and why:
 *   sizes of directories       are the file system's own: they tell of whiteouts and marks, not of what clients see
 *   blocks used                a metacopy has none until it is completed
 *   inode numbers              only which names are one object is compared
 *   modes of symlinks          can't be set; NFS's SETATTR of one succeeds and changes nothing
 *   who may read and write     a server lets the owner, as RFC 1813 3.3.6 says: kernel.c opens files the same way
 *   ctime and link count of    where lower files have several names: a handle does not tell by which of them a file is changed, so overnfsd copies
 *     directories              up the one that it knows, Linux the one that it came by; the directories on the way are copied up along
 *   stray whiteouts            Linux lists those of a directory of one layer, though nobody can reach them; overnfsd never does
 *   link(2) by others          fs.protected_hardlinks is for local processes: kernel.c goes round it
 * And statuses (VERBS: of any operation): */
static const struct {
	enum verb verb;
	int linux_says, overnfsd_says;
	const char *why;
} right[] = {
	{ VERBS, NFS3ERR_ACCES, NFS3ERR_NAMETOOLONG, "a name that is too long is refused before anybody looks at the directory" },
	{ RENAME, NFS3ERR_EXIST, NFS3ERR_NOTEMPTY, "xfs has EEXIST for a directory that is not empty; RFC 1813 3.3.14 has NOTEMPTY" },
	{ LINK, NFS3ERR_PERM, NFS3ERR_INVAL, "hard link of a directory: RFC 1813 3.3.15 has INVAL for what can't be linked" },
};

static bool is_right(enum verb verb, int nfs, int kernel)
{
	for (size_t i = 0; i < sizeof right / sizeof *right; i++)
		if ((right[i].verb == verb || right[i].verb == VERBS) && right[i].overnfsd_says == nfs && right[i].linux_says == kernel)
			return true;
	return false;
}

void compare_outcomes(const struct step *s, const char *a, const struct outcome *x, const char *b, const struct outcome *y)
{
	if (x->status != y->status && !is_right(s->verb, x->status, y->status))
		differ("%s: status %d, %s: status %d", a, x->status, b, y->status);
	if (x->access != y->access)
		differ("%s: access %o, %s: access %o", a, x->access, b, y->access);
	if (x->content != y->content || x->size != y->size)
		differ("%s: read %llu (hash %llx), %s: read %llu (hash %llx)", a, (unsigned long long)x->size, (unsigned long long)x->content, b,
		       (unsigned long long)y->size, (unsigned long long)y->content);
}

static bool is_now(struct timespec t)
{
	return t.tv_sec > compare_epoch.tv_sec || (t.tv_sec == compare_epoch.tv_sec && t.tv_nsec >= compare_epoch.tv_nsec);
}

static bool times_agree(struct timespec x, struct timespec y)
{
	return is_now(x) && is_now(y) ? true : x.tv_sec == y.tv_sec && x.tv_nsec == y.tv_nsec;
}

static void time_text(struct timespec t, char text[40])
{
	if (is_now(t))
		strcpy(text, "now");
	else
		snprintf(text, 40, "%lld.%09ld", (long long)t.tv_sec, t.tv_nsec);
}

/* One line of all that is compared. */
static void attr_text(const struct attr *a, char text[300])
{
	char atime[40], mtime[40], ctime[40];
	time_text(a->atime, atime);
	time_text(a->mtime, mtime);
	time_text(a->ctime, ctime);
	snprintf(text, 300, "mode %o nlink %u owner %u:%u size %llu rdev %u/%u atime %s mtime %s ctime %s", a->mode, a->nlink, a->uid, a->gid,
		 (unsigned long long)a->size, a->major, a->minor, atime, mtime, ctime);
}

/* The first attribute that does not agree, or NULL. */
static const char *disagreement(const struct attr *x, const struct attr *y)
{
	bool dir = S_ISDIR(x->mode), either_way = dir && compare_hard_links;
	if (x->mode != y->mode)
		return "mode";
	if (x->uid != y->uid || x->gid != y->gid)
		return "owner";
	if (x->nlink != y->nlink && !(either_way && (x->nlink == 1 || y->nlink == 1)))
		return "number of links";
	if (x->size != y->size && !dir)
		return "size";
	if (x->major != y->major || x->minor != y->minor)
		return "device number";
	if (!times_agree(x->atime, y->atime))
		return "access time";
	if (!times_agree(x->mtime, y->mtime))
		return "modification time";
	return times_agree(x->ctime, y->ctime) || either_way ? NULL : "change time";
}

void compare_attrs(const char *path, const char *a, const struct attr *x, const char *b, const struct attr *y)
{
	char left[300], right_text[300];
	const char *what = disagreement(x, y);
	if (!what)
		return;
	attr_text(x, left);
	attr_text(y, right_text);
	differ("the %s of \"%s\"\n  %s: %s\n  %s: %s", what, shown(path), a, left, b, right_text);
}

static void compare_nodes(const char *a, const struct tree *t, const struct node *x, const char *b, const struct tree *u, const struct node *y)
{
	compare_attrs(x->path, a, &x->attr, b, &y->attr);
	if (x->content != y->content)
		differ("\"%s\": the contents differ between %s and %s", shown(x->path), a, b);
	if (x->same != y->same)
		differ("\"%s\" is the same object as \"%s\" in %s, as \"%s\" in %s", shown(x->path), shown(t->nodes[x->same].path), a, shown(u->nodes[y->same].path), b);
	if (x->xattrs && y->xattrs && strcmp(x->xattrs, y->xattrs))
		differ("\"%s\": xattrs differ\n  %s: %s\n  %s: %s", shown(x->path), a, x->xattrs, b, y->xattrs);
}

void compare_trees(const char *a, const struct tree *x, const char *b, const struct tree *y)
{
	for (size_t i = 0; i < x->n || i < y->n; i++) {
		int c = i >= x->n ? 1 : i >= y->n ? -1 : strcmp(x->nodes[i].path, y->nodes[i].path);
		if (c)
			differ("\"%s\" is in %s and not in %s", shown((c < 0 ? x : y)->nodes[i].path), c < 0 ? a : b, c < 0 ? b : a);
		compare_nodes(a, x, &x->nodes[i], b, y, &y->nodes[i]);
	}
}
