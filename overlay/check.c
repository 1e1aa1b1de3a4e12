/*
 * check.c: compares the handle map, the identities and the layers, with no server running; and makes the map anew. What the layers say is
 * read into a private map (the overlay's own, as it is opened offline), and that is held against the one on disk.
 */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct checking {
	struct overlay *ov;
	const struct overlay_listener *to;
	struct overlay_check *result;
	struct map *kept; /* on disk; NULL: none */
	bool repair;
};

static void say(struct checking *c, bool repaired, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void say(struct checking *c, bool repaired, const char *fmt, ...)
{
	char text[1200];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	c->result->problems++;
	c->result->repaired += repaired;
	if (c->to->problem)
		c->to->problem(c->to->arg, text, repaired);
}

/* The path of dir/name in the merged tree. */
static void path_of(struct object *dir, const char *name, char path[1024])
{
	char text[1024];
	snprintf(path, 1024, "/%s", name);
	for (; dir && dir->parent && dir->name; dir = dir->parent) {
		if (snprintf(text, sizeof text, "/%s%s", dir->name, path) >= (int)sizeof text)
			return;
		memcpy(path, text, sizeof text);
	}
}

/* ---- what the objects carry ---- */
static void check_identity(struct checking *c, struct object *dir, const char *name)
{
	struct overlay *ov = c->ov;
	struct overlay_id id;
	struct fdent *parent;
	struct statx st;
	uint32_t upper;
	uint64_t ino;
	char path[1024];
	if (!dir->upper || place_pin(ov, dir->upper, FD_PATH, &parent))
		return;
	if (!statx_at(parent->fd, name, &st) && !format_read_identity(ov, parent->fd, name, &id, &upper, &ino) && ov->layers[0].has_handles &&
	    (ino != st.stx_ino || upper != ov->layers[0].number)) {
		path_of(dir, name, path);
		if (upper == ov->layers[0].number) {
			bool done = c->repair && !format_removexattr(ov, parent->fd, name, IDENTITY_SUFFIX);
			say(c, done, "%s is a copy that was made inside the upper layer, and carries the identity of what it was copied from; it counts as a file of its own",
			    path);
		} else if (c->repair && !format_set_identity(ov, parent->fd, name, &id, st.stx_ino)) {
			c->result->adopted++; /* of an upper that was copied here: its own again, so that a copy of it is told from it */
		}
	}
	place_unpin(ov, parent);
}

static void met(void *arg, uint64_t fileid, struct object *dir, const char *name)
{
	struct checking *c = arg;
	(void)fileid;
	c->result->objects++;
	if (c->ov->has_upper)
		check_identity(c, dir, name);
}

static void met_broken(void *arg, struct object *dir, const char *name, int rc)
{
	char path[1024];
	path_of(dir, name, path);
	say(arg, false, "%s can't be reached: %s", path, strerror(-rc));
}

static bool go_on(void *arg, double fraction)
{
	struct checking *c = arg;
	return !c->to->progress || c->to->progress(c->to->arg, fraction);
}

/* ---- map against layers ---- */
static bool look_for_stale(void *arg, uint64_t fileid, const struct map_place *p)
{
	struct checking *c = arg;
	if (map_has(c->ov->map, fileid, p))
		return true;
	c->result->stale++;
	if (c->repair)
		map_drop_place(c->kept, fileid, p->parent, p->name);
	return true;
}

static bool look_for_missing(void *arg, uint64_t fileid, const struct map_place *p)
{
	struct checking *c = arg;
	if (c->kept && map_has(c->kept, fileid, p))
		return true;
	c->result->missing++;
	if (c->repair && c->kept) {
		map_wait_for_room(c->kept);
		map_add_place(c->kept, fileid, p->parent, p->name);
	}
	return true;
}

static int open_kept(struct checking *c)
{
	int rc = map_open_kept(c->ov->map_fd, c->repair, c->ov->config.log, &c->kept);
	c->result->has_map = rc != -ENOENT;
	if (rc == -EUCLEAN) {
		say(c, c->repair, "the handle map is damaged, or is none");
		rc = c->repair ? map_open(c->ov->map_fd, c->ov->config.log, &c->kept) : 0;
	} else if (rc == -ENOENT) {
		rc = c->repair ? map_open(c->ov->map_fd, c->ov->config.log, &c->kept) : 0;
	}
	return rc;
}

static int compare(struct checking *c)
{
	struct overlay_check *r = c->result;
	int rc = c->kept ? map_each(c->kept, look_for_stale, c) : 0;
	if (rc == -EUCLEAN) {
		say(c, false, "the handle map is damaged inside: overnfsctl rebuild makes it anew");
		rc = 0;
	}
	if (!rc)
		rc = map_each(c->ov->map, look_for_missing, c);
	if (!rc && c->repair && c->kept)
		rc = map_sync(c->kept);
	if (r->stale)
		say(c, c->repair, "%zu entries of the handle map name places where their objects are not", r->stale);
	return rc;
}

static void check_work(struct checking *c)
{
	int fd = open_beneath(c->ov->work_fd, "", O_RDONLY | O_DIRECTORY);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	size_t n = 0;
	for (struct dirent *e; d && (e = readdir(d));)
		n += *e->d_name == '#';
	if (d)
		closedir(d);
	c->result->leftovers = n;
}

/* Root may look after what a server without root keeps, and it is to find its files its own. Nothing else that somebody linked there. */
static void give_to_server(struct overlay *ov)
{
	static const char *const names[] = { "map.mdb", "map.mdb-lock", "identity.mdb", "identity.mdb-lock" };
	struct stat dir, st;
	if (geteuid() || fstat(ov->map_fd, &dir) || !dir.st_uid)
		return;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		int fd = openat(ov->map_fd, names[i], O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) && !st.st_uid && st.st_nlink == 1 && fchown(fd, dir.st_uid, dir.st_gid))
			ov_log(ov, 4, "overnfsd/%s belongs to root, and can't be given to the server's user: %s", names[i], strerror(errno));
		if (fd >= 0)
			close(fd);
	}
}

int overlay_check(struct overlay *ov, bool repair, const struct overlay_listener *to, struct overlay_check *result)
{
	struct checking c = { .ov = ov, .to = to, .result = result, .repair = repair };
	struct fill fill = { .ov = ov, .map = ov->map, .progress = go_on, .wanted = met, .broken = met_broken, .arg = &c };
	memset(result, 0, sizeof *result);
	if (!ov->has_upper)
		return -EINVAL;
	if (identity_is_damaged(ov->identity))
		say(&c, repair, "the file of identities is damaged%s", repair ? "" : "; a start or --repair makes it anew from what the layers say");
	check_work(&c);
	int rc = open_kept(&c);
	if (!rc)
		rc = search_fill(&fill);
	if (!rc)
		rc = map_sync(ov->map);
	if (!rc)
		rc = compare(&c);
	if (c.kept) {
		map_size(c.kept, &result->entries, &result->bytes);
		map_close(c.kept);
	}
	if (repair)
		give_to_server(ov);
	return rc;
}

int overlay_rebuild(struct overlay *ov, const struct overlay_listener *to, struct overlay_check *result)
{
	struct checking c = { .ov = ov, .to = to, .result = result, .repair = true };
	struct map *map;
	struct fill fill = { .ov = ov, .progress = go_on, .wanted = met, .broken = met_broken, .arg = &c };
	memset(result, 0, sizeof *result);
	if (!ov->has_upper)
		return -EINVAL;
	unlinkat(ov->map_fd, "map.mdb", 0);
	unlinkat(ov->map_fd, "map.mdb-lock", 0);
	int rc = map_open(ov->map_fd, ov->config.log, &map);
	if (rc)
		return rc;
	fill.map = map;
	rc = search_fill(&fill);
	int rc2 = map_sync(map);
	map_size(map, &result->entries, &result->bytes);
	result->has_map = true;
	map_close(map);
	give_to_server(ov);
	return rc ? rc : rc2;
}
