/* READ by size: small ones are copied into the reply, big ones are sent from the file. The client sees no difference. */
#include "client.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIZE = 300001, MOST = 1 << 20 };
static char content[SIZE], got[MOST];

static void make_file(struct stack *s)
{
	uint32_t x = 1;
	char path[128];
	for (size_t i = 0; i < SIZE; i++)
		content[i] = (char)((x = x * 1103515245 + 12345) >> 16);
	stack_make(s, NULL, "true");
	snprintf(path, sizeof path, "%s/lower1/file", s->dir);
	int fd = open(path, O_CREAT | O_WRONLY, 0644);
	assert_int_equal(write(fd, content, SIZE), SIZE);
	close(fd);
}

static void reads_of_any_size_and_place_give_the_file(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 4095, 65535, 65536, 65537, 65538, 65539, 100003, 262144, SIZE, MOST };
	static const uint64_t offsets[] = { 0, 1, 4096, 65537, SIZE - 65536, SIZE - 1, SIZE, SIZE + 10 };
	struct stack s;
	struct client c;
	struct fh fh;
	(void)state;
	make_file(&s);
	server_start(&s, NULL);
	client_open(&c, &s, 0, 0);
	assert_nfs(client_path(&c, "file", &fh, NULL), NFS3_OK);
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
		for (size_t j = 0; j < sizeof offsets / sizeof *offsets; j++) {
			uint32_t n;
			bool eof;
			uint64_t left = offsets[j] < SIZE ? SIZE - offsets[j] : 0, want = sizes[i] < left ? sizes[i] : left;
			assert_nfs(client_read(&c, &fh, offsets[j], sizes[i], got, &n, &eof), NFS3_OK);
			assert_int_equal(n, want);
			assert_int_equal(eof, offsets[j] + want >= SIZE);
			if (want)
				assert_memory_equal(got, content + offsets[j], want);
		}
	client_close(&c);
	server_stop(&s);
	stack_remove(&s);
}

/* Of a file as long as any can be: tmpfs takes it, as do XFS and Btrfs. */
static void reads_at_the_end_of_all_offsets_end_there(void **state)
{
	static const uint64_t most = INT64_MAX, offsets[] = { INT64_MAX - 4096, INT64_MAX - 4095, INT64_MAX - 1, INT64_MAX, 1ull << 63, UINT64_MAX - 1, UINT64_MAX };
	static const uint32_t sizes[] = { 0, 1, 4096, 65536, MOST };
	struct stack s;
	struct client c;
	struct fh huge, small;
	(void)state;
	stack_make(&s, "/dev/shm", "truncate -s 9223372036854775807 lower1/huge; chmod 644 lower1/huge; echo -n small >lower1/small");
	server_start(&s, NULL);
	client_open(&c, &s, 0, 0);
	assert_nfs(client_path(&c, "huge", &huge, NULL), NFS3_OK);
	assert_nfs(client_path(&c, "small", &small, NULL), NFS3_OK);
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
		for (size_t j = 0; j < sizeof offsets / sizeof *offsets; j++) {
			uint32_t n;
			bool eof;
			uint64_t left = offsets[j] < most ? most - offsets[j] : 0, want = sizes[i] < left ? sizes[i] : left;
			assert_nfs(client_read(&c, &huge, offsets[j], sizes[i], got, &n, &eof), NFS3_OK);
			assert_int_equal(n, want);
			assert_int_equal(eof, want == left);
			assert_nfs(client_read(&c, &small, offsets[j], sizes[i], got, &n, &eof), NFS3_OK);
			assert_true(!n && eof);
		}
	client_close(&c);
	server_stop(&s);
	stack_remove(&s);
}

static void a_big_read_sees_what_was_just_written(void **state)
{
	struct stack s;
	struct client c;
	struct fh fh;
	uint32_t n;
	bool eof;
	(void)state;
	make_file(&s);
	server_start(&s, "--no-root-squash");
	client_open(&c, &s, 0, 0);
	assert_nfs(client_path(&c, "file", &fh, NULL), NFS3_OK);
	for (int round = 0; round < 20; round++) { /* the first one copies the file up */
		memset(content + round * 1000, 'a' + round, 1000);
		assert_nfs(client_write(&c, &fh, (uint64_t)round * 1000, content + round * 1000, 1000, UNSTABLE, NULL), NFS3_OK);
		assert_nfs(client_read(&c, &fh, 0, MOST, got, &n, &eof), NFS3_OK);
		assert_int_equal(n, SIZE);
		assert_true(eof);
		assert_memory_equal(got, content, SIZE);
	}
	client_close(&c);
	server_stop(&s);
	stack_remove(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_of_any_size_and_place_give_the_file),
		cmocka_unit_test(reads_at_the_end_of_all_offsets_end_there),
		cmocka_unit_test(a_big_read_sees_what_was_just_written),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
