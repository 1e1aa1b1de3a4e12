/* log.h: to stderr in the foreground, else to syslog. Levels are syslog's, 3 = error to 7 = debug. */
#ifndef OVERNFSD_LOG_H
#define OVERNFSD_LOG_H

/* Standard input, output and error that were closed become /dev/null: or a layer, a socket or the map would get their numbers, and what is printed. */
void log_keep_standard(void);
/* What stands for c in a line: '?' for a control character. Names and paths may hold them, and would make lines, or colours, of their own. */
static inline char log_plain(char c)
{
	return (unsigned char)c < ' ' || c == 127 ? '?' : c;
}
void log_start(int level, int to_syslog);
void log_line(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
