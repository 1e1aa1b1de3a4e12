/*
 * cgroup.c: how much of the machine is ours. A container or a unit of systemd has less of it than there is, as its control group says: cgroup v2
 * in one tree, v1 in one for each controller (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst; cgroups(7)).
 */
#include "internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TOP "/sys/fs/cgroup"

/* The number that the file of a group begins with; UINT64_MAX where it says "max" or -1, or can't be read. */
static uint64_t limit_of(const char *tree, const char *group, const char *file)
{
	char path[4400];
	long long n;
	snprintf(path, sizeof path, "%s%s/%s", tree, group, file);
	FILE *f = fopen(path, "re");
	if (!f)
		return UINT64_MAX;
	uint64_t limit = fscanf(f, "%lld", &n) == 1 && n >= 0 ? (uint64_t)n : UINT64_MAX;
	fclose(f);
	return limit;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Of a group and all above it: each binds. Cuts group to pieces. A container sees its own group at the top, whatever its name is outside. */
static uint64_t limit_above(const char *tree, char *group, const char *file)
{
	uint64_t limit = limit_of(tree, "", file);
	for (char *slash; (slash = strrchr(group, '/')); *slash = 0)
		limit = least(limit, limit_of(tree, group, file));
	return limit;
}

static bool has_word(char *list, const char *word)
{
	char *save = NULL;
	for (char *w = strtok_r(list, ",", &save); w; w = strtok_r(NULL, ",", &save))
		if (!strcmp(w, word))
			return true;
	return false;
}

uint64_t cgroup_limit(const char *controller, const char *v2, const char *v1)
{
	char line[4200], v1_tree[64];
	snprintf(v1_tree, sizeof v1_tree, TOP "/%s", controller);
	uint64_t limit = least(limit_of(TOP, "", v2), limit_of(v1_tree, "", v1));
	FILE *f = fopen("/proc/self/cgroup", "re"); /* lines like 0::/group, and with v1 4:cpu,cpuacct:/group */
	while (f && fgets(line, sizeof line, f)) {
		char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!group)
			continue;
		*group++ = 0;
		group[strcspn(group, "\n")] = 0;
		if (!controllers[1])
			limit = least(limit, limit_above(TOP, group, v2));
		else if (has_word(controllers + 1, controller))
			limit = least(limit, limit_above(v1_tree, group, v1));
	}
	if (f)
		fclose(f);
	return limit;
}

size_t rpc_memory(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
	uint64_t machine = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : (uint64_t)2 << 30;
	return (size_t)least(machine, cgroup_limit("memory", "memory.max", "memory.limit_in_bytes"));
}
