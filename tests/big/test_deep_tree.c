/* Trees of 1,000 directories, one in the other, with paths longer than PATH_MAX: walked, changed, renamed and removed, by a table far smaller. */
#include "big.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_DEPTH = 1000000 };
static long depth;
static struct fh *way; /* handles from the root down: way[0] is the root, way[i] the directory of depth i */

static void name_of(long i, char name[24])
{
	snprintf(name, 24, "dir%05ld", i);
}

/* In a process of its own, which walks down: no path is that long. The file "end" stands at the bottom. */
static void make_deep(const struct stack *s, const char *layer)
{
	pid_t pid = fork();
	if (!pid) {
		char path[128], name[24];
		snprintf(path, sizeof path, "%s/%s", s->dir, layer);
		bool ok = !chdir(path);
		for (long i = 1; ok && i <= depth; i++) {
			name_of(i, name);
			ok = !mkdir(name, 0755) && !chdir(name);
		}
		int fd = ok ? open("end", O_WRONLY | O_CREAT, 0644) : -1;
		_exit(fd >= 0 && write(fd, "bottom", 6) == 6 ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void walk(struct client *c)
{
	way[0] = c->root;
	for (long i = 1; i <= depth; i++) {
		char name[24];
		name_of(i, name);
		assert_nfs(client_lookup(c, &way[i - 1], name, &way[i], NULL), NFS3_OK);
	}
}

static void end_says(struct client *c, const struct fh *dir, const char *text)
{
	struct fh end;
	char buf[64];
	uint32_t got;
	bool eof;
	assert_nfs(client_lookup(c, dir, "end", &end, NULL), NFS3_OK);
	assert_nfs(client_read(c, &end, 0, sizeof buf, buf, &got, &eof), NFS3_OK);
	assert_int_equal(got, strlen(text));
	assert_memory_equal(buf, text, got);
}

static void same_handle(const struct fh *a, const struct fh *b)
{
	assert_int_equal(a->len, b->len);
	assert_memory_equal(a->data, b->data, a->len);
}

/* The same handles, down to the bottom, and the names on the way. */
static void walk_again(struct client *c, long renamed, const char *new_name)
{
	for (long i = 1; i <= depth; i++) {
		char name[24];
		struct fh fh;
		name_of(i, name);
		assert_nfs(client_lookup(c, &way[i - 1], i == renamed ? new_name : name, &fh, NULL), NFS3_OK);
		same_handle(&fh, &way[i]);
		assert_int_equal(client_list(c, &fh, 4096, NULL, NULL), 3);
	}
}

static void remove_up(struct client *c, long renamed, const char *new_name)
{
	assert_nfs(client_remove(c, &way[depth], "end"), NFS3_OK);
	for (long i = depth; i > 0; i--) {
		char name[24];
		name_of(i, name);
		assert_nfs(client_rmdir(c, &way[i - 1], i == renamed ? new_name : name), NFS3_OK);
		if (i % 250 == 0) /* to know that it is nowhere, all the tree is searched */
			assert_nfs(client_getattr(c, &way[i], NULL), NFS3ERR_STALE);
	}
	assert_int_equal(client_list(c, &way[0], 4096, NULL, NULL), 2);
}

/* A table of the server's that holds part of the way, in tenths. What a call needs beyond that is looked up again each time. */
static void start(struct stack *s, struct client *c, int tenths)
{
	char args[96];
	snprintf(args, sizeof args, "--async --no-root-squash --max-objects %ld", depth * tenths / 10 + 16);
	server_start(s, args);
	client_open(c, s, 0, 0);
}

static void a_deep_tree_of_a_lower_is_walked_changed_and_removed(void **state)
{
	struct stack s;
	struct client c;
	struct fh end;
	(void)state;
	stack_make(&s, getenv("BASE"), NULL);
	make_deep(&s, "lower2");
	start(&s, &c, 9);
	walk(&c);
	end_says(&c, &way[depth], "bottom");
	assert_nfs(client_lookup(&c, &way[depth], "end", &end, NULL), NFS3_OK);
	assert_nfs(client_write(&c, &end, 0, "BOTTOM", 6, FILE_SYNC, NULL), NFS3_OK); /* copies up the file, and each directory above */
	walk_again(&c, 0, NULL);
	end_says(&c, &way[depth], "BOTTOM");
	client_close(&c);
	server_stop(&s);
	start(&s, &c, 0);
	assert_nfs(client_write(&c, &end, 0, "Bottom", 6, FILE_SYNC, NULL), NFS3_OK);
	end_says(&c, &way[depth], "Bottom");
	printf("| a tree of %ld directories, one in the other: peak RSS %ld MB with a table of 16 objects\n", depth, server_memory(&s, "VmHWM") / 1024);
	client_close(&c);
	server_stop(&s);
	start(&s, &c, 9);
	remove_up(&c, 0, NULL);
	client_close(&c);
	stack_remove(&s);
}

static void directories_deep_in_a_lower_are_renamed_and_keep_their_handles(void **state)
{
	struct stack s;
	struct client c;
	char name[24];
	(void)state;
	for (long at = 1; at < depth; at += depth / 2 - 1) {
		stack_make(&s, getenv("BASE"), NULL);
		make_deep(&s, "lower2");
		start(&s, &c, 9);
		walk(&c);
		name_of(at, name);
		assert_nfs(client_rename(&c, &way[at - 1], name, &way[at - 1], "new name"), NFS3_OK);
		walk_again(&c, at, "new name");
		client_close(&c);
		server_kill(&s);
		start(&s, &c, 9);
		end_says(&c, &way[depth], "bottom"); /* by its handle: nothing is in memory */
		walk_again(&c, at, "new name");
		remove_up(&c, at, "new name");
		client_close(&c);
		stack_remove(&s);
	}
}

/* From deep in the tree to its root: the way back to the lower must be kept whole, in an xattr. Where the file system can't hold one that long,
 * the client is told to copy (as Linux tells it above 256 bytes), and nothing changed. */
static void a_directory_moved_from_deep_down_to_the_root_is_whole_or_was_not_moved(void **state)
{
	struct stack s;
	struct client c;
	char name[24];
	long refused = 0, at;
	(void)state;
	stack_make(&s, getenv("BASE"), NULL);
	make_deep(&s, "lower2");
	start(&s, &c, 9);
	walk(&c);
	for (at = depth - 1; at > 1; at -= depth / 4) {
		name_of(at, name);
		nfsstat3 st = client_rename(&c, &way[at - 1], name, &way[0], name);
		end_says(&c, &way[depth], "bottom");
		if (st == NFS3ERR_XDEV) {
			walk_again(&c, 0, NULL);
			refused++;
			continue;
		}
		assert_nfs(st, NFS3_OK);
		client_close(&c);
		server_kill(&s);
		start(&s, &c, 9);
		struct fh fh = c.root;
		for (long i = at; i <= depth; i++) {
			name_of(i, name);
			struct fh dir = fh;
			assert_nfs(client_lookup(&c, &dir, name, &fh, NULL), NFS3_OK);
			same_handle(&fh, &way[i]);
		}
		end_says(&c, &fh, "bottom");
		name_of(at, name); /* and back */
		assert_nfs(client_rename(&c, &way[0], name, &way[at - 1], name), NFS3_OK);
		walk_again(&c, 0, NULL);
	}
	printf("| moves from deep down to the root: %ld refused as too far for this file system's xattrs\n", refused);
	client_close(&c);
	stack_remove(&s);
}

static void a_deep_tree_made_by_a_client_outlives_the_server(void **state)
{
	struct stack s;
	struct client c;
	struct fh end;
	char name[24];
	(void)state;
	stack_make(&s, getenv("BASE"), NULL);
	start(&s, &c, 9);
	way[0] = c.root;
	for (long i = 1; i <= depth; i++) {
		name_of(i, name);
		assert_nfs(client_mkdir(&c, &way[i - 1], name, 0755, &way[i]), NFS3_OK);
	}
	assert_nfs(client_create(&c, &way[depth], "end", GUARDED, 0644, &end), NFS3_OK);
	assert_nfs(client_write(&c, &end, 0, "new", 3, FILE_SYNC, NULL), NFS3_OK);
	client_close(&c);
	server_stop(&s);
	start(&s, &c, 9);
	end_says(&c, &way[depth], "new");
	walk_again(&c, 0, NULL);
	remove_up(&c, 0, NULL);
	client_close(&c);
	stack_remove(&s);
}

int main(void)
{
	depth = size_of(1000, 1000, 200);
	if (getenv("DEPTH"))
		depth = atol(getenv("DEPTH"));
	if (depth < 8 || depth > MAX_DEPTH)
		return 1;
	way = calloc((size_t)depth + 1, sizeof *way);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_deep_tree_of_a_lower_is_walked_changed_and_removed),
		cmocka_unit_test(directories_deep_in_a_lower_are_renamed_and_keep_their_handles),
		cmocka_unit_test(a_directory_moved_from_deep_down_to_the_root_is_whole_or_was_not_moved),
		cmocka_unit_test(a_deep_tree_made_by_a_client_outlives_the_server),
	};
	choose_tests();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
