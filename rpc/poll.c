/*
 * poll.c: whether a leader sleeps while nothing is to be done. To wake a sleeping processor takes longer than most calls do, so a leader that is asked
 * one call at a time looks for the next one a while before it sleeps, giving way to whoever wants the processor: as long as lately they came within that
 * while. Linux's halt polling does the same for guests (Documentation/virt/kvm/halt-polling.rst).
 */
#include "internal.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { NAPS = 9, NAP_NS = 500000, WORTH = 10, LIMIT_NS = 1000000 };

/* A long wait counts as two limits: three of them in a row, and it sleeps at once; three short ones, and it looks again. */
static void note_gap(struct shard *sh, uint64_t gap, uint64_t limit)
{
	if (gap > 2 * limit)
		gap = 2 * limit;
	sh->gap_ns = sh->gap_ns / 4 * 3 + gap / 4;
}

int poll_events(struct shard *sh, struct epoll_event *events, int max)
{
	uint64_t limit = atomic_load_explicit(&sh->server->poll_ns, memory_order_relaxed), since = now_ns();
	int n = 0;
	if (sh->lone && sh->gap_ns < limit) {
		while (!(n = epoll_wait(sh->epoll, events, max, 0)) && now_ns() - since < limit)
			sched_yield();
	}
	if (!n)
		n = epoll_wait(sh->epoll, events, max, -1);
	note_gap(sh, now_ns() - since, limit);
	return n;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

/* How much too late a sleeper is awake: what it takes to wake a processor, give or take a few us. */
static uint64_t waking_ns(void)
{
	uint64_t late[NAPS];
	prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul); /* of this thread; 0: the default again */
	for (int i = 0; i < NAPS; i++) {
		struct timespec nap = { .tv_nsec = NAP_NS };
		uint64_t since = now_ns();
		nanosleep(&nap, NULL);
		late[i] = now_ns() - since;
		late[i] -= late[i] < NAP_NS ? late[i] : NAP_NS;
	}
	prctl(PR_SET_TIMERSLACK, 0ul, 0ul, 0ul, 0ul);
	qsort(late, NAPS, sizeof late[0], by_value);
	return late[NAPS / 2];
}

int poll_processors(void)
{
	cpu_set_t ours;
	if (!sched_getaffinity(0, sizeof ours, &ours))
		return CPU_COUNT(&ours);
	long online = sysconf(_SC_NPROCESSORS_ONLN); /* more of them than the set has room for */
	return online < 1 ? 1 : (int)online;
}

uint64_t poll_worth_ns(void)
{
	bool rationed = cgroup_limit("cpu", "cpu.max", "cpu.cfs_quota_us") != UINT64_MAX;
	uint64_t worth = rationed ? 0 : WORTH * waking_ns();
	return worth < LIMIT_NS ? worth : LIMIT_NS;
}
