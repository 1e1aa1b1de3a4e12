/* readdir.c: what READDIR and READDIRPLUS give out, from the windows that follow the cookie. */
#include "listing.h"

/* The entry's file id, as GETATTR says it: of a name in one lower alone it can be told from d_ino; the others are looked up. */
static int resolve(struct overlay *ov, struct object *dir, const char *name, const struct item *item, bool plus, uint64_t *fileid,
		   struct object **o)
{
	*o = NULL;
	if (!plus && item->flags & OWN_INODE && !(item->flags & IS_DIR)) {
		struct overlay_id id = { .layer = ov->layers[item->layer].number, .ino = item->ino };
		*fileid = id_fileid(&id);
		return 0;
	}
	if (!(*o = table_find_name(ov, dir, name))) {
		pthread_mutex_lock(&dir->dir_lock);
		int rc = lookup_listed(ov, dir, name, &ov->layers[item->layer], o);
		pthread_mutex_unlock(&dir->dir_lock);
		if (rc == -ENOENT)
			return rc;
		if (rc) { /* broken: it stands there all the same, as in Linux, though it can't be looked up */
			struct overlay_id id = { .layer = ov->layers[item->layer].number, .ino = item->ino };
			*fileid = id_fileid(&id);
			*o = NULL;
			return 0;
		}
	}
	*fileid = id_fileid(&(*o)->id);
	return 0;
}

struct scan {
	bool plus, more;
	overlay_fill *fill;
	void *arg;
};

static void give(struct overlay *ov, struct scan *s, const struct overlay_entry *e, struct object *o)
{
	struct overlay_attr a;
	bool have = s->plus && o && !attr_get(ov, o, &a);
	s->more = s->fill(s->arg, e, have ? o : NULL, have ? &a : NULL);
}

static void give_dots(struct overlay *ov, struct scan *s, struct object *dir, uint64_t cookie)
{
	struct object *up = dir->parent ? dir->parent : dir;
	if (cookie < 1)
		give(ov, s, &(struct overlay_entry){ ".", id_fileid(&dir->id), 1 }, dir);
	if (s->more && cookie < 2)
		give(ov, s, &(struct overlay_entry){ "..", id_fileid(&up->id), 2 }, up);
}

static size_t first_behind(const struct listing *l, uint64_t cookie)
{
	size_t low = 0, high = l->count;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (l->items[mid].hash > cookie)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

/* What the window holds behind cookie, as long as it is wanted. */
static void give_window(struct overlay *ov, struct scan *s, struct object *dir, const struct listing *l, uint64_t cookie)
{
	for (size_t i = first_behind(l, cookie); s->more && i < l->count; i++) {
		const struct item *item = &l->items[i];
		struct overlay_entry e = { .name = l->names + item->name, .cookie = item->hash };
		struct object *o;
		if (resolve(ov, dir, e.name, item, s->plus, &e.fileid, &o))
			continue; /* gone since */
		give(ov, s, &e, o);
		overlay_put(ov, o);
	}
}

int overlay_readdir(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, uint64_t cookie, bool plus,
		    overlay_fill *fill, void *arg, bool *eof)
{
	struct scan s = { .plus = plus, .more = true, .fill = fill, .arg = arg };
	struct listing *l = NULL;
	*eof = false;
	if (dir->type != S_IFDIR)
		return -ENOTDIR;
	pthread_rwlock_rdlock(&ov->rename_lock);
	int rc = dir->dead ? -ESTALE : require(ov, cred, dir, OVERLAY_READ);
	if (!rc && plus)
		s.plus = !require(ov, cred, dir, OVERLAY_EXEC); /* as LOOKUP: who may but read it learns names, and no handles */
	if (!rc)
		rc = listing_get(ov, dir, cookie, &l);
	if (!rc)
		give_dots(ov, &s, dir, cookie);
	while (!rc && s.more) {
		give_window(ov, &s, dir, l, cookie);
		if (!s.more || l->to == UINT64_MAX)
			break;
		cookie = l->to;
		listing_put(l);
		l = NULL;
		rc = listing_get(ov, dir, cookie, &l);
	}
	*eof = !rc && s.more;
	pthread_rwlock_unlock(&ov->rename_lock);
	listing_put(l);
	return rc;
}
