/* log.h: to stderr in the foreground, else to syslog. Levels are syslog's, 3 = error to 7 = debug. */
#ifndef OVERNFSD_LOG_H
#define OVERNFSD_LOG_H

void log_start(int level, int to_syslog);
void log_line(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
