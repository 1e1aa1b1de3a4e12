/* config.c: reads the configuration file. */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static char *trim(char *s)
{
	while (isspace((unsigned char)*s))
		s++;
	for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]);)
		s[--n] = 0;
	return s;
}

/* NULL, or what would be right. */
static const char *take_line(char *line, size_t len, config_set *set, void *arg, char **name, char **value)
{
	*name = *value = NULL;
	if (strlen(line) != len)
		return "it holds a NUL byte; the file must be plain text";
	char *text = trim(line);
	if (!*text || *text == '#' || *text == ';')
		return NULL;
	if (*text == '[')
		return "there are no sections; write 'name = value' lines alone";
	char *equals = strchr(text, '=');
	if (!equals || equals == text)
		return "it must be 'name = value', or a comment behind '#'";
	*equals = 0;
	*name = trim(text);
	*value = trim(equals + 1);
	return set(arg, *name, *value);
}

int config_read(const char *path, config_set *set, void *arg, char *why, size_t size)
{
	FILE *f = fopen(path, "re");
	char *line = NULL, *name, *value;
	size_t room = 0;
	ssize_t len = -1;
	int rc = f ? 0 : -errno;
	errno = 0; /* getline() says the end and a failure alike */
	for (int number = 1; !rc && (len = getline(&line, &room, f)) >= 0; number++) {
		size_t mark = number == 1 && !strncmp(line, "\xef\xbb\xbf", 3) ? 3 : 0; /* some editors begin UTF-8 with it, and nobody sees it */
		const char *right = take_line(line + mark, (size_t)len - mark, set, arg, &name, &value);
		if (!right)
			continue;
		rc = -EINVAL;
		if (name)
			snprintf(why, size, "line %d: %s = %s: %s", number, name, value, right);
		else
			snprintf(why, size, "line %d: %s", number, right);
	}
	if (!rc && len < 0 && errno)
		rc = -errno;
	if (rc && rc != -EINVAL)
		snprintf(why, size, "it can't be read: %s", strerror(-rc));
	free(line);
	if (f)
		fclose(f);
	return rc;
}
