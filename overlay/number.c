/* number.c: gives the layers of a stack their numbers, part of every handle. identity.h says by which rules. */
#include "layers.h"

#include <endian.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBERS = 0x7ffe }; /* 15 bits: the file ids made of them stay positive */

static bool same_root(const struct layer_identity *a, const struct layer_identity *b)
{
	return a->ino == b->ino && a->gen == b->gen;
}

/* Do they say to be of one file system? One that says nothing, or says it in another way (the kernel learnt to), may be. */
static bool may_be_same_fs(const struct layer_identity *a, const struct layer_identity *b)
{
	return a->kind != b->kind || a->kind == FS_UNKNOWN || !memcmp(a->fs, b->fs, sizeof a->fs);
}

static bool is_same_fs(const struct layer_identity *a, const struct layer_identity *b)
{
	return a->kind == b->kind && a->kind != FS_UNKNOWN && !memcmp(a->fs, b->fs, sizeof a->fs);
}

struct numbering {
	struct identity *id;
	struct layer_identity *layers;
	size_t n;
	const struct layer_move *moves;
	size_t nmoves;
	void (*log)(int level, const char *fmt, ...);
};

static bool is_taken(const struct numbering *nb, uint32_t number)
{
	for (size_t i = 0; i < nb->n; i++)
		if (nb->layers[i].number == number)
			return true;
	return false;
}

/* The known layer that test says yes to, unless it stands elsewhere in this stack. *many: more than one does. */
static const struct layer_identity *find_known(const struct numbering *nb, const struct layer_identity *l,
					       bool (*test)(const struct numbering *nb, const struct layer_identity *known, const struct layer_identity *l),
					       bool *many)
{
	size_t n = 0;
	const struct layer_identity *known = nb->id ? identity_layers(nb->id, &n) : NULL, *found = NULL;
	*many = false;
	for (size_t i = 0; i < n; i++)
		if (!is_taken(nb, known[i].number) && test(nb, &known[i], l)) {
			*many = found != NULL;
			found = &known[i];
		}
	return found;
}

static bool at_its_path(const struct numbering *nb, const struct layer_identity *known, const struct layer_identity *l)
{
	(void)nb;
	return !strcmp(known->path, l->path) && same_root(known, l) && may_be_same_fs(known, l);
}

static bool moved_by_itself(const struct numbering *nb, const struct layer_identity *known, const struct layer_identity *l)
{
	(void)nb;
	return same_root(known, l) && is_same_fs(known, l);
}

static const char *moved_from(const struct numbering *nb, const char *path)
{
	for (size_t i = 0; i < nb->nmoves; i++)
		if (!strcmp(nb->moves[i].to, path))
			return nb->moves[i].from;
	return NULL;
}

static bool moved_as_told(const struct numbering *nb, const struct layer_identity *known, const struct layer_identity *l)
{
	const char *from = moved_from(nb, l->path);
	return from && !strcmp(known->path, from) && same_root(known, l);
}

static bool stood_at_its_path(const struct numbering *nb, const struct layer_identity *known, const struct layer_identity *l)
{
	const char *from = moved_from(nb, l->path);
	return !strcmp(known->path, from ? from : l->path);
}

/* From what tells the layer from others; the next free one where another layer has it. */
static uint32_t new_number(const struct numbering *nb, const struct layer_identity *l)
{
	static const uint8_t fixed[crypto_generichash_KEYBYTES_MIN] = "overnfsd layers";
	size_t n = 0;
	const struct layer_identity *known = nb->id ? identity_layers(nb->id, &n) : NULL;
	crypto_generichash_state st;
	uint64_t hash;
	uint8_t out[16], kind = (uint8_t)l->kind;
	crypto_generichash_init(&st, fixed, sizeof fixed, sizeof out);
	crypto_generichash_update(&st, &kind, 1);
	crypto_generichash_update(&st, l->fs, sizeof l->fs);
	for (int i = 0; i < 8; i++) { /* byte by byte: the same on any machine */
		uint8_t both[2] = { (uint8_t)(l->ino >> 8 * i), (uint8_t)(l->gen >> 8 * i) };
		crypto_generichash_update(&st, both, 2);
	}
	if (l->kind == FS_UNKNOWN)
		crypto_generichash_update(&st, (const uint8_t *)l->path, strlen(l->path));
	crypto_generichash_final(&st, out, sizeof out);
	memcpy(&hash, out, sizeof hash);
	hash = le64toh(hash);
	for (uint32_t i = 0; i < NUMBERS; i++) {
		uint32_t number = 1 + (uint32_t)((hash + i) % NUMBERS);
		bool used = is_taken(nb, number);
		for (size_t k = 0; k < n && !used; k++)
			used = known[k].number == number;
		if (!used)
			return number;
	}
	return 0;
}

static int take(const struct numbering *nb, struct layer_identity *l, const struct layer_identity *known)
{
	bool changed = strcmp(known->path, l->path) || known->kind != l->kind || memcmp(known->fs, l->fs, sizeof l->fs);
	l->number = known->number;
	l->age = known->age;
	if (changed && strcmp(known->path, l->path) && nb->log)
		nb->log(6, "layer %s is the one that was at %s: its handles stay good", l->path, known->path);
	return changed ? identity_put_layer(nb->id, l) : 0;
}

static int take_new(const struct numbering *nb, struct layer_identity *l, uint32_t age)
{
	bool many;
	const struct layer_identity *was = find_known(nb, l, stood_at_its_path, &many);
	if (was && nb->log)
		nb->log(4, "layer %s: %s, so handles of objects that were born in it are stale", l->path,
			same_root(was, l) ? "is on another file system than before (if it is the same, say so with --moved)"
					  : "its inode numbers are not what they were (a copy?)");
	l->number = new_number(nb, l);
	l->age = age;
	if (!l->number)
		return -ENOSPC;
	return nb->id ? identity_put_layer(nb->id, l) : 0;
}

static void warn_of_many(const struct numbering *nb, const struct layer_identity *l)
{
	if (nb->log)
		nb->log(4, "layer %s may be any of several that were known: say which with --moved OLD=%s, or its old handles are stale", l->path, l->path);
}

int identity_number(struct identity *id, struct layer_identity *layers, size_t n, const struct layer_move *moves, size_t nmoves,
		    void (*log)(int level, const char *fmt, ...))
{
	bool (*const tests[])(const struct numbering *, const struct layer_identity *, const struct layer_identity *) = { at_its_path, moved_as_told,
															  moved_by_itself };
	struct numbering nb = { .id = id, .layers = layers, .n = n, .moves = moves, .nmoves = nmoves, .log = log };
	size_t known_count = 0;
	uint32_t age = 1;
	const struct layer_identity *known = id ? identity_layers(id, &known_count) : NULL;
	int rc = 0;
	for (size_t i = 0; i < known_count; i++)
		if (known[i].age >= age)
			age = known[i].age + 1;
	for (size_t i = 0; i < n; i++)
		layers[i].number = 0;
	/* the surest first, for all layers, so that a copy of a layer can't take the number of the one that is in its place */
	for (size_t t = 0; t < sizeof tests / sizeof *tests; t++)
		for (size_t i = 0; i < n && !rc; i++) {
			bool many;
			known = layers[i].number ? NULL : find_known(&nb, &layers[i], tests[t], &many);
			if (known && many)
				warn_of_many(&nb, &layers[i]);
			else if (known)
				rc = take(&nb, &layers[i], known);
		}
	for (size_t i = n; i-- && !rc;) /* from the bottom: without state, one more on top changes no number */
		if (!layers[i].number)
			rc = take_new(&nb, &layers[i], age++); /* each its own, so that it stays the same when they change places */
	return rc;
}
