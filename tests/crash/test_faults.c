/*
 * Every system call that a change or a read makes fails in turn, with the errors that such a call may give, or moves less than it was asked to.
 * The client gets the status that the error means, or success; the tree is as before the change or as after it; nothing is left in the work
 * directory, no descriptor is lost; and the next try succeeds.
 *
 * KIND=TEXT runs the kinds whose name holds TEXT alone; EVERY=N takes every Nth call; ERRORS=all tries every error at every call, else two;
 * CRASH_DIR=DIR puts the trees on another file system.
 */
#include "kinds.h"
#include "trace.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
enum { EVERY = 29, KINDS = 23 };
#elif defined(__SANITIZE_ADDRESS__)
enum { EVERY = 17, KINDS = 5 }; /* of the kinds, every fifth; and the sanitizers' own allocators end the process when memory fails */
#else
enum { EVERY = 4, KINDS = 1 };
#endif
enum { DESCRIPTORS = 160, SHORT = -1, MAX_ERRORS = 8 };

static struct stack stack;
static struct client client;
static unsigned failures;

struct row {
	const char *name;
	unsigned index; /* its scenes are named by it */
	unsigned calls, faults, refused, done;
};

static void complain(const struct row *r, unsigned at, const char *call, int err, const char *what, const char *why)
{
	if (++failures <= 60)
		fprintf(stderr, "%s, call %u (%s) %s: %s: %s\n", r->name, at, call, err == SHORT ? "short" : strerrorname_np(err), what, why);
}

/* ---- which errors ---- */
static size_t errors_of(const struct trace_call *c, int errors[MAX_ERRORS])
{
	static const int changing[] = { ENOSPC, EIO, EDQUOT, ENOMEM, EINTR, SHORT }, reading[] = { EIO, ENOMEM, EINTR, SHORT },
			 opening[] = { EMFILE, EIO, ENOMEM, EINTR }, making[] = { ENOSPC, EMFILE, EIO, EDQUOT, ENOMEM, EINTR }, memory[] = { ENOMEM };
	const int *from = reading;
	size_t n = 4;
	switch (c->nr) {
	case SYS_futex: /* libc ends a process whose futex calls fail */
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_epoll_ctl:
	case SYS_munmap:
	case SYS_madvise:
	case SYS_sched_yield:
	case SYS_rt_sigprocmask:
	case SYS_getrandom:
	case SYS_gettid: /* these can't fail */
	case SYS_geteuid:
	case SYS_getegid:
	case SYS_setfsuid:
	case SYS_setfsgid:
	case SYS_getpid:
	case SYS_clock_nanosleep: return 0;
	case SYS_mmap:
	case SYS_brk:
	case SYS_mprotect:
	case SYS_mremap:
	case SYS_clone:
	case SYS_clone3:
		from = memory;
		n = KINDS == 1;
		break;
	case SYS_openat2: from = opening; break;
	case SYS_openat: from = trace_changes(c) ? making : opening, n = trace_changes(c) ? 6 : 4; break;
	case SYS_pread64:
	case SYS_read: break;
	default:
		if (trace_changes(c))
			from = changing, n = 5;
		else
			n = 3;
	}
	if (c->nr == SYS_pwrite64 || c->nr == SYS_write || c->nr == SYS_copy_file_range)
		n = 6;
	for (size_t i = 0; i < n; i++)
		errors[i] = from[i];
	return n;
}

static bool status_fits(nfsstat3 st, int err)
{
	static const struct {
		int err;
		nfsstat3 status;
	} means[] = { { ENOSPC, NFS3ERR_NOSPC }, { EIO, NFS3ERR_IO }, { EDQUOT, NFS3ERR_DQUOT }, { EMFILE, NFS3ERR_JUKEBOX },
		      { ENOMEM, NFS3ERR_JUKEBOX }, { EINTR, NFS3ERR_JUKEBOX } };
	for (size_t i = 0; i < sizeof means / sizeof *means; i++)
		if (means[i].err == err && means[i].status == st)
			return true;
	return st == NFS3_OK;
}

/* ---- what must not be left behind ---- */
static unsigned count_descriptors(void)
{
	char path[64];
	unsigned n = 0;
	snprintf(path, sizeof path, "/proc/%d/fd", (int)stack.pid);
	DIR *d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Reads enough to fill the server's cache of descriptors: it then holds as many as it may, and any more are lost ones. */
static unsigned descriptors_when_full(void)
{
	struct scene scene;
	struct tree t;
	for (unsigned i = 0; i < 6; i++) {
		scene_find(&scene, &client, "fill", i);
		tree_read(&t, &client, &scene.top);
		assert_nfs(t.status, NFS3_OK);
		tree_free(&t);
	}
	return count_descriptors();
}

static void check_left(const struct row *r, unsigned at, const char *call, int err)
{
	char path[128];
	snprintf(path, sizeof path, "%s/work/work", stack.dir);
	DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
			complain(r, at, call, err, "left in the work directory", e->d_name);
			unlinkat(dirfd(d), e->d_name, 0);
			unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
		}
	closedir(d);
}

/* ---- changes ---- */
static void start(void)
{
	struct rlimit old, few = { DESCRIPTORS, DESCRIPTORS };
	getrlimit(RLIMIT_NOFILE, &old);
	few.rlim_max = few.rlim_cur;
	if (geteuid()) /* can't be raised again */
		few.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_NOFILE, &few);
	server_start(&stack, "--no-root-squash --max-objects 4096 --log-level error");
	setrlimit(RLIMIT_NOFILE, &old);
	client_open(&client, &stack, 0, 0);
	client.may_break = client.may_lack = true;
}

/* The server died of the fault: said, and another one started. */
static bool survived(const struct row *r, const struct trace_log *log, unsigned at, const char *call, int err)
{
	if (!log->killed)
		return true;
	complain(r, at, call, err, "the server", "died");
	client_close(&client);
	stack.pid = 0;
	start();
	return false;
}

static void fault(struct row *r, const struct kind *k, const struct trace_log *recorded, unsigned at, int err, unsigned scene_number, struct tree model[2])
{
	const struct trace_call *c = &recorded->calls[at - 1];
	struct trace_plan plan = { .action = err == SHORT ? TRACE_SHORT : TRACE_FAIL, .err = err, .of_kind = true, .nr = c->nr };
	struct scene scene;
	struct tree before, now;
	struct trace_log log;
	char prefix[32], why[512], why_after[512];
	const char *call = trace_name(c);
	snprintf(prefix, sizeof prefix, "f%u.", r->index);
	scene_find(&scene, &client, prefix, scene_number);
	kind_setup(k, &scene);
	tree_read(&before, &client, &scene.top);
	for (unsigned i = 0; i < at; i++)
		plan.at += recorded->calls[i].nr == c->nr;
	trace_begin(stack.pid, &plan);
	nfsstat3 st = kind_step(k, 0, &scene, &before);
	trace_end(&log);
	if (!survived(r, &log, at, call, err))
		goto out;
	r->faults += log.hit;
	r->refused += log.hit && st;
	r->done += log.hit && !st;
	snprintf(why, sizeof why, "%d", st);
	if (!status_fits(st, err))
		complain(r, at, call, err, "status", why);
	tree_read(&now, &client, &scene.top);
	bool is_before = tree_same(&before, &now, why, sizeof why);
	bool is_after = tree_changed_alike(&before, &now, &model[0], &model[1], why_after, sizeof why_after);
	if (!is_after && (!is_before || !st)) {
		complain(r, at, call, err, st ? "refused, but not as before" : "done, but not as after", st ? why : why_after);
		if (st)
			complain(r, at, call, err, "nor as after", why_after);
	}
	tree_free(&now);
	check_left(r, at, call, err);
	if (is_before && !is_after) {
		st = kind_step(k, 0, &scene, &before);
		tree_read(&now, &client, &scene.top);
		snprintf(why, sizeof why, "status %d", st);
		if (st || !tree_changed_alike(&before, &now, &model[0], &model[1], why, sizeof why))
			complain(r, at, call, err, "the next try", why);
		tree_free(&now);
		check_left(r, at, call, err);
	}
out:
	trace_log_free(&log);
	tree_free(&before);
}

static void record(const struct kind *k, struct tree model[2], struct trace_log *log)
{
	struct scene scene;
	memset(log, 0, sizeof *log);
	for (unsigned i = 0; i < 2; i++) {
		trace_log_free(log);
		tree_free(&model[0]);
		tree_free(&model[1]);
		scene_find(&scene, &client, "model", i);
		kind_setup(k, &scene);
		tree_read(&model[0], &client, &scene.top);
		trace_begin(stack.pid, &(struct trace_plan){ .action = TRACE_WATCH });
		nfsstat3 st = kind_step(k, 0, &scene, &model[0]);
		trace_end(log);
		if (st || log->killed)
			fail_msg("%s: status %d", k->name, st);
		tree_read(&model[1], &client, &scene.top);
	}
}

static unsigned choose(const struct trace_call *c, unsigned at, const struct row *r, bool all, int chosen[MAX_ERRORS])
{
	int errors[MAX_ERRORS];
	unsigned n = (unsigned)errors_of(c, errors), wanted = all || n < 2 ? n : 2;
	for (unsigned i = 0; i < wanted; i++)
		chosen[i] = errors[(at + r->index + i) % n];
	return wanted;
}

static void run_kind(struct row *r, const struct kind *k, unsigned every, bool all)
{
	struct tree model[2] = { { 0 } };
	struct trace_log log;
	char prefix[32];
	int errors[MAX_ERRORS];
	scenes_make(&stack, "model", 2);
	scenes_make(&stack, "fill", 6);
	start();
	record(k, model, &log);
	client_close(&client);
	server_stop(&stack);
	r->calls = (unsigned)log.n;
	unsigned n = 0;
	for (unsigned at = 1 + r->index % every; at <= log.n; at += every)
		n += choose(&log.calls[at - 1], at, r, all, errors);
	snprintf(prefix, sizeof prefix, "f%u.", r->index);
	scenes_make(&stack, prefix, n + 1);
	start();
	struct scene scene;
	scene_find(&scene, &client, prefix, n); /* opens what is opened once, like the index */
	kind_setup(k, &scene);
	kind_step(k, 0, &scene, NULL);
	unsigned full = descriptors_when_full();
	pid_t pid = stack.pid;
	n = 0;
	for (unsigned at = 1 + r->index % every; at <= log.n; at += every)
		for (unsigned i = 0, m = choose(&log.calls[at - 1], at, r, all, errors); i < m; i++)
			fault(r, k, &log, at, errors[i], n++, model);
	unsigned now = descriptors_when_full();
	char why[64];
	snprintf(why, sizeof why, "%u, and %u after all", full, now);
	if (now != full && pid == stack.pid)
		complain(r, 0, "all", EIO, "descriptors", why);
	client_close(&client);
	server_stop(&stack);
	scenes_remove(&stack, prefix, n + 1);
	scenes_remove(&stack, "model", 2);
	scenes_remove(&stack, "fill", 6);
	trace_log_free(&log);
	tree_free(&model[0]);
	tree_free(&model[1]);
}

static void a_change_whose_system_calls_fail_is_done_or_not_done(void **state)
{
	const char *why = trace_unavailable(), *only = getenv("KIND"), *often = getenv("EVERY"), *all = getenv("ERRORS");
	unsigned every = often ? (unsigned)atoi(often) : EVERY, faults = 0;
	(void)state;
	if (why) {
		printf("skipped: %s\n", why);
		skip();
	}
	stack_make(&stack, scene_base(), NULL);
	printf("| change | system calls | faults | refused | done all the same |\n|---|---|---|---|---|\n");
	for (size_t i = 0; i < nkinds; i++) {
		struct row r = { .name = kinds[i].name, .index = (unsigned)i };
		if (kind_steps(&kinds[i]) > 1 || (only ? !strstr(kinds[i].name, only) : i % KINDS))
			continue;
		run_kind(&r, &kinds[i], every ? every : 1, all != NULL);
		printf("| %s | %u | %u | %u | %u |\n", r.name, r.calls, r.faults, r.refused, r.done);
		fflush(stdout);
		faults += r.faults;
	}
	stack_remove(&stack);
	assert_true(faults || only);
	assert_int_equal(failures, 0);
}

/* ---- reading ---- */
struct reading {
	const char *name, *path;
	/* What is wrong with what it says, or NULL. Of a status other than the wanted one, *st is it. */
	const char *(*run)(const struct fh *fh, nfsstat3 *st);
	nfsstat3 wanted;
	unsigned entries;
};
static const struct reading *reading; /* the one at hand */

static const char *just_look(const struct fh *fh, nfsstat3 *st)
{
	(void)fh, (void)st;
	return NULL;
}

static const char *get_attributes(const struct fh *fh, nfsstat3 *st)
{
	fattr3 a;
	*st = client_getattr(&client, fh, &a);
	return !*st && (a.type != NF3REG || a.nlink != 3 || a.size != 23) ? "wrong attributes" : NULL;
}

static const char *read_file(const struct fh *fh, nfsstat3 *st)
{
	char buf[100];
	uint32_t got = 0;
	bool eof = false;
	*st = client_read(&client, fh, 0, sizeof buf, buf, &got, &eof);
	return !*st && (got != 10 || !eof || memcmp(buf, "from below", 10) != 0) ? "wrong bytes" : NULL;
}

static const char *read_target(const struct fh *fh, nfsstat3 *st)
{
	char target[100] = "";
	*st = client_readlink(&client, fh, target, sizeof target);
	return !*st && strcmp(target, "lfile") != 0 ? "wrong target" : NULL;
}

static const char *list(const struct fh *fh, nfsstat3 *st)
{
	long n = client_list(&client, fh, 4096, NULL, NULL);
	*st = n < 0 ? (nfsstat3)-n : NFS3_OK;
	return n >= 0 && n != reading->entries ? "wrong number of entries" : NULL;
}

static const char *list_plus(const struct fh *fh, nfsstat3 *st)
{
	long n = client_listplus(&client, fh, 4096, NULL, NULL);
	*st = n < 0 ? (nfsstat3)-n : NFS3_OK;
	return n >= 0 && n != reading->entries ? "wrong number of entries" : NULL;
}

static const struct reading readings[] = {
	{ "lookup: in a deep lower directory", "ldir/deep/er/file", just_look, NFS3_OK, 0 },
	{ "lookup: in a merged directory", "mdir/between", just_look, NFS3_OK, 0 },
	{ "lookup: of a whiteout", "gone", just_look, NFS3ERR_NOENT, 0 },
	{ "lookup: of a merged whiteout", "emptied/x", just_look, NFS3ERR_NOENT, 0 },
	{ "getattr: of a lower file of three names", "hard1", get_attributes, NFS3_OK, 0 },
	{ "read: a lower file", "lfile", read_file, NFS3_OK, 0 },
	{ "readlink", "llink", read_target, NFS3_OK, 0 },
	{ "readdir: a merged directory", "mdir", list, NFS3_OK, 5 },
	{ "readdir: an emptied directory", "emptied", list, NFS3_OK, 2 },
	{ "readdirplus: a merged directory", "mdir", list_plus, NFS3_OK, 5 },
	{ "readdirplus: an emptied directory", "emptied", list_plus, NFS3_OK, 2 },
};

/* From the root, so that nothing of the scene is known to the server yet. */
static const char *run_reading(const char *prefix, unsigned scene_number, const struct trace_plan *plan, nfsstat3 *st, struct trace_log *log)
{
	char path[256];
	struct fh fh;
	snprintf(path, sizeof path, "%s%u/%s", prefix, scene_number, reading->path);
	trace_begin(stack.pid, plan);
	*st = client_path(&client, path, &fh, NULL);
	const char *wrong = *st ? NULL : reading->run(&fh, st);
	trace_last();
	client_call(&client, 100003, 3, 0, NULL, NULL, NULL, NULL);
	trace_end(log);
	return wrong;
}

static void reading_fault(struct row *r, const char *prefix, const struct trace_log *recorded, unsigned at, int err, unsigned scene_number,
			  const struct tree *model)
{
	const struct trace_call *c = &recorded->calls[at - 1];
	struct trace_plan plan = { .action = err == SHORT ? TRACE_SHORT : TRACE_FAIL, .err = err, .of_kind = true, .nr = c->nr, .until_told = true };
	const char *call = trace_name(c);
	struct trace_log log;
	struct scene scene;
	struct tree now;
	char why[512];
	nfsstat3 st;
	for (unsigned i = 0; i < at; i++)
		plan.at += recorded->calls[i].nr == c->nr;
	const char *wrong = run_reading(prefix, scene_number, &plan, &st, &log);
	if (!survived(r, &log, at, call, err))
		goto out;
	r->faults += log.hit;
	r->refused += log.hit && st != reading->wanted;
	r->done += log.hit && st == reading->wanted;
	snprintf(why, sizeof why, "%d", st);
	if (st != reading->wanted && (!st || !status_fits(st, err)))
		complain(r, at, call, err, "status", why);
	if (wrong)
		complain(r, at, call, err, "answer", wrong);
	scene_find(&scene, &client, prefix, scene_number);
	tree_read(&now, &client, &scene.top);
	if (!tree_looks_same(model, &now, true, why, sizeof why))
		complain(r, at, call, err, "afterwards", why);
	tree_free(&now);
out:
	trace_log_free(&log);
}

/* Of every so-manyth call from the first on. */
static unsigned count_faults(const struct trace_log *log, unsigned first, unsigned every, const struct row *r, bool all)
{
	int errors[MAX_ERRORS];
	unsigned n = 0;
	for (unsigned at = first; at <= log->n; at += every)
		n += choose(&log->calls[at - 1], at, r, all, errors);
	return n;
}

static void run_readings(struct row *r, unsigned every, bool all)
{
	struct trace_log log, cold;
	struct tree model;
	struct scene scene;
	char prefix[32];
	int errors[MAX_ERRORS];
	unsigned n, first = 1 + r->index % every;
	nfsstat3 st;
	scenes_make(&stack, "model", 2);
	start();
	for (unsigned i = 0; i < 2; i++) {
		const char *wrong = run_reading("model", i, &(struct trace_plan){ .until_told = true }, &st, i ? &log : &cold);
		if (wrong || st != reading->wanted)
			fail_msg("%s: status %d, %s", r->name, st, wrong ? wrong : "");
	}
	trace_log_free(&cold);
	scene_find(&scene, &client, "model", 0);
	tree_read(&model, &client, &scene.top);
	client_close(&client);
	server_stop(&stack);
	r->calls = (unsigned)log.n;
	while (!(n = count_faults(&log, first, every, r, all)) && first < log.n)
		first++; /* of the few that were chosen none can fail */
	snprintf(prefix, sizeof prefix, "r%u.", r->index);
	scenes_make(&stack, prefix, n + 1);
	start();
	trace_log_free(&cold);
	run_reading(prefix, n, &(struct trace_plan){ .until_told = true }, &st, &cold);
	trace_log_free(&cold);
	n = 0;
	for (unsigned at = first; at <= log.n; at += every)
		for (unsigned i = 0, m = choose(&log.calls[at - 1], at, r, all, errors); i < m; i++)
			reading_fault(r, prefix, &log, at, errors[i], n++, &model);
	client_close(&client);
	server_stop(&stack);
	scenes_remove(&stack, prefix, n + 1);
	scenes_remove(&stack, "model", 2);
	trace_log_free(&log);
	tree_free(&model);
}

static void a_read_whose_system_calls_fail_says_so_and_harms_nothing(void **state)
{
	const char *only = getenv("KIND"), *often = getenv("EVERY"), *all = getenv("ERRORS");
	unsigned every = often ? (unsigned)atoi(often) : EVERY, faults = 0;
	(void)state;
	if (trace_unavailable())
		skip();
	failures = 0;
	stack_make(&stack, scene_base(), NULL);
	printf("| read | system calls | faults | refused | done all the same |\n|---|---|---|---|---|\n");
	for (unsigned i = 0; i < sizeof readings / sizeof *readings; i++) {
		struct row r = { .name = readings[i].name, .index = i };
		if (only ? !strstr(r.name, only) : i % KINDS)
			continue;
		reading = &readings[i];
		run_readings(&r, every ? every : 1, all != NULL);
		printf("| %s | %u | %u | %u | %u |\n", r.name, r.calls, r.faults, r.refused, r.done);
		fflush(stdout);
		faults += r.faults;
	}
	stack_remove(&stack);
	assert_true(faults || only);
	assert_int_equal(failures, 0);
}

/* RFC 1813 3.3.7: clients must learn that bytes which were not committed may be lost. */
static void the_write_verifier_changes_after_a_failed_writeback(void **state)
{
	struct fh fh;
	uint64_t first, second, third, fourth;
	struct trace_log log;
	(void)state;
	if (trace_unavailable())
		skip();
	stack_make(&stack, scene_base(), "echo old >lower1/file");
	start();
	assert_nfs(client_lookup(&client, &client.root, "file", &fh, NULL), NFS3_OK);
	assert_nfs(client_write(&client, &fh, 0, "new", 3, UNSTABLE, &first), NFS3_OK);
	assert_nfs(client_commit(&client, &fh, &second), NFS3_OK);
	assert_true(first == second);
	trace_begin(stack.pid, &(struct trace_plan){ .action = TRACE_FAIL, .err = EIO, .of_kind = true, .nr = SYS_fsync, .at = 1 });
	assert_nfs(client_commit(&client, &fh, NULL), NFS3ERR_IO);
	trace_end(&log);
	assert_true(log.hit);
	trace_log_free(&log);
	assert_nfs(client_write(&client, &fh, 0, "NEW", 3, UNSTABLE, &third), NFS3_OK);
	assert_true(third != first);
	assert_nfs(client_commit(&client, &fh, &fourth), NFS3_OK);
	assert_true(fourth == third);
	client_close(&client);
	stack_remove(&stack);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_change_whose_system_calls_fail_is_done_or_not_done),
		cmocka_unit_test(a_read_whose_system_calls_fail_says_so_and_harms_nothing),
		cmocka_unit_test(the_write_verifier_changes_after_a_failed_writeback),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
