/* layers.h: the layers that the file of identities knows; between identity.c, which keeps them, and number.c, which gives the numbers. */
#ifndef OVERNFSD_LAYERS_H
#define OVERNFSD_LAYERS_H

#include "identity.h"

/* All known layers, of this stack and of earlier ones; good until the next change. */
const struct layer_identity *identity_layers(struct identity *id, size_t *n);
int identity_put_layer(struct identity *id, const struct layer_identity *l); /* new, or with a new path; durable on return */

#endif
