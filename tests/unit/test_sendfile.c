/* rpc/ under a toy program whose replies end in a file, on file systems where sendfile(2) works and where it does not. */
#include "toy.h"

#include <dlfcn.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

enum { FILES = 200003, READ = 1, SIZE = 300001 };

static atomic_int failing; /* errno that it fails with; 0: it works */
static atomic_long after; /* bytes that go well before */
static atomic_uint files_done;
static int file = -1;
static uint8_t content[SIZE], got[SIZE + 64];

ssize_t sendfile(int out, int in, off_t *at, size_t len)
{
	ssize_t (*real)(int, int, off_t *, size_t) = (ssize_t (*)(int, int, off_t *, size_t))dlsym(RTLD_NEXT, "sendfile64");
	long left = after;
	if (!failing || left > 0) {
		ssize_t n = real(out, in, at, failing && (size_t)left < len ? (size_t)left : len);
		after -= n > 0 ? n : 0;
		return n;
	}
	errno = failing;
	return -1;
}

static void done(void *arg)
{
	(void)arg;
	files_done++;
}

static long fast(struct rpc_call *call, const uint8_t *args, size_t len, uint8_t *out, size_t room)
{
	(void)args;
	(void)len;
	(void)room;
	call->file = (struct rpc_file){ .fd = file, .len = SIZE, .done = done };
	memcpy(out, &(uint32_t){ htonl(SIZE) }, 4);
	return 4;
}

static const struct rpc_proc procs[] = {
	[0] = { .name = "NULL" },
	[READ] = { .name = "READ", .xdr_args = xdr_word, .args_size = 4, .xdr_res = xdr_word, .res_size = 4, .fast = fast },
};
static const struct rpc_program files = { .prog = FILES, .vers_low = 1, .vers_high = 1, .procs = procs, .nprocs = 2 };

static int setup_files(void **state)
{
	(void)state;
	for (size_t i = 0; i < SIZE; i++)
		content[i] = (uint8_t)(i * 7 + i / 251);
	file = memfd_create("content", MFD_CLOEXEC);
	assert_int_equal(write(file, content, SIZE), SIZE);
	files_done = 0;
	start_with(&(struct rpc_config){ .threads = 4, .max_record = MIB }, &files);
	return 0;
}

static int teardown_files(void **state)
{
	close(file);
	return teardown(state);
}

static void comes_whole(int error, long good)
{
	uint8_t mark[4];
	failing = error;
	after = good;
	unsigned before = files_done;
	int fd = connected();
	put_call(&m, 1, FILES, 1, READ);
	put_word(&m, 0);
	assert_true(send_message(fd, &m));
	assert_true(wire_recv(fd, mark, 4));
	size_t len = word_at(mark, 0) & 0x7fffffff;
	assert_int_equal(len, 28 + ((SIZE + 3) & ~3));
	assert_true(wire_recv(fd, got, len));
	assert_memory_equal(got + 28, content, SIZE);
	put_call(&m, 2, PROG, 3, 0);
	assert_int_equal(ask(fd).xid, 2); /* and the connection goes on */
	assert_int_equal(files_done, before + 1);
	close(fd);
}

static void a_file_is_sent_whole(void **state)
{
	(void)state;
	comes_whole(0, 0);
}

static void where_the_file_system_cannot_send_it_is_read(void **state)
{
	static const int errors[] = { EINVAL, EOPNOTSUPP, ENOSYS };
	(void)state;
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
		comes_whole(errors[i], 0);
		comes_whole(errors[i], 100000);
	}
}

static void what_cannot_be_read_closes_the_connection(void **state)
{
	(void)state;
	failing = EIO;
	after = 0;
	int fd = connected();
	put_call(&m, 1, FILES, 1, READ);
	put_word(&m, 0);
	assert_true(send_message(fd, &m));
	assert_true(is_closed(fd));
	close(fd);
	still_serves();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_file_is_sent_whole, setup_files, teardown_files),
		cmocka_unit_test_setup_teardown(where_the_file_system_cannot_send_it_is_read, setup_files, teardown_files),
		cmocka_unit_test_setup_teardown(what_cannot_be_read_closes_the_connection, setup_files, teardown_files),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
