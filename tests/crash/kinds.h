/* kinds.h: the kinds of change that are killed and failed at each system call, and the small trees (scenes) that they are done to. */
#ifndef OVERNFSD_TESTS_KINDS_H
#define OVERNFSD_TESTS_KINDS_H

#include "tree.h"

/* A scene is one small tree, the same each time, with something of everything: directory `name` of each layer. */
struct scene {
	struct client *c;
	struct fh top;
	const struct tree *tree; /* handles that were taken before; NULL: looked up at need */
};

/* Makes n scenes, named prefix0, prefix1..., in the stack's layers. No server may run over it. */
void scenes_make(const struct stack *s, const char *prefix, unsigned n);
void scenes_remove(const struct stack *s, const char *prefix, unsigned n);
void scene_find(struct scene *scene, struct client *c, const char *prefix, unsigned i);
struct fh scene_handle(const struct scene *scene, const char *path);

struct change {
	nfsstat3 (*run)(struct scene *scene, const char *path, const char *other);
	const char *path, *other;
};

enum { SETUP_MAX = 3, STEPS_MAX = 6 };
struct kind {
	const char *name;
	struct change steps[STEPS_MAX]; /* each atomic; one, but for sequences */
	struct change setup[SETUP_MAX]; /* done before, undisturbed */
	bool again; /* doing it a second time succeeds too */
	bool unstable; /* bytes that are written need not be on disk after it */
};
extern const struct kind kinds[];
extern const size_t nkinds;
size_t kind_steps(const struct kind *k);
void kind_setup(const struct kind *k, struct scene *scene);
/* One step, with the handles of tree. */
nfsstat3 kind_step(const struct kind *k, size_t step, struct scene *scene, const struct tree *tree);
/* From here on our mounts are ours alone, where we may mount: nobody who copies the mounts of the machine keeps one in use. */
void keep_mounts_private(void);
/* Where the tests' trees stand: $CRASH_DIR, else memory where it can hold extended attributes, else /tmp. */
const char *scene_base(void);

#endif
