/* place.c: where something is in one layer. A place holds its parent, so a rename moves one place, and all that stands below moves along. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

struct place *place_get(struct place *place)
{
	atomic_fetch_add(&place->refs, 1);
	return place;
}

struct place *place_new(struct overlay *ov, struct layer *layer, struct place *parent, const char *name)
{
	size_t len = strlen(name) + 1;
	struct place *p = slab_alloc(&ov->place_slab, sizeof *p + len);
	if (!p)
		return NULL;
	p->name = memcpy(p->first_name, name, len);
	p->layer = layer;
	p->parent = parent ? place_get(parent) : NULL;
	atomic_store(&p->refs, 1);
	return p;
}

static void free_name(struct place *place)
{
	if (place->name != place->first_name)
		free(place->name);
}

void place_free(struct overlay *ov, struct place *place)
{
	free_name(place);
	slab_free(&ov->place_slab, place, sizeof *place + strlen(place->first_name) + 1);
}

void place_put(struct overlay *ov, struct place *place)
{
	while (place && place->parent && atomic_fetch_sub(&place->refs, 1) == 1) {
		struct place *parent = place->parent;
		place_close(ov, place);
		place_free(ov, place);
		place = parent;
	}
	/* a layer's root (no parent) goes with its layer */
}

void place_move(struct overlay *ov, struct place *place, struct place *parent, char *name)
{
	struct place *old = place->parent;
	place->parent = place_get(parent);
	free_name(place);
	place->name = name;
	place_put(ov, old);
}
