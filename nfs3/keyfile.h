/* keyfile.h: the file that holds the key of the handles: who shares it makes the same ones. */
#ifndef OVERNFSD_KEYFILE_H
#define OVERNFSD_KEYFILE_H

#include <stdbool.h>
#include <stdint.h>

/* Reads 32 hex digits; a file that is not there is made, for its owner alone, and *made set. NULL, or what is wrong. After sodium_init(). */
const char *key_file_read(const char *path, uint8_t key[16], bool *made);

#endif
