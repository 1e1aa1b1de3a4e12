/* layer.c: a layer is opened once and never left: one name at a time beneath it, and what its file system says of itself and of its inodes. */
#include "internal.h"

#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200
#endif
#ifndef FS_IOC_GETFSUUID
struct fsuuid2 {
	uint8_t len, uuid[16];
};
#define FS_IOC_GETFSUUID _IOR(0x15, 0, struct fsuuid2)
#endif
enum { FUSE_MAGIC = 0x65735546, ZFS_MAGIC = 0x2fc12fc1, MAX_HANDLE = 128 };

int statx_at(int dirfd, const char *name, struct statx *st)
{
	int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);
	return statx(dirfd, name, flags, STATX_BASIC_STATS, st) ? -errno : 0;
}

int open_beneath(int dirfd, const char *name, int flags)
{
	struct open_how how = { .flags = (uint64_t)(unsigned)flags | O_CLOEXEC | O_NOFOLLOW,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
	long fd;
	do
		fd = syscall(SYS_openat2, dirfd, *name ? name : ".", &how, sizeof how);
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	return fd < 0 ? -errno : (int)fd;
}

static int file_handle_of(int dirfd, const char *name, struct file_handle *fh)
{
	int mount_id, flags = *name ? 0 : AT_EMPTY_PATH;
	fh->handle_bytes = MAX_HANDLE;
	if (!name_to_handle_at(dirfd, name, fh, &mount_id, flags))
		return 0;
	fh->handle_bytes = MAX_HANDLE;
	return name_to_handle_at(dirfd, name, fh, &mount_id, flags | AT_HANDLE_FID) ? -errno : 0;
}

int inode_generation(const struct layer *layer, int dirfd, const char *name, const struct statx *st, uint64_t *gen)
{
	/* A fixed key: the hash only has to be the same everywhere, the handle's MAC is what can't be guessed. */
	static const unsigned char key[crypto_shorthash_KEYBYTES] = "overnfsd inodes";
	uint64_t space[2 + (sizeof(struct file_handle) + MAX_HANDLE) / 8];
	struct file_handle *fh = (struct file_handle *)space;
	uint8_t out[8];
	*gen = 0;
	if (!layer->has_handles) {
		/* no handles (or FUSE's, which do not outlive a mount): the birth time has to do where there is one */
		struct statx bt;
		if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH), STATX_BTIME, &bt))
			return -errno;
		if (bt.stx_mask & STATX_BTIME)
			*gen = (uint64_t)bt.stx_btime.tv_sec * 1000000000u + bt.stx_btime.tv_nsec;
		return 0;
	}
	(void)st;
	int rc = file_handle_of(dirfd, name, fh);
	if (rc)
		return rc;
	crypto_shorthash(out, fh->f_handle, fh->handle_bytes, key);
	memcpy(gen, out, 8);
	return 0;
}

int upper_inode(struct overlay *ov, int dirfd, const char *name, uint64_t *ino, uint64_t *gen)
{
	struct statx st;
	int rc = statx_at(dirfd, name, &st);
	*ino = st.stx_ino;
	return rc ? rc : inode_generation(&ov->layers[0], dirfd, name, &st, gen);
}

size_t format_make_origin(const struct layer *layer, int dirfd, const char *name, uint8_t buf[160])
{
	uint64_t space[2 + (sizeof(struct file_handle) + MAX_HANDLE) / 8];
	struct file_handle *fh = (struct file_handle *)space;
	if (!layer->has_handles || !layer->has_origins || file_handle_of(dirfd, name, fh) || fh->handle_bytes > 128)
		return 0;
	size_t len = 21 + fh->handle_bytes; /* struct ovl_fb and the fid, fs/overlayfs/overlayfs.h */
	memset(buf, 0, 160);
	buf[1] = 0xfb;
	buf[2] = (uint8_t)len;
	buf[3] = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 1 : 0;
	buf[4] = (uint8_t)fh->handle_type;
	memcpy(buf + 5, layer->uuid, 16);
	memcpy(buf + 21, fh->f_handle, fh->handle_bytes);
	return len;
}

/* What the file system says of itself and keeps over a remount. Its device number is nothing of the kind. */
static void identify_fs(struct layer *layer, const struct statfs *fs, const struct statx *root)
{
	static const uint8_t fixed[crypto_generichash_KEYBYTES_MIN] = "overnfsd images";
	unsigned long type = (unsigned long)fs->f_type;
	if (layer->has_uuid && type != BTRFS_SUPER_MAGIC) { /* its subvolumes share one */
		layer->fs_kind = FS_UUID;
		memcpy(layer->fs_id, layer->uuid, 16);
	} else if (type == EXT4_SUPER_MAGIC || type == BTRFS_SUPER_MAGIC || type == ZFS_MAGIC) { /* made from a uuid there */
		layer->fs_kind = FS_ID;
		memcpy(layer->fs_id, &fs->f_fsid, sizeof fs->f_fsid);
	} else if (type == SQUASHFS_MAGIC || type == EROFS_SUPER_MAGIC_V1 || type == ISOFS_SUPER_MAGIC) { /* made once: its measures tell it */
		char text[256];
		int n = snprintf(text, sizeof text, "%lx %lu %lu %lu %llu %lld.%u %u %u %o", type, (unsigned long)fs->f_blocks, (unsigned long)fs->f_bsize,
				 (unsigned long)fs->f_files, (unsigned long long)root->stx_ino, (long long)root->stx_mtime.tv_sec, root->stx_mtime.tv_nsec,
				 root->stx_uid, root->stx_gid, root->stx_mode);
		layer->fs_kind = FS_IMAGE;
		crypto_generichash(layer->fs_id, 16, (const uint8_t *)text, (unsigned long long)n, fixed, sizeof fixed);
	}
}

/* A mount that only this process sees, of the directory without what is mounted inside; nothing can be written through it. Takes privilege; -1 without. */
static int clone_mount(const char *path)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME, .attr_clr = MOUNT_ATTR__ATIME };
	int fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (fd >= 0 && mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof attr)) {
		close(fd);
		return -1;
	}
	return fd;
}

int layer_open(struct overlay *ov, struct layer *layer, const char *path, bool lower, char *err, size_t errlen)
{
	struct statx st;
	struct statfs fs;
	struct fdent *ent;
	struct fsuuid2 uuid;
	uint64_t space[2 + (sizeof(struct file_handle) + MAX_HANDLE) / 8];
	layer->mount_fd = lower ? clone_mount(path) : -1;
	bool cloned = layer->mount_fd >= 0;
	int fd = openat(cloned ? layer->mount_fd : AT_FDCWD, cloned ? "." : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || statx_at(fd, "", &st) || fstatfs(fd, &fs)) {
		int rc = -errno;
		snprintf(err, errlen, "layer %s: %s%s", path, strerror(-rc), rc == -ENOTDIR ? ": each layer must be a directory" : "");
		if (fd >= 0)
			close(fd);
		if (layer->mount_fd >= 0)
			close(layer->mount_fd);
		layer->mount_fd = -1;
		return rc;
	}
	layer->dev_major = st.stx_dev_major;
	layer->dev_minor = st.stx_dev_minor;
	layer->has_handles = (unsigned long)fs.f_type != FUSE_MAGIC && !file_handle_of(fd, "", (struct file_handle *)space);
	struct btrfs_ioctl_fs_info_args btrfs;
	if (!ioctl(fd, FS_IOC_GETFSUUID, &uuid) && uuid.len == 16)
		memcpy(layer->uuid, uuid.uuid, 16);
	else if (fs.f_type == BTRFS_SUPER_MAGIC && !ioctl(fd, BTRFS_IOC_FS_INFO, &btrfs)) /* it answers to its own call alone */
		memcpy(layer->uuid, btrfs.fsid, 16);
	layer->has_uuid = !sodium_is_zero(layer->uuid, 16);
	int flags;
	layer->has_flags = !ioctl(fd, FS_IOC_GETFLAGS, &flags);
	identify_fs(layer, &fs, &st);
	layer->path = strdup(path);
	layer->root = place_new(ov, layer, NULL, "");
	ent = calloc(1, sizeof *ent);
	if (!layer->path || !layer->root || !ent) {
		close(fd);
		free(ent);
		return -ENOMEM;
	}
	*ent = (struct fdent){ .fd = fd, .pins = 1, .place = layer->root, .kind = FD_READ };
	layer->root->fds[FD_READ] = layer->root->fds[FD_PATH] = ent; /* never on the LRU list: pinned for good */
	return 0;
}

void layer_close(struct overlay *ov, struct layer *layer)
{
	if (layer->root && layer->root->fds[FD_READ]) {
		close(layer->root->fds[FD_READ]->fd);
		free(layer->root->fds[FD_READ]);
		layer->root->fds[FD_READ] = layer->root->fds[FD_PATH] = NULL;
	}
	if (layer->root)
		place_free(ov, layer->root);
	if (layer->root && layer->mount_fd >= 0)
		close(layer->mount_fd);
	free(layer->path);
	memset(layer, 0, sizeof *layer);
}
