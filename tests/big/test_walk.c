/* A walk over a million files (BIG=1): what the server keeps is bounded by --max-objects; and what an object costs, where all are kept. */
#include "big.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static long files;
enum { IN_ONE = 500 };

static void fill(const struct stack *s)
{
	char path[128], name[48];
	for (long d = 0; d < files / IN_ONE; d++) {
		snprintf(path, sizeof path, "%s/lower2/dir%ld", s->dir, d);
		assert_int_equal(mkdir(path, 0755), 0);
		int dir = open(path, O_RDONLY | O_DIRECTORY);
		for (long i = 0; i < IN_ONE; i++) {
			snprintf(name, sizeof name, "a file's name %ld", i);
			assert_int_equal(mknodat(dir, name, S_IFREG | 0644, 0), 0);
		}
		close(dir);
	}
}

static void walk(struct client *c)
{
	for (long d = 0; d < files / IN_ONE; d++) {
		char name[24];
		struct fh dir;
		snprintf(name, sizeof name, "dir%ld", d);
		assert_nfs(client_lookup(c, &c->root, name, &dir, NULL), NFS3_OK);
		assert_int_equal(client_listplus(c, &dir, 32768, NULL, NULL), IN_ONE + 2);
	}
}

/* KiB that two walks add to what the server takes */
static long walked(struct stack *s, long max_objects)
{
	struct client c;
	char args[96];
	snprintf(args, sizeof args, "--async --no-root-squash --max-objects %ld", max_objects);
	server_start(s, args);
	client_open(&c, s, 0, 0);
	long before = server_memory(s, "VmRSS");
	walk(&c);
	walk(&c);
	long kib = server_memory(s, "VmRSS") - before;
	client_close(&c);
	server_stop(s);
	return kib;
}

static void memory_is_bounded_by_max_objects_however_many_files_are_walked(void **state)
{
	struct stack s;
	(void)state;
	stack_make(&s, getenv("BASE"), NULL);
	fill(&s);
	long few = walked(&s, files / 20), all = walked(&s, 2 * files);
	printf("| %ld files walked: %ld MB more than at start with --max-objects %ld, %ld MB with all of them kept: %ld bytes an object\n", files, few / 1024,
	       files / 20, all / 1024, all * 1024 / files);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_true(few < all / 2);
#endif
	stack_remove(&s);
}

int main(void)
{
	files = size_of(1000000, 20000, 2000);
	const struct CMUnitTest tests[] = { cmocka_unit_test(memory_is_bounded_by_max_objects_however_many_files_are_walked) };
	choose_tests();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
