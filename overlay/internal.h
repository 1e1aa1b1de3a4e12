/*
 * internal.h: what the engine's files share. overlay/README.md has the picture.
 *
 * Lock order: a copy-up of an object (copyup.c; no thread is at two), ov->listing_readers > ov->rename_lock > object->dir_lock (parent before child) >
 * object->lock > table.lock, fds.lock, the map's own. Each lock says below what it guards. None is taken by a thread that has it, rename_lock
 * shared included: a rename that waits goes before new readers, or many readers would keep it waiting for ever.
 */
#ifndef OVERNFSD_INTERNAL_H
#define OVERNFSD_INTERNAL_H

#include "identity.h"
#include "map.h"
#include "overlay.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

/* ---- slab.c: memory for what there may be millions of ---- */
enum { CACHE_LINE = 64, PLACE_GRANULE = 16, SLAB_SIZES = 24 };
struct slab {
	pthread_mutex_t lock; /* guards all below; nothing is taken under it */
	size_t granule; /* bytes: sizes are rounded up to so many, and blocks stand at multiples */
	struct block *free[SLAB_SIZES]; /* by size in granules */
	char *at, *end; /* of the newest chunk, what nobody had yet */
	struct chunk *chunks;
};

void slab_init(struct slab *s, size_t granule);
void slab_destroy(struct slab *s); /* with all that was not given back */
void *slab_alloc(struct slab *s, size_t size); /* all zero. NULL: no memory, or SLAB_SIZES granules or more */
void slab_free(struct slab *s, void *p, size_t size); /* size: as it was asked for. NULL is allowed */

/* ---- layer.c: a layer, and one step beneath it ---- */
struct layer {
	uint32_t number; /* for good; part of ids */
	char *path;
	int mount_fd; /* of a lower: the mount of our own that it is reached by, or -1 */
	struct place *root;
	uint32_t dev_major, dev_minor;
	bool has_handles; /* name_to_handle_at() gives steady handles here */
	bool has_uuid;
	bool has_origins; /* overlayfs's origin tells its files: has_uuid, or no other lower file system lacks one (then it is zeros, as in Linux) */
	bool has_flags; /* files can be immutable or append-only one by one; erofs calls all of its files immutable */
	uint8_t uuid[16]; /* of the file system, for overlayfs's origin */
	enum fs_kind fs_kind; /* with fs_id, what tells the file system from others (identity.h) */
	uint8_t fs_id[16];
	uint32_t age; /* the how manyeth the layer was to join the stack: directories keep the identity that the oldest gave them */
};

/* lower: reached by a read-only mount of our own, where we may make one: what others mounted inside the directory is not part of it, as in Linux. */
int layer_open(struct overlay *ov, struct layer *layer, const char *path, bool lower, char *err, size_t errlen);
void layer_close(struct overlay *ov, struct layer *layer);
int statx_at(int dirfd, const char *name, struct statx *st); /* "" is dirfd itself; never follows */
/* One component below dirfd (M6: RESOLVE_BENEATH and no symlinks). */
int open_beneath(int dirfd, const char *name, int flags);
int inode_generation(const struct layer *layer, int dirfd, const char *name, const struct statx *st, uint64_t *gen);
int upper_inode(struct overlay *ov, int dirfd, const char *name, uint64_t *ino, uint64_t *gen); /* of what is in the upper: as the file of identities knows it */

/* ---- place.c: where something is in a layer ---- */
enum fd_kind { FD_PATH, FD_READ, FD_WRITE, FD_KINDS };

/* Where something is in one layer: a name in a parent place. Its descriptors are opened at need and cached.
 * name and parent change under ov->rename_lock, held exclusively; readers hold it shared. */
struct place {
	struct layer *layer;
	struct place *parent; /* NULL for a layer's root */
	char *name; /* first_name, or what place_move gave it */
	atomic_uint refs;
	struct fdent *fds[FD_KINDS]; /* guarded by fds.lock */
	char first_name[];
};

struct place *place_new(struct overlay *ov, struct layer *layer, struct place *parent, const char *name); /* NULL: no memory; takes its own reference of parent */
struct place *place_get(struct place *place);
void place_put(struct overlay *ov, struct place *place); /* NULL is allowed */
void place_free(struct overlay *ov, struct place *place); /* at once: a layer's root, which place_put never frees; its descriptors are gone */
void place_move(struct overlay *ov, struct place *place, struct place *parent, char *name); /* takes over name */

/* ---- fds.c: the descriptors of places ---- */
struct fdent { /* one cached descriptor */
	int fd;
	unsigned pins; /* guarded by fds.lock, as all below */
	struct place *place; /* NULL when its place is gone */
	enum fd_kind kind;
	struct fdent *prev, *next; /* LRU list */
};

struct fds {
	pthread_mutex_t lock;
	struct fdent lru; /* list head: next is the most recent */
	size_t count, max;
};

void fds_init(struct fds *fds, size_t max);
void fds_destroy(struct fds *fds);
/* A pinned descriptor of the place; release with place_unpin. */
int place_pin(struct overlay *ov, struct place *place, enum fd_kind kind, struct fdent **ent);
void place_unpin(struct overlay *ov, struct fdent *ent); /* NULL is allowed */
void place_close(struct overlay *ov, struct place *place); /* forgets its descriptors */
void place_adopt(struct overlay *ov, struct place *place, enum fd_kind kind, int fd); /* an open descriptor for the cache, which closes it */
/* A pinned descriptor of the place's parent, and the name in it: for statx and the like. For a layer's root: itself and "". */
int place_pin_parent(struct overlay *ov, struct place *place, struct fdent **ent, const char **name);
int place_statx(struct overlay *ov, struct place *place, struct statx *st);

/* ---- format.c: overlayfs's marks on disk ---- */
#define IDENTITY_SUFFIX "overnfsd"
bool format_is_whiteout(const struct statx *st);
/* An empty regular file so marked. Linux takes it for a whiteout on lookup wherever it stands; listings look for it only in directories marked opaque=x. */
bool format_is_xattr_whiteout(struct overlay *ov, int dirfd, const char *name, const struct statx *st);
/* xattrs of dirfd/name (never followed). Sizes in bytes; -ENODATA when absent or not supported there. */
ssize_t format_getxattr(struct overlay *ov, int dirfd, const char *name, const char *suffix, void *buf, size_t size);
int format_setxattr(struct overlay *ov, int dirfd, const char *name, const char *suffix, const void *buf, size_t size);
/* Where it can be read though the directory can't. len 0: none. */
int format_keep_mark(struct overlay *ov, int dirfd, const char *name, const char *suffix, const void *value, size_t len);
int format_removexattr(struct overlay *ov, int dirfd, const char *name, const char *suffix);
char format_opaque(struct overlay *ov, int dirfd, const char *name); /* 'y', 'x' or 0 */
/* An upper directory that is not marked impure, though it could be: nothing in it was copied up, or came from elsewhere. */
bool format_is_pure(struct overlay *ov, int dirfd);
int format_redirect(struct overlay *ov, int dirfd, const char *name, char **redirect); /* malloc'ed, or NULL: none. -EIO: malformed */
enum { MAX_DIGEST = 64 };
struct metacopy { /* struct ovl_metacopy in fs/overlayfs/overlayfs.h */
	uint8_t version, len, flags, digest_algo, digest[MAX_DIGEST];
};
/* Is it a regular file whose data is further down? 1 or 0; -EIO: marked in a way that is not known. meta may be NULL. */
int format_metacopy(struct overlay *ov, int dirfd, const char *name, struct metacopy *meta);
/* Is it the error of what holds no xattr? -EPERM, -EOPNOTSUPP: a symlink, or the file system; -EACCES: what may not be written, without root. */
bool holds_no_xattr(int rc);
int format_set_identity(struct overlay *ov, int dirfd, const char *name, const struct overlay_id *id, uint64_t upper_ino);
/* As it stands there: with the number of the upper, and the inode in it, that it was written for. -ENODATA: none. */
int format_read_identity(struct overlay *ov, int dirfd, const char *name, struct overlay_id *id, uint32_t *upper, uint64_t *upper_ino);
int format_get_identity(struct overlay *ov, int dirfd, const char *name, uint64_t upper_ino, struct overlay_id *id);
/* overlayfs's origin (struct ovl_fb) of dirfd/name in layer: at most 160 bytes. 0 bytes: can't be known. */
size_t format_make_origin(const struct layer *layer, int dirfd, const char *name, uint8_t buf[160]);
/* A mark of the overlay's own: not to be copied up. Escaped ones ("overlay.overlay.NAME", of a nested overlay) are data, and the other
 * namespace's are too, as in Linux. */
bool format_private_xattr(struct overlay *ov, const char *name);

/* ---- object.c: the table ---- */
static inline bool same_id(const struct overlay_id *a, const struct overlay_id *b)
{
	return a->ino == b->ino && a->gen == b->gen && a->layer == b->layer;
}

/* What finds it in the table stands first, to be in one cache line. */
struct object {
	struct overlay_id id;
	struct object *id_next; /* table.lock */
	atomic_uint refs;
	mode_t type;
	bool named, hashed, used; /* table.lock; named: in the name hash */
	atomic_bool indexed; /* a lower file with several names: nlink is kept by xattr */
	atomic_bool dead; /* removed. Set under lock */
	atomic_bool lost; /* dead to those who hold it, but it has other names: object_gone */
	atomic_bool metacopy; /* its bytes are at data, not in the upper (or the topmost lower). Set under lock */
	bool impure; /* of a directory: the upper is known to be marked so. Its dir_lock, or rename_lock exclusively */
	/* table.lock guards these four; parent and name change with rename_lock held exclusively too, but for a linked file's (object_parent) */
	struct object *name_next;
	struct object *parent; /* counted */
	char *name; /* first_name, or what a rename gave it; NULL: place unknown */
	struct object *clock_prev, *clock_next;
	pthread_mutex_t lock; /* the fields below */
	struct place *_Atomic upper; /* NULL: not copied up. Set once, under lock; may be looked at without */
	uint64_t real_ino; /* of the upper, else of the topmost lower */
	bool attr_valid, acl_known;
	uint8_t protection; /* PROTECTION_* bits, or 0: not looked at yet */
	bool copying; /* a copy-up is under way. This alone is guarded by ov->copies.lock */
	uint32_t acl_size;
	uint64_t attr_until; /* coarse monotonic ns: when attr is to be read again */
	struct overlay_attr attr;
	void *acl; /* posix ACL xattr, or NULL */
	struct place *data; /* where a metacopy's data is, or NULL: nowhere. Set once */
	/* These never change, but for object_forget_lowers */
	struct place **lower; /* the places below, topmost first; of a file the topmost alone */
	struct place *only_lower; /* where lower points, if it is one */
	uint8_t *lower_x; /* of a directory: lower[i] is marked opaque=x, so holds xattr whiteouts */
	uint32_t nlower;
	atomic_uint changes; /* counts changes, so that a kept listing is known to be old */
	pthread_mutex_t dir_lock; /* of a directory: its names, in the upper and in the table; of a file: its bytes, for a wcc that is atomic with the change */
	char first_name[];
};

bool object_is_up(struct object *o, bool with_data); /* in the upper? with_data: and no metacopy */
/* A pinned descriptor of the object's own inode, in the upper or (FD_READ) where its data is; -ESTALE when it is gone. Places go by name, and a name
 * may get another object: but not before the object that had it is marked dead, or moved to another place, under its lock. So a name may be used
 * under o->lock, and outside of it only what was opened there. rename_lock shared. */
int object_pin(struct overlay *ov, struct object *o, enum fd_kind kind, struct fdent **ent);
int object_pin_unlent(struct overlay *ov, struct object *o, enum fd_kind kind, struct fdent **ent); /* -EACCES where the mode forbids it to the server */

/* rc is -ESTALE, yet the object is not marked dead: whoever takes its name away has done so on disk and will mark it, or give it another of its names
 * as its place, in a moment. True: that moment was waited for (o->lock must not be held), try again. */
bool object_is_going(int rc, int *tries);

/* What a call on a dead object gets: one that only lost its name is there when asked again. */
static inline int object_gone(const struct object *o)
{
	return o->lost ? -EAGAIN : -ESTALE;
}

/* Of what there is more in a moment: memory, descriptors. */
static inline bool is_want(int rc)
{
	return rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE;
}

struct table {
	pthread_mutex_t lock;
	struct object **by_id, **by_name;
	size_t buckets, count, max;
	struct object *clock; /* list head, no object itself */
	struct object *hand;
	struct slab slab; /* the objects */
};

int table_init(struct table *table, size_t max);
void table_destroy(struct overlay *ov, struct table *table);
struct object *object_get(struct object *o);
/* Counted, or NULL: the root's. That of a file of several names may change at any time, when the name that it is known by goes. */
struct object *object_parent(struct overlay *ov, struct object *o);
struct object *table_find(struct overlay *ov, const struct overlay_id *id); /* counted, or NULL */
struct object *table_find_fileid(struct overlay *ov, uint64_t fileid); /* counted, or NULL */
struct object *table_find_name(struct overlay *ov, struct object *dir, const char *name);
/* What lookup found, on its way into an object. */
struct found {
	struct overlay_id id;
	struct statx st; /* of the topmost */
	struct place *upper, **lower, *data;
	uint8_t *lower_x;
	size_t nlower, nown; /* the first nown stand where the name leads; the rest behind a lower's redirect, which others may have too */
	bool metacopy, indexed;
	bool name_in_upper; /* the name itself is in the upper (not only the index) */
	bool name_below; /* a lower layer has the name visibly: removing it needs a whiteout */
	bool upper_whiteout; /* a whiteout stands in the upper under this name */
};
void found_free(struct overlay *ov, struct found *f);
/* The object for what was found: the table's, or a new one that takes over f's places. */
int object_from(struct overlay *ov, struct found *f, struct object *parent, const char *name, struct object **o);
void object_unname(struct overlay *ov, struct object *o, struct object *parent, const char *name); /* if that is its name in the table */
void object_rename(struct overlay *ov, struct object *o, struct object *parent, char *name); /* takes over name. rename_lock held exclusively */
void object_kill(struct overlay *ov, struct object *o); /* dead, and out of the table */
/* Out of the table, as the name that it was known by went and no other is known: its id finds it anew. */
void object_lost(struct overlay *ov, struct object *o);
void object_forget_lowers(struct overlay *ov, struct object *o); /* a directory that was made opaque. rename_lock held exclusively */
void object_set_name(struct overlay *ov, struct object *o, struct object *parent, const char *name, struct place *place); /* known by it; takes over place */
/* ---- find.c ---- */
int find_object(struct overlay *ov, const struct overlay_id *id, struct object **o); /* table and map. -ENOENT: not known. -ESTALE: known to be gone */
int find_name(struct overlay *ov, struct object *dir, const char *name, struct object **o); /* rename_lock shared; takes dir_lock; -ESTALE: dir is dead */
void object_lose(struct overlay *ov, struct object *o, struct object *dir, const char *name); /* one of several names went */
/* ---- search.c: where the map is silent ---- */
struct search;
int search_create(struct search **search);
void search_destroy(struct overlay *ov); /* ends a search that is under way */
/* The object, by a search of the layers in the background that fills the map on its way. -EAGAIN: it takes longer than a second, or many
 * wait for it already. -ESTALE: there is none. */
int search_object(struct overlay *ov, const struct overlay_id *id, struct object **o);
/* dir changed its name or parent: a search that is under way may have missed what is below. rename_lock held exclusively. */
void search_directory_moved(struct overlay *ov, struct object *dir);
/* What search_fill() is to do. progress (may be NULL) hears a fraction now and then, and says whether to go on. wanted (may be NULL) hears of every
 * file id, with rename_lock shared; broken (may be NULL) of what can't be reached, which is passed over. */
struct fill {
	struct overlay *ov;
	struct map *map;
	bool (*progress)(void *arg, double fraction);
	void (*wanted)(void *arg, uint64_t fileid, struct object *dir, const char *name);
	void (*broken)(void *arg, struct object *dir, const char *name, int rc); /* a name that can't be looked up, or a directory that can't be read */
	void *arg;
};
/* Puts the place of every object that can be reached into fill->map. -ECANCELED: progress said so. -ENOMEM, -EMFILE, -ENFILE: not all was seen. */
int search_fill(const struct fill *fill);
/* ---- create.c ---- */
void probe_acting(struct overlay *ov); /* sets acts_as_all */
/* ---- remove.c ---- */
int may_remove(struct overlay *ov, const struct overlay_cred *cred, struct object *dir, struct object *o);
void name_is_gone(struct overlay *ov, struct object *o, struct object *dir, const char *name, bool last);

/* ---- sync.c: what is done is on disk ---- */
struct waiter;
struct syncs {
	pthread_mutex_t lock; /* guards all but the averages; nothing is taken under it */
	unsigned running; /* flushes of files or of all, but those that calls sent away do on their own */
	struct waiter *queue, **tail;
	_Atomic uint64_t one_ns, all_ns; /* what a flush of a file, and of the file system, took lately */
	atomic_uint avoided;
	atomic_size_t deferred; /* files that calls put off to flush */
};
void syncs_init(struct syncs *s);
void syncs_destroy(struct syncs *s);
void will_block(struct overlay *ov); /* before a wait for a disk: others take over the thread's connection */
/* Waits, with no lock held, though perhaps in a copy-up, as those below may. A failed writeback changes the write verifier. */
int sync_fd(struct overlay *ov, int fd, bool data_only); /* fd: not O_PATH */
/* The last thing that a call does before its success may be told; it is put off where the thread said so. Both take over the pin. */
int sync_file(struct overlay *ov, struct fdent *file, bool data_only);
/* The same of a stable write or a commit. -EAGAIN: a writeback failed since the verifier was read, perhaps of these bytes. */
int sync_bytes(struct overlay *ov, struct fdent *file, uint64_t verifier, bool data_only);
int sync_dirs(struct overlay *ov, struct object *a, struct object *b); /* under `sync`, makes changes of names durable; b may be NULL */

/* ---- the overlay ---- */
enum { LISTINGS = 1024, LISTING_WAYS = 8, LISTING_READERS = 8 }; /* WAYS: those of one directory are among so many */
struct listing;
struct kept_listing { /* of a directory that is being read; empty: all zero */
	struct object *dir; /* compared by address and forgotten with the object */
	struct listing *l;
	unsigned changes; /* of the directory before it was read */
	uint64_t used;
};
struct overlay {
	struct overlay_config config;
	char *name;
	struct layer *layers; /* [0] is the upper where there is one */
	size_t nlayers;
	bool has_upper, writable, privileged, reserved_dir;
	bool acts_as_all; /* the kernel makes files for whatever user we say: create.c */
	uid_t uid; /* the server's own */
	gid_t gid;
	const char *prefix; /* "trusted.overlay." or "user.overlay." */
	int base_fd; /* <work>, or the reserved directory */
	int work_fd, map_fd; /* <work>/work and <work>/overnfsd */
	struct layer *data_layers; /* below all: reached by redirects of metacopies alone */
	size_t ndata_layers;
	bool follows_metacopy, makes_metacopy, makes_redirects;
	bool distrusts_lowers; /* redirects in them are refused: any owner of a directory can set user.* there */
	struct layer index_layer; /* a view of <work>/index, so that places may stand in it */
	pthread_mutex_t origins_lock; /* guards the next */
	struct origins *origins; /* origin.c; NULL until it is needed */
	atomic_bool has_index; /* read without index_lock too, once true for good */
	atomic_bool index_unflushed; /* an entry went that is to be flushed for */
	struct map *map;
	struct intents *intents; /* NULL: can't be kept */
	struct search *search;
	atomic_uint renames; /* counts them: whoever finds nothing while one happened looks again */
	struct identity *identity; /* NULL: no upper, so no state */
	struct object *root;
	uint8_t key[16];
	uint64_t fsid, max_file_size;
	unsigned long upper_mount; /* flags of statvfs(3): what a read does to times of access */
	_Atomic uint64_t verifier;
	pthread_rwlock_t rename_lock; /* shared by all that walk places; exclusive for rename */
	struct table table;
	struct slab place_slab; /* of all layers */
	struct copies {
		pthread_mutex_t lock; /* guards object->copying, of all objects */
		pthread_cond_t ended;
	} copies;
	struct fds fds;
	atomic_uint temp_counter;
	struct discarded *_Atomic discarded; /* directories in work_fd that work_empty() removes */
	pthread_mutex_t listing_readers[LISTING_READERS]; /* held while a big directory is read, by hash of the directory; then: */
	pthread_mutex_t listings_lock; /* guards the next three */
	struct kept_listing listings[LISTINGS];
	size_t listings_bytes;
	uint64_t listings_clock;
	pthread_mutex_t index_lock; /* making of the index directory; a change of an indexed file's names with its count. Taken after dir_lock */
	struct syncs syncs;
};
void ov_log(struct overlay *ov, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- intent.c: changes of several system calls, which a start finishes where a kill cut them short ---- */
struct intents;
int intents_open(struct overlay *ov); /* and finishes */
void intents_close(struct overlay *ov);
enum intent_kind { INTENT_OUTER, INTENT_INNER }; /* the latter by who may hold one of the former */
/* Notes that what stands at place, in the upper or the index, with this inode number, is to get these attributes. Before the first of the calls that
 * set them; intent_done behind the last, or when all is undone. The place must not move meanwhile. Not noted (and 0 all the same): a path
 * longer than 3800 bytes, or where notes can't be kept. */
int intent_note(struct overlay *ov, enum intent_kind kind, const struct place *place, uint64_t ino, const struct overlay_setattr *set, int *number);
void intent_done(struct overlay *ov, int number); /* negative: nothing was noted */
/* A moment's permissions (bits of the owner) for the server on what is its own, to open or move it by; -EACCES where there is nothing to lend. Its
 * object's lock is held, or rename_lock exclusively, so that nobody sees it. Alone the ctime moves. */
struct lent {
	struct place *place;
	struct overlay_setattr set;
	mode_t type;
	int note;
};
int lend(struct overlay *ov, struct place *place, mode_t bits, struct lent *lent);
void lent_back(struct overlay *ov, struct lent *lent);
int place_pin_lent(struct overlay *ov, struct place *place, enum fd_kind kind, struct fdent **ent); /* as place_pin, whatever the mode of what is ours */
/* For what clients are not to see happen in the directory at place, which dirfd is of: its times are noted, and put back at the end. */
struct kept_times {
	struct place *place;
	struct overlay_setattr set;
	pthread_mutex_t *lock;
	int note;
};
/* lock: of the directory's object, for what happens though the directory's own mode forbids it: taken until the times are put back, where the
 * permission has to be lent. NULL: nothing of the kind happens. */
int times_keep(struct overlay *ov, struct place *place, int dirfd, pthread_mutex_t *lock, struct kept_times *kept);
void times_put_back(struct overlay *ov, struct kept_times *kept); /* after a times_keep that returned 0 */

/* ---- state.c: what is known from earlier lives ---- */
int state_number_layers(struct overlay *ov, char *err, size_t errlen);
int state_key(struct overlay *ov); /* and the fsid, which is made of it */

/* ---- merge.c ---- */
struct layer *first_lower(struct overlay *ov);
/* What the layers have under the name: all of f but the id, name_below and what the index knows. */
/* topmost: lowers above this one are known not to have the name; or NULL */
int merge_layers(struct overlay *ov, struct object *dir, const char *name, const struct layer *topmost, struct found *f);
int merge_roots(struct overlay *ov, struct found *f);
/* Would the name show from below if the upper had nothing under it? */
int merge_shows_below(struct overlay *ov, struct object *dir, const char *name, bool *shows);

/* ---- verity.c ---- */
/* 0: the data is measured by fs-verity, and is not what the metacopy was made of. 1: it may be given out. -ENOMEM, -EMFILE: not to be told now. */
int verity_allows(struct overlay *ov, const struct metacopy *meta, struct place *data);

/* ---- index.c: lower files of several names: one copy, linked in <work>/index under the hex of its origin ---- */
int index_open(struct overlay *ov); /* makes the directory at first need */
int index_find_lower(struct overlay *ov, struct found *f); /* f is a lower file of several names: has it a copy? */
int index_find_upper(struct overlay *ov, struct object *dir, const char *name, struct found *f); /* f is an upper one: is it such a copy? */
/* Name of the entry for the lower at dirfd/name, which has that type. */
int index_name(struct overlay *ov, const struct layer *layer, int dirfd, const char *name, mode_t mode, char hex[321]);
bool index_has(struct overlay *ov, struct object *o); /* is its copy linked there? For such alone are the functions below */
/* The count of all its names, given the copy's own count of links. o->lock held. */
int index_nlink(struct overlay *ov, struct object *o, uint32_t upper_nlink, uint32_t *nlink);
/* Before a name of the copy is linked or unlinked: makes the kept count move with it. From here to the change ov->index_lock must be held,
 * or rename_lock exclusively; for the next one too. */
int index_keep_nlink(struct overlay *ov, struct object *o);
/* Makes a name of dir, so far the lower's, one of the copy's; the count stays. */
int index_link_up(struct overlay *ov, struct object *o, struct object *dir, int dirfd, const char *name);
int index_install(struct overlay *ov, int dirfd, const char *name, const char *hex); /* links a new copy there */
void index_uninstall(struct overlay *ov, const char *hex); /* it did not come under its name */
int index_sync(struct overlay *ov); /* under `sync`, makes what came and went there durable */
void index_remove(struct overlay *ov, struct object *o); /* the last name went */
void index_flush_removed(struct overlay *ov); /* behind it, with no lock held: it may wait for the disk */

/* ---- redirect.c ---- */
/* Before o, in the upper at dirfd/name, moves (within its directory: same_parent) or gets another name: keeps the way to its parts below.
 * -EXDEV where no redirects are made. rename_lock held, shared will do. */
int redirect_set(struct overlay *ov, struct object *o, int dirfd, const char *name, bool same_parent);

/* ---- lookup.c ---- */
/* Merges one name of dir (rename_lock shared or exclusive; dir->dir_lock for a steady answer). -ENOENT. f is for found_free;
 * on -ENOENT too, f->name_below and upper_whiteout are right. */
int merge_name(struct overlay *ov, struct object *dir, const char *name, struct found *f);
/* Of a name that o has in dir: f's flags alone, by as few looks at the disk as do. Under the same locks. */
int name_state(struct overlay *ov, struct object *dir, const char *name, struct object *o, struct found *f);
/* Is dir in the upper alone, so that a name which is not there is nowhere? */
bool only_upper(const struct object *dir);
int merge_root(struct overlay *ov, struct object **root);
int lookup_locked(struct overlay *ov, struct object *dir, const char *name, struct object **o);
int lookup_listed(struct overlay *ov, struct object *dir, const char *name, const struct layer *topmost, struct object **o); /* as merge_layers has it */
int check_name(struct overlay *ov, struct object *dir, const char *name);
/* What Linux copied up is known by its place and its origin alone: before it gets another place or name (it has dirfd/name now), its identity is
 * written on it as on a copy of our own. */
int keep_identity(struct overlay *ov, struct object *o, int dirfd, const char *name);
int keep_identity_in_file(struct overlay *ov, struct object *o, int dirfd, const char *name); /* of identities; whatever it carries */

/* ---- origin.c ---- */
int origin_find(struct overlay *ov, const uint8_t *fb, size_t len, struct overlay_id *id); /* fb: the origin xattr. 1: found, 0: it can't be told by the handle */
void origins_free(struct origins *o); /* NULL is allowed */

/* ---- attr.c ---- */
int attr_get(struct overlay *ov, struct object *o, struct overlay_attr *attr); /* rename_lock shared */
time_t attr_life(const struct overlay_attr *a, time_t now); /* for how many seconds they are kept; now: of the clock that the times are of */
void attr_forget(struct object *o); /* after a change */
void attr_was_read(struct overlay *ov, struct object *o); /* its bytes: that moves its time of access where the upper's mount has it so */
void attr_keep(struct overlay *ov, struct object *o, const struct statx *st); /* of an object that is new in the table, as it was found */
uint64_t id_fileid(const struct overlay_id *id);
void wcc_before(struct overlay *ov, struct object *o, struct overlay_wcc *wcc);
void wcc_after(struct overlay *ov, struct object *o, struct overlay_wcc *wcc);
/* Of who changes nothing: one look gives both. What another changes between two would seem to be its doing, and its client keep stale bytes. */
void wcc_unchanged(struct overlay *ov, struct object *o, struct overlay_wcc *wcc);
/* The mode that a write or truncation leaves: the set-id bits go, as Linux's setattr_should_drop_suidgid() says. */
mode_t mode_after_write(const struct overlay_cred *cred, const struct overlay_attr *a);
int apply_setattr(struct overlay *ov, struct place *place, const struct overlay_setattr *set, mode_t type);

/* ---- access.c ---- */
enum { PROTECTION_KNOWN = 1, PROTECTION_APPEND = 2, PROTECTION_IMMUTABLE = 4 };
uint8_t protection_from(const struct layer *layer, const struct statx *st); /* by the file system's own flags */
int permitted(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want); /* bits, each by itself; rename_lock shared */
int require(struct overlay *ov, const struct overlay_cred *cred, struct object *o, int want); /* all at once: 0, -EACCES, or -EPERM of what is immutable */
/* -EPERM of what is immutable; of what is append-only too, unless the change adds: a name, or now as a time. Nobody is excepted. */
int changeable(struct overlay *ov, struct object *o, bool adds);
void protection_of_new(struct object *o, const struct layer *layer, const struct statx *st); /* of what was just made, and so carries no marks */
bool in_group(const struct overlay_cred *cred, gid_t gid);

/* ---- acl.c ---- */
/* linux/posix_acl_xattr.h: a version word of 2, then entries, all little-endian. */
struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
};
enum { ACL_USER_OBJ = 1, ACL_USER = 2, ACL_GROUP_OBJ = 4, ACL_GROUP = 8, ACL_MASK = 16, ACL_OTHER = 32 };
/* The new fd/name, to be moved into the directory dirfd, gets the ACLs that the directory's default ACL means for it; *mode is narrowed
 * accordingly, and still to be set. */
int acl_inherit(int dirfd, int fd, const char *name, mode_t *mode, bool is_dir);

/* ---- copyup.c ---- */
/* Makes sure that the object (its ancestors first) is in the upper. No lock may be held. with_data: complete a metacopy too. */
int copy_up(struct overlay *ov, struct object *o, bool with_data);
/* As copy_up with data, but of the first size bytes alone: the rest is about to be cut off. */
int copy_up_truncated(struct overlay *ov, struct object *o, uint64_t size);
/* Bytes that are on their way to a metacopy have its dir_lock for as long as they take. Before rename_lock and that: who waited for it with the former
 * held would have all others wait, as soon as there is a rename. True: as in a copy-up, so that none start, until bytes_waited_for. */
bool wait_for_bytes(struct overlay *ov, struct object *o);
void bytes_waited_for(struct overlay *ov, struct object *o, bool waited);
/* ---- copydata.c ---- */
/* The first size bytes: a clone where possible, else copied; holes stay holes. to has exactly size bytes then. */
int copy_data(int from, int to, uint64_t size, bool fresh); /* fresh: to is empty */
/* All but the overlay's own, from dirfd/name to dirfd2/name2, neither followed. ACLs and capabilities are xattrs too. */
int copy_xattrs(struct overlay *ov, int dirfd, const char *name, int dirfd2, const char *name2);
/* ---- claim.c: who uses the upper and the work directory, and what in them forbids their use. err: one line for the user ---- */
int claim_lock(struct overlay *ov, char *err, size_t errlen); /* before anything is changed; opens --work */
int claim_incompat(int base_fd, char *err, size_t errlen); /* what overlayfs forbids; said in <work>/work/incompat */
int claim_upper(struct overlay *ov, char *err, size_t errlen);
bool claim_uuid(struct overlay *ov, uint8_t uuid[16]); /* the overlay's own id, on the upper's root; made at first. False: none */
void claim_index(struct overlay *ov); /* ties a new index to the upper, and the upper to its topmost lower, as Linux does */
/* ---- work.c: things are made in the work directory, then moved into place ---- */
void work_name(struct overlay *ov, char name[24]);
int work_clean(int dirfd); /* removes all that is in the directory */
int dir_holds_anything(int dirfd); /* 1 or 0: whiteouts count */
int work_whiteout(struct overlay *ov, char name[24]); /* makes a whiteout */
/* Whatever it is. A directory that is not empty stays for work_empty(): a million whiteouts may be in it, and locks are held. */
void work_remove(struct overlay *ov, const char *name);
void work_empty(struct overlay *ov); /* no lock may be held */
/* Puts a whiteout in place of dirfd/name, atomically; what stood there (or nothing) is gone then. */
int whiteout_name(struct overlay *ov, int dirfd, const char *name, bool exists, bool is_dir);
/* Linux looks at the entries of an upper directory one by one if it is so marked: it may hold what was copied up or moved. */
int mark_impure(struct overlay *ov, struct object *dir, int dirfd); /* before it does */
/* Gives the indexed object's inode the name in dir: links it from where it stands. */
int link_into(struct overlay *ov, struct object *o, int dirfd, const char *name, bool replace);

/* ---- listing.c ---- */
/* Is the merged directory empty? Under its dir_lock. */
int directory_is_empty(struct overlay *ov, struct object *dir);
/* Calls visit for each name of the merged directory, with the topmost layer that has it and d_ino there; may_be_dir where d_type says so or
 * says nothing. rename_lock shared. */
typedef int listing_visit(void *arg, const char *name, const struct layer *layer, uint64_t ino, bool may_be_dir);
int listing_walk(struct overlay *ov, struct object *dir, listing_visit *visit, void *arg);
/* ---- kept.c ---- */
void listing_forget(struct overlay *ov, struct object *dir); /* what is kept of it: the object goes */

#endif
