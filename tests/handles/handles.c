/* handles.c: see handles.h. */
#include "handles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PAUSE_US = 20000 };

nfsstat3 patient_getattr(struct client *c, const struct fh *fh, fattr3 *attr)
{
	nfsstat3 st;
	while ((st = client_getattr(c, fh, attr)) == NFS3ERR_JUKEBOX)
		usleep(PAUSE_US);
	return st;
}

nfsstat3 patient_path(struct client *c, const char *path, struct fh *fh, fattr3 *attr)
{
	nfsstat3 st;
	while ((st = client_path(c, path, fh, attr)) == NFS3ERR_JUKEBOX)
		usleep(PAUSE_US);
	return st;
}

nfsstat3 patient_read(struct client *c, const struct fh *fh, void *buf, uint32_t size, uint32_t *got)
{
	nfsstat3 st;
	bool eof;
	while ((st = client_read(c, fh, 0, size, buf, got, &eof)) == NFS3ERR_JUKEBOX)
		usleep(PAUSE_US);
	return st;
}

struct fh handle_of(struct client *c, const char *path)
{
	struct fh fh;
	nfsstat3 st = patient_path(c, path, &fh, NULL);
	if (st)
		fail_msg("%s: status %d", path, st);
	return fh;
}

bool same_handle(const struct fh *a, const struct fh *b)
{
	return a->len == b->len && !memcmp(a->data, b->data, a->len);
}

bool reads(struct client *c, const struct fh *fh, const char *content)
{
	char buf[4096] = "";
	uint32_t got = 0;
	nfsstat3 st = patient_read(c, fh, buf, sizeof buf - 1, &got);
	if (!st && got == strlen(content) && !memcmp(buf, content, got))
		return true;
	printf("read: status %d, \"%.*s\" instead of \"%s\"\n", st, (int)got, buf, content);
	return false;
}

double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

unsigned long amount(const char *variable, unsigned long by_default)
{
	const char *v = getenv(variable), *build = getenv("BUILD");
	if (v)
		return strtoul(v, NULL, 10);
	return build && strstr(build, "san") ? by_default / 10 : by_default;
}

void name_programs(void)
{
	char path[4096];
	if (!getenv("OVERNFSD") && realpath("build/overnfsd", path))
		setenv("OVERNFSD", path, 1);
	snprintf(path, sizeof path, "%sctl", getenv("OVERNFSD") ? getenv("OVERNFSD") : "overnfsd");
	char *d = strstr(path, "overnfsdctl");
	if (d)
		memmove(d + 7, d + 8, strlen(d + 8) + 1); /* overnfsctl, beside it */
	setenv("OVERNFSCTL", path, 1);
}

bool mount_in(const struct stack *s, const char *script)
{
	char *quiet = NULL;
	/* a loop device that another test just let go may be busy for a moment */
	if (asprintf(&quiet, "mount() { for try in 1 2 3 4 5 6; do command mount \"$@\" && return 0; sleep 0.3; done; return 1; }; { %s; } >mount.log 2>&1", script) < 0)
		fail();
	bool ok = stack_says(s, quiet);
	free(quiet);
	if (!ok) {
		printf("skipped: %s\n", script);
		stack_says(s, "sed 's/^/skipped: /' mount.log");
	}
	return ok;
}

void unmount_all(const struct stack *s)
{
	stack_says(s, "for m in $(awk -v d=\"$PWD/\" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r); do umount -l \"$m\"; done");
}
