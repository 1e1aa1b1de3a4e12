/* Layers that come, go, move and are copied: a handle reaches its object or is stale, and never another. */
#include "handles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct stack stack;
static struct client client;

static int setup(void **state)
{
	(void)state;
	memset(&client, 0, sizeof client);
	client.fd = -1;
	stack_make(&stack, NULL, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (client.fd >= 0)
		client_close(&client);
	if (stack.pid)
		server_kill(&stack);
	unmount_all(&stack);
	stack_remove(&stack);
	return 0;
}

static void serve(const char *layers, const char *args)
{
	server_start_with(&stack, layers, args);
	client_open(&client, &stack, 0, 0);
}

static void stop(void)
{
	client_close(&client);
	client.fd = -1;
	server_stop(&stack);
}

static void must_be_stale(const struct fh *fh)
{
	fattr3 a;
	assert_nfs(patient_getattr(&client, fh, &a), NFS3ERR_STALE);
}

/* Two images that are copies of each other: every inode number and generation is the same. */
static void two_copies_of_one_image_are_two_layers(void **state)
{
	(void)state;
	if (!mount_in(&stack, "mkdir tree; echo original >tree/file; truncate -s 4M a.img; mkfs.ext4 -q -d tree a.img; LC_ALL=C sed s/original/changed!/ a.img >b.img;"
			      "debugfs -w -R 'ln file second' b.img; debugfs -w -R 'unlink file' b.img; mount -o loop,ro a.img lower1; mount -o loop,ro b.img lower2"))
		skip();
	for (int with_upper = 0; with_upper < 2; with_upper++) {
		serve(with_upper ? "--lower %s/lower1 --lower %s/lower2 --upper %s/upper --work %s/work" : "--lower %s/lower1 --lower %s/lower2", "--no-root-squash");
		struct fh one = handle_of(&client, "file"), two = handle_of(&client, "second");
		fattr3 a, b;
		assert_false(same_handle(&one, &two));
		assert_nfs(client_getattr(&client, &one, &a), NFS3_OK);
		assert_nfs(client_getattr(&client, &two, &b), NFS3_OK);
		assert_true(a.fileid != b.fileid);
		stop();
		serve(with_upper ? "--lower %s/lower1 --lower %s/lower2 --upper %s/upper --work %s/work" : "--lower %s/lower1 --lower %s/lower2", "--no-root-squash");
		assert_true(reads(&client, &one, "original\n"));
		assert_true(reads(&client, &two, "changed!\n"));
		stop();
	}
}

static const char in_order[] = "--lower %s/lower1 --lower %s/lower2 --upper %s/upper --work %s/work";

/* Directories of the old layers that merge with those of the new ones keep their handles too. */
static void a_layer_more_on_top_or_at_the_bottom_changes_no_handle(void **state)
{
	(void)state;
	static const char *const paths[] = { "d", "d/file", "d/deep", "d/deep/low", "only", "born", "d/touched" };
	struct fh fh[7];
	stack_sh(&stack, "mkdir -p lower1/d/deep lower2/d/deep top/d/deep bottom/d/deep; echo file >lower1/d/file; echo low >lower2/d/deep/low; echo only >lower2/only;"
			 "echo touched >lower2/d/touched; echo new >top/d/new; echo base >bottom/d/base");
	for (int with_upper = 1; with_upper >= 0; with_upper--) {
		size_t n = with_upper ? 7 : 5;
		serve(with_upper ? in_order : "--lower %s/lower1 --lower %s/lower2", "--no-root-squash");
		if (with_upper) {
			assert_nfs(client_create(&client, &client.root, "born", GUARDED, 0644, NULL), NFS3_OK);
			sattr3 set = { .mode = { .set_it = true, .set_uint32_u.value = 0600 } };
			struct fh touched = handle_of(&client, "d/touched");
			assert_nfs(client_setattr(&client, &touched, &set, NULL, NULL), NFS3_OK);
		}
		for (size_t i = 0; i < n; i++)
			fh[i] = handle_of(&client, paths[i]);
		stop();
		for (int where = 0; where < (with_upper ? 3 : 1); where++) { /* without state, on top alone */
			char args[1200];
			snprintf(args, sizeof args, "%s%s%s --lower %s/lower1 --lower %s/lower2 %s%s%s --no-root-squash", where != 1 ? "--lower " : "",
				 where != 1 ? stack.dir : "", where != 1 ? "/top" : "", stack.dir, stack.dir, where != 0 ? "--lower " : "",
				 where != 0 ? stack.dir : "", where != 0 ? "/bottom" : "");
			serve(with_upper ? "--upper %s/upper --work %s/work" : "", args);
			fattr3 a;
			for (size_t i = 0; i < n; i++) {
				nfsstat3 st = patient_getattr(&client, &fh[i], &a);
				if (st)
					fail_msg("%s, layer added at %d, upper %d: status %d", paths[i], where, with_upper, st);
				struct fh again = handle_of(&client, paths[i]);
				if (!same_handle(&again, &fh[i]))
					fail_msg("%s, layer added at %d, upper %d: LOOKUP gives another handle", paths[i], where, with_upper);
			}
			if (where != 1)
				handle_of(&client, "d/new");
			if (where != 0)
				handle_of(&client, "d/base");
			stop();
		}
	}
}

static void a_layer_that_moved_is_known_again(void **state)
{
	(void)state;
	stack_sh(&stack, "echo one >lower1/one; echo two >lower2/two");
	serve(in_order, "--no-root-squash");
	struct fh one = handle_of(&client, "one"), two = handle_of(&client, "two");
	stop();
	stack_sh(&stack, "mv lower1 elsewhere; mv lower2 lower1; mv elsewhere lower2"); /* each at the other's path */
	serve("--lower %s/lower2 --lower %s/lower1 --upper %s/upper --work %s/work", "--no-root-squash");
	assert_true(reads(&client, &one, "one\n"));
	assert_true(reads(&client, &two, "two\n"));
	stop();
}

static void layers_in_another_order_keep_their_directories_handles(void **state)
{
	(void)state;
	stack_sh(&stack, "mkdir lower1/d lower2/d; echo one >lower1/d/one; echo two >lower2/d/two");
	serve(in_order, "--no-root-squash");
	struct fh d = handle_of(&client, "d"), one = handle_of(&client, "d/one"), two = handle_of(&client, "d/two");
	fattr3 a;
	stop();
	for (int swapped = 1; swapped >= 0; swapped--) {
		serve(swapped ? "--lower %s/lower2 --lower %s/lower1 --upper %s/upper --work %s/work" : in_order, "--no-root-squash");
		assert_nfs(patient_getattr(&client, &d, &a), NFS3_OK);
		struct fh again = handle_of(&client, "d");
		assert_true(same_handle(&d, &again));
		assert_true(reads(&client, &one, "one\n"));
		assert_true(reads(&client, &two, "two\n"));
		stop();
	}
}

static void a_layer_on_a_copied_disk_is_known_when_told(void **state)
{
	(void)state;
	if (!mount_in(&stack, "mkdir tree; echo kept >tree/file; truncate -s 4M a.img; mkfs.ext4 -q -d tree a.img; cp a.img b.img; tune2fs -U random b.img;"
			      "mkdir old new; mount -o loop,ro a.img old; mount -o loop,ro b.img new"))
		skip();
	serve("--lower %s/old --upper %s/upper --work %s/work", "--no-root-squash");
	struct fh fh = handle_of(&client, "file");
	stop();
	char told[300];
	snprintf(told, sizeof told, "--no-root-squash --moved %s/old=%s/new", stack.dir, stack.dir);
	serve("--lower %s/new --upper %s/upper --work %s/work", told);
	assert_true(reads(&client, &fh, "kept\n"));
	struct fh again = handle_of(&client, "file");
	assert_true(same_handle(&fh, &again));
	stop();
	serve("--lower %s/new --upper %s/upper --work %s/work", "--no-root-squash"); /* told once is enough */
	assert_true(reads(&client, &fh, "kept\n"));
	stop();
}

/* cp -a gives every file another inode: what was copied up carries its identity along, what was born in the upper is stale. */
static void an_upper_that_was_copied_gives_what_it_can_and_never_a_wrong_file(void **state)
{
	(void)state;
	struct fh born[200], up, root_dir;
	char name[32];
	stack_sh(&stack, "echo below >lower1/up");
	serve("--lower %s/lower1 --upper %s/upper --work %s/work", "--no-root-squash");
	up = handle_of(&client, "up");
	assert_nfs(client_write(&client, &up, 0, "above", 5, FILE_SYNC, NULL), NFS3_OK);
	assert_nfs(client_mkdir(&client, &client.root, "dir", 0755, &root_dir), NFS3_OK);
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof name, "born%d", i);
		assert_nfs(client_create(&client, &client.root, name, GUARDED, 0644, &born[i]), NFS3_OK);
		assert_nfs(client_write(&client, &born[i], 0, name, (uint32_t)strlen(name), FILE_SYNC, NULL), NFS3_OK);
	}
	stop();
	stack_sh(&stack, "mkdir disk; cp -a upper disk/upper; cp -a work disk/work; rm -r upper work; mv disk/upper upper; mv disk/work work");
	char log[200];
	snprintf(log, sizeof log, "--no-root-squash 2>%s/server.log", stack.dir);
	serve("--lower %s/lower1 --upper %s/upper --work %s/work", log);
	assert_true(reads(&client, &up, "above\n"));
	struct fh again = handle_of(&client, "up");
	assert_true(same_handle(&up, &again));
	for (int i = 0; i < 200; i++)
		must_be_stale(&born[i]);
	must_be_stale(&root_dir);
	stop();
	stack_sh(&stack, "grep -q 'its inode numbers are not what they were' server.log");
}

static const char *const image_makers[][2] = {
	{ "squashfs", "mksquashfs tree a.img -quiet -no-progress" },
	{ "erofs", "mkfs.erofs --quiet a.img tree" },
	{ "erofs without a uuid", "mkfs.erofs --quiet -U 00000000-0000-0000-0000-000000000000 a.img tree" },
};

/* Images are kept to the end: mount takes a loop device that is still going away for that of a new image with the old one's inode number.
 * Behind a load balancer: the same image at other paths, on other devices, the same key. */
static void two_servers_of_one_image_give_the_same_handles(void **state)
{
	(void)state;
	static const char *const paths[] = { "file", "dir", "dir/inner", "link", "fifo" };
	int done = 0;
	for (size_t m = 0; m < 3; m++) {
		char script[600];
		struct fh fh[5];
		snprintf(script, sizeof script, "mv a.img $(date +%%s%%N).old || true; rm -rf tree; mkdir -p tree/dir spare here there deeper; echo content >tree/file; echo inner >tree/dir/inner; ln -s file tree/link;"
						"mkfifo tree/fifo; ln tree/file tree/second; %s; mv b.img $(date +%%s%%N).old || true; cp a.img b.img; mount -o loop,ro a.img here; mount -o loop,ro a.img spare;"
						"mount -o loop,ro b.img there", image_makers[m][1]);
		if (!mount_in(&stack, script)) {
			printf("skipped: %s\n", image_makers[m][0]);
			unmount_all(&stack);
			continue;
		}
		char key[200];
		snprintf(key, sizeof key, "--no-root-squash --max-objects 16 --key-file %s/key", stack.dir);
		serve("--lower %s/here", key);
		for (size_t i = 0; i < 5; i++)
			fh[i] = handle_of(&client, paths[i]);
		struct stack second = stack;
		struct client other;
		server_start_with(&second, "--lower %s/there", key);
		client_open(&other, &second, 0, 0);
		assert_true(same_handle(&client.root, &other.root));
		for (size_t i = 0; i < 5; i++) { /* by handle first, on a server that never saw the name */
			fattr3 a, b;
			assert_nfs(patient_getattr(&client, &fh[i], &a), NFS3_OK);
			assert_nfs(patient_getattr(&other, &fh[i], &b), NFS3_OK);
			assert_true(a.fileid == b.fileid && a.fsid == b.fsid && a.type == b.type);
			struct fh there = handle_of(&other, paths[i]);
			assert_true(same_handle(&there, &fh[i]));
		}
		assert_true(reads(&other, &fh[0], "content\n"));
		client_close(&other);
		server_stop(&second);
		stop();
		serve("--lower %s/here", key); /* and after a restart */
		assert_true(reads(&client, &fh[0], "content\n"));
		stop();
		unmount_all(&stack);
		printf("| %-22s two servers, other paths and devices, the same key: the same handles\n", image_makers[m][0]);
		done++;
	}
	if (!done)
		skip();
}

/* On file systems that tell no uuid, and on those that do: all names of a lower file are one object, before and after its copy-up (promise I3). */
static void names_of_one_lower_file_stay_one_object_on_any_file_system(void **state)
{
	(void)state;
	static const char *const mounts[][2] = {
		{ "squashfs", "mksquashfs tree a.img -quiet -no-progress; mount -o loop,ro a.img lower1" },
		{ "erofs", "mkfs.erofs --quiet a.img tree; mount -o loop,ro a.img lower1" },
		{ "ramfs", "mount -t ramfs none lower1; cp -a tree/. lower1" },
		{ "ext4", "cp -a tree/. lower1" },
	};
	int done = 0;
	for (size_t m = 0; m < sizeof mounts / sizeof *mounts; m++)
		for (int userxattr = 0; userxattr < 2; userxattr++) {
			char script[400];
			struct fh one, two, three;
			fattr3 a;
			snprintf(script, sizeof script, "mv a.img $(date +%%s%%N).old || true; rm -rf tree upper work lower1; mkdir -p tree/dir upper work lower1; echo linked >tree/one; ln tree/one tree/two;"
							"ln tree/one tree/dir/three; %s", mounts[m][1]);
			if (!mount_in(&stack, script)) {
				unmount_all(&stack);
				continue;
			}
			const char *args = userxattr ? "--no-root-squash --userxattr" : "--no-root-squash";
			serve("--lower %s/lower1 --upper %s/upper --work %s/work", args);
			one = handle_of(&client, "one");
			two = handle_of(&client, "two");
			assert_true(same_handle(&one, &two));
			assert_nfs(client_write(&client, &one, 0, "LINKED", 6, FILE_SYNC, NULL), NFS3_OK);
			for (int life = 0; life < 3; life++) {
				assert_true(reads(&client, &one, "LINKED\n"));
				assert_nfs(client_getattr(&client, &one, &a), NFS3_OK);
				assert_int_equal(a.nlink, 3);
				two = handle_of(&client, "two");
				three = handle_of(&client, "dir/three");
				assert_true(same_handle(&one, &two));
				assert_true(same_handle(&one, &three));
				assert_true(reads(&client, &three, "LINKED\n"));
				stop();
				if (life)
					stack_sh(&stack, "rm -f work/overnfsd/map.mdb");
				serve("--lower %s/lower1 --upper %s/upper --work %s/work", args);
			}
			stop();
			unmount_all(&stack);
			printf("| %-8s hard links of a lower file, %s: one object before and after copy-up\n", mounts[m][0], userxattr ? "user.overlay.*" : "trusted.overlay.*");
			done++;
		}
	if (!done)
		skip();
}

/* Makes something (by the command "make NAME") in lower1 anew as b, with the inode number that z had there. */
static bool replace_z_by_b(const char *make, const char *remove)
{
	char script[500];
	snprintf(script, sizeof script, "make() { %s; }; i=$(stat -c %%i lower1/z); %s lower1/z; for n in $(seq 2000); do make lower1/b; [ $(stat -c %%i lower1/b) = $i ] && break;"
					"mv lower1/b lower1/other$n; done; rm -rf lower1/other*; test $(stat -c %%i lower1/b) = $i", make, remove);
	bool done = stack_says(&stack, script);
	if (!done)
		puts("skipped: the file system did not reuse the inode's number");
	return done;
}

/* A base that is brought up to date while the server is stopped: what is new there may get the inode number of what went, whose copy lives on. */
static void a_new_lower_file_with_the_inode_number_of_a_copied_one_takes_no_handle_from_it(void **state)
{
	(void)state;
	stack_sh(&stack, "echo z >lower1/z");
	serve(in_order, "--no-root-squash");
	struct fh z = handle_of(&client, "z");
	assert_nfs(client_write(&client, &z, 0, "Z", 1, FILE_SYNC, NULL), NFS3_OK);
	stop();
	if (!replace_z_by_b("echo b >$1", "rm"))
		skip();
	for (int with_map = 1; with_map >= 0; with_map--) {
		serve(in_order, "--no-root-squash");
		struct fh b = handle_of(&client, "b");
		assert_true(reads(&client, &z, "Z\n"));
		assert_true(reads(&client, &b, "b\n"));
		stop();
		stack_sh(&stack, "rm -f work/overnfsd/map.mdb");
	}
}

static void nor_a_new_directory_from_what_is_below_the_copy(void **state)
{
	(void)state;
	enum { N = 20, OTHERS = 40 };
	struct fh z, b, in_z[N], in_b[N], gone;
	char name[32];
	fattr3 a;
	stack_sh(&stack, "mkdir lower1/z; echo >upper/gone; for i in $(seq 0 39); do echo >lower2/f$i; done");
	serve(in_order, "--no-root-squash");
	z = handle_of(&client, "z");
	gone = handle_of(&client, "gone");
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "z%d", i);
		assert_nfs(client_create(&client, &z, name, GUARDED, 0644, &in_z[i]), NFS3_OK);
		assert_nfs(client_write(&client, &in_z[i], 0, "z\n", 2, FILE_SYNC, NULL), NFS3_OK);
	}
	stop();
	if (!replace_z_by_b("mkdir $1", "rmdir"))
		skip();
	stack_sh(&stack, "rm upper/gone; for i in $(seq 0 19); do echo b >lower1/b/b$i; done");
	serve(in_order, "--no-root-squash --max-objects 16");
	must_be_stale(&gone); /* behind a search, the map is complete */
	b = handle_of(&client, "b");
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "b/b%d", i);
		in_b[i] = handle_of(&client, name);
	}
	for (int round = 0; round < 3 * N; round++) { /* with the one, the other or none of them in memory */
		for (int i = 0; i < OTHERS && round % 4 == 0; i++) {
			snprintf(name, sizeof name, "f%d", i);
			handle_of(&client, name);
		}
		if (round % 3)
			assert_nfs(patient_getattr(&client, round % 3 == 1 ? &z : &b, &a), NFS3_OK);
		assert_true(reads(&client, &in_b[round % N], "b\n"));
		assert_true(reads(&client, &in_z[round % N], "z\n"));
	}
	stop();
}

/* As Linux may leave an upper between two lives of the server: more wrong places in the map than are looked at together. */
static void a_file_whose_many_names_all_changed_is_found(void **state)
{
	(void)state;
	struct fh fh = { 0 }, gone;
	char name[32];
	stack_sh(&stack, "echo many >upper/n100; for i in $(seq 101 199); do ln upper/n100 upper/n$i; done; echo >upper/gone");
	serve(in_order, "--no-root-squash");
	for (int i = 100; i < 200; i++) {
		snprintf(name, sizeof name, "n%d", i);
		fh = handle_of(&client, name);
	}
	gone = handle_of(&client, "gone");
	stop();
	stack_sh(&stack, "for i in $(seq 100 199); do mv upper/n$i upper/z$i; done; rm upper/gone");
	serve(in_order, "--no-root-squash");
	must_be_stale(&gone); /* behind a search, the map is complete */
	assert_true(reads(&client, &fh, "many\n"));
	stop();
}

static void what_was_served_read_only_at_first_keeps_its_handles(void **state)
{
	(void)state;
	stack_sh(&stack, "echo kept >lower1/file");
	serve(in_order, "--no-root-squash --ro");
	struct fh fh = handle_of(&client, "file");
	stop();
	serve(in_order, "--no-root-squash");
	assert_true(reads(&client, &fh, "kept\n"));
	struct fh again = handle_of(&client, "file");
	assert_true(same_handle(&fh, &again));
	stop();
}

/* Root in a container mostly lacks CAP_SYS_ADMIN, so that the marks are user.overlay.*: for a server that only reads, too. */
static void root_without_trusted_xattrs_reads_what_it_wrote(void **state)
{
	(void)state;
	char command[4200], *server = strdup(getenv("OVERNFSD"));
	stack_sh(&stack, "echo below >lower1/file");
	snprintf(command, sizeof command, "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin %s", server);
	setenv("OVERNFSD", command, 1);
	serve(in_order, "--no-root-squash");
	struct fh fh = handle_of(&client, "file");
	assert_nfs(client_write(&client, &fh, 0, "above", 5, FILE_SYNC, NULL), NFS3_OK);
	stop();
	serve(in_order, "--no-root-squash --ro");
	setenv("OVERNFSD", server, 1);
	free(server);
	assert_true(reads(&client, &fh, "above\n"));
	struct fh again = handle_of(&client, "file");
	assert_true(same_handle(&fh, &again));
	stop();
}

/* user.* xattrs take the permission to write, which the owner of a file of mode 0444 lacks as well. */
static void without_root_files_that_may_not_be_written_to_are_copied_up(void **state)
{
	(void)state;
	static const char *const old[] = { "file", "linked" }, *const new[] = { "moved", "second" };
	struct fh fh[2];
	sattr3 set = { .mode = { .set_it = true, .set_uint32_u.value = 0400 } };
	char command[4200], *server = strdup(getenv("OVERNFSD"));
	stack_sh(&stack, "cd lower1; echo r >file; echo r >linked; ln linked second; chmod 444 file linked; chown -R 65533:65533 ..");
	snprintf(command, sizeof command, "setpriv --pdeathsig KILL --reuid=65533 --regid=65533 --clear-groups %s", server);
	setenv("OVERNFSD", command, 1);
	for (int life = 0; life < 3; life++) {
		server_start_with(&stack, in_order, "--no-root-squash");
		client_open(&client, &stack, 65533, 65533);
		for (int i = 0; i < 2 && !life; i++) {
			fh[i] = handle_of(&client, old[i]);
			assert_nfs(client_setattr(&client, &fh[i], &set, NULL, NULL), NFS3_OK);
		}
		if (!life)
			assert_nfs(client_rename(&client, &client.root, "file", &client.root, "moved"), NFS3_OK);
		for (int i = 0; i < 2; i++) {
			assert_true(reads(&client, &fh[i], "r\n"));
			struct fh again = handle_of(&client, new[i]);
			assert_true(same_handle(&again, &fh[i]));
		}
		stop();
		stack_sh(&stack, "rm work/overnfsd/map.mdb");
	}
	setenv("OVERNFSD", server, 1);
	free(server);
}

/* Nor can they be read where the owner may not. */
static void without_root_files_that_may_not_be_read_keep_their_handles(void **state)
{
	(void)state;
	static const char *const names[] = { "file", "linked", "dir", "low" };
	static const uint32_t modes[] = { 0200, 0, 0300, 0333 };
	struct fh fh[4], inside = { 0 };
	char command[4200], *server = strdup(getenv("OVERNFSD"));
	stack_sh(&stack, "cd lower1; mkdir dir low; echo r >file; echo r >linked; ln linked second; echo r >dir/inside; echo r >low/inside; chmod 333 low; chown -R 65533:65533 ..");
	snprintf(command, sizeof command, "setpriv --pdeathsig KILL --reuid=65533 --regid=65533 --clear-groups %s", server);
	setenv("OVERNFSD", command, 1);
	for (int life = 0; life < 3; life++) {
		server_start_with(&stack, in_order, "--no-root-squash");
		client_open(&client, &stack, 65533, 65533);
		for (int i = 0; i < 4; i++) {
			sattr3 set = { .mode = { .set_it = i < 3, .set_uint32_u.value = modes[i] }, .mtime = { .set_it = i < 3 ? DONT_CHANGE : SET_TO_SERVER_TIME } };
			fattr3 a;
			if (!life) {
				fh[i] = handle_of(&client, names[i]);
				assert_nfs(client_setattr(&client, &fh[i], &set, NULL, NULL), NFS3_OK);
			}
			struct fh again = handle_of(&client, names[i]);
			assert_true(same_handle(&again, &fh[i]));
			assert_nfs(client_getattr(&client, &fh[i], &a), NFS3_OK);
			assert_int_equal(a.mode, modes[i]);
			if (!life && i >= 2)
				assert_nfs(client_lookup(&client, &fh[i], "inside", &inside, NULL), NFS3_OK);
		}
		assert_true(reads(&client, &fh[0], "r\n"));
		assert_true(life == 2 || reads(&client, &inside, "r\n")); /* no search can list its directory */
		stop();
		if (life)
			stack_sh(&stack, "rm work/overnfsd/map.mdb");
	}
	stack_sh(&stack, "chmod -R u+rwx lower1 upper");
	setenv("OVERNFSD", server, 1);
	free(server);
}

static void another_key_or_export_refuses_the_handle(void **state)
{
	(void)state;
	fattr3 a;
	stack_sh(&stack, "echo x >lower1/file");
	char key[2][300];
	for (int i = 0; i < 2; i++)
		snprintf(key[i], sizeof key[i], "--no-root-squash --key-file %s/key%d", stack.dir, i);
	serve("--lower %s/lower1", key[0]);
	struct fh fh = handle_of(&client, "file");
	stop();
	serve("--lower %s/lower1", key[1]);
	assert_nfs(client_getattr(&client, &fh, &a), NFS3ERR_BADHANDLE);
	stop();
}

static void a_second_server_on_one_upper_is_refused(void **state)
{
	(void)state;
	serve(in_order, "--no-root-squash");
	char script[600];
	snprintf(script, sizeof script, "! $OVERNFSD --foreground --port 0 --no-rpcbind --lower %s/lower1 --upper %s/upper --work %s/work >second.log 2>&1;"
					"grep -q 'in use by another overnfsd' second.log", stack.dir, stack.dir, stack.dir);
	stack_sh(&stack, script);
	stop();
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(two_copies_of_one_image_are_two_layers),
		TEST(a_layer_more_on_top_or_at_the_bottom_changes_no_handle),
		TEST(a_layer_that_moved_is_known_again),
		TEST(layers_in_another_order_keep_their_directories_handles),
		TEST(a_layer_on_a_copied_disk_is_known_when_told),
		TEST(an_upper_that_was_copied_gives_what_it_can_and_never_a_wrong_file),
		TEST(two_servers_of_one_image_give_the_same_handles),
		TEST(names_of_one_lower_file_stay_one_object_on_any_file_system),
		TEST(a_new_lower_file_with_the_inode_number_of_a_copied_one_takes_no_handle_from_it),
		TEST(nor_a_new_directory_from_what_is_below_the_copy),
		TEST(a_file_whose_many_names_all_changed_is_found),
		TEST(what_was_served_read_only_at_first_keeps_its_handles),
		TEST(root_without_trusted_xattrs_reads_what_it_wrote),
		TEST(without_root_files_that_may_not_be_written_to_are_copied_up),
		TEST(without_root_files_that_may_not_be_read_keep_their_handles),
		TEST(another_key_or_export_refuses_the_handle),
		TEST(a_second_server_on_one_upper_is_refused),
	};
	if (geteuid()) {
		puts("only root can mount images and set trusted xattrs");
		return 77;
	}
	name_programs();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
