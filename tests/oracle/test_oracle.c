/*
 * The oracle: random stacks and operations, on overnfsd and on Linux overlayfs, must give the same results and trees.
 *
 *   test_oracle                   the fixed scripts and some seeds (SEED=n adds one)
 *   SEEDS=1-200 [OPS=5000] [JOBS=2] [FS=tmpfs|ext4|xfs|btrfs] test_oracle     a long run
 *   SCRIPT=file [ON_FAILURE=bash] test_oracle       replays a script; where it fails, runs a command beside the layers
 */
#include "client.h"
#include "run.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SEEDS_IN_CHECK = 3, OPERATIONS = 150 };
#else
enum { SEEDS_IN_CHECK = 12, OPERATIONS = 300 };
#endif

static const char *setting(const char *name, const char *otherwise)
{
	const char *v = getenv(name);
	return v && *v ? v : otherwise;
}

/* The story, and the script to replay it with. */
static void tell(const struct run *run, uint64_t seed, bool shrunk)
{
	char path[64] = "";
	printf("%s%s script (%zu steps):\n", run->story, shrunk ? "shrunk" : "whole", run->script.n);
	if (run->script.n < 100)
		script_write(stdout, &run->script);
	snprintf(path, sizeof path, "%s/oracle-%llu.script", setting("BUILD", "build"), (unsigned long long)seed);
	FILE *f = fopen(path, "we");
	if (!f)
		return;
	script_write(f, &run->script);
	fclose(f);
	printf("replay it: SCRIPT=%s %s/tests/oracle/test_oracle\n", path, setting("BUILD", "build"));
}

static size_t one_seed(uint64_t seed, size_t operations, bool *failed)
{
	struct run run;
	run_seed(&run, seed, operations, setting("FS", "tmpfs"));
	size_t n = run.operations;
	*failed = run.failed;
	if (run.failed) {
		printf("seed %llu failed after %zu operations: ", (unsigned long long)seed, n);
		if (run.script.n)
			step_print(stdout, &run.script.steps[run.script.n - 1]);
		printf("%s", run.story);
		fflush(stdout);
		if (!*setting("NO_SHRINK", ""))
			shrink(&run);
		tell(&run, seed, !*setting("NO_SHRINK", ""));
		fflush(stdout);
	}
	run_free(&run);
	return n;
}

/* ---- long runs ---- */
static int job(uint64_t first, uint64_t last, uint64_t step, size_t operations, int report)
{
	size_t sum[3] = { 0 }; /* operations, seeds, failed seeds */
	for (uint64_t seed = first; seed <= last; seed += step) {
		bool failed;
		sum[0] += one_seed(seed, operations, &failed);
		sum[1]++;
		sum[2] += failed;
		if (sum[1] % 10 == 0)
			printf("seed %llu: %zu operations, %zu failures so far in this process\n", (unsigned long long)seed, sum[0], sum[2]);
		fflush(stdout);
	}
	return write(report, sum, sizeof sum) == sizeof sum ? 0 : 1;
}

static int long_run(const char *seeds)
{
	unsigned long long first = 1, last = 0;
	size_t total[3] = { 0 }, sum[3];
	int jobs = atoi(setting("JOBS", "2")), fds[2];
	if (sscanf(seeds, "%llu-%llu", &first, &last) < 2)
		last = first;
	if (pipe(fds))
		return 1;
	fflush(stdout);
	for (int i = 0; i < jobs; i++)
		if (!fork())
			_exit(job(first + (uint64_t)i, last, (uint64_t)jobs, strtoul(setting("OPS", "5000"), NULL, 10), fds[1]));
	close(fds[1]);
	while (read(fds[0], sum, sizeof sum) == sizeof sum)
		for (int i = 0; i < 3; i++)
			total[i] += sum[i];
	while (wait(NULL) > 0)
		;
	printf("%zu operations over %zu seeds on %s: %zu seeds with an unexplained difference\n", total[0], total[1], setting("FS", "tmpfs"), total[2]);
	return total[2] || !total[1];
}

static int replay(const char *path)
{
	struct script script;
	struct run run;
	if (!script_read(path, &script))
		return 2;
	run_script(&run, &script);
	printf("%s%s\n", run.story, run.failed ? "the sides differ" : "the sides agree");
	if (run.failed && getenv("SHRINK")) {
		shrink(&run);
		tell(&run, 0, true);
	}
	return run.failed;
}

/* ---- in make check ---- */
static void fixed_script(void **state)
{
	struct script script;
	struct run run;
	assert_true(script_read(*state, &script));
	run_script(&run, &script);
	if (run.failed)
		fail_msg("%s", run.story);
	run_free(&run);
	script_free(&script);
}

static void random_operations_give_what_linux_gives(void **state)
{
	size_t operations = 0;
	bool failed, any = false;
	(void)state;
	for (uint64_t seed = 1; seed <= SEEDS_IN_CHECK; seed++) {
		operations += one_seed(seed, OPERATIONS, &failed);
		any |= failed;
	}
	if (getenv("SEED")) {
		operations += one_seed(strtoull(getenv("SEED"), NULL, 10), strtoul(setting("OPS", "1000"), NULL, 10), &failed);
		any |= failed;
	}
	assert_false(any);
	printf("| oracle: %zu operations over %d seeds, no unexplained difference\n", operations, SEEDS_IN_CHECK + (getenv("SEED") != NULL));
}

static struct CMUnitTest script_test(const char *path)
{
	char *name = strdup(strrchr(path, '/') + 1);
	*strrchr(name, '.') = 0;
	return (struct CMUnitTest){ .name = name, .test_func = fixed_script, .initial_state = strdup(path) };
}

int main(void)
{
	static struct CMUnitTest tests[500];
	size_t n = 0;
	glob_t scripts = { 0 };
	const char *impossible = run_is_impossible();
	char *server = realpath(setting("OVERNFSD", "build/overnfsd"), NULL); /* runs change their directory */
	if (server)
		setenv("OVERNFSD", server, 1);
	free(server);
	if (impossible) {
		printf("%s\n", impossible);
		return 77;
	}
	if (getenv("SEEDS"))
		return long_run(getenv("SEEDS"));
	if (getenv("SCRIPT"))
		return replay(getenv("SCRIPT"));
	if (!glob("tests/oracle/*.script", 0, NULL, &scripts))
		for (size_t i = 0; i < scripts.gl_pathc && n < 490; i++)
			tests[n++] = script_test(scripts.gl_pathv[i]);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(random_operations_give_what_linux_gives);
	int failed = _cmocka_run_group_tests("oracle", tests, n, NULL, NULL);
	for (size_t i = 0; i + 1 < n; i++) {
		free((char *)tests[i].name);
		free(tests[i].initial_state);
	}
	globfree(&scripts);
	return failed;
}
