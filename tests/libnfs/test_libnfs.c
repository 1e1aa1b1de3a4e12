/* libnfs as a client: what its users do, on a merged tree, checked in the upper afterwards; and many of them at once. */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <nfsc/libnfs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static struct nfs_context *mounted(const struct stack *s)
{
	char url[128];
	snprintf(url, sizeof url, "nfs://127.0.0.1/overlay?version=3&nfsport=%u&mountport=%u&uid=0&gid=0", s->port, s->port);
	struct nfs_context *nfs = nfs_init_context();
	struct nfs_url *u = nfs_parse_url_dir(nfs, url);
	assert_non_null(u);
	if (nfs_mount(nfs, u->server, u->path))
		fail_msg("%s", nfs_get_error(nfs));
	nfs_destroy_url(u);
	return nfs;
}

#define OK(nfs, call)                                                  \
	do {                                                           \
		int rc_ = (call);                                      \
		if (rc_ < 0)                                           \
			fail_msg("%s: %s", #call, nfs_get_error(nfs)); \
	} while (0)

static void put(struct nfs_context *nfs, const char *path, int flags, const void *data, size_t len)
{
	struct nfsfh *fh;
	OK(nfs, nfs_open2(nfs, path, flags, 0644, &fh));
	for (size_t done = 0; done < len;) {
		int n = nfs_write(nfs, fh, len - done, (char *)(uintptr_t)data + done);
		assert_true(n > 0);
		done += (size_t)n;
	}
	OK(nfs, nfs_fsync(nfs, fh));
	OK(nfs, nfs_close(nfs, fh));
}

static void holds(struct nfs_context *nfs, const char *path, const void *data, size_t len)
{
	struct nfsfh *fh;
	char *buf = malloc(len + 1);
	OK(nfs, nfs_open(nfs, path, O_RDONLY, &fh));
	size_t got = 0;
	for (int n; got <= len && (n = nfs_read(nfs, fh, len + 1 - got, buf + got)) != 0; got += (size_t)n)
		assert_true(n > 0);
	OK(nfs, nfs_close(nfs, fh));
	assert_int_equal(got, len);
	assert_memory_equal(buf, data, len);
	free(buf);
}

static int names_in(struct nfs_context *nfs, const char *path)
{
	struct nfsdir *d;
	int n = 0;
	OK(nfs, nfs_opendir(nfs, path, &d));
	while (nfs_readdir(nfs, d))
		n++;
	nfs_closedir(nfs, d);
	return n - 2; /* "." and ".." */
}

static void a_library_user_changes_a_merged_tree(void **state)
{
	struct stack s;
	struct nfs_stat_64 st, before;
	char target[64];
	(void)state;
	stack_make(&s, NULL, "mkdir lower1/etc lower2/etc lower2/doc lower2/old; echo top >lower1/etc/conf; echo low >lower2/etc/conf; echo page >lower2/doc/page;"
			     "echo gone >lower2/gone; echo mode >lower2/mode; echo x >lower2/old/x; cp -a lower2 copy");
	server_start(&s, "--no-root-squash");
	struct nfs_context *nfs = mounted(&s), *other = mounted(&s);
	holds(nfs, "/etc/conf", "top\n", 4);
	assert_int_equal(names_in(nfs, "/"), 5);
	OK(nfs, nfs_stat64(nfs, "/etc/conf", &before));
	put(nfs, "/etc/conf", O_WRONLY | O_APPEND, "more\n", 5);
	holds(other, "/etc/conf", "top\nmore\n", 9);
	OK(nfs, nfs_stat64(nfs, "/etc/conf", &st));
	assert_int_equal(st.nfs_ino, before.nfs_ino);
	put(nfs, "/new", O_WRONLY | O_CREAT | O_EXCL, "new", 3);
	OK(nfs, nfs_rename(nfs, "/doc", "/documents"));
	holds(other, "/documents/page", "page\n", 5);
	OK(nfs, nfs_unlink(nfs, "/gone"));
	assert_int_equal(nfs_stat64(other, "/gone", &st), -ENOENT);
	OK(nfs, nfs_chmod(nfs, "/mode", 0600));
	OK(nfs, nfs_link(nfs, "/mode", "/mode2"));
	OK(nfs, nfs_stat64(other, "/mode2", &st));
	assert_int_equal(st.nfs_nlink, 2);
	OK(nfs, nfs_symlink(nfs, "target", "/link"));
	OK(nfs, nfs_readlink(other, "/link", target, sizeof target));
	assert_string_equal(target, "target");
	assert_int_equal(nfs_rmdir(nfs, "/old"), -ENOTEMPTY);
	OK(nfs, nfs_unlink(nfs, "/old/x"));
	OK(nfs, nfs_rmdir(nfs, "/old"));
	OK(nfs, nfs_truncate(nfs, "/new", 2));
	holds(other, "/new", "ne", 2);
	nfs_destroy_context(nfs);
	nfs_destroy_context(other);
	server_stop(&s);
	stack_sh(&s, "diff -r lower2 copy");
	stack_sh(&s, "cd upper; test \"$(ls)\" = \"$(printf 'doc\\ndocuments\\netc\\ngone\\nlink\\nmode\\nmode2\\nnew\\nold')\"; test -c doc -a -c gone -a -c old;"
		     "test \"$(cat new)\" = ne; test ! -e documents/page; test $(stat -c %a mode) = 600; test mode -ef mode2; test \"$(cat etc/conf)\" = \"$(printf 'top\\nmore')\"");
	stack_remove(&s);
}

static void a_big_file_goes_there_and_back(void **state)
{
	struct stack s;
	size_t size = (8 << 20) + 12345;
	unsigned char *data = malloc(size);
	(void)state;
	srandom(1);
	for (size_t i = 0; i < size; i++)
		data[i] = (unsigned char)random();
	stack_make(&s, NULL, NULL);
	server_start(&s, "--no-root-squash");
	struct nfs_context *nfs = mounted(&s);
	put(nfs, "/big", O_WRONLY | O_CREAT, data, size);
	holds(nfs, "/big", data, size);
	nfs_destroy_context(nfs);
	free(data);
	stack_remove(&s);
}

struct worker {
	const struct stack *s;
	int number;
	pthread_t thread;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct nfs_context *nfs = mounted(w->s);
	char dir[32], a[64], b[64], text[64];
	snprintf(dir, sizeof dir, "/shared/own%d", w->number);
	OK(nfs, nfs_mkdir(nfs, dir));
	for (int i = 0; i < 40; i++) {
		snprintf(a, sizeof a, "%s/f%d", dir, i);
		snprintf(b, sizeof b, "/shared/w%d.%d", w->number, i);
		snprintf(text, sizeof text, "%d wrote %d", w->number, i);
		put(nfs, a, O_WRONLY | O_CREAT, text, strlen(text));
		OK(nfs, nfs_rename(nfs, a, b));
		holds(nfs, b, text, strlen(text));
		if (i % 2)
			OK(nfs, nfs_unlink(nfs, b));
		snprintf(b, sizeof b, "/shared/low%d", i); /* all at once: one copy of it */
		OK(nfs, nfs_chmod(nfs, b, 0600 + w->number));
	}
	OK(nfs, nfs_rmdir(nfs, dir));
	nfs_destroy_context(nfs);
	return NULL;
}

static void many_clients_at_once_work_in_one_directory(void **state)
{
	struct stack s;
	struct worker w[6];
	(void)state;
	stack_make(&s, NULL, "mkdir lower2/shared; for i in $(seq 0 39); do echo $i >lower2/shared/low$i; done");
	server_start(&s, "--no-root-squash --async");
	for (int i = 0; i < 6; i++) {
		w[i] = (struct worker){ .s = &s, .number = i };
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	for (int i = 0; i < 6; i++)
		pthread_join(w[i].thread, NULL);
	struct nfs_context *nfs = mounted(&s);
	assert_int_equal(names_in(nfs, "/shared"), 6 * 20 + 40);
	holds(nfs, "/shared/low7", "7\n", 2);
	nfs_destroy_context(nfs);
	server_stop(&s);
	stack_sh(&s, "test -z \"$(ls -A work/work)\"; test $(ls upper/shared | wc -l) = 160");
	stack_remove(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_library_user_changes_a_merged_tree),
		cmocka_unit_test(a_big_file_goes_there_and_back),
		cmocka_unit_test(many_clients_at_once_work_in_one_directory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
