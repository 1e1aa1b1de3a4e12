/* compare.h: two outcomes, attributes or trees that must be alike; differ() where they are not. */
#ifndef OVERNFSD_ORACLE_COMPARE_H
#define OVERNFSD_ORACLE_COMPARE_H

#include "driver.h"

/* Times before this were set on purpose, or stand in layers that both sides share: they must agree to the nanosecond. Those after are "now" on both sides. */
extern struct timespec compare_epoch;
extern bool compare_hard_links; /* some lower file has several names */

/* a and b: names of the sides, for the story. */
void compare_outcomes(const struct step *s, const char *a, const struct outcome *x, const char *b, const struct outcome *y);
void compare_attrs(const char *path, const char *a, const struct attr *x, const char *b, const struct attr *y);
void compare_trees(const char *a, const struct tree *x, const char *b, const struct tree *y);

#endif
