/* map_file.c: see map_file.h. */
#include "map_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SMALL = 256 /* pages: not worth shrinking */ };

/* By its two meta pages. */
bool map_file_is_sound(int dirfd, const char *name)
{
	struct meta {
		uint32_t magic, version;
		uint64_t address, mapsize;
		uint8_t dbs[96];
		uint64_t last_page, txnid;
	} m[2];
	struct stat st;
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT;
	bool sound = !fstat(fd, &st) && st.st_size == 0;
	long page = sysconf(_SC_PAGESIZE);
	if (!sound && st.st_size >= 2 * page && pread(fd, &m[0], sizeof m[0], 16) == sizeof m[0] &&
	    pread(fd, &m[1], sizeof m[1], page + 16) == sizeof m[1] && m[0].magic == 0xBEEFC0DE && m[1].magic == 0xBEEFC0DE) {
		const struct meta *newer = m[1].txnid > m[0].txnid ? &m[1] : &m[0];
		sound = newer->last_page < (uint64_t)st.st_size && (newer->last_page + 1) * (uint64_t)page <= (uint64_t)st.st_size;
	}
	close(fd);
	return sound;
}

static int open_env(const char *path, unsigned flags, MDB_env **env, MDB_dbi *places)
{
	MDB_txn *txn = NULL;
	int rc = mdb_env_create(env);
	if (rc)
		return rc;
	mdb_env_set_maxdbs(*env, 4);
	mdb_env_set_maxreaders(*env, 1024);
	mdb_env_set_mapsize(*env, sizeof(void *) > 4 ? (size_t)1 << 36 : (size_t)1 << 29);
	/* NOMETASYNC: a power cut may undo the last batch, never damage the file */
	rc = mdb_env_open(*env, path, MDB_NOSUBDIR | MDB_NOTLS | MDB_NOMETASYNC | flags, 0600);
	if (!rc)
		rc = mdb_txn_begin(*env, NULL, flags & MDB_RDONLY, &txn);
	if (!rc)
		rc = mdb_dbi_open(txn, "places 2", (flags & MDB_RDONLY ? 0 : MDB_CREATE) | MDB_DUPSORT, places);
	if (!rc)
		rc = mdb_txn_commit(txn);
	else if (txn)
		mdb_txn_abort(txn);
	if (rc) {
		mdb_env_close(*env);
		*env = NULL;
	}
	return rc;
}

int map_file_open(int dirfd, enum map_file how, MDB_env **env, MDB_dbi *places)
{
	char path[64];
	struct stat st;
	snprintf(path, sizeof path, "/proc/self/fd/%d/map.mdb", dirfd);
	*env = NULL;
	if (how != MAP_MAKE && fstatat(dirfd, "map.mdb", &st, AT_SYMLINK_NOFOLLOW))
		return errno;
	if (!map_file_is_sound(dirfd, "map.mdb"))
		return MDB_INVALID;
	int rc = open_env(path, how == MAP_READ_ONLY ? MDB_RDONLY | MDB_NOLOCK : 0, env, places); /* NOLOCK: nobody else has it, and no file is made */
	return rc == MDB_NOTFOUND ? MDB_INVALID : rc;
}

int map_file_open_private(MDB_env **env, MDB_dbi *places)
{
	const char *tmp = getenv("TMPDIR");
	char dir[4096], path[4200], lock[4200];
	snprintf(dir, sizeof dir, "%s/overnfsd-map-XXXXXX", tmp && *tmp == '/' ? tmp : "/tmp");
	*env = NULL;
	if (!mkdtemp(dir))
		return errno;
	snprintf(path, sizeof path, "%s/map.mdb", dir);
	snprintf(lock, sizeof lock, "%s/map.mdb-lock", dir);
	int rc = open_env(path, MDB_NOSYNC, env, places);
	unlink(path);
	unlink(lock);
	rmdir(dir);
	return rc;
}

bool map_file_is_damage(int code)
{
	return code == MDB_INVALID || code == MDB_VERSION_MISMATCH || code == MDB_CORRUPTED || code == MDB_PAGE_NOTFOUND || code == MDB_INCOMPATIBLE ||
	       code == MDB_PANIC;
}

void map_file_set_aside(int dirfd, const char *name, char bad[64])
{
	char lock[64];
	struct stat st;
	int n = 1;
	do
		snprintf(bad, 64, "%s.bad-%d", name, n++);
	while (!fstatat(dirfd, bad, &st, AT_SYMLINK_NOFOLLOW) && n < 1000);
	renameat(dirfd, name, dirfd, bad);
	snprintf(lock, sizeof lock, "%s-lock", name);
	unlinkat(dirfd, lock, 0);
}

void map_file_shrink(int dirfd, MDB_env *env, MDB_dbi places)
{
	char path[64];
	MDB_envinfo info;
	MDB_stat st;
	MDB_txn *txn;
	if (mdb_txn_begin(env, NULL, MDB_RDONLY, &txn))
		return;
	int rc = mdb_stat(txn, places, &st);
	mdb_txn_abort(txn);
	if (rc || mdb_env_info(env, &info))
		return;
	size_t used = st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages, file = info.me_last_pgno + 1;
	if (file < SMALL || file < 2 * used)
		return;
	snprintf(path, sizeof path, "/proc/self/fd/%d/map.mdb.new", dirfd);
	unlinkat(dirfd, "map.mdb.new", 0);
	rc = mdb_env_copy2(env, path, MDB_CP_COMPACT); /* synced by LMDB */
	if (rc || renameat(dirfd, "map.mdb.new", dirfd, "map.mdb"))
		unlinkat(dirfd, "map.mdb.new", 0);
}
