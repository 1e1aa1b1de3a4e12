/* log.c: one line an event. */
#include "log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <syslog.h>
#include <unistd.h>

static atomic_int max_level = 6, use_syslog; /* set again once the start went well, when workers may log already */

void log_keep_standard(void)
{
	int fd;
	while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd < 3)
		;
	if (fd >= 0)
		close(fd);
}

void log_start(int level, int to_syslog)
{
	max_level = level;
	use_syslog = to_syslog;
	if (to_syslog)
		openlog("overnfsd", LOG_PID, LOG_DAEMON);
}

void log_line(int level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	if (level > max_level)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	for (char *c = line; *c; c++)
		*c = log_plain(*c);
	if (use_syslog)
		syslog(level, "%s", line);
	else
		fprintf(stderr, "overnfsd: %s\n", line);
}
