/*
 * pidfile.h: the file that holds the daemon's process id; a process has one. It is opened and locked before anything is changed, and written once all
 * went well: a second server must not write over the first one's.
 */
#ifndef OVERNFSD_PIDFILE_H
#define OVERNFSD_PIDFILE_H

/* NULL, or what is wrong; then pid_file_close() is still to be called. */
const char *pid_file_open(const char *path);
const char *pid_file_write(void); /* the same; does nothing where none is open */
void pid_file_close(void); /* removes it where it was made or written here; may be called where none is open */

#endif
