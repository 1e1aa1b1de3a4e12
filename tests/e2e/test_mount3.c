/* The procedures of MOUNT version 3 over the wire. */
#include "mount3.h"
#include "sample.h"

#include <string.h>

static mountstat3 mount_path(struct client *c, char *dir, struct fh *fh)
{
	dirpath p = dir;
	mountres3 r = { 0 };
	assert_int_equal(client_call(c, 100005, 3, 1, (xdrproc_t)xdr_dirpath, &p, (xdrproc_t)xdr_mountres3, &r), 0);
	mountstat3 st = r.fhs_status;
	if (!st) {
		fh->len = r.mountres3_u.mountinfo.fhandle.fhandle3_len;
		memcpy(fh->data, r.mountres3_u.mountinfo.fhandle.fhandle3_val, fh->len);
		assert_true(r.mountres3_u.mountinfo.auth_flavors.auth_flavors_len > 0);
	}
	xdr_free((xdrproc_t)xdr_mountres3, (char *)&r);
	return st;
}

static void mount_gives_the_root_and_what_is_below(void **state)
{
	(void)state;
	struct fh fh, d = path(&root, "d");
	assert_int_equal(mount_path(&root, "/overlay", &fh), MNT3_OK);
	assert_memory_equal(&fh, &root.root, sizeof fh.len + fh.len);
	assert_int_equal(mount_path(&root, "/overlay/d", &fh), MNT3_OK);
	assert_memory_equal(&fh, &d, sizeof fh.len + fh.len);
	assert_int_equal(mount_path(&root, "/overlay/d/", &fh), MNT3_OK);
	assert_int_equal(mount_path(&root, "/overlay/nothing", &fh), MNT3ERR_NOENT);
	assert_int_equal(mount_path(&root, "/overlay/hello", &fh), MNT3ERR_NOTDIR);
	assert_int_equal(mount_path(&root, "/elsewhere", &fh), MNT3ERR_NOENT);
	assert_int_equal(mount_path(&root, "/overlay/../..", &fh), MNT3_OK); /* ".." of the root is the root */
	assert_memory_equal(&fh, &root.root, sizeof fh.len + fh.len);
}

static int count_mounts(struct client *c)
{
	mountlist list = NULL;
	int n = 0;
	assert_int_equal(client_call(c, 100005, 3, 2, NULL, NULL, (xdrproc_t)xdr_mountlist, &list), 0);
	for (mountlist m = list; m; m = m->ml_next)
		n++;
	xdr_free((xdrproc_t)xdr_mountlist, (char *)&list);
	return n;
}

static void mount_keeps_its_list_for_humans(void **state)
{
	(void)state;
	struct fh fh;
	dirpath d = "/overlay/d";
	exports list = NULL;
	assert_int_equal(mount_path(&root, "/overlay", &fh), MNT3_OK);
	assert_int_equal(mount_path(&root, "/overlay/d", &fh), MNT3_OK);
	int before = count_mounts(&root);
	assert_true(before >= 2);
	assert_int_equal(client_call(&root, 100005, 3, 3, (xdrproc_t)xdr_dirpath, &d, NULL, NULL), 0);
	assert_int_equal(count_mounts(&root), before - 1);
	assert_int_equal(client_call(&root, 100005, 3, 4, NULL, NULL, NULL, NULL), 0);
	assert_int_equal(count_mounts(&root), 0);
	for (uint32_t vers = 1; vers <= 3; vers += 2) { /* showmount asks version 3, then 1 */
		assert_int_equal(client_call(&root, 100005, vers, 5, NULL, NULL, (xdrproc_t)xdr_exports, &list), 0);
		assert_string_equal(list->ex_dir, "/overlay");
		assert_non_null(list->ex_groups);
		assert_null(list->ex_next);
		xdr_free((xdrproc_t)xdr_exports, (char *)&list);
		list = NULL;
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(mount_gives_the_root_and_what_is_below),
		cmocka_unit_test(mount_keeps_its_list_for_humans),
	};
	return SAMPLE_RUN(tests);
}
