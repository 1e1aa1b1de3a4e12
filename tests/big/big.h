/* big.h: what the tests of big trees share: sizes, and the server's memory. */
#ifndef OVERNFSD_TESTS_BIG_H
#define OVERNFSD_TESTS_BIG_H

#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* BIG=1 in the environment: the full size; else what an automatic run has time for. */
static inline long size_of(long full, long usual, long sanitized)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	usual = sanitized;
#endif
	(void)sanitized;
	return getenv("BIG") ? full : usual;
}

/* ONLY=PATTERN in the environment: the tests whose names match it (* is anything). */
static inline void choose_tests(void)
{
	if (getenv("ONLY"))
		cmocka_set_test_filter(getenv("ONLY"));
}

/* field of /proc/PID/status in KiB: VmHWM is the most that was resident so far, VmRSS what is now. */
static inline long server_memory(const struct stack *s, const char *field)
{
	char path[64], line[256];
	long kib = -1;
	snprintf(path, sizeof path, "/proc/%d/status", (int)s->pid);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof line, f))
		if (!strncmp(line, field, strlen(field)) && line[strlen(field)] == ':')
			kib = atol(line + strlen(field) + 1);
	fclose(f);
	assert_true(kib > 0);
	return kib;
}

#endif
