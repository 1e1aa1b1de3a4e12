/* exports.c: clients by address, callers by squashing. */
#include "exports.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nobody's id: chown() and setfsuid() take it for "leave it as it is", which would be the server's own. Linux nfsd takes it for anonymous, too
 * (nfsd_setuser() in fs/nfsd/auth.c). */
#define NO_ID UINT32_MAX

static const uint8_t v4_prefix[12] = { [10] = 0xff, [11] = 0xff };

static int parse_range(const char *text, struct client_range *r)
{
	char host[64];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	if (!len || len >= sizeof host)
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = 0;
	int most, base;
	if (inet_pton(AF_INET, host, r->address + 12) == 1) {
		memcpy(r->address, v4_prefix, 12);
		most = 32;
		base = 96;
	} else if (inet_pton(AF_INET6, host, r->address) == 1) {
		most = 128;
		base = 0;
	} else {
		return -EINVAL;
	}
	char *end = NULL;
	long bits = slash ? strtol(slash + 1, &end, 10) : most;
	if (bits < 0 || bits > most || (slash && (slash[1] < '0' || slash[1] > '9' || *end)))
		return -EINVAL;
	r->bits = base + (int)bits;
	snprintf(r->text, sizeof r->text, "%s/%ld", host, bits);
	return 0;
}

int client_list_parse(struct client_list *l, const char *text, char *err, size_t errlen)
{
	char *copy = strdup(text), *save = NULL;
	int rc = copy ? 0 : -ENOMEM, before = l->n;
	for (char *t = copy ? strtok_r(copy, ",", &save) : NULL; t && !rc; t = strtok_r(NULL, ",", &save)) {
		if (l->n == CLIENT_RANGES || parse_range(t, &l->at[l->n])) {
			snprintf(err, errlen, "'%s' is not a range of addresses; write one like 10.0.0.0/8, 192.168.1.5 or fd00::/8 (at most 64 of them)", t);
			rc = -EINVAL;
		} else {
			l->n++;
		}
	}
	if (!rc && l->n == before) { /* not "nobody given": that would be everybody who is allowed by default */
		snprintf(err, errlen, "there is no range of addresses in it; write one like 10.0.0.0/8, 192.168.1.5 or fd00::/8");
		rc = -EINVAL;
	}
	free(copy);
	return rc;
}

bool client_list_has(const struct client_list *l, const struct sockaddr_storage *peer)
{
	uint8_t a[16];
	if (peer->ss_family == AF_INET6) {
		memcpy(a, &((const struct sockaddr_in6 *)peer)->sin6_addr, 16);
	} else {
		memcpy(a, v4_prefix, 12);
		memcpy(a + 12, &((const struct sockaddr_in *)peer)->sin_addr, 4);
	}
	for (int i = 0; i < l->n; i++) {
		const struct client_range *r = &l->at[i];
		int bytes = r->bits / 8, rest = r->bits % 8;
		if (!memcmp(a, r->address, (size_t)bytes) && (!rest || (a[bytes] ^ r->address[bytes]) >> (8 - rest) == 0))
			return true;
	}
	return false;
}

void export_cred(const struct export *e, const struct rpc_call *call, struct overlay_cred *cred)
{
	*cred = (struct overlay_cred){ .uid = call->uid, .gid = call->gid, .ngroups = call->ngroups };
	memcpy(cred->groups, call->groups, sizeof cred->groups[0] * call->ngroups);
	bool anonymous = call->flavor == 0 || e->squash == SQUASH_ALL || cred->uid == NO_ID;
	bool no_root = e->squash == SQUASH_ROOT && !client_list_has(&e->root_clients, &call->peer);
	if (anonymous || (no_root && cred->uid == 0)) {
		cred->uid = e->anon_uid;
		cred->gid = e->anon_gid;
		cred->ngroups = 0;
	}
	for (uint32_t i = 0; i <= cred->ngroups; i++) { /* nor root's group */
		gid_t *g = i == cred->ngroups ? &cred->gid : &cred->groups[i];
		if (*g == NO_ID || (no_root && *g == 0))
			*g = e->anon_gid;
	}
}
