/*
 * trace.h: watches a running server's system calls by ptrace, numbers those that its workers make for a client's call, and at a chosen one
 * kills the server before the call is made, or lets it fail, or shortens it.
 *
 * No call can be missed: ptrace stops every thread at every entry into the kernel, whatever library made it, and threads that begin
 * meanwhile are traced from their first instruction. The calls counted are those between a worker's receiving a request and its sending
 * of the reply, that one included.
 */
#ifndef OVERNFSD_TESTS_TRACE_H
#define OVERNFSD_TESTS_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum trace_action { TRACE_WATCH, TRACE_KILL, TRACE_FAIL, TRACE_SHORT };

struct trace_plan {
	enum trace_action action;
	unsigned at; /* number of the system call, from 1; 0: none */
	bool changed; /* at counts the first call, and those right behind one that may have changed what is on disk: at all others it is as at the last of these */
	bool of_kind; /* at counts calls of the kind nr alone: others, like a lock's that is not free, may come between */
	uint64_t nr;
	bool flushes; /* at counts flushes of a file or of a file system alone */
	int err; /* of TRACE_FAIL: the errno; the call is not made */
	bool until_told; /* the watch ends with the reply to the first call after trace_last, and counts nothing of it; else with the first reply */
	bool map_writer; /* count the handle map's writer instead of the workers, from its first write to its sleep */
	bool paths; /* note the paths of descriptors, and names */
};

struct trace_call {
	uint64_t nr, args[6];
	int64_t result; /* INT64_MIN: never came back */
	char *path[2], *name[2]; /* with plan.paths: of the first and the second descriptor among the arguments and the names below them */
};

struct trace_log {
	struct trace_call *calls;
	size_t n, room;
	bool killed; /* by TRACE_KILL: the process is gone and waited for */
	bool hit; /* call number `at` came */
};

/* Why servers can't be traced here (a line for the skip), or NULL. */
const char *trace_unavailable(void);
/* Attaches to all threads of the child pid and returns when they run traced. The caller must not wait for children until trace_end. */
void trace_begin(pid_t pid, const struct trace_plan *plan);
void trace_last(void); /* of a plan with until_told: any call must follow */
/* Waits until the watch ends or the server is dead, and lets go. The log is valid until trace_log_free. */
void trace_end(struct trace_log *log);
void trace_log_free(struct trace_log *log);
const char *trace_name(const struct trace_call *call); /* like "renameat2" */
/* Can the call change what is on disk? When in doubt, yes. */
bool trace_changes(const struct trace_call *call);
bool trace_flushes(const struct trace_call *call);

#endif
