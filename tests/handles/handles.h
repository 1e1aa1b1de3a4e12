/* handles.h: what the tests of handles share. */
#ifndef OVERNFSD_TESTS_HANDLES_H
#define OVERNFSD_TESTS_HANDLES_H

#include "client.h"

/* As their namesakes of client.h, but a JUKEBOX is asked again. */
nfsstat3 patient_getattr(struct client *c, const struct fh *fh, fattr3 *attr);
nfsstat3 patient_path(struct client *c, const char *path, struct fh *fh, fattr3 *attr);
nfsstat3 patient_read(struct client *c, const struct fh *fh, void *buf, uint32_t size, uint32_t *got);
struct fh handle_of(struct client *c, const char *path); /* fails the test where the path can't be looked up */
bool same_handle(const struct fh *a, const struct fh *b);
/* Is the file of this handle readable, and its content this? Prints what is there instead. */
bool reads(struct client *c, const struct fh *fh, const char *content);
double seconds(void); /* monotonic; for figures, never for a verdict */
/* A number from the environment, or the default; a tenth of it where a sanitizer makes all slow. */
unsigned long amount(const char *variable, unsigned long by_default);

/* Absolute paths in $OVERNFSD and $OVERNFSCTL, for scripts, where the test was started by hand from the top directory. */
void name_programs(void);
/* A mounted image or tmpfs below the stack's directory; false: can't be done here, and why is printed for a skip. */
bool mount_in(const struct stack *s, const char *script);
void unmount_all(const struct stack *s); /* whatever is mounted below the stack's directory */

#endif
