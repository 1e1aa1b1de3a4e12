/* json.c: see json.h. */
#include "json.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Bytes of the UTF-8 sequence that s begins with; 0: none (RFC 3629). */
static size_t sequence(const uint8_t *s)
{
	size_t n = *s < 0x80 ? 1 : *s >= 0xc2 && *s < 0xe0 ? 2 : *s >= 0xe0 && *s < 0xf0 ? 3 : *s >= 0xf0 && *s < 0xf5 ? 4 : 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] > 0x9f) || (*s == 0xf0 && s[1] < 0x90) || (*s == 0xf4 && s[1] > 0x8f))
		return 0; /* longer than need be, a surrogate, or beyond Unicode */
	return n;
}

void json_print_string(const char *text)
{
	const uint8_t *s = (const uint8_t *)text;
	putchar('"');
	for (size_t n; *s; s += n ? n : 1) {
		n = sequence(s);
		if (!n)
			printf("\\ufffd");
		else if (*s == '"' || *s == '\\')
			printf("\\%c", *s);
		else if (*s < 32)
			printf("\\u%04x", (unsigned)*s);
		else
			fwrite(s, 1, n, stdout);
	}
	putchar('"');
}
