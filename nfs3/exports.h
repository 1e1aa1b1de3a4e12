/* exports.h: what is exported, to whom, and as whom its callers act. */
#ifndef OVERNFSD_EXPORTS_H
#define OVERNFSD_EXPORTS_H

#include "overlay.h"
#include "rpc.h"

enum squash { SQUASH_ROOT, SQUASH_ALL, SQUASH_NONE };

struct client_range { /* IPv4 as ::ffff:a.b.c.d */
	uint8_t address[16];
	int bits;
	char text[80];
};

struct export {
	const char *path;
	struct overlay *ov;
	enum squash squash;
	uid_t anon_uid;
	gid_t anon_gid;
	struct client_range clients[64];
	int nclients;
};

/* Parses "10.0.0.0/8,::1" into the export's clients. 0, or -EINVAL with a message. */
int export_parse_clients(struct export *e, const char *list, char *err, size_t errlen);
bool export_allows(const struct export *e, const struct sockaddr_storage *peer);
/* Whom the caller acts as, after squashing. */
void export_cred(const struct export *e, const struct rpc_call *call, struct overlay_cred *cred);

#endif
