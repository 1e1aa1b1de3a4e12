/* banner.h: what is printed once the server runs: what it serves, to whom, and the line that mounts it. To stdout. */
#ifndef OVERNFSD_BANNER_H
#define OVERNFSD_BANNER_H

#include "options.h"

/* The ports in o are those that were got. */
void banner_print(const struct options *o, const struct export *e);
void banner_print_json(const struct options *o, const struct export *e); /* the same for programs, in one line */

#endif
