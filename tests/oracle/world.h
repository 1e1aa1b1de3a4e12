/* world.h: the layers, the two sides over them, and the steps of a script carried out. Runs in a process and mount namespace of its own (run.h). */
#ifndef OVERNFSD_ORACLE_WORLD_H
#define OVERNFSD_ORACLE_WORLD_H

#include "driver.h"

struct world;
/* dir: an empty directory, over which a file system is mounted. */
struct world *world_new(const char *dir);
void world_end(struct world *w); /* stops what runs; a daemon that does not stop in order is a difference */
/* Carries out one step; of an operation, the status. Does not return where the sides differ. */
int world_step(struct world *w, const struct step *s);
/* The tree as it is now, by Linux: for choosing what to do next. */
void world_tree(struct world *w, struct tree *t);

#endif
