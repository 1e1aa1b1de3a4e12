/* verity.c: the fs-verity digest that a metacopy may carry of its data (Linux: ovl_validate_verity() in fs/overlayfs/util.c). */
#include "internal.h"

#include <linux/fsverity.h>
#include <string.h>
#include <sys/ioctl.h>

int verity_allows(struct overlay *ov, const struct metacopy *meta, struct place *data)
{
	uint16_t space[2 + MAX_DIGEST / 2] = { 0 };
	struct fsverity_digest *real = (void *)space;
	struct fdent *file;
	if (!meta->digest_algo)
		return 1;
	int rc = place_pin(ov, data, FD_READ, &file);
	if (rc)
		return is_want(rc) ? rc : 1; /* reading it will say what is wrong */
	real->digest_size = MAX_DIGEST;
	rc = ioctl(file->fd, FS_IOC_MEASURE_VERITY, real) ? -errno : 0;
	place_unpin(ov, file);
	if (is_want(rc))
		return rc;
	if (rc)
		return rc == -ENODATA || rc == -ENOTTY || rc == -EOPNOTSUPP; /* has none: not asked for, as by default in Linux (verity=off) */
	return real->digest_algorithm == meta->digest_algo && real->digest_size == meta->len - 4 && !memcmp(real->digest, meta->digest, real->digest_size);
}
