/* rpc/ under a toy program: how many connections there may be, and whose. */
#include "toy.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>

static atomic_bool no_watches; /* as where a user has used up max_user_watches of epoll(7) */
static char told[512];
static atomic_uint told_times;
static sem_t logged;

int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
	static int (*real)(int, int, int, struct epoll_event *);
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&lock);
	if (!real)
		real = (int (*)(int, int, int, struct epoll_event *))dlsym(RTLD_NEXT, "epoll_ctl");
	pthread_mutex_unlock(&lock);
	if (op == EPOLL_CTL_ADD && atomic_load(&no_watches)) {
		errno = ENOSPC;
		return -1;
	}
	return real(epoll, op, fd, event);
}

static void note(int level, const char *fmt, ...)
{
	va_list ap;
	(void)level;
	va_start(ap, fmt);
	vsnprintf(told, sizeof told, fmt, ap);
	va_end(ap);
	told_times++;
	sem_post(&logged);
}

static void connections_beyond_the_limit_are_closed_and_later_ones_taken(void **state)
{
	(void)state;
	stop();
	start(&(struct rpc_config){ .threads = 4, .max_record = MIB, .max_connections = 10 });
	int fd[10];
	for (int i = 0; i < 10; i++) {
		fd[i] = connected();
		put_call(&m, 1, PROG, 3, 0);
		assert_int_equal(ask(fd[i]).stat, 0);
	}
	for (int i = 0; i < 50; i++) {
		int more = connected();
		assert_true(is_closed(more));
		close(more);
	}
	put_call(&m, 2, PROG, 3, 0);
	assert_int_equal(ask(fd[9]).xid, 2);
	for (int i = 0; i < 10; i++)
		close(fd[i]);
	for (bool taken = false; !taken;) { /* once the server has seen that they are gone */
		int again = connected();
		put_call(&m, 3, PROG, 3, 0);
		taken = send_message(again, &m) && recv_message(again, &r);
		close(again);
	}
}

static void out_of_descriptors_connections_wait_and_are_served_later(void **state)
{
	(void)state;
	struct rlimit old, low;
	int mine[40], spare = dup(0), n;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	int held = connected();
	put_call(&m, 1, PROG, 3, 0);
	assert_int_equal(ask(held).stat, 0);
	for (n = 0; n < 40; n++) /* made before there is a limit: what is scarce is the server's end */
		mine[n] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	low = old;
	low.rlim_cur = (rlim_t)mine[39] + 1;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	for (n = 0; n < 40; n++)
		assert_int_equal(connect(mine[n], (struct sockaddr *)&to, sizeof to), 0);
	struct rusage a, b;
	getrusage(RUSAGE_SELF, &a);
	usleep(300000);
	getrusage(RUSAGE_SELF, &b);
	long cpu_ms = (b.ru_utime.tv_sec - a.ru_utime.tv_sec + b.ru_stime.tv_sec - a.ru_stime.tv_sec) * 1000 +
		      (b.ru_utime.tv_usec - a.ru_utime.tv_usec + b.ru_stime.tv_usec - a.ru_stime.tv_usec) / 1000;
	assert_true(cpu_ms < 150); /* it does not spin */
	put_call(&m, 2, PROG, 3, 0);
	assert_int_equal(ask(held).xid, 2); /* who is connected is served */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	for (n = 0; n < 40; n++) {
		put_call(&m, 3, PROG, 3, 0);
		assert_int_equal(ask(mine[n]).xid, 3);
		close(mine[n]);
	}
	close(spare);
	close(held);
}

static void a_connection_that_cannot_be_watched_is_closed_with_the_reason(void **state)
{
	(void)state;
	stop();
	sem_init(&logged, 0, 0);
	start(&(struct rpc_config){ .threads = 4, .max_record = MIB, .log = note });
	atomic_store(&no_watches, true);
	told_times = 0;
	int fd;
	for (int i = 0; i < 50; i++) {
		fd = connected();
		assert_true(is_closed(fd));
		close(fd);
	}
	sem_wait(&logged);
	assert_in_range(told_times, 1, 3); /* once a second: a client that tries again and again must not fill the log */
	assert_non_null(strstr(told, "127.0.0.1"));
	atomic_store(&no_watches, false);
	assert_non_null(strstr(told, strerror(ENOSPC)));
	fd = connected();
	put_call(&m, 1, PROG, 3, 0);
	assert_int_equal(ask(fd).stat, 0);
	close(fd);
}

static void a_server_that_cannot_be_made_is_none(void **state)
{
	(void)state;
	struct rlimit old, low;
	struct rpc_server *none = server;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	low = old;
	low.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	int rc = rpc_server_create(&(struct rpc_config){ .threads = 4 }, &none);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(rc, -EMFILE);
	assert_null(none); /* nothing that could be stopped again */
}

static bool nobody(const struct sockaddr_storage *peer)
{
	(void)peer;
	return false;
}

static void who_may_not_connect_is_closed_and_gets_no_answer_by_udp(void **state)
{
	(void)state;
	stop();
	start(&(struct rpc_config){ .threads = 4, .max_record = MIB, .allow = nobody });
	int fd = connected();
	assert_true(is_closed(fd));
	close(fd);
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	put_call(&m, 1, PROG, 3, 0);
	assert_int_equal(sendto(udp, m.data, m.len, 0, (struct sockaddr *)&to, sizeof to), m.len);
	fd = connected();
	assert_true(is_closed(fd)); /* the datagram came before */
	usleep(50000);
	assert_int_equal(recv(udp, r.data, sizeof r.data, MSG_DONTWAIT), -1);
	close(fd);
	close(udp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TOY_TEST(connections_beyond_the_limit_are_closed_and_later_ones_taken),
		TOY_TEST(out_of_descriptors_connections_wait_and_are_served_later),
		TOY_TEST(a_connection_that_cannot_be_watched_is_closed_with_the_reason),
		TOY_TEST(a_server_that_cannot_be_made_is_none),
		TOY_TEST(who_may_not_connect_is_closed_and_gets_no_answer_by_udp),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
