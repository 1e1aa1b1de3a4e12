/* stack.c: random layers. */
#include "player.h"

#include <stdlib.h>
#include <string.h>

static const uint32_t uids[] = { 0, 0, 1000, 1001, 1002 }, gids[] = { 0, 1000, 1001, 50, 100 };

static void put_xattr(struct player *p, uint64_t layer, char *path, char *name, char *hex)
{
	play(p, (struct step){ .verb = PUT_XATTR, .n = { layer }, .s = { path, name, hex } });
}

/* Marks and ordinary xattrs for what was just made. */
static void put_xattrs(struct player *p, uint64_t layer, char *path, mode_t type)
{
	struct dice *d = &p->dice;
	char acl[200];
	if (type == S_IFDIR && dice_percent(d, 15))
		put_xattr(p, layer, path, "trusted.overlay.opaque", "79");
	if (type == S_IFDIR && dice_percent(d, 10)) {
		random_acl(d, acl);
		put_xattr(p, layer, path, "system.posix_acl_default", acl);
	}
	if ((type == S_IFDIR || type == S_IFREG) && dice_percent(d, 10)) {
		random_acl(d, acl);
		put_xattr(p, layer, path, "system.posix_acl_access", acl);
	}
	if ((type == S_IFDIR || type == S_IFREG) && dice_percent(d, 15))
		put_xattr(p, layer, path, "user.colour", dice_percent(d, 50) ? "626c7565" : "");
	if (dice_percent(d, 5))
		put_xattr(p, layer, path, "trusted.note", "00ff01");
	if (type == S_IFREG && dice_percent(d, 6))
		put_xattr(p, layer, path, "security.capability", "0100000200040000000000000000000000000000");
}

static char *below(struct player *p, const char *name)
{
	char *path = NULL;
	for (int tries = 0; tries < 50; tries++) {
		const struct known *k = &p->known[dice_below(&p->dice, p->nknown)];
		size_t depth = 0;
		for (const char *c = k->path; *c; c++)
			depth += *c == '/';
		if (k->type != S_IFDIR || depth > 2)
			continue;
		if (asprintf(&path, "%s%s%s", k->path, *k->path ? "/" : "", name) < 0)
			abort();
		break;
	}
	for (size_t i = 0; path && i < p->nknown; i++)
		if (!strcmp(p->known[i].path, path)) {
			free(path);
			path = NULL;
		}
	return path;
}

static void put_plain(struct player *p, uint64_t layer, char *path, size_t roll)
{
	struct dice *d = &p->dice;
	static const mode_t types[] = { S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK };
	uint64_t uid = uids[dice_below(d, 5)], gid = gids[dice_below(d, 5)], mode = random_mode(d);
	if (roll < 40) {
		play(p, (struct step){ .verb = PUT_DIR, .n = { layer, dice_percent(d, 60) ? 0777 : mode, uid, gid }, .s = { path } });
		known_add(p, path, S_IFDIR);
		put_xattrs(p, layer, path, S_IFDIR);
	} else if (roll < 70) {
		static const uint64_t sizes[] = { 0, 1, 10, 100, 4096, 5000, 70000 };
		play(p, (struct step){ .verb = PUT_FILE, .n = { layer, mode, uid, gid, sizes[dice_below(d, 7)], dice_below(d, 100) }, .s = { path } });
		known_add(p, path, S_IFREG);
		put_xattrs(p, layer, path, S_IFREG);
	} else if (roll < 77) {
		play(p, (struct step){ .verb = PUT_SYMLINK, .n = { layer }, .s = { path, dice_percent(d, 50) ? "a/b" : "../nowhere" } });
		known_add(p, path, S_IFLNK);
		put_xattrs(p, layer, path, S_IFLNK);
	} else {
		mode_t type = types[dice_below(d, 4)];
		bool device = type == S_IFCHR || type == S_IFBLK;
		play(p, (struct step){ .verb = PUT_NODE, .n = { layer, type | (mode & 0777), device ? 1 + dice_below(d, 300) : 0, device ? dice_below(d, 300) : 0 },
				       .s = { path } });
		known_add(p, path, type);
		put_xattrs(p, layer, path, type);
	}
}

static void put_hard(struct player *p, uint64_t layer, char *path)
{
	for (int tries = 0; tries < 20; tries++) {
		struct known *k = &p->known[dice_below(&p->dice, p->nknown)];
		if (k->type == S_IFDIR || k->type == 0)
			continue;
		play(p, (struct step){ .verb = PUT_HARD, .n = { layer }, .s = { path, k->path } });
		known_add(p, path, k->type);
		return;
	}
}

/* A whiteout in the form of an xattr needs its directory to say that it may hold such. In the root alone: in a directory that no other layer
 * has, Linux lists such whiteouts, can't reach them, and then does not let the directory be removed. */
static void put_xattr_whiteout(struct player *p, uint64_t layer)
{
	char *path = strdup(random_name(&p->dice, false));
	put_xattr(p, layer, "", "trusted.overlay.opaque", "78");
	play(p, (struct step){ .verb = PUT_FILE, .n = { layer, 0644, 0, 0, 0, 0 }, .s = { path } });
	put_xattr(p, layer, path, "trusted.overlay.whiteout", "79");
	free(path);
}

static void put_something(struct player *p, uint64_t layer, char *path, size_t roll, bool hard_links)
{
	const char *name = strrchr(path, '/');
	if (strlen(name ? name + 1 : path) > 255)
		return; /* too long to be made */
	if (roll < 84)
		put_plain(p, layer, path, roll);
	else if (roll < 91 && hard_links)
		put_hard(p, layer, path);
	else if (roll < 98 && (layer || !name)) /* not in a directory of the upper alone: Linux can't remove such */
		play(p, (struct step){ .verb = PUT_WHITEOUT, .n = { layer }, .s = { path } });
	else if (roll >= 98 && layer && layer < p->lowers)
		put_xattr_whiteout(p, layer);
}

static void put_layer(struct player *p, uint64_t layer, size_t n, bool hard_links)
{
	struct dice *d = &p->dice;
	known_clear(p);
	known_add(p, "", S_IFDIR);
	if (dice_percent(d, 70))
		play(p, (struct step){ .verb = PUT_DIR, .n = { layer, dice_percent(d, 80) ? 0777 : 01777, 0, 0 }, .s = { "" } });
	for (size_t i = 0; i < n; i++) {
		size_t roll = dice_below(d, 100);
		char *path = below(p, random_name(d, roll >= 40));
		if (path)
			put_something(p, layer, path, roll, hard_links);
		free(path);
	}
}

static const char *server_args(struct dice *d)
{
	static const char *const args[] = { "--async", "--async --max-objects 16", "--async --max-objects 40", "--sync", "--async --threads 2" };
	return args[dice_below(d, sizeof args / sizeof *args)];
}

void make_stack(struct player *p, const char *fs)
{
	struct dice *d = &p->dice;
	size_t lowers = p->lowers = 1 + dice_below(d, 4);
	char options[100];
	bool index = dice_percent(d, 75), metacopy = dice_percent(d, 50);
	p->hard_links = index && dice_percent(d, 60); /* without index, Linux parts the names of a lower file */
	snprintf(options, sizeof options, "index=%s,redirect_dir=on,metacopy=%s", index ? "on" : "off", metacopy ? "on" : "off");
	play(p, (struct step){ .verb = FS, .s = { (char *)fs } });
	play(p, (struct step){ .verb = LOWERS, .n = { lowers } });
	play(p, (struct step){ .verb = OPTIONS, .s = { options } });
	play(p, (struct step){ .verb = SERVER, .s = { (char *)server_args(d) } });
	for (uint64_t l = lowers; l; l--) {
		bool build = l < lowers && dice_percent(d, 40);
		put_layer(p, l, build ? 4 : 5 + dice_below(d, 25), p->hard_links);
		if (build) {
			play(p, (struct step){ .verb = BUILD, .n = { l } });
			random_operations(p, 10 + dice_below(d, 60), true);
		}
	}
	if (dice_percent(d, 50))
		put_layer(p, 0, dice_below(d, 12), false);
}
