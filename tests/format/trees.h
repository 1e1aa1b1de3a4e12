/* trees.h: a tree as text, over NFS and through a mount, so that two can be compared; and Linux overlayfs mounts to compare with. */
#ifndef OVERNFSD_TESTS_TREES_H
#define OVERNFSD_TESTS_TREES_H

#include "../e2e/client.h"

/* One line an object, sorted by path: type, mode, owner, links, size, device, mtime, and a hash of the bytes or the link's target; "error" where it can't
 * be looked up or read. malloc'ed. */
char *tree_over_nfs(struct client *c);
char *tree_of(const char *dir);
/* Fails the test, with both lines, where the trees differ. what: for the message. */
void trees_equal(const char *what, const char *nfs, const char *linux_tree);

/* Namespaces of this test's own: what it mounts and starts goes with it. Without root: prints why and exits 77. */
void mounts_begin(void);
/* Mounts Linux overlayfs on <dir>/m; lowers as lowerdir= takes them, with %s never in it; more: further options, or NULL. Relative paths are in <dir>. */
void linux_mount(const struct stack *s, const char *lowers, bool with_upper, const char *more);
bool linux_mounts(const struct stack *s, const char *lowers, bool with_upper, const char *more); /* false: refused */
void linux_unmount(const struct stack *s);
/* Serves the stack's layers, mounts them with Linux, and fails the test where the two show different trees. layers: as server_start_with. */
void compare_with_linux(struct stack *s, const char *layers, const char *args, const char *lowers, bool with_upper, const char *more);

#define READ_WRITE "--lower %s/lower1 --lower %s/lower2 --upper %s/upper --work %s/work"
#define READ_ONLY "--lower %s/lower1 --lower %s/lower2"
#define ALL_ON "index=on,metacopy=on,redirect_dir=on"
#endif
