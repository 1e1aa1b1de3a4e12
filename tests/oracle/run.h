/* run.h: one run in a process, mount namespace and temporary file system of its own: whatever happens in it, nothing stays behind. */
#ifndef OVERNFSD_ORACLE_RUN_H
#define OVERNFSD_ORACLE_RUN_H

#include "step.h"

struct run {
	bool failed;
	char *story; /* what went wrong, and what the daemon said */
	struct script script; /* what was played, up to the failure */
	size_t operations;
};
void run_seed(struct run *run, uint64_t seed, size_t operations, const char *fs);
void run_script(struct run *run, const struct script *script);
void run_free(struct run *run);
/* NULL: this machine can run the oracle; else why it can't. */
const char *run_is_impossible(void);

/* shrink.c: leaves out of the failed run's script all that it fails without. */
void shrink(struct run *run);

#endif
