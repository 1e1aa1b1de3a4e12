/* json.c: see json.h. */
#include "json.h"

#include <stdio.h>

void json_print_string(const char *s)
{
	putchar('"');
	for (; *s; s++)
		if (*s == '"' || *s == '\\')
			printf("\\%c", *s);
		else if ((unsigned char)*s < 32)
			printf("\\u%04x", (unsigned)*s);
		else
			putchar(*s);
	putchar('"');
}
