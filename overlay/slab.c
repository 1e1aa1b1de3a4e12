/*
 * slab.c: memory for what there may be millions of. Blocks are cut from large pages, where the kernel has them, one behind the other and without
 * headers: to look at one of a million objects then takes no walk through the page table besides. A block that is given back waits for the next of
 * its size; the pages go back when the slab goes, as the table that they serve keeps its size once it is full.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
enum { PLAIN = 1 }; /* each block is malloc's, so that its misuse is seen */
#else
enum { PLAIN = 0 };
#endif
enum { FIRST_CHUNK = 1 << 18, CHUNK = 1 << 21 /* a large page */ };

struct block { /* that is free */
	struct block *next;
};

struct chunk { /* at its start */
	struct chunk *next;
};

void slab_init(struct slab *s, size_t granule)
{
	*s = (struct slab){ .granule = granule };
	pthread_mutex_init(&s->lock, NULL);
}

void slab_destroy(struct slab *s)
{
	for (struct chunk *c = s->chunks, *next; c; c = next) {
		next = c->next;
		free(c);
	}
	pthread_mutex_destroy(&s->lock);
}

static size_t granules(const struct slab *s, size_t size)
{
	return (size + s->granule - 1) / s->granule;
}

static bool add_chunk(struct slab *s)
{
	size_t size = s->chunks ? CHUNK : FIRST_CHUNK; /* a small tree is to take little */
	struct chunk *c = aligned_alloc(size, size);
	if (!c)
		return false;
	(void)!madvise(c, size, size == CHUNK ? MADV_HUGEPAGE : MADV_NORMAL);
	c->next = s->chunks;
	s->chunks = c;
	s->at = (char *)c + s->granule;
	s->end = (char *)c + size;
	return true;
}

static void *take_locked(struct slab *s, size_t n)
{
	struct block *b = s->free[n];
	if (b) {
		s->free[n] = b->next;
		return b;
	}
	if (s->granule * n > (size_t)(s->end - s->at) && !add_chunk(s)) /* what is left of the old one is less than a block */
		return NULL;
	b = (struct block *)s->at;
	s->at += s->granule * n;
	return b;
}

void *slab_alloc(struct slab *s, size_t size)
{
	size_t n = granules(s, size);
	if (n >= SLAB_SIZES)
		return NULL;
	if (PLAIN)
		return calloc(1, size);
	pthread_mutex_lock(&s->lock);
	void *p = take_locked(s, n);
	pthread_mutex_unlock(&s->lock);
	return p ? memset(p, 0, size) : NULL;
}

void slab_free(struct slab *s, void *p, size_t size)
{
	struct block *b = p;
	size_t n = granules(s, size);
	if (PLAIN || !p) {
		free(p);
		return;
	}
	pthread_mutex_lock(&s->lock);
	b->next = s->free[n];
	s->free[n] = b;
	pthread_mutex_unlock(&s->lock);
}
