/* state.c: what an overlay knows from its earlier lives: the key, the layers' numbers. */
#include "internal.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

static int fail(char *err, size_t errlen, int rc, const char *what)
{
	snprintf(err, errlen, "%s: %s", what, strerror(-rc));
	return rc;
}

/* ---- the key ---- */
/* Without an upper there is no place for a key: it is made from what only this machine knows, so that it is the same after a restart. */
static void stateless_key(uint8_t key[16])
{
	char id[64] = "";
	int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t n = read(fd, id, sizeof id - 1);
		id[n > 0 ? n : 0] = 0;
		close(fd);
	}
	crypto_generichash(key, 16, (const uint8_t *)id, strlen(id), (const uint8_t *)"overnfsd handles", 16);
}

/* The key's second home is an xattr that only we can read: on the upper's root where it is trusted.*; user.* may be read by whoever
 * may read the directory, so there it stands on <work>/work, which nobody else may enter. */
static const char *second_home(struct overlay *ov, char path[64], char name[64])
{
	bool trusted = !strncmp(ov->prefix, "trusted.", 8);
	snprintf(path, 64, "/proc/self/fd/%d/.", trusted ? ov->layers[0].root->fds[FD_READ]->fd : ov->work_fd);
	snprintf(name, 64, "%sovernfsd.key", ov->prefix);
	return path;
}

static int kept_key(struct overlay *ov, uint8_t key[16])
{
	char path[64], name[64];
	uint8_t second[16];
	int first = identity_key(ov->identity, key);
	ssize_t n = lgetxattr(second_home(ov, path, name), name, second, sizeof second);
	bool has_second = n == sizeof second;
	if (first && !has_second) { /* what can't be read may be there: a new key would make every handle a bad one, for good */
		first = first == -ENOENT && n < 0 && (errno == EIO || is_want(-errno)) ? -errno : first;
		if (first != -ENOENT)
			return first;
	}
	if (first && has_second)
		memcpy(key, second, 16);
	else if (first)
		randombytes_buf(key, 16);
	if (!first && has_second && !memcmp(key, second, 16))
		return 0;
	if (ov->config.offline && !ov->config.repair)
		return 0;
	int rc = first ? identity_set_key(ov->identity, key) : 0;
	if (!rc && lsetxattr(path, name, key, 16, 0))
		ov_log(ov, 7, "the key of the handles is kept in <work>/overnfsd/identity.mdb alone: %s", strerror(errno));
	return rc;
}

int state_key(struct overlay *ov)
{
	int rc = 0;
	uint8_t hash[16], uuid[16]; /* the overlay's own id where it has one: it outlives the key */
	bool has_uuid = ov->has_upper && claim_uuid(ov, uuid);
	if (ov->config.key)
		memcpy(ov->key, ov->config.key, 16);
	else if (ov->identity)
		rc = kept_key(ov, ov->key);
	else
		stateless_key(ov->key);
	crypto_generichash(hash, sizeof hash, (const uint8_t *)ov->name, strlen(ov->name), has_uuid ? uuid : ov->key, 16);
	memcpy(&ov->fsid, hash, 8);
	return rc;
}

/* ---- the layers' numbers ---- */
int state_number_layers(struct overlay *ov, char *err, size_t errlen)
{
	struct layer_identity *l = calloc(ov->nlayers, sizeof *l);
	int rc = l ? 0 : -ENOMEM;
	size_t i;
	for (i = 0; i < ov->nlayers && !rc; i++) {
		const struct layer *layer = &ov->layers[i];
		struct statx st;
		l[i] = (struct layer_identity){ .kind = layer->fs_kind, .path = layer->path };
		memcpy(l[i].fs, layer->fs_id, sizeof l[i].fs);
		rc = place_statx(ov, layer->root, &st);
		l[i].ino = st.stx_ino;
		if (!rc)
			rc = inode_generation(layer, layer->root->fds[FD_READ]->fd, "", &st, &l[i].gen);
	}
	if (!rc)
		rc = identity_number(ov->identity, l, ov->nlayers, ov->config.moves, ov->config.nmoves, ov->config.log);
	for (i = 0; i < ov->nlayers && !rc; i++) {
		ov->layers[i].number = l[i].number;
		ov->layers[i].age = l[i].age;
	}
	free(l);
	return rc ? fail(err, errlen, rc, "the layers can't be numbered") : 0;
}
