/* auth.c: credentials (RFC 5531 8.2, appendix A): AUTH_NONE and AUTH_SYS. */
#include "internal.h"

#include <rpc/auth.h>
#include <string.h>

enum { NOBODY = 65534, MAX_AUTH = 400 };

static uint32_t decode_sys(const uint8_t *p, size_t len, struct rpc_call *call)
{
	const uint8_t *end = p + len;
	if (len < 8)
		return AUTH_BADCRED;
	uint32_t name = get_be32(p + 4), room = (name + 3) & ~3u; /* the stamp before it is of no use */
	p += 8;
	if (name > 255 || (size_t)(end - p) < room + 12)
		return AUTH_BADCRED;
	memcpy(call->machine, p, name);
	call->machine[name] = 0;
	p += room;
	call->uid = get_be32(p);
	call->gid = get_be32(p + 4);
	call->ngroups = get_be32(p + 8);
	p += 12;
	if (call->ngroups > 16 || (size_t)(end - p) < 4 * (size_t)call->ngroups)
		return AUTH_BADCRED;
	for (uint32_t i = 0; i < call->ngroups; i++)
		call->groups[i] = get_be32(p + 4 * i);
	return AUTH_OK;
}

/* A flavor and its body at *p; moves *p behind it. */
static bool opaque_auth(const uint8_t **p, const uint8_t *end, uint32_t *flavor, const uint8_t **body, uint32_t *len)
{
	if (end - *p < 8)
		return false;
	*flavor = get_be32(*p);
	*len = get_be32(*p + 4);
	*body = *p + 8;
	if (*len > MAX_AUTH || (size_t)(end - *body) < ((*len + 3) & ~3u))
		return false;
	*p = *body + ((*len + 3) & ~3u);
	return true;
}

uint32_t auth_decode(const uint8_t **p, const uint8_t *end, struct rpc_call *call)
{
	const uint8_t *cred, *verf;
	uint32_t len, flavor, verf_len, verf_flavor;
	call->uid = call->gid = NOBODY;
	call->ngroups = 0;
	call->machine[0] = 0;
	if (!opaque_auth(p, end, &flavor, &cred, &len))
		return AUTH_BADCRED;
	if (!opaque_auth(p, end, &verf_flavor, &verf, &verf_len))
		return AUTH_BADVERF;
	call->flavor = flavor;
	if (flavor == AUTH_NONE)
		return AUTH_OK;
	if (flavor == AUTH_SYS)
		return decode_sys(cred, len, call);
	/* NULL answers whoever asks; but by RPCSEC_GSS it would be the making of a context (RFC 2203 5.2.2) */
	return call->proc == 0 && flavor != RPCSEC_GSS ? AUTH_OK : AUTH_REJECTEDCRED;
}
