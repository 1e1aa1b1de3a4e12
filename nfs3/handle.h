/*
 * handle.h: the 32 bytes that a client holds for an object. Big-endian:
 *
 *   0  version (1)        8  inode number of the origin (8)
 *   1  flags, 0          16  generation of the origin (8)
 *   2  layer number (2)  24  MAC: SipHash-2-4 of bytes 0..23 under the overlay's key (8)
 *   4  export's fsid (4)
 *
 * Nothing in it changes with a remount, a reboot or another node; the same object always gets the same bytes.
 */
#ifndef OVERNFSD_HANDLE_H
#define OVERNFSD_HANDLE_H

#include "nfs3.h"
#include "overlay.h"

enum { HANDLE_SIZE = 32 };

void handle_encode(const struct overlay *ov, const struct overlay_id *id, uint8_t out[HANDLE_SIZE]);
/* NFS3_OK, or NFS3ERR_BADHANDLE for what this server (this key, this export) did not make. */
nfsstat3 handle_decode(const struct overlay *ov, const void *data, size_t len, struct overlay_id *id);

#endif
