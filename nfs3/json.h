/* json.h: what --json prints needs no more than this. */
#ifndef OVERNFSD_JSON_H
#define OVERNFSD_JSON_H

void json_print_string(const char *s); /* to stdout, quoted; a byte that is no UTF-8, as paths may hold, becomes \udcXX, from which Python's os.fsencode() has it back */

#endif
