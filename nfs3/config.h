/* config.h: the configuration file, 'name = value' a line. */
#ifndef OVERNFSD_CONFIG_H
#define OVERNFSD_CONFIG_H

#include <stddef.h>

/* Takes one line; name and value are without the blanks around them. Returns NULL, or what would be right. */
typedef const char *config_set(void *arg, const char *name, const char *value);

/* Reads the file and calls set for every line that is neither empty nor a comment ('#' or ';' first). Lines may be of any length.
 * 0, or -EINVAL at the first line that is wrong, or what open() and read() say; then why holds one line for the user. */
int config_read(const char *path, config_set *set, void *arg, char *why, size_t size);

#endif
