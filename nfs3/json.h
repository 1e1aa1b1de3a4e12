/* json.h: what --json prints needs no more than this. */
#ifndef OVERNFSD_JSON_H
#define OVERNFSD_JSON_H

void json_print_string(const char *s); /* to stdout, quoted; bytes that are no UTF-8, which JSON can't hold, as U+FFFD */

#endif
