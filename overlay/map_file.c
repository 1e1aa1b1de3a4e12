/* map_file.c: see map_file.h. */
#include "map_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SMALL = 256 /* pages: not worth shrinking */, LOCK_FILE = 17 * 4096 /* of 1024 readers */ };

int map_file_reserve_lock(const char *path)
{
	char lock[4300];
	static const char zeros[LOCK_FILE];
	struct stat st;
	snprintf(lock, sizeof lock, "%s-lock", path);
	int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600), rc = fd < 0 ? errno : 0;
	if (!rc && fstat(fd, &st))
		rc = errno;
	if (!rc && (st.st_size < LOCK_FILE || st.st_blocks * 512 < LOCK_FILE)) { /* nobody else has it: LMDB begins it anew */
		ssize_t n = pwrite(fd, zeros, sizeof zeros, 0);
		rc = n == LOCK_FILE ? fsync(fd) ? errno : 0 : n < 0 ? errno : ENOSPC; /* with delayed allocation, a full disk shows only now */
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

static int open_env(const char *path, unsigned flags, MDB_env **env, MDB_dbi *places)
{
	MDB_txn *txn = NULL;
	int rc = flags & MDB_NOLOCK ? 0 : map_file_reserve_lock(path);
	*env = NULL;
	if (!rc)
		rc = mdb_env_create(env);
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
	int rc = map_file_verify(dirfd, "map.mdb");
	if (rc)
		return rc == EACCES ? MDB_INVALID : rc; /* another user's: ours can be made anew */
	rc = open_env(path, how == MAP_READ_ONLY ? MDB_RDONLY | MDB_NOLOCK : 0, env, places); /* NOLOCK: nobody else has it, and no file is made */
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
