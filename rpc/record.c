/* record.c: where a record ends in the bytes of a connection (record marking, RFC 5531 11). */
#include "internal.h"

#include <string.h>

/* Makes one fragment of those that fill data up to end. Returns its length. */
static size_t join_fragments(uint8_t *data, size_t end, uint32_t last)
{
	size_t to = 4;
	for (size_t from = 0; from < end;) {
		size_t frag = get_be32(data + from) & 0x7fffffff;
		memmove(data + to, data + from + 4, frag);
		from += 4 + frag;
		to += frag;
	}
	put_be32(data, last | (uint32_t)(to - 4));
	return to - 4;
}

/*
 * The fragments of a whole record are joined in place; so are those that are there of one that is not: however many pieces a client makes of a
 * record, they are read once, and what is kept of it is no longer than the record.
 */
int record_next(uint8_t *data, size_t *len, size_t max, uint8_t **rec, size_t *rec_len, size_t *used, size_t *want)
{
	size_t at = 0, total = 0, fragments = 0, frag = 0;
	bool last = false;
	while (!last && *len - at >= 4) {
		uint32_t mark = get_be32(data + at);
		frag = mark & 0x7fffffff;
		if (total + frag > max)
			return -1;
		if (*len - at - 4 < frag)
			break;
		last = mark >> 31;
		total += frag;
		at += 4 + frag;
		fragments++;
		frag = 0;
	}
	if (last) {
		*used = at;
		*rec = data + 4;
		*rec_len = fragments > 1 ? join_fragments(data, at, 1u << 31) : total;
		return 1;
	}
	if (fragments > 1) {
		size_t joined = 4 + join_fragments(data, at, 0);
		memmove(data + joined, data + at, *len - at);
		*len -= at - joined;
		at = joined;
	}
	*want = at + 4 + frag;
	return 0;
}
