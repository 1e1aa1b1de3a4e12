/* wire.h: what rpcgen's decoders (nfs3.x, mount3.x) use instead of libtirpc's own. */
#ifndef OVERNFSD_WIRE_H
#define OVERNFSD_WIRE_H

#include <rpc/xdr.h>
#include <stdlib.h>
#include <string.h>

/* libtirpc reads the padding of all threads into one static buffer; this one leaves it alone. */
static inline bool_t wire_opaque(XDR *xdr, char *p, u_int len)
{
	char padding[4];
	return XDR_GETBYTES(xdr, p, len) && XDR_GETBYTES(xdr, padding, -len & 3);
}

static inline bool_t wire_bytes(XDR *xdr, char **p, u_int *len, u_int max)
{
	if (xdr->x_op != XDR_DECODE || *p)
		return xdr_bytes(xdr, p, len, max);
	if (!xdr_u_int(xdr, len) || *len > max)
		return FALSE;
	return !*len || ((*p = malloc(*len)) && wire_opaque(xdr, *p, *len));
}

/*
 * A string that holds a NUL would be another, shorter one in C: REMOVE of "a\0b" must not remove "a". It is decoded as the empty string, which
 * every procedure refuses (a name with NFS3ERR_ACCES, a link's target with NFS3ERR_INVAL, a path with MNT3ERR_NOENT).
 */
static inline bool_t wire_string(XDR *xdr, char **s, u_int max)
{
	u_int len = 0;
	if (xdr->x_op != XDR_DECODE || *s)
		return xdr_string(xdr, s, max);
	if (!xdr_u_int(xdr, &len) || len > max || !(*s = calloc(1, (size_t)len + 1)) || !wire_opaque(xdr, *s, len))
		return FALSE;
	if (memchr(*s, 0, len))
		**s = 0;
	return TRUE;
}
#define xdr_string wire_string
#define xdr_bytes wire_bytes

#endif
