/* pidfile.c: see pidfile.h. */
#include "pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static struct {
	int fd;
	bool made;
	char path[PATH_MAX];
} pid_file = { .fd = -1 };

const char *pid_file_open(const char *path)
{
	const int flags = O_WRONLY | O_CLOEXEC | O_NOFOLLOW;
	pid_file.fd = open(path, flags | O_CREAT | O_EXCL, 0644);
	pid_file.made = pid_file.fd >= 0;
	if (!pid_file.made && errno == EEXIST)
		pid_file.fd = open(path, flags);
	if (pid_file.fd >= 0 && flock(pid_file.fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
		return "it is in use by another server: give each one of its own";
	/* absolute, as a daemon leaves for / */
	return pid_file.fd < 0 || !realpath(path, pid_file.path) ? strerror(errno) : NULL;
}

const char *pid_file_write(void)
{
	if (pid_file.fd < 0)
		return NULL;
	bool ok = !ftruncate(pid_file.fd, 0) && dprintf(pid_file.fd, "%d\n", (int)getpid()) > 0;
	pid_file.made = true; /* ours from now on */
	return ok ? NULL : strerror(errno);
}

void pid_file_close(void)
{
	if (pid_file.made)
		unlink(pid_file.path);
	if (pid_file.fd >= 0)
		close(pid_file.fd);
}
