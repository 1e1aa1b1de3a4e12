/* attr.h: between the engine's types and the protocol's. */
#ifndef OVERNFSD_ATTR_H
#define OVERNFSD_ATTR_H

#include "handle.h"

void attr_to_fattr3(const struct overlay *ov, const struct overlay_attr *a, fattr3 *f);
void attr_to_post_op(const struct overlay *ov, const struct overlay_attr *a, post_op_attr *p); /* a may be NULL: none */
void wcc_to_wcc_data(const struct overlay *ov, const struct overlay_wcc *w, wcc_data *d);
nfsstat3 sattr3_to_setattr(const sattr3 *s, struct overlay_setattr *set); /* NFS3ERR_INVAL for impossible times */
nfsstat3 errno_to_nfsstat3(int rc); /* 0 or a negative errno */

#endif
