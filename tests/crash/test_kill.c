/*
 * Promise M2, proved: the server is killed at every system call that it makes for every kind of change, one after the other. Those that only read are
 * left out, as what is on disk is the same there as at the call before; ALL=1 has them too. Started again, the server must
 * show the tree as it was before the change or as it is after it, to the last attribute; every handle taken before must still name its object; the
 * work directory must be empty; doing the change (again, if it had not happened) must work; and Linux overlayfs must show the same tree.
 *
 * KIND=TEXT runs the kinds whose name holds TEXT alone; EVERY=N kills at every Nth of these calls (by default, every third);
 * CRASH_DIR=DIR puts the trees on another file system;
 * CRASH_ARGS=OPTIONS gives the server more options (--async).
 */
#include "kinds.h"
#include "trace.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
enum { EVERY = 17, KINDS = 23 };
#elif defined(__SANITIZE_ADDRESS__)
enum { EVERY = 17, KINDS = 5 }; /* a start of the server takes long there: every fifth kind */
#else
enum { EVERY = 3, KINDS = 1 };
#endif

enum { SPARE = 12 };

static struct stack stack;
static char args[256];
static unsigned failures;
static bool all_calls, linux_too;

struct row {
	const struct kind *kind;
	unsigned index; /* its scenes are named by it */
	size_t nsteps;
	struct tree model[STEPS_MAX + 1]; /* what the tree is after each step, in a scene where nothing is killed */
	unsigned calls, points, kills, before, after, neither;
};

static void complain(const struct row *r, unsigned at, const char *call, const char *what, const char *why)
{
	if (++failures <= 40)
		fprintf(stderr, "%s, killed at call %u (%s): %s: %s\n", r->kind->name, at, call, what, why);
}

static void start(struct client *c)
{
	server_start(&stack, args);
	client_open(c, &stack, 0, 0);
	c->may_break = true;
}

/* The calls to be killed at. */
static unsigned points_in(const struct trace_log *log)
{
	unsigned n = 1; /* the first */
	for (size_t i = 0; i + 1 < log->n; i++)
		n += trace_changes(&log->calls[i]);
	return all_calls ? (unsigned)log->n : n;
}

/* How it goes when nothing is killed: the models, and how many system calls there are. The first scene is for what is done only once. */
static void record(struct row *r)
{
	struct client c;
	struct scene scene;
	struct trace_log log;
	scenes_make(&stack, "model", 2);
	start(&c);
	for (unsigned i = 0; i < 2; i++) {
		scene_find(&scene, &c, "model", i);
		kind_setup(r->kind, &scene);
		r->calls = r->points = 0;
		for (size_t step = 0; step < r->nsteps; step++) {
			struct tree *before = &r->model[step];
			tree_free(before);
			tree_read(before, &c, &scene.top);
			assert_nfs(before->status, NFS3_OK);
			trace_begin(stack.pid, &(struct trace_plan){ .action = TRACE_WATCH });
			nfsstat3 st = kind_step(r->kind, step, &scene, before);
			trace_end(&log);
			if (st || log.killed)
				fail_msg("%s: status %d", r->kind->name, st);
			r->calls += (unsigned)log.n;
			r->points += points_in(&log);
			trace_log_free(&log);
		}
		tree_free(&r->model[r->nsteps]);
		tree_read(&r->model[r->nsteps], &c, &scene.top);
		assert_nfs(r->model[r->nsteps].status, NFS3_OK);
	}
	client_close(&c);
	server_stop(&stack);
	scenes_remove(&stack, "model", 2);
}

static bool work_is_empty(char *why, size_t size)
{
	char path[128];
	bool empty = true;
	snprintf(path, sizeof path, "%s/work/work", stack.dir);
	DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
			empty = false;
			snprintf(why, size, "%s is left", e->d_name);
		}
	closedir(d);
	return empty;
}

struct handles {
	size_t n;
	struct {
		bool asked;
		nfsstat3 status;
		uint64_t fileid;
	} at[128];
};

/* By handle alone, before anything is looked up by name. */
static void ask_handles(struct handles *h, struct client *c, const struct tree *before, unsigned turn)
{
	fattr3 a = { 0 };
	assert_true(before->n <= 128);
	for (h->n = 0; h->n < before->n; h->n++) {
		h->at[h->n].asked = turn % 4 == 0 || (h->n + turn) % 4 == 0; /* each costs a search of the layers, if the map was not written yet */
		if (!h->at[h->n].asked)
			continue;
		h->at[h->n].status = client_getattr(c, &before->nodes[h->n].fh, &a);
		h->at[h->n].fileid = a.fileid;
	}
}

static bool handles_hold(const struct handles *h, const struct tree *before, const struct tree *now, char *why, size_t size)
{
	for (size_t i = 0; i < h->n; i++) {
		const struct tree_node *n = &before->nodes[i];
		bool there = tree_find_handle(now, &n->fh);
		const char *what = NULL;
		if (!h->at[i].asked)
			continue;
		if (there && h->at[i].status)
			what = "did not resolve";
		else if (there && h->at[i].fileid != n->attr.fileid)
			what = "has another file id";
		else if (!there && h->at[i].status != NFS3ERR_STALE)
			what = "of what is gone should be stale";
		if (what) {
			snprintf(why, size, "the handle of /%s %s (%d)", n->path, what, h->at[i].status);
			return false;
		}
	}
	return true;
}

/* After a kill in `step`: what was there before is in `before`. Counts what is found, goes on to the end, and leaves the last tree in `last`. */
static void check_restarted(struct row *r, struct client *c, unsigned scene_number, size_t step, const struct tree *before, unsigned at, const char *call,
			    struct tree *last)
{
	struct scene scene;
	struct handles handles;
	struct tree now;
	char why[512], why_after[512], prefix[32];
	if (!work_is_empty(why, sizeof why))
		complain(r, at, call, "work directory", why);
	ask_handles(&handles, c, before, at);
	snprintf(prefix, sizeof prefix, "s%u.", r->index);
	scene_find(&scene, c, prefix, scene_number);
	tree_read(&now, c, &scene.top);
	bool is_before = tree_same(before, &now, why, sizeof why);
	bool is_after = !is_before && tree_changed_alike(before, &now, &r->model[step], &r->model[step + 1], why_after, sizeof why_after);
	r->before += is_before;
	r->after += is_after;
	if (!is_before && !is_after) {
		r->neither++;
		complain(r, at, call, "not as before", why);
		complain(r, at, call, "not as after", why_after);
	}
	if (!handles_hold(&handles, before, &now, why, sizeof why))
		complain(r, at, call, is_before ? "as before, but" : "as after, but", why);
	size_t first = is_before || r->kind->again ? step : step + 1;
	for (size_t i = first; i < r->nsteps; i++) {
		if (i > first) {
			tree_free(&now);
			tree_read(&now, c, &scene.top);
		}
		nfsstat3 st = kind_step(r->kind, i, &scene, &now);
		snprintf(why, sizeof why, "status %d", st);
		if (st)
			complain(r, at, call, "going on does not work", why);
	}
	tree_free(last);
	tree_read_twice(last, c, &scene.top);
	if (is_before && step == 0 && !tree_changed_alike(before, last, &r->model[0], &r->model[r->nsteps], why, sizeof why))
		complain(r, at, call, "not as after when gone on", why);
	tree_free(&now);
}

/* One scene: killed at call `at` of the change's calls. False: there are fewer. */
static bool kill_once(struct row *r, struct client *c, unsigned scene_number, unsigned at, struct tree *last)
{
	struct scene scene;
	struct tree before;
	struct trace_log log = { 0 };
	char prefix[32], call[32];
	unsigned done = 0;
	size_t step = 0;
	snprintf(prefix, sizeof prefix, "s%u.", r->index);
	scene_find(&scene, c, prefix, scene_number);
	kind_setup(r->kind, &scene);
	memset(&before, 0, sizeof before);
	for (; step < r->nsteps; step++) {
		tree_free(&before);
		tree_read(&before, c, &scene.top);
		trace_begin(stack.pid, &(struct trace_plan){ .action = TRACE_KILL, .changed = !all_calls, .at = at > done ? at - done : 0 });
		nfsstat3 st = kind_step(r->kind, step, &scene, &before);
		trace_end(&log);
		done += points_in(&log);
		if (log.killed)
			break;
		trace_log_free(&log);
		if (st)
			fail_msg("%s: status %d", r->kind->name, st);
	}
	if (!log.killed) {
		tree_free(&before);
		tree_read(last, c, &scene.top);
		return false;
	}
	snprintf(call, sizeof call, "%s", trace_name(&log.calls[log.n - 1]));
	trace_log_free(&log);
	assert_true(c->broken);
	r->kills++;
	client_close(c);
	stack.pid = 0; /* waited for by the tracer */
	start(c);
	check_restarted(r, c, scene_number, step, &before, at, call, last);
	tree_free(&before);
	return true;
}

static int mount_linux(char path[128])
{
	char options[512];
	snprintf(path, 128, "%s/merged", stack.dir);
	mkdir(path, 0755);
	snprintf(options, sizeof options, "lowerdir=%s/lower1:%s/lower2,upperdir=%s/upper,workdir=%s/work,redirect_dir=on,metacopy=on,index=on,xino=off",
		 stack.dir, stack.dir, stack.dir, stack.dir);
	return mount("overlay", path, "overlay", 0, options) ? -errno : 0;
}

/* Linux overlayfs over the same layers shows what we showed. */
static void check_linux(struct row *r, const struct tree *last, unsigned n)
{
	char path[128], top[256], why[512];
	int rc = mount_linux(path);
	if (rc) {
		complain(r, 0, "all", "Linux overlayfs does not mount it", strerror(-rc));
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		struct tree local;
		snprintf(top, sizeof top, "%s/s%u.%u", path, r->index, i);
		tree_read_local(&local, top);
		if (!tree_looks_same(&last[i], &local, false, why, sizeof why))
			complain(r, i + 1, "Linux overlayfs", "shows another tree", why);
		tree_free(&local);
	}
	assert_int_equal(umount(path), 0);
}

/* Does it mount an empty stack? */
static bool linux_mounts(void)
{
	char path[128];
	if (mount_linux(path))
		return false;
	assert_int_equal(umount(path), 0);
	stack_sh(&stack, "rm -rf work/*");
	return true;
}

static void run_kind(struct row *r, unsigned every)
{
	struct client c;
	char prefix[32];
	unsigned n = 0, at = 1 + r->index % every;
	r->nsteps = kind_steps(r->kind);
	record(r);
	unsigned scenes = (r->points + SPARE) / every + 2; /* a server that just started makes some calls more */
	struct tree *last = calloc(scenes, sizeof *last);
	assert_non_null(last);
	snprintf(prefix, sizeof prefix, "s%u.", r->index);
	scenes_make(&stack, prefix, scenes);
	start(&c);
	while (kill_once(r, &c, n, at, &last[n])) {
		at += every;
		assert_true(++n < scenes);
	}
	n++;
	client_close(&c);
	server_stop(&stack);
	if (linux_too)
		check_linux(r, last, n);
	scenes_remove(&stack, prefix, scenes);
	for (unsigned i = 0; i < scenes; i++)
		tree_free(&last[i]);
	free(last);
	for (size_t i = 0; i <= r->nsteps; i++)
		tree_free(&r->model[i]);
}

static void a_kill_at_any_system_call_leaves_the_tree_as_before_or_as_after(void **state)
{
	const char *why = trace_unavailable(), *only = getenv("KIND"), *often = getenv("EVERY");
	unsigned calls = 0, kills = 0, every = often ? (unsigned)atoi(often) : EVERY;
	(void)state;
	if (why) {
		printf("skipped: %s\n", why);
		skip();
	}
	snprintf(args, sizeof args, "--no-root-squash --max-objects 4096 %s", getenv("CRASH_ARGS") ? getenv("CRASH_ARGS") : "");
	stack_make(&stack, scene_base(), NULL);
	printf("| change | system calls | killed at | as before | as after | neither |\n|---|---|---|---|---|---|\n");
	all_calls = getenv("ALL");
	linux_too = linux_mounts();
	for (size_t i = 0; i < nkinds; i++) {
		struct row r = { .kind = &kinds[i], .index = (unsigned)i };
		if (only ? !strstr(kinds[i].name, only) : i % KINDS)
			continue;
		run_kind(&r, every ? every : 1);
		printf("| %s | %u | %u | %u | %u | %u |\n", r.kind->name, r.calls, r.kills, r.before, r.after, r.neither);
		fflush(stdout);
		calls += r.calls;
		kills += r.kills;
	}
	printf("| all, %s%s | %u | %u | | | |\n", linux_too ? "seen the same by Linux overlayfs" : "not compared with Linux overlayfs, which can't be mounted",
	       strncmp(stack.dir, "/dev/shm", 8) ? "" : ", on tmpfs", calls, kills);
	stack_remove(&stack);
	assert_true(kills || only);
	assert_int_equal(failures, 0);
}

/* The handle map is written behind, by a thread of its own: killed at each of its calls. */
static void a_kill_at_any_system_call_of_the_maps_writer_costs_no_handle(void **state)
{
	struct client c;
	struct trace_log log;
	unsigned kills = 0, handles = 0;
	(void)state;
	if (trace_unavailable())
		skip();
	stack_make(&stack, scene_base(), NULL);
	scenes_make(&stack, "map", 1);
	snprintf(args, sizeof args, "--no-root-squash");
	start(&c);
	for (unsigned at = 1; at < 100; at++) {
		struct scene scene;
		struct tree before, now;
		struct handles h;
		char name[32], why[512];
		struct fh fh;
		snprintf(name, sizeof name, "new%u", at);
		scene_find(&scene, &c, "map", 0);
		tree_read(&before, &c, &scene.top);
		trace_begin(stack.pid, &(struct trace_plan){ .action = TRACE_KILL, .at = at, .map_writer = true });
		client_create(&c, &c.root, name, GUARDED, 0644, &fh); /* answered before the writer comes to it */
		trace_end(&log);
		bool killed = log.killed;
		trace_log_free(&log);
		if (!killed) {
			tree_free(&before);
			break;
		}
		kills++;
		client_close(&c);
		stack.pid = 0;
		start(&c);
		ask_handles(&h, &c, &before, 0);
		tree_read(&now, &c, &scene.top);
		handles += (unsigned)h.n;
		if (!tree_same(&before, &now, why, sizeof why) || !handles_hold(&h, &before, &now, why, sizeof why))
			fail_msg("call %u: %s", at, why);
		assert_nfs(client_getattr(&c, &fh, NULL), NFS3_OK);
		tree_free(&before);
		tree_free(&now);
	}
	client_close(&c);
	stack_remove(&stack);
	printf("| the map's writer | killed at %u system calls | %u handles asked, all answered as before |\n", kills, handles);
	assert_true(kills >= 3);
}

/* A server without root lends itself the owner's permissions for a moment. */
enum { SELF = 65533 };
static uint32_t server_user(void)
{
	return geteuid() ? geteuid() : SELF;
}

static void start_without_root(struct client *c)
{
	char *server = strdup(getenv("OVERNFSD") ? getenv("OVERNFSD") : "build/overnfsd"), command[4096];
	snprintf(command, sizeof command, "setpriv --pdeathsig KILL --reuid=65533 --regid=65533 --clear-groups %s", server);
	if (!geteuid())
		setenv("OVERNFSD", command, 1);
	server_start(&stack, NULL);
	setenv("OVERNFSD", server, 1);
	free(server);
	client_open(c, &stack, server_user(), geteuid() ? getegid() : SELF);
	c->may_break = true;
}

/* The call that was traced is over: st. Where it took the server along, another runs from here on; else it must have gone well. */
static bool was_killed(struct client *c, nfsstat3 st)
{
	struct trace_log log;
	trace_end(&log);
	bool killed = log.killed;
	trace_log_free(&log);
	if (killed) {
		client_close(c);
		stack.pid = 0;
		start_without_root(c);
	} else {
		assert_nfs(st, NFS3_OK);
	}
	return killed;
}

enum lending { WRITES, CUTS, COPIES, LENDINGS };

static nfsstat3 change_lent(struct client *c, enum lending which, const struct fh *fh)
{
	sattr3 cut = { .mode = { .set_it = true, .set_uint32_u.value = 0400 }, .size = { .set_it = true, .set_uint64_u.value = 2 } };
	if (which == COPIES) {
		sattr3 mode = { .mode = { .set_it = true, .set_uint32_u.value = 0440 } };
		return client_setattr(c, fh, &mode, NULL, NULL);
	}
	return which == WRITES ? client_write(c, fh, 0, "TEXT", 4, FILE_SYNC, NULL) : client_setattr(c, fh, &cut, NULL, NULL);
}

static const char *const lendings[] = { "a write to what is mode 0444", "its mode and size set", "a copy-up into what is mode 0555" };

/* False: there are not so many calls. */
static bool kill_lending(struct client *c, enum lending which, unsigned at)
{
	struct fh fh;
	fattr3 a;
	char name[32];
	snprintf(name, sizeof name, "f%d.%u", which, at);
	if (which == COPIES)
		snprintf(name, sizeof name, "d/%u", at);
	else
		assert_nfs(client_create(c, &c->root, name, GUARDED, 0444, &fh), NFS3_OK);
	if (which != COPIES)
		assert_nfs(client_write(c, &fh, 0, "text", 4, FILE_SYNC, NULL), NFS3_OK);
	client_close(c);
	server_stop(&stack); /* the descriptor of its making is gone */
	start_without_root(c);
	if (which == COPIES)
		assert_nfs(client_path(c, name, &fh, NULL), NFS3_OK);
	trace_begin(stack.pid, &(struct trace_plan){ .action = TRACE_KILL, .changed = true, .at = at });
	nfsstat3 st = change_lent(c, which, &fh);
	bool killed = was_killed(c, st);
	assert_nfs(client_getattr(c, &fh, &a), NFS3_OK);
	bool cut = which == CUTS && a.size == 2, changed = which == COPIES && a.mode == 0440;
	if (a.mode != (cut ? 0400 : changed ? 0440 : 0444) || a.size != (cut ? 2 : 4))
		fail_msg("%s, killed at call %u: mode %o, size %llu", lendings[which], at, a.mode, (unsigned long long)a.size);
	if (which == COPIES)
		stack_sh(&stack, "test $(stat -c %a upper/d) = 555; test $(stat -c %Y upper/d) = $(date -d 2001-01-01 +%s)");
	return killed;
}

/* Of a directory of mode 0555 that is copied up. */
static bool kill_moving(struct client *c, bool removes, unsigned at)
{
	struct fh fh, now;
	fattr3 a;
	char name[32], moved[48];
	snprintf(name, sizeof name, "%c%u", removes ? 'r' : 'm', at);
	snprintf(moved, sizeof moved, "%s.moved", name);
	assert_nfs(client_path(c, name, &fh, NULL), NFS3_OK);
	assert_nfs(client_setattr(c, &fh, &(sattr3){ .mtime = { .set_it = SET_TO_SERVER_TIME } }, NULL, NULL), NFS3_OK);
	trace_begin(stack.pid, &(struct trace_plan){ .action = TRACE_KILL, .changed = true, .at = at });
	nfsstat3 st = removes ? client_rmdir(c, &c->root, name) : client_rename(c, &c->root, name, &c->root, moved);
	bool killed = was_killed(c, st);
	st = client_path(c, name, &now, &a);
	if (st == NFS3ERR_NOENT && !removes)
		st = client_path(c, moved, &now, &a);
	if (st == NFS3ERR_NOENT ? !removes : st || a.mode != 0555 || memcmp(now.data, fh.data, fh.len) != 0)
		fail_msg("%s, killed at call %u: status %d, mode %o", removes ? "rmdir" : "rename", at, st, a.mode);
	stack_sh(&stack, "test -z \"$(ls -A work/work)\"");
	return killed;
}

static void a_kill_while_permissions_are_lent_leaves_the_mode(void **state)
{
	struct client c;
	(void)state;
	if (trace_unavailable())
		skip();
	stack_make(&stack, NULL, "mkdir lower1/d; for i in $(seq 99); do echo low >lower1/d/$i; done; chmod 444 lower1/d/*; chmod 755 lower1/d; touch -d 2001-01-01 lower1/d;"
				 "for i in $(seq 60); do mkdir -m 555 lower1/r$i lower1/m$i; done;"
				 "[ $(id -u) != 0 ] || chown -R 65533:65533 .");
	start_without_root(&c);
	struct fh d;
	assert_nfs(client_path(&c, "d", &d, NULL), NFS3_OK);
	assert_nfs(client_setattr(&c, &d, &(sattr3){ .mode = { .set_it = true, .set_uint32_u.value = 0555 } }, NULL, NULL), NFS3_OK);
	for (enum lending which = 0; which < LENDINGS; which++) {
		unsigned at = 1;
		while (kill_lending(&c, which, at))
			at++;
		printf("| without root, %s | killed at %u system calls |\n", lendings[which], at - 1);
		assert_true(at > 5);
	}
	for (int removes = 0; removes < 2; removes++) {
		unsigned at = 1;
		while (kill_moving(&c, removes, at))
			at++;
		printf("| without root, a directory of mode 0555 is %s | killed at %u system calls |\n", removes ? "removed" : "renamed", at - 1);
		assert_true(at > 5);
	}
	client_close(&c);
	stack_sh(&stack, "chmod -R u+w upper");
	stack_remove(&stack);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_kill_at_any_system_call_leaves_the_tree_as_before_or_as_after),
		cmocka_unit_test(a_kill_at_any_system_call_of_the_maps_writer_costs_no_handle),
		cmocka_unit_test(a_kill_while_permissions_are_lent_leaves_the_mode),
	};
	keep_mounts_private();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
