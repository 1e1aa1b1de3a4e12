/* A directory of a million entries (BIG=1): listed whole, each entry once, looked up and removed, while the server's memory stays bounded. */
#include "big.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static long entries;

struct seen {
	uint8_t *count; /* by number in the name */
	long others;
};

static void note(struct seen *seen, const char *name)
{
	char *end;
	if (*name != 'f') {
		seen->others++;
		return;
	}
	long i = strtol(name + 1, &end, 10);
	assert_true(!*end && i >= 0 && i < entries);
	seen->count[i]++;
}

static void see(void *arg, const char *name, uint64_t fileid)
{
	assert_int_not_equal(fileid, 0);
	note(arg, name);
}

static void see_plus(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh)
{
	assert_non_null(attr);
	assert_non_null(fh);
	assert_int_equal(attr->fileid, fileid);
	note(arg, name);
}

static void begin(struct seen *seen)
{
	*seen = (struct seen){ .count = calloc(1, (size_t)entries) };
	assert_non_null(seen->count);
}

static void each_once(struct seen *seen, long others)
{
	for (long i = 0; i < entries; i++)
		assert_int_equal(seen->count[i], 1);
	assert_int_equal(seen->others, others);
	free(seen->count);
}

static const char *base(void)
{
	return getenv("BASE"); /* where to make the directory: a fast file system helps */
}

static void fill(const struct stack *s, const char *layer)
{
	char path[128];
	snprintf(path, sizeof path, "%s/%s/big", s->dir, layer);
	assert_int_equal(mkdir(path, 0777), 0);
	int dir = open(path, O_RDONLY | O_DIRECTORY);
	for (long i = 0; i < entries; i++) {
		char name[24];
		snprintf(name, sizeof name, "f%ld", i);
		assert_int_equal(mknodat(dir, name, S_IFREG | 0644, 0), 0);
	}
	close(dir);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

struct figures {
	double list, plus, lookup, remove;
};

static void list_all(struct client *c, const struct fh *big, struct figures *f)
{
	struct seen seen;
	double start = now();
	begin(&seen);
	assert_int_equal(client_list(c, big, 32768, see, &seen), entries + 2);
	each_once(&seen, 2);
	f->list = now() - start;
	start = now();
	begin(&seen);
	assert_int_equal(client_listplus(c, big, 32768, see_plus, &seen), entries + 2);
	each_once(&seen, 2);
	f->plus = now() - start;
}

static void remove_all(struct client *c, const struct fh *big)
{
	for (long i = 0; i < entries; i++) {
		char name[24];
		snprintf(name, sizeof name, "f%ld", i);
		assert_nfs(client_remove(c, big, name), NFS3_OK);
	}
	assert_int_equal(client_list(c, big, 32768, NULL, NULL), 2);
}

static void big_directory(const char *layer, const char *args)
{
	struct stack s;
	struct client c;
	struct fh big, fh;
	struct figures f;
	stack_make(&s, base(), NULL);
	fill(&s, layer);
	server_start(&s, args);
	client_open(&c, &s, 0, 0);
	long before = server_memory(&s, "VmHWM");
	assert_nfs(client_lookup(&c, &c.root, "big", &big, NULL), NFS3_OK);
	list_all(&c, &big, &f);
	long listed = server_memory(&s, "VmHWM"), own = server_memory(&s, "RssAnon");
	double start = now();
	for (long i = 0; i < entries; i++) {
		char name[24];
		snprintf(name, sizeof name, "f%ld", i * 7919 % entries);
		assert_nfs(client_lookup(&c, &big, name, &fh, NULL), NFS3_OK);
	}
	f.lookup = now() - start;
	assert_nfs(client_rmdir(&c, &c.root, "big"), NFS3ERR_NOTEMPTY);
	start = now();
	remove_all(&c, &big);
	assert_nfs(client_rmdir(&c, &c.root, "big"), NFS3_OK);
	f.remove = now() - start;
	assert_nfs(client_lookup(&c, &c.root, "big", &fh, NULL), NFS3ERR_NOENT);
	stack_sh(&s, "test -z \"$(ls -A work/work)\""); /* the whiteouts went with it */
	printf("| %ld entries in a directory of the %s: READDIR %.1f s, READDIRPLUS %.1f s, LOOKUP %.1f s, removed in %.1f s\n", entries, layer, f.list,
	       f.plus, f.lookup, f.remove);
	printf("| peak RSS with it: %ld MB at start, %ld MB when listed (%ld MB the server's own, the rest pages of the map's file), %ld MB at the end\n",
	       before / 1024, listed / 1024, own / 1024, server_memory(&s, "VmHWM") / 1024);
	client_close(&c);
	stack_remove(&s);
}

static void a_big_directory_of_a_lower_is_listed_looked_up_and_removed(void **state)
{
	(void)state;
	big_directory("lower2", "--async --no-root-squash --max-objects 10000");
}

static void a_big_directory_of_the_upper_is_listed_looked_up_and_removed(void **state)
{
	(void)state;
	big_directory("upper", "--async --no-root-squash --max-objects 10000");
}

int main(void)
{
	entries = size_of(1000000, 10000, 1500);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_big_directory_of_a_lower_is_listed_looked_up_and_removed),
		cmocka_unit_test(a_big_directory_of_the_upper_is_listed_looked_up_and_removed),
	};
	choose_tests();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
