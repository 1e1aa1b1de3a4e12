/* cgroup.c: what a control group leaves us of the machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../rpc/internal.h"
#include "options.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NO_RIGHT = 77, MIB = 1 << 20 };

static bool put(const char *path, const char *text)
{
	char dir[256];
	for (const char *slash = path; (slash = strchr(slash + 1, '/'));) {
		snprintf(dir, sizeof dir, "%.*s", (int)(slash - path), path);
		mkdir(dir, 0755);
	}
	FILE *f = fopen(path, "w");
	return f && fputs(text, f) >= 0 && !fclose(f);
}

struct file {
	const char *path, *text; /* under /sys/fs/cgroup */
};

/* /proc/self/cgroup and /sys/fs/cgroup are what we write there, in a mount namespace of our own. */
static bool pretend(const char *groups, const struct file files[])
{
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, NULL) ||
	    mount("tmpfs", "/proc", "tmpfs", 0, NULL))
		return false;
	bool ok = put("/proc/self/cgroup", groups);
	for (; files->path && ok; files++) {
		char path[200];
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s", files->path);
		ok = put(path, files->text);
	}
	return ok;
}

enum what { MEMORY, CPU, SERVER };
static bool is(enum what what, uint64_t expected)
{
	struct rpc_server *s;
	bool right;
	if (what == MEMORY)
		return rpc_memory() == expected;
	if (what == CPU)
		return (poll_worth_ns() == 0) == expected;
	if (rpc_server_create(&(struct rpc_config){ .threads = 4 }, &s))
		return false;
	right = s->config.max_queued == expected;
	rpc_server_stop(s);
	return right;
}

static void check(enum what what, uint64_t expected, const char *groups, const struct file files[])
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(pretend(groups, files) ? is(what, expected) : NO_RIGHT);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == NO_RIGHT) {
		print_message("skipped: no right to mount\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), true);
}
#define CHECK(what, expected, groups, ...) check(what, expected, groups, (const struct file[]){ __VA_ARGS__, { NULL, NULL } })

static const char v1[] = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n", v2[] = "0::/system.slice/overnfsd.service\n";

static void memory_is_what_the_group_allows(void **state)
{
	(void)state;
	CHECK(MEMORY, 32 * MIB, v2, { "system.slice/overnfsd.service/memory.max", "33554432\n" });
	CHECK(MEMORY, 32 * MIB, v2, { "system.slice/overnfsd.service/memory.max", "max\n" }, { "system.slice/memory.max", "33554432\n" });
	CHECK(MEMORY, 32 * MIB, "0::/\n", { "memory.max", "33554432\n" });
	CHECK(MEMORY, 32 * MIB, v1, { "memory/docker/abc/memory.limit_in_bytes", "33554432\n" });
	CHECK(MEMORY, 32 * MIB, v1, { "memory/memory.limit_in_bytes", "33554432\n" }); /* in the container, at the top */
}

static void without_a_limit_it_is_the_machines(void **state)
{
	uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	(void)state;
	CHECK(MEMORY, machine, v2, { "memory.max", "max\n" });
	CHECK(MEMORY, machine, "", { "other", "" });
	CHECK(MEMORY, machine, v1, { "memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n" });
}

static void replies_for_slow_readers_take_a_part_of_it(void **state)
{
	(void)state;
	CHECK(SERVER, 4 * MIB, v2, { "system.slice/overnfsd.service/memory.max", "33554432\n" });
	CHECK(SERVER, 4 * MIB, v1, { "memory/docker/abc/memory.limit_in_bytes", "33554432\n" });
}

static void objects_take_a_quarter_of_it_at_most(void **state)
{
	(void)state;
	assert_int_equal(options_objects((size_t)64 << 30), 1 << 20);
	assert_true(options_objects(256 * MIB) * 800 <= 64 * MIB);
	assert_true(options_objects(256 * MIB) > 50000);
	assert_int_equal(options_objects(4096), 16); /* as few as may be given */
}

static void a_quota_of_processor_time_is_seen_in_both_versions(void **state)
{
	(void)state;
	CHECK(CPU, true, v2, { "system.slice/cpu.max", "50000 100000\n" });
	CHECK(CPU, false, v2, { "system.slice/cpu.max", "max 100000\n" });
	CHECK(CPU, true, v1, { "cpu/docker/abc/cpu.cfs_quota_us", "50000\n" });
	CHECK(CPU, false, v1, { "cpu/docker/abc/cpu.cfs_quota_us", "-1\n" });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_what_the_group_allows),
		cmocka_unit_test(without_a_limit_it_is_the_machines),
		cmocka_unit_test(replies_for_slow_readers_take_a_part_of_it),
		cmocka_unit_test(objects_take_a_quarter_of_it_at_most),
		cmocka_unit_test(a_quota_of_processor_time_is_seen_in_both_versions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
