/*
 * fast.h: the calls that servers get most, decoded and encoded by hand; rpcgen's code does the same for all others, and tests/unit/test_fast.c holds the
 * two against each other. Decoders return false for what is not a whole call of the kind (rpcgen's then says what is wrong with it); handle, name and
 * data point into the call, a name is copied to be terminated. Encoders return the end of what they wrote; the caller sees to the room: RESULT_MAX
 * holds all but the data of READ.
 */
#ifndef OVERNFSD_FAST_H
#define OVERNFSD_FAST_H

#include "proc.h"

enum { RESULT_MAX = 512, READ_HEAD = 4 + 4 + 84 + 12 };

bool decode_getattr(const uint8_t *p, size_t len, GETATTR3args *a);
bool decode_lookup(const uint8_t *p, size_t len, LOOKUP3args *a, char name[NAME_LIMIT + 1]);
bool decode_access(const uint8_t *p, size_t len, ACCESS3args *a);
bool decode_read(const uint8_t *p, size_t len, READ3args *a);
bool decode_write(const uint8_t *p, size_t len, WRITE3args *a);
uint8_t *encode_getattr(uint8_t *out, const GETATTR3res *r);
uint8_t *encode_lookup(uint8_t *out, const LOOKUP3res *r);
uint8_t *encode_access(uint8_t *out, const ACCESS3res *r);
uint8_t *encode_read_head(uint8_t *out, const READ3res *r); /* without the data: READ_HEAD bytes where it succeeded with attributes */
uint8_t *encode_write(uint8_t *out, const WRITE3res *r);

/* rpc_proc.fast of each */
typedef long fast_run(struct rpc_call *call, const uint8_t *args, size_t len, uint8_t *out, size_t room);
fast_run fast_getattr, fast_lookup, fast_access, fast_read, fast_write;

#endif
