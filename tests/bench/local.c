/*
 * local: what the same work costs without NFS, on a mounted overlayfs or a plain directory. Prints one number a line.
 *   local walk DIR         nftw(3) with lstat: entries a second
 *   local copyup DIR       opens each file for writing and writes one byte (closing it): files a second
 *   local touch FILE       the same for one file: seconds
 *   local write FILE MIB   a new file in writes of 1 MiB, then fsync: MiB a second
 *   local rewrite FILE S   the first 256 MiB again and again in writes of 1 MiB for S seconds, then fsync: MiB a second
 *   local names DIR        create, rename and remove 2,000 files: calls a second of each
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static long n;
static char block[1 << 20];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int count(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)path, (void)st, (void)type, (void)f;
	n++;
	return 0;
}

static int touch(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)f;
	if (type != FTW_F || !S_ISREG(st->st_mode) || st->st_size > 1 << 20)
		return 0;
	int fd = open(path, O_WRONLY);
	if (fd < 0 || pwrite(fd, "x", 1, 0) != 1 || close(fd))
		die(path);
	n++;
	return 0;
}

static double write_file(const char *path, long mib, double secs)
{
	int fd = open(path, O_RDWR | O_CREAT, 0644);
	double t0 = now();
	for (long i = 0; fd >= 0 && (mib ? i < mib : now() - t0 < secs); i++, n++)
		if (pwrite(fd, block, sizeof block, (off_t)(mib ? i : i % 256) << 20) != sizeof block)
			die(path);
	if (fd < 0 || fsync(fd) || close(fd))
		die(path);
	return (double)n / (now() - t0);
}

static void names(const char *dir)
{
	enum { COUNT = 2000 };
	char a[4096], b[4096];
	double t[4] = { now() };
	for (int step = 0; step < 3; step++) {
		for (int i = 0; i < COUNT; i++) {
			snprintf(a, sizeof a, "%s/local.a%d", dir, i);
			snprintf(b, sizeof b, "%s/local.b%d", dir, i);
			int rc = step == 0 ? open(a, O_CREAT | O_EXCL | O_WRONLY, 0644) : step == 1 ? rename(a, b) : unlink(b);
			if (rc < 0)
				die(a);
			if (step == 0)
				close(rc);
		}
		t[step + 1] = now();
	}
	for (int step = 0; step < 3; step++)
		printf("%.0f\n", COUNT / (t[step + 1] - t[step]));
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: local walk|copyup|touch|write|rewrite|names PATH [N]\n");
		return 2;
	}
	memset(block, 'x', sizeof block);
	double t0 = now();
	if (!strcmp(argv[1], "walk")) {
		if (nftw(argv[2], count, 64, FTW_PHYS))
			die(argv[2]);
		printf("%.0f\n", (double)n / (now() - t0));
	} else if (!strcmp(argv[1], "copyup")) {
		if (nftw(argv[2], touch, 64, FTW_PHYS))
			die(argv[2]);
		printf("%.0f\n", (double)n / (now() - t0));
	} else if (!strcmp(argv[1], "touch")) {
		int fd = open(argv[2], O_WRONLY);
		if (fd < 0 || pwrite(fd, "x", 1, 0) != 1 || close(fd))
			die(argv[2]);
		printf("%.4f\n", now() - t0);
	} else if (!strcmp(argv[1], "write") && argc > 3) {
		printf("%.1f\n", write_file(argv[2], atol(argv[3]), 0));
	} else if (!strcmp(argv[1], "rewrite") && argc > 3) {
		printf("%.1f\n", write_file(argv[2], 0, atof(argv[3])));
	} else if (!strcmp(argv[1], "names")) {
		names(argv[2]);
	} else {
		return 2;
	}
	return 0;
}
