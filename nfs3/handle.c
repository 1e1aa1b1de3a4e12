/* handle.c: makes and checks handles; handle.h has the layout. */
#include "handle.h"

#include <endian.h>
#include <sodium.h>
#include <string.h>

enum { VERSION = 1, MACED = 24 };

void handle_encode(const struct overlay *ov, const struct overlay_id *id, uint8_t out[HANDLE_SIZE])
{
	uint16_t layer = htobe16((uint16_t)id->layer);
	uint32_t fsid = htobe32((uint32_t)overlay_fsid(ov));
	uint64_t ino = htobe64(id->ino), gen = htobe64(id->gen);
	out[0] = VERSION;
	out[1] = 0;
	memcpy(out + 2, &layer, 2);
	memcpy(out + 4, &fsid, 4);
	memcpy(out + 8, &ino, 8);
	memcpy(out + 16, &gen, 8);
	crypto_shorthash(out + MACED, out, MACED, overlay_key(ov));
}

nfsstat3 handle_decode(const struct overlay *ov, const void *data, size_t len, struct overlay_id *id)
{
	const uint8_t *h = data;
	uint8_t mac[crypto_shorthash_BYTES];
	uint16_t layer;
	uint32_t fsid;
	uint64_t ino, gen;
	if (len != HANDLE_SIZE || h[0] != VERSION || h[1])
		return NFS3ERR_BADHANDLE;
	crypto_shorthash(mac, h, MACED, overlay_key(ov));
	if (sodium_memcmp(mac, h + MACED, sizeof mac))
		return NFS3ERR_BADHANDLE;
	memcpy(&layer, h + 2, 2);
	memcpy(&fsid, h + 4, 4);
	memcpy(&ino, h + 8, 8);
	memcpy(&gen, h + 16, 8);
	if (be32toh(fsid) != (uint32_t)overlay_fsid(ov))
		return NFS3ERR_BADHANDLE;
	*id = (struct overlay_id){ .layer = be16toh(layer), .ino = be64toh(ino), .gen = be64toh(gen) };
	return NFS3_OK;
}
