/* tree.c: what both drivers share. */
#include "driver.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

uint64_t hash_bytes(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;
	h ^= 0xcbf29ce484222325u;
	for (; len; len--)
		h = (h ^ *p++) * 0x100000001b3u;
	return h;
}

void fill_pattern(uint8_t *buf, uint64_t offset, size_t len, uint64_t pattern)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)((offset + i) * 31 + (offset + i) / 256 + pattern * 7 + 1);
}

const char *split_path(const char *path, char dir[4096])
{
	const char *slash = strrchr(path, '/');
	snprintf(dir, 4096, "%.*s", slash ? (int)(slash - path) : 0, path);
	return slash ? slash + 1 : path;
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool attr_same(const struct attr *a, const struct attr *b)
{
	return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid && a->nlink == b->nlink && a->major == b->major && a->minor == b->minor &&
	       a->size == b->size && a->id == b->id && same_time(a->atime, b->atime) && same_time(a->mtime, b->mtime) && same_time(a->ctime, b->ctime);
}

struct node *tree_add(struct tree *t, const char *path)
{
	if (!(t->n & (t->n + 1)) || !t->nodes)
		t->nodes = realloc(t->nodes, 2 * (t->n + 1) * sizeof *t->nodes);
	struct node *n = t->nodes ? &t->nodes[t->n++] : NULL;
	if (!n)
		abort();
	*n = (struct node){ .path = strdup(path) };
	return n;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct node *)a)->path, ((const struct node *)b)->path);
}

static int by_id(const void *a, const void *b)
{
	const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;
	if (x->attr.id != y->attr.id)
		return x->attr.id < y->attr.id ? -1 : 1;
	return x < y ? -1 : 1;
}

void tree_finish(struct tree *t)
{
	struct node **order = malloc((t->n + 1) * sizeof(struct node *));
	if (!order)
		abort();
	qsort(t->nodes, t->n, sizeof *t->nodes, by_path);
	for (size_t i = 0; i < t->n; i++)
		order[i] = &t->nodes[i];
	qsort(order, t->n, sizeof *order, by_id);
	for (size_t i = 0; i < t->n; i++)
		order[i]->same = i && order[i]->attr.id == order[i - 1]->attr.id ? order[i - 1]->same : (size_t)(order[i] - t->nodes);
	free(order);
}

void tree_free(struct tree *t)
{
	for (size_t i = 0; i < t->n; i++) {
		free(t->nodes[i].path);
		free(t->nodes[i].xattrs);
	}
	free(t->nodes);
	memset(t, 0, sizeof *t);
}

/* Names may hold newlines and quotation marks: the story stays one line, for the shrinker to tell it from others. */
const char *shown(const char *path)
{
	static char texts[4][4 * 4096];
	static unsigned next;
	char *text = texts[next++ % 4], *t = text;
	for (; *path && t < text + sizeof texts[0] - 8; path++)
		t += *path < 32 || *path > 126 || *path == '"' || *path == '\\' ? sprintf(t, "\\x%02x", (unsigned char)*path) : sprintf(t, "%c", *path);
	*t = 0;
	return text;
}

void differ(const char *fmt, ...)
{
	va_list ap;
	fflush(stdout);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	const char *command = getenv("ON_FAILURE"); /* run where the layers are: a look at them, or a shell */
	if (command)
		(void)!system(command);
	exit(1);
}
