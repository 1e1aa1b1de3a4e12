/* json.c: see json.h. */
#include "json.h"

#include <stdbool.h>
#include <stdio.h>

/* The length of the well-formed UTF-8 sequence at s (RFC 3629), 0: there is none. */
static size_t utf8_length(const unsigned char *s)
{
	size_t n = *s < 0x80 ? 1 : *s >= 0xc2 && *s < 0xe0 ? 2 : (*s & 0xf0) == 0xe0 ? 3 : *s >= 0xf0 && *s < 0xf5 ? 4 : 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	bool is_long = (*s == 0xe0 && s[1] < 0xa0) || (*s == 0xf0 && s[1] < 0x90);
	bool is_none = (*s == 0xed && s[1] >= 0xa0) || (*s == 0xf4 && s[1] >= 0x90); /* a surrogate, or beyond the last */
	return is_long || is_none ? 0 : n;
}

void json_print_string(const char *string)
{
	putchar('"');
	for (const unsigned char *s = (const unsigned char *)string; *s;) {
		size_t n = utf8_length(s);
		if (!n)
			printf("\\udc%02x", *s);
		else if (*s == '"' || *s == '\\')
			printf("\\%c", *s);
		else if (*s < 32)
			printf("\\u%04x", *s);
		else
			fwrite(s, 1, n, stdout);
		s += n ? n : 1;
	}
	putchar('"');
}
