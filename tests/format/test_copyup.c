/* What copy-up leaves on disk: metacopies, origins, linked files; made by us and shown by Linux, made by Linux and gone on with by us. */
#include "trees.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct client c;

static void up(struct stack *s, const char *args)
{
	char all[256];
	snprintf(all, sizeof all, "--no-root-squash %s", args ? args : "");
	server_start(s, all);
	client_open(&c, s, 0, 0);
}

static void down(struct stack *s)
{
	client_close(&c);
	server_stop(s);
}

static struct fh at(const char *path)
{
	struct fh fh;
	if (client_path(&c, path, &fh, NULL))
		fail_msg("%s: not found", path);
	return fh;
}

static void set_mode(const char *path, uint32_t mode)
{
	sattr3 set = { .mode = { .set_it = TRUE, .set_uint32_u.value = mode } };
	struct fh fh = at(path);
	assert_int_equal(client_setattr(&c, &fh, &set, NULL, NULL), NFS3_OK);
}

static nfsstat3 set_size(const char *path, uint64_t size)
{
	sattr3 set = { .size = { .set_it = TRUE, .set_uint64_u.value = size } };
	struct fh fh = at(path);
	return client_setattr(&c, &fh, &set, NULL, NULL);
}

static void write_at(const char *path, uint64_t offset, const char *text)
{
	struct fh fh = at(path);
	assert_int_equal(client_write(&c, &fh, offset, text, (uint32_t)strlen(text), FILE_SYNC, NULL), NFS3_OK);
}

static void reads(const char *path, uint64_t offset, const char *text)
{
	char buf[256];
	uint32_t got;
	bool eof;
	struct fh fh = at(path);
	assert_int_equal(client_read(&c, &fh, offset, (uint32_t)strlen(text), buf, &got, &eof), NFS3_OK);
	assert_int_equal(got, strlen(text));
	assert_memory_equal(buf, text, got);
}

static fattr3 attr_of(const char *path)
{
	fattr3 a;
	struct fh fh;
	assert_int_equal(client_path(&c, path, &fh, &a), NFS3_OK);
	assert_int_equal(client_getattr(&c, &fh, &a), NFS3_OK);
	return a;
}

static nfsstat3 rename_in_root(const char *from, const char *to)
{
	return client_rename(&c, &c.root, from, &c.root, to);
}

/* The tree as it is now by us, by us after a restart, and by Linux. */
static void shows_the_same(struct stack *s)
{
	char *before = tree_over_nfs(&c);
	down(s);
	compare_with_linux(s, READ_WRITE, NULL, "lower1:lower2", true, ALL_ON);
	up(s, NULL);
	char *after = tree_over_nfs(&c);
	trees_equal("before and after a restart", before, after);
	free(before);
	free(after);
}

#define BIG "truncate -s 10G lower2/big; echo start | dd of=lower2/big conv=notrunc status=none; echo middle | dd of=lower2/big bs=1M seek=5000 conv=notrunc status=none;"
#define NO_DATA "test $(stat -c %b upper/$f) -le 8; getfattr -n trusted.overlay.metacopy upper/$f >/dev/null 2>&1;"
#define MIDDLE (5000ull << 20)

static void attributes_names_and_links_of_ten_gigabytes_copy_no_data(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "mkdir lower2/d lower2/e;" BIG "for n in a b; do cp --sparse=always lower2/big lower2/d/$n; done");
	up(&s, NULL);
	fattr3 before = attr_of("big");
	set_mode("big", 0600);
	stack_sh(&s, "f=big;" NO_DATA);
	struct fh d = at("d"), e = at("e"), b = at("d/b");
	assert_int_equal(client_rename(&c, &d, "a", &e, "moved"), NFS3_OK);
	assert_int_equal(client_link(&c, &b, &e, "linked"), NFS3_OK);
	stack_sh(&s, "for f in e/moved e/linked d/b; do " NO_DATA " done");
	sattr3 set = { .uid = { TRUE, { 1234 } }, .mtime = { SET_TO_CLIENT_TIME, { { 1000, 7 } } } };
	struct fh big = at("big");
	assert_int_equal(client_setattr(&c, &big, &set, NULL, NULL), NFS3_OK);
	stack_sh(&s, "f=big;" NO_DATA);
	for (int restarted = 0; restarted < 2; restarted++) {
		static const char *const names[] = { "big", "e/moved", "e/linked", "d/b" };
		for (int i = 0; i < 4; i++) {
			reads(names[i], 0, "start\n");
			reads(names[i], MIDDLE, "middle\n");
			fattr3 a = attr_of(names[i]);
			assert_int_equal(a.size, 10ull << 30);
			assert_int_equal(a.used, before.used);
		}
		assert_int_equal(attr_of("big").fileid, before.fileid);
		assert_int_equal(attr_of("big").mtime.nseconds, 7);
		down(&s);
		up(&s, NULL);
	}
	/* Linux reads them as well */
	down(&s);
	linux_mount(&s, "lower1:lower2", true, ALL_ON);
	stack_sh(&s, "for f in big e/moved e/linked d/b; do test $(dd if=m/$f bs=1M skip=5000 count=1 status=none | head -c 6) = middle; done; test $(stat -c %u%a m/big) = 1234600");
	linux_unmount(&s);
	stack_remove(&s);
}

static void the_first_write_completes_a_metacopy(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "truncate -s 3M lower2/f; echo start | dd of=lower2/f conv=notrunc status=none; echo end >>lower2/f; cp --sparse=always lower2/f lower2/g; cp --sparse=always lower2/f lower2/h; setcap cap_net_raw+ep lower2/f");
	up(&s, NULL);
	set_mode("f", 0755);
	set_mode("g", 0640);
	fattr3 before = attr_of("f");
	struct fh g = at("g");
	assert_int_equal(client_link(&c, &g, &c.root, "g2"), NFS3_OK);
	write_at("f", 1000, "new");
	write_at("g2", 1000, "new"); /* in place, for both names */
	fattr3 after = attr_of("f");
	assert_int_equal(before.fileid, after.fileid);
	assert_int_equal(after.size, (3u << 20) + 4);
	reads("f", 0, "start\n");
	reads("g", 1000, "new");
	reads("f", 3u << 20, "end\n");
	stack_sh(&s, "for f in f g; do test $(stat -c %b upper/$f) -lt 64; ! getfattr -n trusted.overlay.metacopy upper/$f 2>/dev/null; done; cmp -n 1000 upper/f lower2/f; test upper/g -ef upper/g2");
	/* set-id bits and capabilities are taken by a writer who is not root, not by our copying */
	stack_sh(&s, "test \"$(getfattr --only-values -n security.capability lower2/f | xxd -p)\" != \"$(getfattr --only-values -n security.capability upper/f 2>/dev/null | xxd -p)\"");
	shows_the_same(&s);
	down(&s);
	stack_remove(&s);
}

static void completion_by_a_commit_of_nothing_keeps_capabilities_and_times(void **state)
{
	struct stack s;
	(void)state;
	/* Cut to the size that it has: the bytes come, nothing else changes but by the call itself. */
	stack_make(&s, NULL, "head -c 300000 /dev/zero | tr '\\0' x >lower2/f; setcap cap_net_raw+ep lower2/f; chmod 4755 lower2/f; setcap cap_net_raw+ep lower2/f");
	up(&s, NULL);
	set_mode("f", 04711);
	stack_sh(&s, "getfattr -n trusted.overlay.metacopy upper/f >/dev/null 2>&1; test \"$(getcap upper/f | cut -d' ' -f2)\" = \"$(getcap lower2/f | cut -d' ' -f2)\"");
	struct fh f = at("f");
	assert_int_equal(client_write(&c, &f, 0, "", 0, FILE_SYNC, NULL), NFS3_OK);
	reads("f", 299999, "x");
	stack_sh(&s, "! getfattr -n trusted.overlay.metacopy upper/f 2>/dev/null; cmp upper/f lower2/f; test $(stat -c %Y.%y upper/f | tr -d ' ') = $(stat -c %Y.%y lower2/f | tr -d ' ');"
		     "test $(stat -c %a upper/f) = 4711; test \"$(getcap upper/f | cut -d' ' -f2)\" = \"$(getcap lower2/f | cut -d' ' -f2)\"");
	down(&s);
	stack_remove(&s);
}

static void cutting_a_file_copies_only_what_is_kept(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, BIG "cp --sparse=always lower2/big lower2/meta; cp --sparse=always lower2/big lower2/part; head -c 200000 /dev/zero | tr '\\0' y >lower2/longer");
	up(&s, NULL);
	set_mode("meta", 0600);
	fattr3 before = attr_of("big");
	assert_int_equal(set_size("big", 0), NFS3_OK);
	assert_int_equal(set_size("meta", 0), NFS3_OK);
	assert_int_equal(set_size("part", 3), NFS3_OK);
	assert_int_equal(set_size("longer", 300000), NFS3_OK);
	assert_int_equal(attr_of("big").size, 0);
	assert_true(attr_of("big").mtime.seconds != before.mtime.seconds || attr_of("big").mtime.nseconds != before.mtime.nseconds);
	reads("part", 0, "sta");
	reads("longer", 199999, "y");
	stack_sh(&s, "for f in big meta part; do test $(stat -c %b upper/$f) -le 16; ! getfattr -n trusted.overlay.metacopy upper/$f 2>/dev/null; done; test $(stat -c %s upper/part) = 3;"
		     "cmp -n 200000 upper/longer lower2/longer; test $(stat -c %s upper/longer) = 300000");
	down(&s);
	stack_sh(&s, "rm lower2/big");
	stack_remove(&s);
}

static void renamed_and_linked_metacopies_keep_their_way_to_the_data(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "mkdir -p lower2/d/sub lower1/mid lower2/low; for f in 1 2 3 4 5 6; do head -c 100000 /dev/urandom >lower2/d/sub/$f; done; setfattr -n trusted.overlay.redirect -v /low lower1/mid; mknod lower1/low c 0 0; head -c 90000 /dev/urandom >lower2/low/f; mkdir lower2/low/dir; echo x >lower2/low/dir/x");
	up(&s, NULL);
	struct fh sub = at("d/sub"), d = at("d"), one = at("d/sub/1");
	assert_int_equal(client_rename(&c, &sub, "1", &sub, "one"), NFS3_OK); /* by its name */
	assert_int_equal(client_rename(&c, &sub, "2", &c.root, "two"), NFS3_OK); /* by its path */
	assert_int_equal(client_link(&c, &one, &c.root, "uno"), NFS3_OK);
	assert_int_equal(client_rename(&c, &sub, "one", &d, "eins"), NFS3_OK);
	assert_int_equal(rename_in_root("d", "D"), NFS3_OK); /* its ancestors as well */
	assert_int_equal(client_rename(&c, &sub, "3", &c.root, "three"), NFS3_OK);
	assert_int_equal(client_rename(&c, &d, "sub", &c.root, "SUB"), NFS3_OK);
	assert_int_equal(client_rename(&c, &sub, "4", &d, "four"), NFS3_OK);
	assert_int_equal(rename_in_root("three", "drei"), NFS3_OK);
	assert_int_equal(client_rename(&c, &sub, "5", &sub, "6"), NFS3_OK);
	/* in the middle layer the directory has moved: what leads to what is below must go by its name there */
	struct fh mid = at("mid");
	assert_int_equal(client_rename(&c, &mid, "f", &c.root, "from-low"), NFS3_OK);
	assert_int_equal(client_rename(&c, &mid, "dir", &c.root, "dir"), NFS3_OK);
	shows_the_same(&s);
	write_at("uno", 5, "written");
	write_at("drei", 5, "written");
	write_at("from-low", 5, "written");
	reads("D/eins", 5, "written");
	shows_the_same(&s);
	down(&s);
	stack_remove(&s);
}

static void small_files_and_no_metacopy_copy_whole(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "head -c 65536 /dev/urandom >lower2/small; head -c 65537 /dev/urandom >lower2/large; cp lower2/large lower2/other");
	up(&s, NULL);
	set_mode("small", 0600);
	set_mode("large", 0600);
	stack_sh(&s, "cmp upper/small lower2/small; ! getfattr -n trusted.overlay.metacopy upper/small 2>/dev/null; f=large;" NO_DATA);
	down(&s);
	up(&s, "--no-metacopy");
	set_mode("other", 0600);
	stack_sh(&s, "cmp upper/other lower2/other; ! getfattr -n trusted.overlay.metacopy upper/other 2>/dev/null");
	down(&s);
	stack_sh(&s, "cp lower2/large lower2/third");
	up(&s, "--no-redirect");
	set_mode("third", 0600);
	stack_sh(&s, "cmp upper/third lower2/third; mkdir lower2/dir");
	assert_int_equal(rename_in_root("dir", "elsewhere"), NFS3ERR_XDEV);
	assert_int_equal(client_path(&c, "dir", &(struct fh){ 0 }, NULL), NFS3_OK);
	down(&s);
	stack_remove(&s);
}

static void a_completion_without_space_leaves_the_file_as_it_was(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "head -c 4000000 /dev/urandom >lower2/f; mkdir small; mount -t tmpfs -o size=1536k tmpfs small; mkdir small/upper small/work");
	server_start_with(&s, "--lower %s/lower2 --upper %s/small/upper --work %s/small/work", "--no-root-squash");
	client_open(&c, &s, 0, 0);
	set_mode("f", 0640);
	fattr3 before = attr_of("f"), after;
	struct fh f = at("f");
	assert_int_equal(client_write(&c, &f, 0, "new", 3, FILE_SYNC, NULL), NFS3ERR_NOSPC);
	after = attr_of("f");
	assert_int_equal(before.size, after.size);
	assert_int_equal(before.used, after.used);
	assert_int_equal(before.mtime.nseconds, after.mtime.nseconds);
	stack_sh(&s, "f=f; test $(stat -c %b small/upper/f) = 0; getfattr -n trusted.overlay.metacopy small/upper/f >/dev/null 2>&1; test -z \"$(ls -A small/work/work)\"");
	char *tree = tree_over_nfs(&c), *lower;
	char dir[128];
	snprintf(dir, sizeof dir, "%s/lower2", s.dir);
	stack_sh(&s, "chmod 640 lower2/f");
	lower = tree_of(dir);
	trees_equal("the bytes are the lower's still", tree, lower);
	free(tree);
	free(lower);
	down(&s);
	stack_sh(&s, "umount small");
	stack_remove(&s);
}

static void what_linux_made_is_gone_on_with(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "mkdir -p lower2/d lower2/e; for f in 1 2 3 4 5 6; do head -c 100000 /dev/urandom >lower2/d/$f; done; ln lower2/d/6 lower2/d/7; ln lower2/d/6 lower2/e/8; echo x >lower2/e/small");
	linux_mount(&s, "lower1:lower2", true, ALL_ON);
	stack_sh(&s, "cd m; chmod 600 d/1; mv d/2 two; ln d/3 drei; mv d/4 d/vier; chmod 640 d/7; mv e E; rm d/5; mkdir d/5; echo new >E/new; chown 5 E/small");
	linux_unmount(&s);
	compare_with_linux(&s, READ_WRITE, NULL, "lower1:lower2", true, ALL_ON);
	up(&s, NULL);
	assert_int_equal(attr_of("d/6").nlink, 3);
	write_at("d/1", 3, "ours");
	write_at("two", 3, "ours");
	write_at("drei", 3, "ours");
	write_at("E/8", 3, "ours");
	reads("d/6", 3, "ours");
	struct fh d = at("d"), E = at("E");
	assert_int_equal(client_rename(&c, &d, "vier", &E, "four"), NFS3_OK);
	assert_int_equal(client_remove(&c, &d, "6"), NFS3_OK);
	assert_int_equal(attr_of("E/8").nlink, 2);
	assert_int_equal(rename_in_root("E", "e"), NFS3_OK);
	shows_the_same(&s);
	down(&s);
	linux_mount(&s, "lower1:lower2", true, ALL_ON);
	stack_sh(&s, "cd m; test $(stat -c %h d/7) = 2; chmod 604 e/four; mv e/four d; rm d/7; echo more >>e/8; ln e/8 nine; rm two");
	linux_unmount(&s);
	compare_with_linux(&s, READ_WRITE, NULL, "lower1:lower2", true, ALL_ON);
	stack_remove(&s);
}

static void names_of_a_linked_lower_file_are_counted_as_linux_does(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "mkdir lower2/d; for f in a b c x; do echo $f >lower2/$f; for n in 1 2 3; do ln lower2/$f lower2/d/$f$n; done; done; mkfifo lower2/p; ln lower2/p lower2/d/p; ln -s t lower2/l; ln lower2/l lower2/d/l");
	up(&s, NULL);
	struct fh d = at("d"), b = at("b");
	set_mode("a", 0600);
	assert_int_equal(attr_of("d/a2").nlink, 4);
	assert_int_equal(client_remove(&c, &d, "a1"), NFS3_OK); /* a lower's name */
	assert_int_equal(attr_of("a").nlink, 3);
	assert_int_equal(client_remove(&c, &c.root, "a"), NFS3_OK); /* the copy's */
	assert_int_equal(attr_of("d/a2").nlink, 2);
	assert_int_equal(client_link(&c, &b, &d, "b4"), NFS3_OK);
	assert_int_equal(attr_of("d/b1").nlink, 5);
	assert_int_equal(client_rename(&c, &d, "b1", &d, "b9"), NFS3_OK);
	assert_int_equal(attr_of("b").nlink, 5);
	assert_int_equal(client_rename(&c, &d, "b2", &d, "c1"), NFS3_OK); /* over a name of another */
	assert_int_equal(attr_of("c").nlink, 3);
	assert_int_equal(attr_of("d/c1").nlink, 5);
	assert_int_equal(client_rename(&c, &d, "b3", &d, "b9"), NFS3_OK); /* over a name of its own: nothing happens */
	assert_int_equal(attr_of("b").nlink, 5);
	for (int i = 1; i < 4; i++) {
		char name[3] = { 'x', (char)('0' + i), 0 };
		assert_int_equal(client_remove(&c, &d, name), NFS3_OK); /* nobody had copied it up */
	}
	assert_int_equal(attr_of("x").nlink, 1);
	struct fh p = at("p"), l = at("l");
	assert_int_equal(client_link(&c, &p, &c.root, "p2"), NFS3_OK);
	assert_int_equal(client_link(&c, &l, &c.root, "l2"), NFS3_OK);
	assert_int_equal(attr_of("d/p").nlink, 3);
	shows_the_same(&s);
	assert_int_equal(client_remove(&c, &d, "a2"), NFS3_OK);
	assert_int_equal(client_remove(&c, &d, "a3"), NFS3_OK);
	assert_int_equal(client_remove(&c, &c.root, "x"), NFS3_OK);
	shows_the_same(&s);
	down(&s);
	/* what no name is left of, the index does not keep */
	linux_mount(&s, "lower1:lower2", true, ALL_ON);
	stack_sh(&s, "test -d m/d; ls work/index | grep -vc ^# | grep -qx 4");
	linux_unmount(&s);
	stack_remove(&s);
}

static void marks_are_written_byte_for_byte_as_linux_writes_them(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "mkdir -p lower2/d/e by-linux; head -c 100000 /dev/zero >lower2/d/e/f; head -c 70000 /dev/zero >lower2/d/e/g; ln lower2/d/e/g lower2/d/h; ln lower2/d/e/g lower2/d/i; mkfifo lower2/d/p; head -c 90000 /dev/zero >lower2/d/moved; mkdir lower2/d/dir");
	linux_mount(&s, "lower1:lower2", true, ALL_ON);
	stack_sh(&s, "cd m/d; chmod 600 e/f; chmod 600 e/g; mv p e/p; mv moved e/moved; mv dir dir2; rm i; mkdir pure; ln e/f pure/f; mkdir e/empty");
	linux_unmount(&s);
	stack_sh(&s, "mv upper work by-linux; mkdir upper work");
	up(&s, NULL);
	set_mode("d/e/f", 0600);
	set_mode("d/e/g", 0600);
	struct fh d = at("d"), e = at("d/e");
	assert_int_equal(client_rename(&c, &d, "p", &e, "p"), NFS3_OK);
	assert_int_equal(client_rename(&c, &d, "moved", &e, "moved"), NFS3_OK);
	assert_int_equal(client_rename(&c, &d, "dir", &d, "dir2"), NFS3_OK);
	assert_int_equal(client_remove(&c, &d, "i"), NFS3_OK);
	struct fh pure, empty, f = at("d/e/f");
	assert_int_equal(client_mkdir(&c, &d, "pure", 0755, &pure), NFS3_OK);
	assert_int_equal(client_link(&c, &f, &pure, "f"), NFS3_OK);
	assert_int_equal(client_mkdir(&c, &e, "empty", 0755, &empty), NFS3_OK);
	down(&s);
	/* the uuid is each overlay's own, as is the upper that an index was made for; a new directory is
	 * marked opaque by Linux even where no lower has its name, which spares it a look there and shows nothing else */
	stack_sh(&s, "marks() { (cd $1/upper; find . -mindepth 1 | sort | while read n; do getfattr -h -d -m trusted.overlay -e hex \"$n\"; done) | grep -v -e overnfsd -e 'uuid=' -e opaque -e '^# file' -e '^$' | sort | uniq -c;"
		     "(cd $1; getfattr -d -m trusted.overlay.origin -e hex upper; ls work/index | grep -v ^#; find upper -mindepth 1 -printf '%P %y %l\\n' | sort); };"
		     "marks by-linux >linux.txt 2>&1; marks . >ours.txt 2>&1; grep -q metacopy ours.txt; diff linux.txt ours.txt >&2");
	stack_remove(&s);
}

static void a_digest_of_the_data_goes_along(void **state)
{
	struct stack s;
	(void)state;
	/* Where the data's file system measures nothing, the digest is not asked for, as by default in Linux; but it is kept. */
	stack_make(&s, NULL, "head -c 100000 /dev/urandom >lower2/f; truncate -s 100000 lower1/f; setfattr -n trusted.overlay.metacopy -v 0x00240001$(sha256sum lower2/f | cut -c 1-64) lower1/f; getfattr --absolute-names -d -m metacopy -e hex lower1/f | grep = >digest");
	up(&s, NULL);
	set_mode("f", 0600);
	stack_sh(&s, "getfattr -d -m metacopy -e hex upper/f | grep = | cmp digest -");
	shows_the_same(&s);
	write_at("f", 5, "new");
	reads("f", 5, "new");
	shows_the_same(&s);
	down(&s);
	stack_remove(&s);
}

/* Linux, and we, leave "L+n" between two steps of a copy-up: the count of the lower's names, with which a restart has to go on. */
static void a_count_relative_to_the_lower_is_gone_on_with(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, NULL, "for n in a b c; do echo x >lower2/$n; ln lower2/$n lower2/${n}2; ln lower2/$n lower2/${n}3; done");
	up(&s, NULL);
	set_mode("a", 0600);
	set_mode("b", 0600);
	assert_int_equal(client_remove(&c, &c.root, "b2"), NFS3_OK);
	down(&s);
	stack_sh(&s, "setfattr -n trusted.overlay.nlink -v L+0 upper/a; setfattr -n trusted.overlay.nlink -v L-1 upper/b");
	up(&s, NULL);
	assert_int_equal(attr_of("a").nlink, 3);
	assert_int_equal(attr_of("b").nlink, 2);
	assert_int_equal(client_remove(&c, &c.root, "a"), NFS3_OK);
	assert_int_equal(client_remove(&c, &c.root, "b3"), NFS3_OK);
	assert_int_equal(attr_of("a3").nlink, 2);
	assert_int_equal(attr_of("b").nlink, 1);
	shows_the_same(&s);
	down(&s);
	stack_remove(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attributes_names_and_links_of_ten_gigabytes_copy_no_data),
		cmocka_unit_test(the_first_write_completes_a_metacopy),
		cmocka_unit_test(completion_by_a_commit_of_nothing_keeps_capabilities_and_times),
		cmocka_unit_test(cutting_a_file_copies_only_what_is_kept),
		cmocka_unit_test(renamed_and_linked_metacopies_keep_their_way_to_the_data),
		cmocka_unit_test(small_files_and_no_metacopy_copy_whole),
		cmocka_unit_test(a_completion_without_space_leaves_the_file_as_it_was),
		cmocka_unit_test(what_linux_made_is_gone_on_with),
		cmocka_unit_test(names_of_a_linked_lower_file_are_counted_as_linux_does),
		cmocka_unit_test(a_digest_of_the_data_goes_along),
		cmocka_unit_test(a_count_relative_to_the_lower_is_gone_on_with),
		cmocka_unit_test(marks_are_written_byte_for_byte_as_linux_writes_them),
	};
	mounts_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
