/*
 * map_verify.c: is an LMDB file whole? LMDB believes what stands in its pages, and a wrong page ends the process; so all that its trees
 * reach is looked at before it is opened: page numbers, kinds, bounds of nodes, order of keys, no page twice. What it can't see (a
 * flipped bit inside a value) does no harm: all that the map says is checked against the layers.
 * The format is that of LMDB 0.9 (struct MDB_page, MDB_node, MDB_db, MDB_meta in its mdb.c).
 */
#include "map_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BRANCH = 1, LEAF = 2, OVERFLOW = 4, META = 8, DIRTY = 0x10, SUBPAGE = 0x40 };
enum { BIG = 1, SUBTREE = 2, DUPLICATES = 4 };
enum { HEAD = 16, NODE = 8, DB = 48, MAX_DEPTH = 32, MAGIC = (int)0xBEEFC0DE, INTEGER_KEYS = 0x08 };

struct db { /* MDB_db */
	uint32_t page_size;
	uint16_t flags, depth;
	uint64_t branch, leaf, overflow, entries, root;
};

struct page { /* MDB_page's head */
	uint64_t number;
	uint16_t pad, flags, lower, upper;
};

struct file {
	const uint8_t *data;
	size_t size, page_size;
	uint64_t last;
	uint8_t *seen; /* a bit a page */
};

struct key {
	const uint8_t *p;
	size_t len;
};

static struct page head_of(const uint8_t *p)
{
	struct page h;
	memcpy(&h, p, sizeof h);
	return h;
}

static uint16_t u16(const uint8_t *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof v);
	return v;
}

/* May the page be used, for the first time? */
static bool take(struct file *f, uint64_t number)
{
	if (number < 2 || number > f->last || f->seen[number / 8] & 1u << number % 8)
		return false;
	f->seen[number / 8] |= (uint8_t)(1u << number % 8);
	return true;
}

static bool in_order(const struct key *a, const struct key *b, bool integers)
{
	uint64_t x, y;
	if (!a->p)
		return true;
	if (integers && a->len == 8 && b->len == 8) {
		memcpy(&x, a->p, 8);
		memcpy(&y, b->p, 8);
		return x < y;
	}
	int c = memcmp(a->p, b->p, a->len < b->len ? a->len : b->len);
	return c < 0 || (!c && a->len < b->len);
}

static bool tree_is_sound(struct file *f, const struct db *db, int nesting);

/* A list of free pages: its length, then their numbers. None may be in use: LMDB would write over it. */
static bool is_free_list(struct file *f, const uint8_t *p, size_t len)
{
	uint64_t n, page;
	if (len < 8)
		return false;
	memcpy(&n, p, 8);
	if (n > len / 8 - 1)
		return false;
	for (uint64_t i = 1; i <= n; i++) {
		memcpy(&page, p + 8 * i, 8);
		if (!take(f, page))
			return false;
	}
	return true;
}

/* Values of one key that share a page inside the node. */
static bool subpage_is_sound(const uint8_t *p, size_t len)
{
	if (len < HEAD)
		return false;
	struct page h = head_of(p);
	if (!(h.flags & SUBPAGE) || !(h.flags & LEAF) || h.lower < HEAD || h.lower > h.upper || h.upper > len || h.lower % 2)
		return false;
	for (size_t at = HEAD; at < h.lower; at += 2) {
		size_t node = u16(p + at);
		if (node < h.upper || node + NODE > len || node + NODE + u16(p + node + 6) > len)
			return false;
	}
	return true;
}

static bool leaf_node_is_sound(struct file *f, const uint8_t *node, size_t room, int nesting)
{
	uint16_t flags = u16(node + 4), key_len = u16(node + 6);
	size_t len = u16(node) | (size_t)u16(node + 2) << 16;
	const uint8_t *data = node + NODE + key_len;
	struct db sub;
	uint64_t page;
	if (flags & BIG) {
		if (NODE + (size_t)key_len + 8 > room)
			return false;
		memcpy(&page, data, 8);
		if (!take(f, page))
			return false;
		uint32_t pages = 0;
		const uint8_t *big = f->data + page * f->page_size;
		memcpy(&pages, big + 12, 4);
		if (head_of(big).number != page || !(head_of(big).flags & OVERFLOW) || !pages || pages > f->last - page + 1 || len > pages * f->page_size - HEAD)
			return false;
		for (uint32_t i = 1; i < pages; i++)
			if (!take(f, page + i))
				return false;
		return nesting >= 0 || is_free_list(f, big + HEAD, len);
	}
	if (NODE + (size_t)key_len + len > room)
		return false;
	if (flags & SUBTREE) {
		if (len != DB || nesting > 1)
			return false;
		memcpy(&sub, data, DB);
		return tree_is_sound(f, &sub, nesting + 1);
	}
	if (flags & DUPLICATES)
		return subpage_is_sound(data, len);
	return nesting >= 0 || is_free_list(f, data, len);
}

/* Depth first; last is the greatest key in the leaves so far. */
static bool page_is_sound(struct file *f, const struct db *db, uint64_t number, int depth, struct key *last, int nesting)
{
	if (depth > db->depth || depth > MAX_DEPTH || !take(f, number))
		return false;
	const uint8_t *p = f->data + number * f->page_size;
	struct page h = head_of(p);
	bool is_leaf = depth == db->depth, integers = db->flags & INTEGER_KEYS;
	if (!is_leaf && nesting >= 0 && h.lower < HEAD + 4) /* one way down is none for LMDB; while the table of free pages is changed, it is */
		return false;
	if (h.number != number || (h.flags & ~DIRTY) != (is_leaf ? LEAF : BRANCH) || h.lower < HEAD + 2 || h.lower % 2 || h.lower > h.upper || h.upper > f->page_size)
		return false;
	for (size_t at = HEAD; at < h.lower; at += 2) {
		size_t offset = u16(p + at);
		if (offset < h.upper || offset + NODE > f->page_size)
			return false;
		const uint8_t *node = p + offset;
		struct key key = { node + NODE, u16(node + 6) };
		if (offset + NODE + key.len > f->page_size)
			return false;
		if ((is_leaf || at > HEAD) && !in_order(last, &key, integers)) /* a branch's first key is left empty */
			return false;
		if (is_leaf) {
			if (!leaf_node_is_sound(f, node, f->page_size - offset, nesting))
				return false;
			*last = key;
		} else {
			uint64_t child = u16(node) | (uint64_t)u16(node + 2) << 16 | (uint64_t)u16(node + 4) << 32;
			if (!page_is_sound(f, db, child, depth + 1, last, nesting))
				return false;
		}
	}
	return true;
}

/* nesting: -1 the table of free pages, 0 the table of tables, 1 a table, 2 the values of a key. */
static bool tree_is_sound(struct file *f, const struct db *db, int nesting)
{
	struct key last = { NULL, 0 };
	if (db->root == UINT64_MAX)
		return !db->entries && !db->depth;
	return db->depth && page_is_sound(f, db, db->root, 1, &last, nesting);
}

static bool is_meta(const struct file *f, size_t page)
{
	uint32_t magic;
	const uint8_t *p = f->data + page * f->page_size;
	memcpy(&magic, p + HEAD, 4);
	return magic == (uint32_t)MAGIC && head_of(p).flags & META;
}

static bool trees_are_sound(struct file *f)
{
	enum { DBS = HEAD + 24, LAST = DBS + 2 * DB, TXN = LAST + 8 };
	struct db free_table, main_table;
	uint64_t txn[2];
	uint32_t page_size;
	memcpy(&page_size, f->data + DBS, 4);
	if (page_size < 512 || page_size > 65536 || page_size & (page_size - 1) || f->size < 2 * (size_t)page_size)
		return false;
	f->page_size = page_size;
	if (!is_meta(f, 0) || !is_meta(f, 1))
		return false;
	for (size_t i = 0; i < 2; i++)
		memcpy(&txn[i], f->data + i * page_size + TXN, 8);
	const uint8_t *meta = f->data + (txn[1] > txn[0] ? page_size : 0);
	memcpy(&f->last, meta + LAST, 8);
	memcpy(&free_table, meta + DBS, DB);
	memcpy(&main_table, meta + DBS + DB, DB);
	if (f->last >= f->size / page_size || !(f->seen = calloc(f->last / 8 + 1, 1)))
		return false;
	return tree_is_sound(f, &free_table, -1) && tree_is_sound(f, &main_table, 0);
}

int map_file_verify(int dirfd, const char *name)
{
	struct stat st;
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT ? 0 : errno == ELOOP ? MDB_INVALID : errno;
	int rc = fstat(fd, &st) ? errno : S_ISREG(st.st_mode) && !st.st_size ? 0 : MDB_INVALID;
	if (rc == MDB_INVALID && S_ISREG(st.st_mode) && st.st_size >= 4096) {
		struct file f = { .size = (size_t)st.st_size };
		void *data = mmap(NULL, f.size, PROT_READ, MAP_SHARED, fd, 0);
		f.data = data;
		if (data == MAP_FAILED) {
			rc = errno;
		} else {
			madvise(data, f.size, MADV_WILLNEED);
			rc = trees_are_sound(&f) ? 0 : MDB_INVALID;
			munmap(data, f.size);
		}
		free(f.seen);
	}
	close(fd);
	return rc;
}
