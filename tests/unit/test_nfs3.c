/* nfs3/ by its parts: handles, attributes and statuses, clients by address, squashing, options and the configuration file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attr.h"
#include "config.h"
#include "exports.h"
#include "handle.h"
#include "log.h"
#include "options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[64];
static struct overlay *open_with(const char *name, const uint8_t *key)
{
	const char *lowers[] = { dir };
	struct overlay_config c = { .lowers = lowers, .nlowers = 1, .name = name, .key = key };
	struct overlay *ov = NULL;
	char err[256];
	assert_int_equal(overlay_open(&c, &ov, err, sizeof err), 0);
	return ov;
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/overnfsd-nfs3-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char cmd[100];
	(void)state;
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	return system(cmd);
}

/* ---- handle.c ---- */
static const uint8_t key[16] = "0123456789abcdef", other_key[16] = "0123456789abcdeF";

static void a_handle_comes_back_as_the_id_that_it_was_made_of(void **state)
{
	(void)state;
	struct overlay *ov = open_with("/overlay", key);
	static const struct overlay_id ids[] = { { 1, 1, 0 }, { 0xffff, UINT64_MAX, UINT64_MAX }, { 300, 1ull << 48, 0x0102030405060708 } };
	for (size_t i = 0; i < 3; i++) {
		uint8_t h[HANDLE_SIZE], again[HANDLE_SIZE];
		struct overlay_id id;
		handle_encode(ov, &ids[i], h);
		handle_encode(ov, &ids[i], again);
		assert_memory_equal(h, again, HANDLE_SIZE);
		assert_int_equal(handle_decode(ov, h, HANDLE_SIZE, &id), NFS3_OK);
		assert_int_equal(id.layer, ids[i].layer);
		assert_int_equal(id.ino, ids[i].ino);
		assert_int_equal(id.gen, ids[i].gen);
	}
	overlay_close(ov);
}

static void a_handle_with_any_bit_changed_is_bad(void **state)
{
	(void)state;
	struct overlay *ov = open_with("/overlay", key), *renamed = open_with("/other", key), *rekeyed = open_with("/overlay", other_key);
	uint8_t h[64] = { 0 };
	struct overlay_id id = { 7, 1234, 5678 };
	handle_encode(ov, &id, h);
	for (int bit = 0; bit < HANDLE_SIZE * 8; bit++) {
		h[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(handle_decode(ov, h, HANDLE_SIZE, &id), NFS3ERR_BADHANDLE);
		h[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t len = 0; len <= sizeof h; len++)
		assert_int_equal(handle_decode(ov, h, len, &id), len == HANDLE_SIZE ? NFS3_OK : NFS3ERR_BADHANDLE);
	assert_int_equal(handle_decode(renamed, h, HANDLE_SIZE, &id), NFS3ERR_BADHANDLE);
	assert_int_equal(handle_decode(rekeyed, h, HANDLE_SIZE, &id), NFS3ERR_BADHANDLE);
	overlay_close(ov);
	overlay_close(renamed);
	overlay_close(rekeyed);
}

/* ---- attr.c ---- */
static void each_errno_has_its_status(void **state)
{
	(void)state;
	static const struct { int err; nfsstat3 status; } table[] = {
		{ 0, NFS3_OK }, { EPERM, NFS3ERR_PERM }, { ENOENT, NFS3ERR_NOENT }, { EIO, NFS3ERR_IO }, { ENXIO, NFS3ERR_NXIO }, { EACCES, NFS3ERR_ACCES },
		{ EEXIST, NFS3ERR_EXIST }, { EXDEV, NFS3ERR_XDEV }, { ENODEV, NFS3ERR_NODEV }, { ENOTDIR, NFS3ERR_NOTDIR }, { EISDIR, NFS3ERR_ISDIR },
		{ EINVAL, NFS3ERR_INVAL }, { EFBIG, NFS3ERR_FBIG }, { ENOSPC, NFS3ERR_NOSPC }, { EROFS, NFS3ERR_ROFS }, { EMLINK, NFS3ERR_MLINK },
		{ ENAMETOOLONG, NFS3ERR_NAMETOOLONG }, { ENOTEMPTY, NFS3ERR_NOTEMPTY }, { EDQUOT, NFS3ERR_DQUOT }, { ESTALE, NFS3ERR_STALE },
		{ EOPNOTSUPP, NFS3ERR_NOTSUPP }, { ENOMEM, NFS3ERR_JUKEBOX }, { EMFILE, NFS3ERR_JUKEBOX }, { ENFILE, NFS3ERR_JUKEBOX },
		{ EAGAIN, NFS3ERR_JUKEBOX }, { EKEYEXPIRED, NFS3ERR_NOT_SYNC }, { ENOTTY, NFS3ERR_SERVERFAULT } };
	log_start(0, 0); /* the last one is logged */
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		assert_int_equal(errno_to_nfsstat3(-table[i].err), table[i].status);
}

static void attributes_are_told_whole(void **state)
{
	(void)state;
	struct overlay *ov = open_with("/overlay", key);
	static const struct { mode_t type; ftype3 want; } types[] = { { S_IFREG, NF3REG }, { S_IFDIR, NF3DIR }, { S_IFBLK, NF3BLK }, { S_IFCHR, NF3CHR },
								       { S_IFLNK, NF3LNK }, { S_IFSOCK, NF3SOCK }, { S_IFIFO, NF3FIFO } };
	struct overlay_attr a = { .nlink = 3, .uid = 4, .gid = 5, .size = 1ull << 40, .used = 4096, .rdev_major = 8, .rdev_minor = 9, .fileid = 1ull << 50,
				  .atime = { 1, 2 }, .mtime = { 3, 4 }, .ctime = { 5, 999999999 } };
	for (size_t i = 0; i < 7; i++) {
		fattr3 f;
		a.mode = types[i].type | 07755;
		attr_to_fattr3(ov, &a, &f);
		assert_int_equal(f.type, types[i].want);
		assert_int_equal(f.mode, 07755);
		assert_true(f.nlink == 3 && f.uid == 4 && f.gid == 5 && f.size == 1ull << 40 && f.used == 4096 && f.fileid == 1ull << 50);
		assert_true(f.rdev.specdata1 == 8 && f.rdev.specdata2 == 9 && f.fsid == overlay_fsid(ov));
		assert_true(f.atime.seconds == 1 && f.mtime.nseconds == 4 && f.ctime.nseconds == 999999999);
	}
	post_op_attr p;
	attr_to_post_op(ov, NULL, &p);
	assert_false(p.attributes_follow);
	overlay_close(ov);
}

static void impossible_times_are_refused(void **state)
{
	(void)state;
	sattr3 s = { 0 };
	struct overlay_setattr set;
	assert_int_equal(sattr3_to_setattr(&s, &set), NFS3_OK);
	assert_true(!set.set_mode && !set.set_uid && !set.set_gid && !set.set_size && !set.set_atime && !set.set_mtime);
	s.mtime.set_it = SET_TO_CLIENT_TIME;
	s.mtime.set_time_u.value = (nfstime3){ 1, 999999999 };
	s.atime.set_it = SET_TO_SERVER_TIME;
	assert_int_equal(sattr3_to_setattr(&s, &set), NFS3_OK);
	assert_true(set.set_mtime == TIME_CLIENT && set.mtime.tv_nsec == 999999999 && set.set_atime == TIME_SERVER);
	s.mtime.set_time_u.value.nseconds = 1000000000;
	assert_int_equal(sattr3_to_setattr(&s, &set), NFS3ERR_INVAL);
	s.mtime.set_it = 77; /* no such way */
	assert_int_equal(sattr3_to_setattr(&s, &set), NFS3ERR_INVAL);
	s.mtime.set_it = DONT_CHANGE;
	s.mode.set_it = TRUE;
	s.mode.set_uint32_u.value = 0177777;
	s.uid = s.gid = (set_uint32){ .set_it = TRUE, .set_uint32_u.value = UINT32_MAX }; /* nobody's numbers */
	assert_int_equal(sattr3_to_setattr(&s, &set), NFS3_OK);
	assert_int_equal(set.mode, 07777);
	assert_true(!set.set_uid && !set.set_gid);
}

/* ---- exports.c ---- */
static struct sockaddr_storage peer(const char *address)
{
	struct sockaddr_storage a = { 0 };
	if (strchr(address, ':')) {
		a.ss_family = AF_INET6;
		assert_int_equal(inet_pton(AF_INET6, address, &((struct sockaddr_in6 *)&a)->sin6_addr), 1);
	} else {
		a.ss_family = AF_INET;
		assert_int_equal(inet_pton(AF_INET, address, &((struct sockaddr_in *)&a)->sin_addr), 1);
	}
	return a;
}

static bool has(const char *list, const char *address)
{
	struct client_list l = { .n = 0 };
	struct sockaddr_storage a = peer(address);
	char err[256];
	assert_int_equal(client_list_parse(&l, list, err, sizeof err), 0);
	return client_list_has(&l, &a);
}

static void ranges_of_addresses_hold_what_they_should(void **state)
{
	(void)state;
	static const struct { const char *list, *in, *out; } cases[] = {
		{ "10.0.0.0/8", "10.255.1.2", "11.0.0.0" },
		{ "10.1.2.3/8", "10.9.9.9", "9.255.255.255" },
		{ "192.168.1.5", "192.168.1.5", "192.168.1.4" },
		{ "192.168.1.0/30", "192.168.1.3", "192.168.1.4" },
		{ "192.168.1.128/25", "192.168.1.128", "192.168.1.127" },
		{ "1.2.3.4/32", "1.2.3.4", "1.2.3.5" },
		{ "0.0.0.0/0", "255.1.2.3", "::1" }, /* all of IPv4, and none of IPv6 */
		{ "0.0.0.0/1", "127.0.0.1", "128.0.0.1" },
		{ "fd00::/8", "fdff::1", "fe00::1" },
		{ "2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1" },
		{ "::1", "::1", "::2" },
		{ "::ffff:10.0.0.0/104", "10.1.1.1", "11.0.0.1" }, /* IPv4 in IPv6's words, and the other way round */
		{ "10.0.0.0/8", "::ffff:10.1.1.1", "::ffff:11.0.0.1" },
		{ "1.1.1.1,2.2.2.2/31,::5", "2.2.2.3", "2.2.2.4" } };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		assert_true(has(cases[i].list, cases[i].in));
		assert_false(has(cases[i].list, cases[i].out));
	}
	assert_true(has("::/0", "10.0.0.1")); /* everybody */
}

static void what_is_no_range_is_refused_by_name(void **state)
{
	(void)state;
	static const char *const bad[] = { "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/ 8", "10.0.0.0/8x", "::1/129", "10.0.0", "host", "1.2.3.4.5",
					   "1.2.3.4/8/9", "", ",", "/8", "fe80::1%eth0", "10.0.0.0/99999999999999999999" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct client_list l = { .n = 0 };
		char err[256] = "";
		assert_int_equal(client_list_parse(&l, bad[i], err, sizeof err), -EINVAL);
		assert_non_null(strstr(err, "write one like 10.0.0.0/8"));
	}
	char many[64 * 16 + 16] = "", err[256];
	struct client_list l = { .n = 0 };
	for (int i = 0; i < 64; i++)
		sprintf(many + strlen(many), "10.0.0.%d,", i);
	assert_int_equal(client_list_parse(&l, many, err, sizeof err), 0);
	assert_int_equal(client_list_parse(&l, "10.0.0.64", err, sizeof err), -EINVAL);
}

static struct overlay_cred squashed(enum squash how, uint32_t flavor, uint32_t uid, uint32_t gid, const char *root_clients)
{
	struct export e = { .squash = how, .anon_uid = 65534, .anon_gid = 65533 };
	struct rpc_call call = { .flavor = flavor, .uid = uid, .gid = gid, .ngroups = 2, .groups = { 0, 7 }, .peer = peer("10.0.0.1") };
	struct overlay_cred cred;
	char err[256];
	if (root_clients)
		assert_int_equal(client_list_parse(&e.root_clients, root_clients, err, sizeof err), 0);
	export_cred(&e, &call, &cred);
	return cred;
}

static void callers_are_squashed_as_the_export_says(void **state)
{
	(void)state;
	struct overlay_cred c = squashed(SQUASH_ROOT, 1, 0, 0, NULL);
	assert_true(c.uid == 65534 && c.gid == 65533 && c.ngroups == 0);
	c = squashed(SQUASH_ROOT, 1, 1000, 0, NULL); /* root's group is squashed by itself */
	assert_true(c.uid == 1000 && c.gid == 65533 && c.ngroups == 2 && c.groups[0] == 65533 && c.groups[1] == 7);
	c = squashed(SQUASH_NONE, 1, 0, 0, NULL);
	assert_true(c.uid == 0 && c.gid == 0 && c.ngroups == 2 && c.groups[0] == 0);
	c = squashed(SQUASH_ALL, 1, 1000, 1000, NULL);
	assert_true(c.uid == 65534 && c.gid == 65533 && c.ngroups == 0);
	c = squashed(SQUASH_NONE, 0, 65534, 65534, NULL); /* AUTH_NONE is nobody everywhere */
	assert_true(c.uid == 65534 && c.gid == 65533 && c.ngroups == 0);
	c = squashed(SQUASH_NONE, 1, UINT32_MAX, 5, NULL); /* to the kernel that is "leave the owner": the server's own */
	assert_true(c.uid == 65534 && c.gid == 65533 && c.ngroups == 0);
	c = squashed(SQUASH_NONE, 1, 1000, UINT32_MAX, NULL);
	assert_true(c.uid == 1000 && c.gid == 65533 && c.ngroups == 2);
	c = squashed(SQUASH_ROOT, 1, 0, 0, "10.0.0.0/30");
	assert_true(c.uid == 0 && c.ngroups == 2);
	c = squashed(SQUASH_ROOT, 1, 0, 0, "10.0.0.4/30");
	assert_int_equal(c.uid, 65534);
	c = squashed(SQUASH_ROOT, 1, UINT32_MAX, UINT32_MAX, NULL); /* chown() would let what it makes be root's */
	assert_true(c.uid == 65534 && c.gid == 65533);
	c = squashed(SQUASH_NONE, 1, UINT32_MAX, UINT32_MAX, NULL);
	assert_true(c.uid == 65534 && c.gid == 65533);
}

/* ---- options.c, config.c ---- */
static int parse(struct options *o, ...)
{
	char *argv[32] = { "overnfsd" };
	int argc = 1;
	va_list ap;
	va_start(ap, o);
	while ((argv[argc] = va_arg(ap, char *)))
		argc++;
	va_end(ap);
	optind = 0; /* getopt's own start */
	return options_parse(o, argc, argv);
}

static void options_have_their_defaults(void **state)
{
	(void)state;
	static struct options o;
	assert_int_equal(parse(&o, "--lower", "/a", "--lower", "/b", NULL), -1);
	assert_int_equal(o.nlowers, 2);
	assert_string_equal(o.lowers[0], "/a");
	assert_string_equal(o.lowers[1], "/b");
	assert_string_equal(o.export_path, "/overlay");
	assert_string_equal(o.listen[0], "127.0.0.1");
	assert_string_equal(o.listen[1], "::1");
	assert_true(o.port == 2049 && !o.has_mount_port && o.rpcbind && o.sync && !o.read_only && !o.foreground && !o.json && o.squash == SQUASH_ROOT);
	assert_true(o.clients.n == 2 && !strcmp(o.clients.at[0].text, "127.0.0.0/8") && !o.upper && !o.work && o.log_level == 6);
	struct sockaddr_storage local = peer("127.0.0.1"), local6 = peer("::1"), remote = peer("10.0.0.1");
	assert_true(client_list_has(&o.clients, &local) && client_list_has(&o.clients, &local6) && !client_list_has(&o.clients, &remote));
}

static void options_say_what_they_say(void **state)
{
	(void)state;
	static struct options o;
	assert_int_equal(parse(&o, "--upper=/u", "--work", "/w", "--export", "/x/y///", "--listen", "10.0.0.1", "--port", "0", "--mount-port", "20048", "--no-rpcbind",
			       "--clients", "10.0.0.0/8", "--ro", "--all-squash", "--async", "--threads", "7", "--max-objects", "1000", "--foreground", "--json",
			       "--log-level", "debug", NULL),
			 -1);
	assert_string_equal(o.upper, "/u");
	assert_string_equal(o.work, "/w");
	assert_string_equal(o.export_path, "/x/y");
	assert_string_equal(o.listen[0], "10.0.0.1");
	assert_int_equal(o.nlisten, 1);
	assert_true(o.port == 0 && o.has_mount_port && o.mount_port == 20048 && !o.rpcbind && o.read_only && o.squash == SQUASH_ALL && !o.sync);
	assert_true(o.threads == 7 && o.max_objects == 1000 && o.foreground && o.json && o.log_level == 7);
	assert_int_equal(parse(&o, "--lower", "/a", "--export", "/", NULL), -1);
	assert_string_equal(o.export_path, "/");
	assert_int_equal(parse(&o, "--lower", "/a", "--all-squash", "--no-root-squash", NULL), -1); /* in whatever order */
	assert_int_equal(o.squash, SQUASH_ALL);
}

static void a_switch_that_is_no_takes_back_itself_alone(void **state)
{
	(void)state;
	static const struct { const char *text; enum squash squash; bool read_only; } cases[] = {
		{ "all-squash = yes\nno-root-squash = no\n", SQUASH_ALL, false }, { "no-root-squash = no\nall-squash = yes\n", SQUASH_ALL, false },
		{ "no-root-squash = yes\nall-squash = no\n", SQUASH_NONE, false }, { "all-squash = yes\nall-squash = no\n", SQUASH_ROOT, false },
		{ "no-root-squash = yes\nno-root-squash = no\n", SQUASH_ROOT, false }, { "rw = no\n", SQUASH_ROOT, true }, { "ro = no\n", SQUASH_ROOT, false },
		{ "ro = yes\nrw = no\n", SQUASH_ROOT, true }, { "ro = yes\nro = no\n", SQUASH_ROOT, false }, { "rw = yes\nro = no\n", SQUASH_ROOT, false } };
	static struct options o;
	char path[100];
	snprintf(path, sizeof path, "%s/conf", dir);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		FILE *f = fopen(path, "w");
		fprintf(f, "upper = /u\n%s", cases[i].text);
		fclose(f);
		assert_int_equal(parse(&o, "--config", path, NULL), -1);
		assert_int_equal(o.squash, cases[i].squash);
		assert_int_equal(o.read_only, cases[i].read_only);
	}
	unlink(path);
}

struct lines {
	int n;
	char at[8][2][64];
};

static const char *take(void *arg, const char *name, const char *value)
{
	struct lines *l = arg;
	if (!strcmp(name, "bad"))
		return "it is bad";
	snprintf(l->at[l->n][0], 64, "%s", name);
	snprintf(l->at[l->n++][1], 64, "%s", value);
	return NULL;
}

static int read_text(const char *text, size_t len, struct lines *l, char why[200])
{
	char path[100];
	snprintf(path, sizeof path, "%s/conf", dir);
	FILE *f = fopen(path, "w");
	fwrite(text, 1, len, f);
	fclose(f);
	memset(l, 0, sizeof *l);
	int rc = config_read(path, take, l, why, 200);
	unlink(path);
	return rc;
}

static void a_configuration_file_is_read_line_by_line(void **state)
{
	(void)state;
	struct lines l;
	char why[200] = "";
	static const char text[] = "# comment\n\n  ; another\na=1\r\n\tb =  two words  \nc = d = e\nempty =\nlast = no newline";
	assert_int_equal(read_text(text, sizeof text - 1, &l, why), 0);
	static const char *const want[][2] = { { "a", "1" }, { "b", "two words" }, { "c", "d = e" }, { "empty", "" }, { "last", "no newline" } };
	assert_int_equal(l.n, 5);
	for (int i = 0; i < 5; i++)
		for (int j = 0; j < 2; j++)
			assert_string_equal(l.at[i][j], want[i][j]);
	assert_int_equal(read_text("", 0, &l, why), 0);
}

static void the_first_mistake_is_told_with_its_line(void **state)
{
	(void)state;
	struct lines l;
	char why[200];
	assert_int_equal(read_text("a=1\n\nbad = x\nworse\n", 20, &l, why), -EINVAL);
	assert_string_equal(why, "line 3: bad = x: it is bad");
	assert_int_equal(l.n, 1);
	assert_int_equal(read_text("= 1\n", 4, &l, why), -EINVAL);
	assert_string_equal(why, "line 1: it must be 'name = value', or a comment behind '#'");
	assert_int_equal(read_text("a=\0\n", 4, &l, why), -EINVAL);
	assert_non_null(strstr(why, "line 1: it holds a NUL byte"));
	assert_int_equal(config_read("/no/such/file", take, &l, why, sizeof why), -ENOENT);
	assert_string_equal(why, "it can't be read: No such file or directory");
	assert_int_equal(config_read(dir, take, &l, why, sizeof why), -EISDIR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_handle_comes_back_as_the_id_that_it_was_made_of),
		cmocka_unit_test(a_handle_with_any_bit_changed_is_bad),
		cmocka_unit_test(each_errno_has_its_status),
		cmocka_unit_test(attributes_are_told_whole),
		cmocka_unit_test(impossible_times_are_refused),
		cmocka_unit_test(ranges_of_addresses_hold_what_they_should),
		cmocka_unit_test(what_is_no_range_is_refused_by_name),
		cmocka_unit_test(callers_are_squashed_as_the_export_says),
		cmocka_unit_test(options_have_their_defaults),
		cmocka_unit_test(options_say_what_they_say),
		cmocka_unit_test(a_switch_that_is_no_takes_back_itself_alone),
		cmocka_unit_test(a_configuration_file_is_read_line_by_line),
		cmocka_unit_test(the_first_mistake_is_told_with_its_line),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
