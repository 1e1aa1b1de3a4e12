/*
 * overlay.h: the engine's only public header. A merged tree of read-only lower
 * directories under an optional writable upper one, after Linux overlayfs
 * (Documentation/filesystems/overlayfs.rst).
 *
 * The process's umask must be 0.
 *
 * Every function that can fail returns 0 or a negative errno. All functions may
 * be called from any thread at once. Objects are counted: whoever gets one puts
 * it back with overlay_put(). The engine knows no RPC and no NFS.
 */
#ifndef OVERNFSD_OVERLAY_H
#define OVERNFSD_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

struct overlay;
struct object;

/* Of the origin: the real inode that the object was first seen as. Never changes. */
struct overlay_id {
	uint32_t layer; /* layer number, given for good at first use; 0 is never used */
	uint64_t ino;
	uint64_t gen; /* hash of name_to_handle_at()'s handle: the inode's generation */
};

/* A caller. ngroups supplementary groups; uid 0 passes every permission check. */
struct overlay_cred {
	uid_t uid;
	gid_t gid;
	uint32_t ngroups;
	gid_t groups[16];
};

struct overlay_attr {
	mode_t mode; /* type and permission bits, as st_mode */
	uint32_t nlink;
	uid_t uid;
	gid_t gid;
	uint64_t size; /* bytes */
	uint64_t used; /* bytes on disk */
	uint32_t rdev_major, rdev_minor;
	uint64_t fileid; /* unique in the overlay, stable, never 0 */
	struct timespec atime, mtime, ctime;
};

/* The state of an object (a directory, for changes of names) around a change,
 * both taken under its lock. have_* is false where it could not be had. */
struct overlay_wcc {
	bool have_before, have_after;
	struct {
		uint64_t size;
		struct timespec mtime, ctime;
	} before;
	struct overlay_attr after;
};

enum overlay_settime { TIME_KEEP, TIME_SERVER, TIME_CLIENT };

/* What to set; zeroed = nothing. */
struct overlay_setattr {
	bool set_mode, set_uid, set_gid, set_size;
	mode_t mode; /* permission bits */
	uid_t uid;
	gid_t gid;
	uint64_t size;
	enum overlay_settime set_atime, set_mtime;
	struct timespec atime, mtime; /* for TIME_CLIENT */
};

/* A layer that stood at another path when it was last served, and could not be known again by itself. */
struct layer_move {
	const char *from, *to;
};

struct overlay_config {
	const char *const *lowers; /* topmost first */
	size_t nlowers;
	const char *const *data_lowers; /* below all, reached by redirects of metacopies alone, never listed */
	size_t ndata_lowers;
	const char *upper; /* NULL: read-only */
	const char *work; /* NULL with an upper: a reserved directory in the upper's root */
	const char *name; /* the export's path: part of what the fsid is made of */
	const uint8_t *key; /* 16 bytes for the handles' MAC, or NULL: from the map or the machine */
	bool read_only; /* refuse changes although there is an upper */
	const struct layer_move *moves; /* layers that were at another path when they were last served */
	size_t nmoves;
	bool offline; /* for overlay_check and overlay_rebuild: nothing on disk is changed at the start */
	bool repair; /* offline, but the file of identities is mended */
	bool sync; /* a change is on disk before the call returns */
	bool userxattr; /* user.overlay.* even where trusted.* would work; then no metacopies are made or followed, as in Linux */
	bool no_metacopy; /* copy data up with every change of attributes */
	bool no_redirect; /* a directory with parts below is not renamed (-EXDEV), a large file is copied whole: Linux with userxattr mounts such an upper */
	size_t max_objects; /* bound of the object table; 0: default */
	size_t listing_bytes; /* bound of the directory listings in memory; 0: default */
	size_t max_fds; /* bound of the descriptor cache; 0: from RLIMIT_NOFILE */
	void (*before_block)(void); /* called before a wait for a disk; may be NULL */
	void (*log)(int level, const char *fmt, ...); /* syslog levels; may be NULL */
};

enum { OVERLAY_ERR = 9000 }; /* bytes of err that what is wrong with two paths of any length has room in */
/* Checks the layers and opens them. On failure nothing was changed, and err
 * holds one line for the user. */
int overlay_open(const struct overlay_config *config, struct overlay **ov, char *err, size_t errlen);
void overlay_close(struct overlay *ov); /* flushes the map; no call may be under way */

/* ---- identity ---- */
struct object *overlay_root(struct overlay *ov); /* counted */
const struct overlay_id *overlay_id(const struct object *o);
mode_t overlay_type(const struct object *o); /* S_IFMT bits */
/* The object with this id, by the table, the map, or a search of the layers.
 * -ESTALE: there is none (any more). -EAGAIN: still searching, ask again later. */
int overlay_get(struct overlay *ov, const struct overlay_id *id, struct object **o);
void overlay_put(struct overlay *ov, struct object *o); /* NULL is allowed */
const uint8_t *overlay_key(const struct overlay *ov); /* 16 bytes */
uint64_t overlay_fsid(const struct overlay *ov); /* stable, from key and name */
uint64_t overlay_verifier(const struct overlay *ov); /* the write verifier: new at each start and after a failed writeback */
bool overlay_is_read_only(const struct overlay *ov);
bool overlay_makes_for_callers(const struct overlay *ov); /* false: without root, what they make belongs to the server's user */

/* ---- reading ---- */
int overlay_getattr(struct overlay *ov, struct object *o, struct overlay_attr *attr);
/* One name, no '/'; "." and ".." work (".." of the root is the root).
 * Needs execute permission. attr may be NULL. -ENOENT -EACCES -ENOTDIR -ENAMETOOLONG. */
int overlay_lookup(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		   struct object **o, struct overlay_attr *attr);
enum { OVERLAY_READ = 4, OVERLAY_WRITE = 2, OVERLAY_EXEC = 1 };
/* Which of OVERLAY_{READ,WRITE,EXEC} the caller has by mode and ACL. >= 0: the bits. */
int overlay_permitted(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want);
int overlay_readlink(struct overlay *ov, struct object *o, char *buf, size_t size, size_t *len); /* not terminated */
/* Reads up to len bytes. *got and *eof as RFC 1813 3.3.6. The owner may always read; execute permission suffices. */
int overlay_read(struct overlay *ov, const struct overlay_cred *cred, struct object *o, uint64_t offset, void *buf,
		 size_t len, size_t *got, bool *eof, struct overlay_attr *attr);

/* The same, for who reads from the file itself: a descriptor, good until overlay_file_done(*file), from which *got bytes can be had. Negative errno;
 * -EWOULDBLOCK: not in memory, overlay_read() waits for the disk. */
struct overlay_file;
int overlay_read_file(struct overlay *ov, const struct overlay_cred *cred, struct object *o, uint64_t offset, size_t len, size_t *got, bool *eof,
		      struct overlay_attr *attr, struct overlay_file **file);
void overlay_file_done(struct overlay_file *file);

struct overlay_entry {
	const char *name;
	uint64_t fileid;
	uint64_t cookie; /* of this entry: pass it to go on behind it */
};
/* Calls fill for each entry behind cookie (0: from the start), "." and ".." among them, in cookie order,
 * until it returns false (that entry is not consumed) or there are no more (*eof). Needs read permission.
 * For fill to look up the entry, plus is true: *o is the entry's object and *attr its attributes,
 * or NULL where they could not be had, or the caller has no execute permission; o is put back after fill returns. */
typedef bool overlay_fill(void *arg, const struct overlay_entry *entry, struct object *o, const struct overlay_attr *attr);
int overlay_readdir(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, uint64_t cookie, bool plus,
		    overlay_fill *fill, void *arg, bool *eof);

struct overlay_statfs {
	uint64_t tbytes, fbytes, abytes, tfiles, ffiles, afiles;
};
int overlay_statfs(struct overlay *ov, struct overlay_statfs *st);
uint64_t overlay_max_file_size(const struct overlay *ov); /* bytes; what the upper's file system takes */
int overlay_pathconf(struct overlay *ov, struct object *o, uint32_t *linkmax, uint32_t *name_max);

/* ---- changes: -EROFS on a read-only overlay. wcc is of the object, for changes
 * of names of the directory; it is filled as far as possible on failure too ---- */
/* guard: the ctime that the object must have, or NULL; -EKEYEXPIRED when it has not (NFS3ERR_NOT_SYNC). */
int overlay_setattr(struct overlay *ov, const struct overlay_cred *cred, struct object *o,
		    const struct overlay_setattr *set, const struct timespec *guard, struct overlay_wcc *wcc);
/* What is on disk before the return: nothing, the bytes, or the attributes too (RFC 1813 3.3.7). The owner may always write. -EAGAIN: bytes that should
 * have been may be lost, write them again. */
enum overlay_stable { WRITE_UNSTABLE, WRITE_DATA_SYNC, WRITE_FILE_SYNC };
int overlay_write(struct overlay *ov, const struct overlay_cred *cred, struct object *o, uint64_t offset,
		  const void *buf, size_t len, enum overlay_stable stable, struct overlay_wcc *wcc);
int overlay_commit(struct overlay *ov, const struct overlay_cred *cred, struct object *o, struct overlay_wcc *wcc);

enum overlay_how { CREATE_UNCHECKED, CREATE_GUARDED, CREATE_EXCLUSIVE };
/* verf: 8 bytes, for CREATE_EXCLUSIVE (kept in atime and mtime, as Linux nfsd does). */
int overlay_create(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		   enum overlay_how how, const struct overlay_setattr *set, const uint8_t *verf, struct object **o,
		   struct overlay_attr *attr, struct overlay_wcc *wcc);
int overlay_mkdir(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		  const struct overlay_setattr *set, struct object **o, struct overlay_attr *attr, struct overlay_wcc *wcc);
int overlay_symlink(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		    const char *target, const struct overlay_setattr *set, struct object **o, struct overlay_attr *attr,
		    struct overlay_wcc *wcc);
/* type: S_IFIFO, S_IFSOCK, S_IFCHR or S_IFBLK. A 0/0 character device is -EPERM. */
int overlay_mknod(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name, mode_t type,
		  uint32_t major, uint32_t minor, const struct overlay_setattr *set, struct object **o,
		  struct overlay_attr *attr, struct overlay_wcc *wcc);
int overlay_link(struct overlay *ov, const struct overlay_cred *cred, struct object *o, struct object *dir,
		 const char *name, struct overlay_attr *attr, struct overlay_wcc *wcc);
int overlay_remove(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		   struct overlay_wcc *wcc); /* -EISDIR for a directory */
int overlay_rmdir(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, const char *name,
		  struct overlay_wcc *wcc);
int overlay_rename(struct overlay *ov, const struct overlay_cred *cred, struct object *from, const char *oldname,
		   struct object *to, const char *newname, struct overlay_wcc *from_wcc, struct overlay_wcc *to_wcc);

/* ---- changes that share a flush ----
 * With config.sync a call that changes something, and always a stable write and a commit, waits for the disk before it returns. A thread may put that off:
 * its calls between overlay_defer(u) and overlay_defer(NULL) return with *u holding what is to be flushed. Until overlay_flush() nobody may be told that
 * they succeeded. */
enum { OVERLAY_UNFLUSHED = 4 };
struct overlay_unflushed {
	struct overlay *ov;
	unsigned n; /* 0: nothing was put off, and *u may be forgotten */
	struct fdent *file[OVERLAY_UNFLUSHED]; /* held open until the flush */
	uint64_t verifier; /* when a stable write or a commit began; 0: neither */
	int rc; /* after overlay_flush: 0, or why what was done may be lost. -EAGAIN: of a stable write or a commit, another's flush failed: it is to be asked for again */
};
void overlay_defer(struct overlay_unflushed *u);
void overlay_flush(struct overlay_unflushed *const u[], size_t n); /* n > 0, all of one overlay and with something put off. Blocks */

/* ---- care of what is kept on disk: for an overlay that was opened with config.offline, while no server runs ---- */
struct overlay_listener {
	bool (*progress)(void *arg, double fraction); /* 0 to 1; false: stop, with -ECANCELED. May be NULL */
	void (*problem)(void *arg, const char *text, bool repaired); /* one line in words, without a full stop. May be NULL */
	void *arg;
};
struct overlay_check {
	size_t objects; /* names in the merged tree */
	bool has_map;
	size_t entries, bytes; /* of the handle map */
	size_t missing; /* names that the map does not know: no fault, the first request of each costs a search */
	size_t stale; /* entries of the map that are wrong: told as one problem */
	size_t leftovers; /* of a crash in the work directory: the next start removes them */
	size_t adopted; /* copied-up objects of an upper that was copied here, now marked as this one's (with repair) */
	size_t problems, repaired;
};
/* Compares handle map, identities and layers. -EINVAL: the overlay has no upper, so nothing is kept. */
int overlay_check(struct overlay *ov, bool repair, const struct overlay_listener *to, struct overlay_check *result);
/* Makes the handle map anew from the layers. */
int overlay_rebuild(struct overlay *ov, const struct overlay_listener *to, struct overlay_check *result);

#endif
