/* trace.c: see trace.h. One thread of ours is the tracer, as ptrace binds to threads. */
#include "trace.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_THREADS = 256 };
#define SYSCALL_STOP (SIGTRAP | 0x80)

struct thread {
	pid_t tid;
	bool counted; /* its calls are */
	bool last; /* it answers the call that ends the watch */
	bool closing; /* it shut its connection down: there will be no reply */
	bool acted; /* the call at hand was replaced or shortened */
	bool same; /* nothing on disk changed since the last call that plan.changed counts */
	size_t call; /* in the log: the one at hand; SIZE_MAX: none */
};

static struct {
	struct trace_plan plan;
	struct trace_log log;
	pid_t pid;
	struct thread threads[MAX_THREADS];
	size_t nthreads;
	bool over; /* the reply was sent that the watch ends with */
	atomic_bool last;
	unsigned counted;
	pthread_t tracer;
	sem_t ready;
} t;

static void broken(const char *what)
{
	fprintf(stderr, "the tracer is broken: %s: %s\n", what, strerror(errno));
	abort();
}

/* ---- registers: what differs between machines ---- */
#if defined(__x86_64__)
static const char *const no_registers = NULL;
static unsigned long long *argument(struct user_regs_struct *r, int i)
{
	unsigned long long *const args[] = { &r->rdi, &r->rsi, &r->rdx, &r->r10, &r->r8, &r->r9 };
	return args[i];
}

static void replace_call(pid_t tid) /* at its entry: by one that does not exist */
{
	struct user_regs_struct r;
	ptrace(PTRACE_GETREGS, tid, 0, &r);
	r.orig_rax = ~0ull;
	ptrace(PTRACE_SETREGS, tid, 0, &r);
}

static void set_result(pid_t tid, long result) /* at its exit */
{
	struct user_regs_struct r;
	ptrace(PTRACE_GETREGS, tid, 0, &r);
	r.rax = (unsigned long long)result;
	ptrace(PTRACE_SETREGS, tid, 0, &r);
}

static void set_argument(pid_t tid, int i, uint64_t value)
{
	struct user_regs_struct r;
	ptrace(PTRACE_GETREGS, tid, 0, &r);
	*argument(&r, i) = value;
	ptrace(PTRACE_SETREGS, tid, 0, &r);
}
#else
static const char *const no_registers = "faults are put in through x86-64's registers alone";
static void replace_call(pid_t tid)
{
	(void)tid;
}

static void set_result(pid_t tid, long result)
{
	(void)tid, (void)result;
}

static void set_argument(pid_t tid, int i, uint64_t value)
{
	(void)tid, (void)i, (void)value;
}
#endif

/* ---- what a call is ---- */
/* name, may change what is on disk, index of the length (-1: none), indexes of descriptors and of the names below them (-1: none) */
static const struct known {
	long nr;
	const char *name;
	bool changes;
	int length, fd, path, fd2, path2;
} known[] = {
#define CALL(name, ...) { SYS_##name, #name, __VA_ARGS__ }
	CALL(openat, true, -1, 0, 1, -1, -1),
	CALL(openat2, true, -1, 0, 1, -1, -1),
	CALL(mkdirat, true, -1, 0, 1, -1, -1),
	CALL(mknodat, true, -1, 0, 1, -1, -1),
	CALL(symlinkat, true, -1, 1, 2, -1, -1),
	CALL(linkat, true, -1, 0, 1, 2, 3),
	CALL(unlinkat, true, -1, 0, 1, -1, -1),
	CALL(renameat2, true, -1, 0, 1, 2, 3),
	CALL(renameat, true, -1, 0, 1, 2, 3),
	CALL(fchownat, true, -1, 0, 1, -1, -1),
	CALL(fchown, true, -1, 0, -1, -1, -1),
	CALL(fchmodat, true, -1, 0, 1, -1, -1),
	CALL(fchmod, true, -1, 0, -1, -1, -1),
	CALL(utimensat, true, -1, 0, 1, -1, -1),
	CALL(truncate, true, -1, -1, 0, -1, -1),
	CALL(ftruncate, true, -1, 0, -1, -1, -1),
	CALL(fallocate, true, -1, 0, -1, -1, -1),
	CALL(lsetxattr, true, -1, -1, 0, -1, 1),
	CALL(setxattr, true, -1, -1, 0, -1, 1),
	CALL(fsetxattr, true, -1, 0, -1, -1, 1),
	CALL(lremovexattr, true, -1, -1, 0, -1, 1),
	CALL(removexattr, true, -1, -1, 0, -1, 1),
	CALL(fremovexattr, true, -1, 0, -1, -1, 1),
	CALL(lgetxattr, false, -1, -1, 0, -1, 1),
	CALL(getxattr, false, -1, -1, 0, -1, 1),
	CALL(fgetxattr, false, -1, 0, -1, -1, 1),
	CALL(llistxattr, false, -1, -1, 0, -1, -1),
	CALL(listxattr, false, -1, -1, 0, -1, -1),
	CALL(flistxattr, false, -1, 0, -1, -1, -1),
	CALL(write, true, 2, 0, -1, -1, -1),
	CALL(pwrite64, true, 2, 0, -1, -1, -1),
	CALL(writev, true, -1, 0, -1, -1, -1),
	CALL(pwritev, true, -1, 0, -1, -1, -1),
	CALL(copy_file_range, true, 4, 2, -1, 0, -1),
	CALL(sendfile, true, 3, 0, -1, 1, -1),
	CALL(ioctl, true, -1, 0, -1, -1, -1),
	CALL(fsync, true, -1, 0, -1, -1, -1),
	CALL(fdatasync, true, -1, 0, -1, -1, -1),
	CALL(syncfs, true, -1, 0, -1, -1, -1),
	CALL(sync_file_range, true, -1, 0, -1, -1, -1),
	CALL(read, false, 2, 0, -1, -1, -1),
	CALL(pread64, false, 2, 0, -1, -1, -1),
	CALL(preadv, false, -1, 0, -1, -1, -1),
	CALL(getdents64, false, -1, 0, -1, -1, -1),
	CALL(statx, false, -1, 0, 1, -1, -1),
	CALL(newfstatat, false, -1, 0, 1, -1, -1),
	CALL(fstat, false, -1, 0, -1, -1, -1),
	CALL(fstatfs, false, -1, 0, -1, -1, -1),
	CALL(readlinkat, false, -1, 0, 1, -1, -1),
	CALL(name_to_handle_at, false, -1, 0, 1, -1, -1),
	CALL(open_by_handle_at, false, -1, 0, -1, -1, -1),
	CALL(lseek, false, -1, 0, -1, -1, -1),
	CALL(fcntl, false, -1, 0, -1, -1, -1),
	CALL(close, false, -1, 0, -1, -1, -1), /* an unlinked file goes with it, which no tree shows */
	CALL(sendto, false, -1, 0, -1, -1, -1),
	CALL(sendmsg, false, -1, 0, -1, -1, -1),
	CALL(recvfrom, false, -1, 0, -1, -1, -1),
	CALL(shutdown, false, -1, 0, -1, -1, -1),
	CALL(epoll_wait, false, -1, 0, -1, -1, -1),
	CALL(epoll_pwait, false, -1, 0, -1, -1, -1),
	CALL(epoll_ctl, false, -1, 0, -1, -1, -1),
	CALL(futex, false, -1, -1, -1, -1, -1),
	CALL(mmap, false, -1, -1, -1, -1, -1),
	CALL(munmap, false, -1, -1, -1, -1, -1),
	CALL(mremap, false, -1, -1, -1, -1, -1),
	CALL(mprotect, false, -1, -1, -1, -1, -1),
	CALL(madvise, false, -1, -1, -1, -1, -1),
	CALL(brk, false, -1, -1, -1, -1, -1),
	CALL(clone3, false, -1, -1, -1, -1, -1),
	CALL(clone, false, -1, -1, -1, -1, -1),
	CALL(rt_sigprocmask, false, -1, -1, -1, -1, -1),
	CALL(rt_sigaction, false, -1, -1, -1, -1, -1),
	CALL(sched_yield, false, -1, -1, -1, -1, -1),
	CALL(clock_nanosleep, false, -1, -1, -1, -1, -1),
	CALL(clock_gettime, false, -1, -1, -1, -1, -1),
	CALL(geteuid, false, -1, -1, -1, -1, -1),
	CALL(getegid, false, -1, -1, -1, -1, -1),
	CALL(setfsuid, false, -1, -1, -1, -1, -1),
	CALL(setfsgid, false, -1, -1, -1, -1, -1),
	CALL(gettid, false, -1, -1, -1, -1, -1),
	CALL(getpid, false, -1, -1, -1, -1, -1),
	CALL(getrandom, false, -1, -1, -1, -1, -1),
#undef CALL
};

static const struct known *find_known(uint64_t nr)
{
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (known[i].nr == (long)nr)
			return &known[i];
	return NULL;
}

const char *trace_name(const struct trace_call *call)
{
	static char number[32];
	const struct known *k = find_known(call->nr);
	if (!k)
		snprintf(number, sizeof number, "call %llu", (unsigned long long)call->nr);
	return k ? k->name : number;
}

bool trace_changes(const struct trace_call *call)
{
	const struct known *k = find_known(call->nr);
	if (call->nr == SYS_openat)
		return call->args[2] & (O_CREAT | O_TRUNC);
	return !k || (k->changes && call->nr != SYS_openat2); /* openat2 is open_beneath's, which makes nothing */
}

bool trace_flushes(const struct trace_call *call)
{
	return call->nr == SYS_fsync || call->nr == SYS_fdatasync || call->nr == SYS_syncfs;
}

/* ---- the log ---- */
static char *copy_string(pid_t tid, uint64_t address)
{
	char *s = calloc(1, 4097);
	for (size_t n = 0; s && address && n < 4096;) { /* to the end of each page, as the next may not be there */
		size_t len = 4096 - (address + n) % 4096;
		struct iovec here = { s + n, len < 4096 - n ? len : 4096 - n }, there = { (void *)(uintptr_t)(address + n), here.iov_len }; // NOLINT
		ssize_t got = process_vm_readv(tid, &here, 1, &there, 1, 0);
		if (got <= 0 || memchr(s + n, 0, (size_t)got))
			break;
		n += (size_t)got;
	}
	return s;
}

static char *descriptor_path(int fd)
{
	char link[64], path[4096];
	snprintf(link, sizeof link, "/proc/%d/fd/%d", (int)t.pid, fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	return n < 0 ? NULL : strndup(path, (size_t)n);
}

/* "/proc/self/fd/7/name", which is how xattrs below a descriptor are reached. */
static void resolve_proc(char **path, char **name)
{
	int fd, used = 0;
	if (!*name || sscanf(*name, "/proc/self/fd/%d/%n", &fd, &used) != 1 || !used)
		return;
	char *rest = strdup(*name + used);
	free(*path);
	free(*name);
	*path = descriptor_path(fd);
	*name = rest;
}

static void note_paths(struct trace_call *c, pid_t tid)
{
	const struct known *k = find_known(c->nr);
	if (!k)
		return;
	int fd[2] = { k->fd, k->fd2 }, name[2] = { k->path, k->path2 };
	for (int i = 0; i < 2; i++) {
		c->path[i] = fd[i] >= 0 ? descriptor_path((int)c->args[fd[i]]) : NULL;
		c->name[i] = name[i] >= 0 ? copy_string(tid, c->args[name[i]]) : NULL;
		resolve_proc(&c->path[i], &c->name[i]);
	}
}

static size_t add_call(const struct __ptrace_syscall_info *info, pid_t tid)
{
	struct trace_log *l = &t.log;
	if (l->n == l->room) {
		l->room = l->room ? 2 * l->room : 256;
		if (!(l->calls = realloc(l->calls, l->room * sizeof *l->calls)))
			broken("memory");
	}
	struct trace_call *c = &l->calls[l->n];
	*c = (struct trace_call){ .nr = info->entry.nr, .result = INT64_MIN };
	memcpy(c->args, info->entry.args, sizeof c->args);
	if (t.plan.paths)
		note_paths(c, tid);
	return l->n++;
}

void trace_log_free(struct trace_log *log)
{
	for (size_t i = 0; i < log->n; i++)
		for (int j = 0; j < 2; j++) {
			free(log->calls[i].path[j]);
			free(log->calls[i].name[j]);
		}
	free(log->calls);
	memset(log, 0, sizeof *log);
}

/* ---- the tracer ---- */
static struct thread *find_thread(pid_t tid)
{
	for (size_t i = 0; i < t.nthreads; i++)
		if (t.threads[i].tid == tid)
			return &t.threads[i];
	if (t.nthreads == MAX_THREADS) {
		errno = EAGAIN;
		broken("too many threads");
	}
	t.threads[t.nthreads] = (struct thread){ .tid = tid, .call = SIZE_MAX };
	return &t.threads[t.nthreads++];
}

static bool is_seized(pid_t tid)
{
	for (size_t i = 0; i < t.nthreads; i++)
		if (t.threads[i].tid == tid)
			return true;
	return false;
}

static bool seize_new_threads(void)
{
	char path[64];
	bool any = false;
	snprintf(path, sizeof path, "/proc/%d/task", (int)t.pid);
	DIR *d = opendir(path);
	if (!d)
		broken(path);
	for (struct dirent *e; (e = readdir(d));) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		if (!tid || is_seized(tid))
			continue;
		if (ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE)) {
			if (errno == ESRCH || errno == EPERM) /* gone, or traced since its parent was */
				continue;
			broken("attach");
		}
		ptrace(PTRACE_INTERRUPT, tid, 0, 0);
		find_thread(tid);
		any = true;
	}
	closedir(d);
	return any;
}

static bool is_map_write(const struct __ptrace_syscall_info *info)
{
	if (info->entry.nr != SYS_pwrite64 && info->entry.nr != SYS_pwritev && info->entry.nr != SYS_writev && info->entry.nr != SYS_write)
		return false;
	char *path = descriptor_path((int)info->entry.args[0]);
	bool is = path && strstr(path, "/map.mdb");
	free(path);
	return is;
}

static void shorten(struct thread *th, const struct __ptrace_syscall_info *info)
{
	const struct known *k = find_known(info->entry.nr);
	if (k && k->length >= 0 && info->entry.args[k->length] > 1)
		set_argument(th->tid, k->length, info->entry.args[k->length] / 2);
}

static bool is_counted(const struct thread *th, const struct trace_call *c)
{
	if (t.plan.flushes)
		return trace_flushes(c);
	return t.plan.of_kind ? t.plan.nr == c->nr : !t.plan.changed || !th->same;
}

/* True: the server was killed. */
static bool at_entry(struct thread *th, const struct __ptrace_syscall_info *info)
{
	uint64_t nr = info->entry.nr;
	if (t.plan.map_writer && !th->counted)
		th->counted = is_map_write(info);
	if (nr == SYS_epoll_wait || nr == SYS_epoll_pwait || (t.plan.map_writer && nr == SYS_futex)) {
		if (th->counted && (th->closing || t.plan.map_writer))
			t.over = true;
		th->counted = th->closing = false;
	}
	if (nr == SYS_shutdown)
		th->closing = true;
	if (!th->counted)
		return false;
	th->call = add_call(info, th->tid);
	bool counts = is_counted(th, &t.log.calls[th->call]);
	th->same = !trace_changes(&t.log.calls[th->call]);
	t.counted += counts;
	if (!counts || t.log.hit || t.counted != t.plan.at || t.plan.action == TRACE_WATCH)
		return false;
	t.log.hit = true;
	if (t.plan.action == TRACE_KILL)
		return true;
	th->acted = true;
	if (t.plan.action == TRACE_FAIL && nr != SYS_close) /* a descriptor is closed whatever close() says */
		replace_call(th->tid);
	else if (t.plan.action == TRACE_SHORT)
		shorten(th, info);
	return false;
}

static void at_exit(struct thread *th, const struct __ptrace_syscall_info *info, uint64_t nr)
{
	int64_t result = info->exit.rval;
	if (th->acted && t.plan.action == TRACE_FAIL)
		set_result(th->tid, result = -t.plan.err);
	th->acted = false;
	if (th->call != SIZE_MAX)
		t.log.calls[th->call].result = result;
	th->call = SIZE_MAX;
	if (t.plan.map_writer)
		return;
	if (nr == SYS_recvfrom && result > 0) {
		th->last = t.plan.until_told && atomic_load(&t.last);
		th->counted = !th->last;
	}
	if (nr == SYS_sendto && result > 0) {
		t.over |= t.plan.until_told ? th->last : th->counted;
		th->counted = false;
	}
}

static void kill_server(void)
{
	int status;
	kill(t.pid, SIGKILL);
	for (pid_t tid; (tid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR;)
		if (tid == t.pid && (WIFSIGNALED(status) || WIFEXITED(status)))
			break;
	t.log.killed = true;
}

/* All run on untraced. first is stopped already. */
static void let_go(pid_t first)
{
	int status;
	size_t left = 0;
	for (size_t i = 0; i < t.nthreads; i++) {
		pid_t tid = t.threads[i].tid;
		if (tid == first)
			ptrace(PTRACE_DETACH, tid, 0, 0);
		else if (!ptrace(PTRACE_INTERRUPT, tid, 0, 0))
			left++;
	}
	while (left) {
		pid_t tid = waitpid(-1, &status, __WALL);
		if (tid < 0 && errno == EINTR)
			continue;
		if (tid < 0)
			return;
		int sig = WIFSTOPPED(status) && !(status >> 16) && WSTOPSIG(status) != SYSCALL_STOP ? WSTOPSIG(status) : 0;
		if (WIFSTOPPED(status))
			ptrace(PTRACE_DETACH, tid, 0, sig);
		if (is_seized(tid))
			left--;
	}
}

/* The thread is in a system call's stop. True: the watch is over. */
static bool at_stop(struct thread *th, uint64_t *entered)
{
	struct __ptrace_syscall_info info;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, th->tid, sizeof info, &info) <= 0)
		return false;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
		*entered = info.entry.nr;
		if (at_entry(th, &info)) {
			kill_server();
			return true;
		}
	} else if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
		at_exit(th, &info, *entered);
	}
	if (!t.over)
		return false;
	let_go(th->tid);
	return true;
}

static void *trace(void *arg)
{
	static uint64_t entered[MAX_THREADS];
	int status;
	(void)arg;
	while (seize_new_threads()) /* until a look finds none: those that begin later are traced by themselves */
		;
	size_t to_stop = t.nthreads;
	memset(entered, 0, sizeof entered);
	while (true) {
		pid_t tid = waitpid(-1, &status, __WALL);
		if (tid < 0 && errno == EINTR)
			continue;
		if (tid < 0)
			broken("waiting");
		if (!WIFSTOPPED(status)) {
			if (tid == t.pid) { /* it died by itself */
				t.log.killed = true;
				if (to_stop)
					sem_post(&t.ready);
				return NULL;
			}
			continue;
		}
		size_t old = t.nthreads;
		struct thread *th = find_thread(tid);
		if (WSTOPSIG(status) == SYSCALL_STOP && at_stop(th, &entered[th - t.threads]))
			return NULL;
		int sig = status >> 16 || WSTOPSIG(status) == SYSCALL_STOP ? 0 : WSTOPSIG(status);
		ptrace(PTRACE_SYSCALL, tid, 0, sig);
		if (to_stop && t.nthreads == old && !--to_stop)
			sem_post(&t.ready);
	}
}

void trace_begin(pid_t pid, const struct trace_plan *plan)
{
	memset(&t, 0, sizeof t);
	t.pid = pid;
	t.plan = *plan;
	sem_init(&t.ready, 0, 0);
	if (pthread_create(&t.tracer, NULL, trace, NULL))
		broken("thread");
	while (sem_wait(&t.ready))
		;
}

void trace_last(void)
{
	atomic_store(&t.last, true);
}

void trace_end(struct trace_log *log)
{
	pthread_join(t.tracer, NULL);
	sem_destroy(&t.ready);
	*log = t.log;
}

const char *trace_unavailable(void)
{
	int status;
	const char *why = no_registers;
	pid_t pid = fork();
	if (!pid) {
		pause();
		_exit(0);
	}
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE))
		why = "ptrace is not allowed here";
	kill(pid, SIGKILL);
	waitpid(pid, &status, __WALL);
	return why;
}
