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

enum { CLIENT_RANGES = 64 };
struct client_list {
	struct client_range at[CLIENT_RANGES];
	int n;
};

struct export {
	const char *path;
	struct overlay *ov;
	enum squash squash;
	uid_t anon_uid;
	gid_t anon_gid;
	struct client_list clients; /* who may connect */
	struct client_list root_clients; /* of those, whose root acts as root although others' is squashed */
};

/* Adds the ranges of "10.0.0.0/8,::1" to the list. 0, or -EINVAL with a message. */
int client_list_parse(struct client_list *l, const char *text, char *err, size_t errlen);
bool client_list_has(const struct client_list *l, const struct sockaddr_storage *peer);
/* Whom the caller acts as, after squashing. */
void export_cred(const struct export *e, const struct rpc_call *call, struct overlay_cred *cred);

#endif
