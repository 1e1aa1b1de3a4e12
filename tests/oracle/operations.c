/* operations.c: random operations, mostly on what exists. */
#include "player.h"

#include <stdlib.h>
#include <string.h>

enum { MANY = 120 }; /* a tree larger than this is rather cut down */

static const struct {
	enum verb verb;
	unsigned weight;
} weights[] = {
	{ CREATE, 7 }, { CREATE_GUARDED, 4 }, { CREATE_EXCLUSIVE, 2 }, { MKDIR, 9 }, { SYMLINK, 4 }, { MKNOD, 4 }, { REMOVE, 12 }, { RMDIR, 7 },
	{ RENAME, 20 }, { LINK, 7 }, { CHMOD, 6 }, { CHOWN, 4 }, { TRUNCATE, 3 }, { UTIMES, 7 }, { TOUCH, 2 }, { WRITE, 6 }, { READ, 2 }, { READLINK, 1 },
	{ ACCESS, 3 }, { LOOKUP, 2 }, { LIST, 3 }, { SETXATTR, 4 },
};

static enum verb random_verb(struct dice *d)
{
	unsigned total = 0;
	for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
		total += weights[i].weight;
	unsigned roll = (unsigned)dice_below(d, total);
	size_t i = 0;
	while (roll >= weights[i].weight)
		roll -= weights[i++].weight;
	return weights[i].verb;
}

/* A path that exists, of a type (0: any) if there is one; sometimes the root. */
static char *existing(struct player *p, mode_t type)
{
	struct known *k = NULL;
	for (int tries = 0; tries < 30; tries++) {
		k = &p->known[dice_below(&p->dice, p->nknown)];
		if ((!type || k->type == type) && (*k->path || dice_percent(&p->dice, 20)))
			break;
	}
	return strdup(k->path);
}

static char *in_some_directory(struct player *p, const char *name)
{
	char *path = NULL;
	struct known *k = NULL;
	for (int tries = 0; tries < 30; tries++) {
		size_t depth = 0;
		k = &p->known[dice_below(&p->dice, p->nknown)];
		for (const char *c = k->path; *c; c++)
			depth += *c == '/';
		if (k->type == S_IFDIR && depth < 3 && strlen(k->path) < 60)
			break;
	}
	if (asprintf(&path, "%s%s%s", k->path, *k->path ? "/" : "", name) < 0)
		abort();
	return path;
}

/* Now and then what exists, or nothing that can. */
static char *new_path(struct player *p, bool for_file)
{
	char *path = dice_percent(&p->dice, 15) ? existing(p, 0) : in_some_directory(p, random_name(&p->dice, for_file));
	if (!*path) {
		free(path);
		path = strdup("a");
	}
	return path;
}

static const char *long_name(void)
{
	static char name[256];
	memset(name, 'n', 180);
	return name;
}

static uint64_t random_time(struct dice *d)
{
	return 1000000000 + dice_below(d, 600000000);
}

static void fill_attributes(struct player *p, struct step *s)
{
	struct dice *d = &p->dice;
	static const uint32_t ids[] = { 0, 1000, 1001, 1002, 50, 100, UINT32_MAX, UINT32_MAX };
	switch (s->verb) {
	case CHMOD: s->n[0] = random_mode(d); break;
	case CHOWN:
		s->n[0] = ids[dice_below(d, 8)];
		s->n[1] = ids[dice_below(d, s->n[0] == UINT32_MAX ? 6 : 8)];
		break;
	case TRUNCATE: s->n[0] = dice_below(d, 3) ? dice_below(d, 200) : dice_below(d, 20000); break;
	case UTIMES:
		for (int i = 0; i < 4; i++)
			s->n[i] = i % 2 ? dice_below(d, 1000000000) : random_time(d);
		break;
	case WRITE:
		s->n[0] = dice_below(d, 4) ? 0 : dice_below(d, 10000);
		s->n[1] = 1 + (dice_below(d, 4) ? dice_below(d, 100) : dice_below(d, 9000)); /* of nothing: Linux completes a metacopy, and moves its mtime */
		s->n[2] = dice_below(d, 100);
		break;
	default: break;
	}
}

static void fill_xattr(struct player *p, struct step *s)
{
	char acl[200];
	struct dice *d = &p->dice;
	random_acl(d, acl);
	switch (dice_below(d, 4)) {
	case 0: s->s[1] = strdup("system.posix_acl_access"); break;
	case 1: s->s[1] = strdup("system.posix_acl_default"); break;
	case 2: s->s[1] = strdup("user.shape"); break;
	default: s->s[1] = strdup("trusted.note"); break;
	}
	s->s[2] = strdup(s->s[1][0] == 's' ? acl : "726f756e64");
}

/* Renames of all kinds: files over files, directories over empty ones, into their own children, onto themselves. */
static void fill_rename(struct player *p, struct step *s)
{
	struct dice *d = &p->dice;
	s->s[0] = existing(p, dice_percent(d, 45) ? S_IFDIR : 0);
	bool dir = false;
	for (size_t i = 0; i < p->nknown; i++)
		dir |= !strcmp(p->known[i].path, s->s[0]) && p->known[i].type == S_IFDIR;
	if (dice_percent(d, 25)) {
		s->s[1] = existing(p, dir ? S_IFDIR : 0);
	} else if (dice_percent(d, 30)) { /* within its directory */
		char parent[4096];
		split_path(s->s[0], parent);
		if (asprintf(&s->s[1], "%s%s%s", parent, *parent ? "/" : "", random_name(d, false)) < 0)
			abort();
	} else {
		s->s[1] = in_some_directory(p, random_name(d, !dir));
	}
	if (!*s->s[0] || !*s->s[1]) { /* the root has no name */
		free(s->s[0]);
		s->s[0] = strdup("a");
		if (!*s->s[1]) {
			free(s->s[1]);
			s->s[1] = strdup("b");
		}
	}
}

static struct step random_step(struct player *p, bool by_linux)
{
	struct dice *d = &p->dice;
	struct step s = { .user = dice_percent(d, 50) ? 0 : (int)dice_below(d, USERS) };
	static const mode_t nodes[] = { S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK };
	do
		s.verb = p->nknown > MANY && dice_percent(d, 40) ? (dice_percent(d, 70) ? REMOVE : RMDIR) : random_verb(d);
	while ((s.verb == SETXATTR && !by_linux) || (s.verb == LINK && by_linux && !p->hard_links));
	switch (s.verb) {
	case CREATE_EXCLUSIVE:
		s.n[0] = dice_roll(d) & 0x7fffffff;
		s.s[0] = new_path(p, true);
		break;
	case CREATE:
	case CREATE_GUARDED:
	case MKDIR:
		s.n[0] = random_mode(d);
		s.s[0] = new_path(p, s.verb != MKDIR);
		break;
	case SYMLINK:
		s.s[0] = dice_percent(d, 5) ? in_some_directory(p, long_name()) : new_path(p, true);
		s.s[1] = strdup(dice_percent(d, 50) ? "b" : "/etc/nothing");
		break;
	case MKNOD:
		s.s[0] = new_path(p, true);
		s.n[0] = nodes[dice_below(d, 4)] | 0644;
		if (!S_ISFIFO(s.n[0]) && !S_ISSOCK(s.n[0])) {
			s.n[1] = dice_below(d, 10);
			s.n[2] = dice_below(d, 3);
		}
		break;
	case REMOVE:
	case RMDIR: s.s[0] = dice_percent(d, 85) ? existing(p, s.verb == RMDIR && dice_percent(d, 85) ? S_IFDIR : 0) : new_path(p, false); break;
	case RENAME: fill_rename(p, &s); break;
	case LINK:
		s.s[0] = existing(p, 0);
		s.s[1] = new_path(p, true);
		break;
	case READ:
	case WRITE:
	case TRUNCATE: s.s[0] = existing(p, dice_percent(d, 85) ? S_IFREG : 0); break;
	case READLINK: s.s[0] = existing(p, dice_percent(d, 85) ? S_IFLNK : 0); break;
	case LIST: s.s[0] = existing(p, dice_percent(d, 85) ? S_IFDIR : 0); break;
	default: s.s[0] = existing(p, 0);
	}
	if (s.verb == SETXATTR)
		fill_xattr(p, &s);
	if ((s.verb == REMOVE || s.verb == RMDIR || s.verb == LOOKUP) && !*s.s[0]) {
		free(s.s[0]);
		s.s[0] = strdup("c");
	}
	fill_attributes(p, &s);
	return s;
}

static void remember(struct player *p, const struct step *s)
{
	switch (s->verb) {
	case CREATE:
	case CREATE_GUARDED:
	case CREATE_EXCLUSIVE: known_add(p, s->s[0], S_IFREG); break;
	case MKDIR: known_add(p, s->s[0], S_IFDIR); break;
	case SYMLINK: known_add(p, s->s[0], S_IFLNK); break;
	case MKNOD: known_add(p, s->s[0], (mode_t)s->n[0] & S_IFMT); break;
	case REMOVE:
	case RMDIR: known_remove(p, s->s[0]); break;
	case RENAME:
		if (strcmp(s->s[0], s->s[1]))
			known_rename(p, s->s[0], s->s[1]);
		break;
	case LINK: known_add(p, s->s[1], S_IFREG); break;
	default: break;
	}
}

void random_operations(struct player *p, size_t n, bool by_linux)
{
	known_refresh(p);
	for (size_t i = 0; i < n; i++) {
		struct step s = random_step(p, by_linux);
		if (!play(p, s))
			remember(p, &s);
		step_free(&s);
	}
}
