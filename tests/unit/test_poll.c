/* poll.c: when a leader looks for events and when it sleeps, and for how long looking is worth its while. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../rpc/internal.h"

#include <sched.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_NS = 1000000, LONG_NS = 5 * LIMIT_NS };

/* A shard whose only event comes by a timer. */
struct fixture {
	struct rpc_server server;
	struct shard shard;
	int timer;
};

static int setup(void **state)
{
	static struct fixture f;
	f = (struct fixture){ .shard = { .server = &f.server, .epoll = epoll_create1(0), .lone = true }, .timer = timerfd_create(CLOCK_MONOTONIC, 0) };
	atomic_store(&f.server.poll_ns, LIMIT_NS);
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = &f };
	*state = &f;
	return epoll_ctl(f.shard.epoll, EPOLL_CTL_ADD, f.timer, &e);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	close(f->shard.epoll);
	close(f->timer);
	return 0;
}

static void wait_for_one(struct fixture *f, long after_ns)
{
	struct epoll_event e[2];
	uint64_t times;
	struct itimerspec t = { .it_value.tv_nsec = after_ns };
	assert_int_equal(timerfd_settime(f->timer, 0, &t, NULL), 0);
	assert_int_equal(poll_events(&f->shard, e, 2), 1);
	assert_ptr_equal(e[0].data.ptr, f);
	assert_int_equal(read(f->timer, &times, sizeof times), sizeof times);
}

static void an_event_is_found_while_looking_and_while_asleep(void **state)
{
	struct fixture *f = *state;
	wait_for_one(f, 1); /* there already */
	wait_for_one(f, LIMIT_NS / 4);
	wait_for_one(f, LONG_NS); /* looked for in vain, then slept */
	f->shard.lone = false;
	wait_for_one(f, LIMIT_NS / 4);
	atomic_store(&f->server.poll_ns, 0);
	wait_for_one(f, LIMIT_NS / 4);
}

static void who_waits_long_sleeps_at_once(void **state)
{
	struct fixture *f = *state;
	assert_true(f->shard.gap_ns < LIMIT_NS);
	for (int i = 0; i < 3; i++)
		wait_for_one(f, LONG_NS);
	assert_true(f->shard.gap_ns >= LIMIT_NS);
}

static void one_long_wait_changes_nothing(void **state)
{
	struct fixture *f = *state;
	wait_for_one(f, 900000000);
	assert_true(f->shard.gap_ns < LIMIT_NS);
}

static void who_is_asked_again_looks_again(void **state)
{
	struct fixture *f = *state;
	f->shard.gap_ns = 2 * LIMIT_NS; /* the most that it can be */
	struct epoll_event e;
	struct itimerspec now = { .it_value.tv_nsec = 1 };
	assert_int_equal(timerfd_settime(f->timer, 0, &now, NULL), 0);
	uint64_t times;
	assert_int_equal(read(f->timer, &times, sizeof times), sizeof times);
	assert_int_equal(timerfd_settime(f->timer, 0, &now, NULL), 0);
	while (epoll_wait(f->shard.epoll, &e, 1, -1) != 1)
		;
	for (int i = 0; i < 4; i++) /* each finds it there */
		assert_int_equal(poll_events(&f->shard, &e, 1), 1);
	assert_true(f->shard.gap_ns < LIMIT_NS);
}

static void looking_is_worth_some_time_but_never_more_than_a_millisecond(void **state)
{
	(void)state;
	assert_true(poll_worth_ns() <= LIMIT_NS);
}

static void run_on_one(const cpu_set_t *of)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	for (int i = 0; !CPU_COUNT(&one); i++)
		if (CPU_ISSET(i, of))
			CPU_SET(i, &one);
	assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
}

static void processors_are_those_that_the_server_may_use(void **state)
{
	(void)state;
	cpu_set_t all;
	assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
	assert_int_equal(poll_processors(), CPU_COUNT(&all));
	run_on_one(&all);
	assert_int_equal(poll_processors(), 1);
	assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

/* What comes of busy_poll_us. */
static int looks_for(int busy_poll_us)
{
	struct rpc_server *s;
	assert_int_equal(rpc_server_create(&(struct rpc_config){ .busy_poll_us = busy_poll_us }, &s), 0);
	int us = s->config.busy_poll_us;
	rpc_server_stop(s);
	return us;
}

static void on_one_processor_it_looks_for_as_long_as_it_is_told_to(void **state)
{
	cpu_set_t all;
	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
	run_on_one(&all);
	assert_int_equal(looks_for(-1), 0);
	assert_int_equal(looks_for(100), 100);
	assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

/* In a mount namespace of its own, where /sys/fs/cgroup holds what we write there. 77: there is no right to it. */
static int worth_with(const char *cpu_max)
{
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, NULL))
		return 77;
	FILE *f = fopen("/sys/fs/cgroup/cpu.max", "w");
	if (!f || fputs(cpu_max, f) < 0 || fclose(f))
		return 77;
	return poll_worth_ns() > 0;
}

static void with_a_quota_of_processor_time_none_is_spent_on_looking(void **state)
{
	static const struct { const char *cpu_max; int looks; } cases[] = { { "max 100000\n", 1 }, { "50000 100000\n", 0 } };
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int status;
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (!pid)
			_exit(worth_with(cases[i].cpu_max));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		if (WEXITSTATUS(status) == 77) {
			print_message("skipped: no right to mount\n");
			skip();
		}
		assert_int_equal(WEXITSTATUS(status), cases[i].looks);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_event_is_found_while_looking_and_while_asleep, setup, teardown),
		cmocka_unit_test_setup_teardown(who_waits_long_sleeps_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(one_long_wait_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(who_is_asked_again_looks_again, setup, teardown),
		cmocka_unit_test(looking_is_worth_some_time_but_never_more_than_a_millisecond),
		cmocka_unit_test(processors_are_those_that_the_server_may_use),
		cmocka_unit_test(on_one_processor_it_looks_for_as_long_as_it_is_told_to),
		cmocka_unit_test(with_a_quota_of_processor_time_none_is_spent_on_looking),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
