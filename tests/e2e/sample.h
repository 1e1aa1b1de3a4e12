/* sample.h: a small tree with something of everything, served twice, and its clients, for the tests of the procedures. */
#ifndef OVERNFSD_TESTS_SAMPLE_H
#define OVERNFSD_TESTS_SAMPLE_H

#include "client.h"

extern const char tree[]; /* the script that makes it: for stacks of one's own */
extern struct stack stack, frozen; /* writable, without squashing; and one without an upper */
extern struct client root, user, reader; /* of the first, as 0 and as 1000; of the second */
struct fh path(struct client *c, const char *name); /* must be there */
extern char long_name[300]; /* longer than a name may be */
struct fh bad_handle(void); /* that no server made */

bool sample_can_run(void); /* else says why */
int sample_setup(void **state);
int sample_teardown(void **state);
#define SAMPLE_RUN(tests) (sample_can_run() ? cmocka_run_group_tests(tests, sample_setup, sample_teardown) : 77)

#endif
