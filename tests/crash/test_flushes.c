/*
 * Under --sync, every change whose flush fails is answered with NFS3ERR_IO, in a reply that is whole (client_call() takes it apart to its last
 * byte); the write verifier is a new one, and the tree is as before the change or as after it.
 *
 * KIND=TEXT runs the kinds whose name holds TEXT alone; CRASH_DIR=DIR puts the trees on another file system.
 */
#include "kinds.h"
#include "trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct stack stack;
static struct client client;

/* As the server has it: nothing is written. */
static uint64_t verifier(const struct scene *scene)
{
	struct fh fh = scene_handle(scene, "ufile2");
	uint64_t verf;
	assert_nfs(client_commit(&client, &fh, &verf), NFS3_OK);
	return verf;
}

static bool is_synchronous(const struct kind *k)
{
	return kind_steps(k) == 1 && !k->unstable;
}

/* How many flushes it takes, and the tree before and after. */
static unsigned record(const struct kind *k, struct tree model[2])
{
	struct scene scene;
	struct trace_log log;
	unsigned n = 0;
	scene_find(&scene, &client, "model", 0);
	kind_setup(k, &scene);
	tree_read(&model[0], &client, &scene.top);
	trace_begin(stack.pid, &(struct trace_plan){ .action = TRACE_WATCH });
	nfsstat3 st = kind_step(k, 0, &scene, &model[0]);
	trace_end(&log);
	assert_nfs(st, NFS3_OK);
	for (size_t i = 0; i < log.n; i++)
		n += trace_flushes(&log.calls[i]);
	trace_log_free(&log);
	tree_read(&model[1], &client, &scene.top);
	return n;
}

/* Was flush number at of the index? What of it came back after a power cut would hide nothing. */
static bool is_of_index(const struct trace_log *log, unsigned at)
{
	size_t i = 0;
	while (!trace_flushes(&log->calls[i]) || --at)
		i++;
	const char *path = log->calls[i].path[0], *name = path ? strrchr(path, '/') : NULL;
	return name && !strcmp(name, "/index");
}

/* Its flush number at fails. False: it took fewer this time; of two files, one flush of all is the cheaper now and then. */
static bool fail_flush(const struct kind *k, unsigned at, unsigned scene_number, struct tree model[2])
{
	struct scene scene;
	struct tree before, now;
	struct trace_log log;
	char why[512] = "", why_after[512] = "";
	scene_find(&scene, &client, "scene", scene_number);
	kind_setup(k, &scene);
	tree_read(&before, &client, &scene.top);
	uint64_t old = verifier(&scene);
	trace_begin(stack.pid, &(struct trace_plan){ .action = TRACE_FAIL, .err = EIO, .flushes = true, .at = at, .paths = true });
	nfsstat3 st = kind_step(k, 0, &scene, &before);
	trace_end(&log);
	bool hit = log.hit;
	if (log.killed)
		fail_msg("%s: the server died", k->name);
	if (hit ? st != NFS3ERR_IO && (st || !is_of_index(&log, at)) : st != NFS3_OK)
		fail_msg("%s: flush %u failed, and the status is %d", k->name, at, st);
	if (hit && verifier(&scene) == old)
		fail_msg("%s: flush %u failed, and the write verifier is the old one", k->name, at);
	tree_read(&now, &client, &scene.top);
	if (!tree_same(&before, &now, why, sizeof why) && !tree_changed_alike(&before, &now, &model[0], &model[1], why_after, sizeof why_after))
		fail_msg("%s: flush %u failed, and the tree is neither as before (%s) nor as after (%s)", k->name, at, why, why_after);
	trace_log_free(&log);
	tree_free(&before);
	tree_free(&now);
	return hit;
}

static unsigned run_kind(const struct kind *k)
{
	enum { MOST = 8 };
	struct tree model[2] = { { 0 } };
	scenes_make(&stack, "model", 1);
	scenes_make(&stack, "scene", MOST);
	/* one thread: a parked reply can be settled by whoever comes to it first, and the tracer follows the thread that took the call */
	server_start(&stack, "--no-root-squash --sync --threads 1 --log-level error");
	client_open(&client, &stack, 0, 0);
	unsigned n = record(k, model), failed = 0;
	assert_true(n <= MOST);
	for (unsigned at = 1; at <= n; at++)
		failed += fail_flush(k, at, at - 1, model);
	if (!failed)
		fail_msg("%s: nothing is flushed", k->name);
	client_close(&client);
	server_stop(&stack);
	scenes_remove(&stack, "model", 1);
	scenes_remove(&stack, "scene", MOST);
	tree_free(&model[0]);
	tree_free(&model[1]);
	return failed;
}

static void a_change_whose_flush_fails_is_an_io_error(void **state)
{
	const char *why = trace_unavailable(), *only = getenv("KIND");
	(void)state;
	if (why) {
		printf("skipped: %s\n", why);
		skip();
	}
	unsigned changes = 0, flushes = 0;
	stack_make(&stack, scene_base(), NULL);
	for (size_t i = 0; i < nkinds; i++) {
		if (!is_synchronous(&kinds[i]) || (only && !strstr(kinds[i].name, only)))
			continue;
		flushes += run_kind(&kinds[i]);
		changes++;
	}
	stack_remove(&stack);
	printf("| %u kinds of change with %u flushes, each failing in turn: NFS3ERR_IO, a new write verifier\n", changes, flushes);
	assert_true(changes > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_change_whose_flush_fails_is_an_io_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
