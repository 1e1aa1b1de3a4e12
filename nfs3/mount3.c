/* mount3.c: MNT gives the handle of an export or a directory below it (RFC 1813 appendix I). The list of mounts is for humans alone. */
#include "mount3.h"
#include "log.h"
#include "proc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOUNTS_MAX = 4096 };

static struct {
	pthread_mutex_t lock; /* guards all */
	size_t n;
	struct mounted {
		char host[64];
		char *dir;
	} at[MOUNTS_MAX];
} mounts = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void host_of(const struct rpc_call *call, char host[64])
{
	const void *address = call->peer.ss_family == AF_INET6 ? (const void *)&((const struct sockaddr_in6 *)&call->peer)->sin6_addr
								: (const void *)&((const struct sockaddr_in *)&call->peer)->sin_addr;
	if (!inet_ntop(call->peer.ss_family, address, host, 64))
		strcpy(host, "unknown");
}

/* dir NULL: all of the host's. */
static void forget_mounts(const char *host, const char *dir)
{
	size_t kept = 0;
	pthread_mutex_lock(&mounts.lock);
	for (size_t i = 0; i < mounts.n; i++) {
		struct mounted *m = &mounts.at[i];
		if (!strcmp(m->host, host) && (!dir || !strcmp(m->dir, dir)))
			free(m->dir);
		else
			mounts.at[kept++] = *m;
	}
	mounts.n = kept;
	pthread_mutex_unlock(&mounts.lock);
}

static void note_mount(const char *host, const char *dir)
{
	forget_mounts(host, dir);
	pthread_mutex_lock(&mounts.lock);
	struct mounted *m = &mounts.at[mounts.n];
	if (mounts.n < MOUNTS_MAX && (m->dir = strdup(dir))) {
		snprintf(m->host, sizeof m->host, "%s", host);
		mounts.n++;
	}
	pthread_mutex_unlock(&mounts.lock);
}

static mountstat3 errno_to_mountstat3(int rc)
{
	switch (-rc) {
	case 0: return MNT3_OK;
	case EPERM: return MNT3ERR_PERM;
	case ENOENT: return MNT3ERR_NOENT;
	case EIO: return MNT3ERR_IO;
	case EACCES: return MNT3ERR_ACCES;
	case ENOTDIR: return MNT3ERR_NOTDIR;
	case EINVAL: return MNT3ERR_INVAL;
	case ENAMETOOLONG: return MNT3ERR_NAMETOOLONG;
	default: return MNT3ERR_SERVERFAULT;
	}
}

/* The part of path below the export, or NULL where it is not exported. */
static const char *below_export(const struct export *e, const char *path)
{
	size_t n = strlen(e->path);
	while (n && e->path[n - 1] == '/')
		n--;
	return !strncmp(path, e->path, n) && (!path[n] || path[n] == '/') ? path + n : NULL;
}

/* Walks to a directory below the root; names are looked up, so links are not followed and nothing leads out. As the caller, squashed: a mount
 * must not lead where its names do not. */
static int walk(struct overlay *ov, const struct overlay_cred *cred, const char *rest, struct object **out)
{
	struct object *o = overlay_root(ov);
	char *copy = strdup(rest), *save = NULL;
	int rc = copy ? 0 : -ENOMEM;
	for (char *name = copy ? strtok_r(copy, "/", &save) : NULL; name && !rc; name = strtok_r(NULL, "/", &save)) {
		struct object *next = NULL;
		rc = overlay_lookup(ov, cred, o, name, &next, NULL);
		overlay_put(ov, o);
		o = next;
	}
	free(copy);
	if (!rc && overlay_type(o) != S_IFDIR)
		rc = -ENOTDIR;
	if (rc)
		overlay_put(ov, o);
	else
		*out = o;
	return rc;
}

static void mnt(struct rpc_call *call, void *args, void *res)
{
	const struct export *e = call->user;
	const char *path = *(dirpath *)args, *rest = below_export(e, path);
	mountres3 *r = res;
	mountres3_ok *ok = &r->mountres3_u.mountinfo;
	struct object *o = NULL;
	struct overlay_cred cred;
	char host[64];
	export_cred(e, call, &cred);
	r->fhs_status = rest ? errno_to_mountstat3(walk(e->ov, &cred, rest, &o)) : MNT3ERR_NOENT;
	if (r->fhs_status)
		return;
	uint8_t *handle = malloc(HANDLE_SIZE);
	int *flavors = malloc(2 * sizeof *flavors);
	if (!handle || !flavors) {
		free(handle);
		free(flavors);
		overlay_put(e->ov, o);
		r->fhs_status = MNT3ERR_SERVERFAULT;
		return;
	}
	handle_encode(e->ov, overlay_id(o), handle);
	overlay_put(e->ov, o);
	ok->fhandle.fhandle3_len = HANDLE_SIZE;
	ok->fhandle.fhandle3_val = (char *)handle;
	flavors[0] = AUTH_SYS;
	flavors[1] = AUTH_NONE;
	ok->auth_flavors.auth_flavors_len = 2;
	ok->auth_flavors.auth_flavors_val = flavors;
	host_of(call, host);
	note_mount(host, path);
	log_line(6, "%s mounts %s", host, path);
}

static void dump(struct rpc_call *call, void *args, void *res)
{
	mountlist *tail = res;
	size_t room = call->udp ? UDP_TRANSFER : TCP_TRANSFER; /* what does not fit in a reply is not listed */
	(void)args;
	pthread_mutex_lock(&mounts.lock);
	for (size_t i = 0; i < mounts.n; i++) {
		size_t bytes = strlen(mounts.at[i].host) + strlen(mounts.at[i].dir) + 20; /* in XDR, at the most */
		if (bytes > room)
			break;
		room -= bytes;
		mountlist m = calloc(1, sizeof *m);
		if (!m)
			break;
		m->ml_hostname = strdup(mounts.at[i].host);
		m->ml_directory = strdup(mounts.at[i].dir);
		*tail = m;
		tail = &m->ml_next;
	}
	pthread_mutex_unlock(&mounts.lock);
}

static void umnt(struct rpc_call *call, void *args, void *res)
{
	char host[64];
	(void)res;
	host_of(call, host);
	forget_mounts(host, *(dirpath *)args);
}

static void umntall(struct rpc_call *call, void *args, void *res)
{
	char host[64];
	(void)args;
	(void)res;
	host_of(call, host);
	forget_mounts(host, NULL);
}

static void list_exports(struct rpc_call *call, void *args, void *res)
{
	const struct export *e = call->user;
	exports *list = res;
	(void)args;
	if (!(*list = calloc(1, sizeof **list)))
		return;
	(*list)->ex_dir = strdup(e->path);
	groups *tail = &(*list)->ex_groups;
	for (int i = 0; i < e->clients.n; i++) {
		groups g = calloc(1, sizeof *g);
		if (!g)
			break;
		g->gr_name = strdup(e->clients.at[i].text);
		*tail = g;
		tail = &g->gr_next;
	}
}

static void free_mnt(void *res)
{
	xdr_free((xdrproc_t)xdr_mountres3, res);
}
static void free_mountlist(void *res)
{
	xdr_free((xdrproc_t)xdr_mountlist, res);
}
static void free_exports(void *res)
{
	xdr_free((xdrproc_t)xdr_exports, res);
}

static bool_t xdr_nothing(XDR *xdr, ...) /* libtirpc's xdr_void has another type */
{
	(void)xdr;
	return TRUE;
}

#define NOTHING .xdr_args = xdr_nothing
#define PATH .xdr_args = (xdrproc_t)xdr_dirpath, .args_size = sizeof(dirpath)
#define MNT { .name = "MNT", PATH, .xdr_res = (xdrproc_t)xdr_mountres3, .res_size = sizeof(mountres3), .run = mnt, .free_res = free_mnt }
#define DUMP { .name = "DUMP", NOTHING, .xdr_res = (xdrproc_t)xdr_mountlist, .res_size = sizeof(mountlist), .run = dump, .free_res = free_mountlist }
#define UMNT { .name = "UMNT", PATH, .xdr_res = xdr_nothing, .run = umnt }
#define UMNTALL { .name = "UMNTALL", NOTHING, .xdr_res = xdr_nothing, .run = umntall }
#define EXPORT { .name = "EXPORT", NOTHING, .xdr_res = (xdrproc_t)xdr_exports, .res_size = sizeof(exports), .run = list_exports, .free_res = free_exports }

const struct rpc_proc mount3_procs[6] = { { .name = "NULL" }, MNT, DUMP, UMNT, UMNTALL, EXPORT };
const struct rpc_proc mount1_procs[6] = { { .name = "NULL" }, { .name = NULL }, DUMP, UMNT, UMNTALL, EXPORT };
