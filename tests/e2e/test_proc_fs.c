/* FSSTAT FSINFO PATHCONF over the wire. */
#include "sample.h"

static void the_file_system_describes_itself(void **state)
{
	(void)state;
	struct fh bad = bad_handle();
	GETATTR3args a = { fh3(&root.root) }, b = { fh3(&bad) };
	FSSTAT3res st = { 0 };
	FSINFO3res info = { 0 };
	PATHCONF3res conf = { 0 };
	CALL(&root, 18, GETATTR3args, &a, FSSTAT3res, &st);
	assert_nfs(st.status, NFS3_OK);
	assert_true(st.FSSTAT3res_u.resok.tbytes >= st.FSSTAT3res_u.resok.fbytes && st.FSSTAT3res_u.resok.fbytes >= st.FSSTAT3res_u.resok.abytes);
	CALL(&root, 19, GETATTR3args, &a, FSINFO3res, &info);
	assert_nfs(info.status, NFS3_OK);
	assert_int_equal(info.FSINFO3res_u.resok.rtmax, 1 << 20);
	assert_int_equal(info.FSINFO3res_u.resok.wtmax, 1 << 20);
	assert_int_equal(info.FSINFO3res_u.resok.properties, FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME);
	CALL(&root, 20, GETATTR3args, &a, PATHCONF3res, &conf);
	assert_nfs(conf.status, NFS3_OK);
	assert_int_equal(conf.PATHCONF3res_u.resok.name_max, 255);
	assert_true(conf.PATHCONF3res_u.resok.no_trunc && conf.PATHCONF3res_u.resok.chown_restricted && conf.PATHCONF3res_u.resok.case_preserving);
	assert_false(conf.PATHCONF3res_u.resok.case_insensitive);
	CALL(&root, 18, GETATTR3args, &b, FSSTAT3res, &st);
	CALL(&root, 19, GETATTR3args, &b, FSINFO3res, &info);
	CALL(&root, 20, GETATTR3args, &b, PATHCONF3res, &conf);
	assert_nfs(st.status, NFS3ERR_BADHANDLE);
	assert_nfs(info.status, NFS3ERR_BADHANDLE);
	assert_nfs(conf.status, NFS3ERR_BADHANDLE);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_file_system_describes_itself),
	};
	return SAMPLE_RUN(tests);
}
