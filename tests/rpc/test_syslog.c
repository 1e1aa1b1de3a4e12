/* As a daemon, the server logs to syslog: to a /dev/log of the test's own, in a mount namespace of its own. */
#include "client.h"
#include "wire.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

static int log_fd;

/* The next line that holds text; those before it are passed over. */
static void expect(const char *text, char line[1024])
{
	ssize_t n;
	do {
		n = recv(log_fd, line, 1023, 0);
		assert_true(n > 0);
		line[n] = 0;
	} while (!strstr(line, text));
}

static void a_daemon_logs_to_syslog(void **state)
{
	(void)state;
	struct stack s;
	char cmd[1000], path[128], line[1024], tag[40];
	unsigned port = 0;
	int pid = 0;
	const char *server = getenv("OVERNFSD");
	stack_make(&s, NULL, NULL);
	snprintf(cmd, sizeof cmd, "%s --lower $PWD/lower1 --port 0 --no-rpcbind --json --pid-file $PWD/pid --log-level info >json", server ? server : "build/overnfsd");
	stack_sh(&s, cmd);
	snprintf(path, sizeof path, "%s/json", s.dir);
	FILE *f = fopen(path, "r");
	assert_non_null(fgets(line, sizeof line, f));
	fclose(f);
	assert_int_equal(sscanf(strstr(line, "\"pid\":"), "\"pid\":%d,\"port\":%u", &pid, &port), 2);
	snprintf(tag, sizeof tag, "overnfsd[%d]: ", pid);
	struct client c;
	s.port = (uint16_t)port;
	client_open(&c, &s, 0, 0);
	expect("127.0.0.1 mounts /overlay", line);
	assert_non_null(strstr(line, tag));
	assert_ptr_equal(strstr(line, "<30>"), line); /* daemon.info */
	client_close(&c);
	kill(pid, SIGTERM);
	expect("stopping", line);
	assert_ptr_equal(strstr(line, "<29>"), line); /* daemon.notice */
	while (!kill(pid, 0))
		usleep(10000);
	stack_sh(&s, "test ! -e pid");
	stack_remove(&s);
}

/* 0, or why it can't be had. */
static const char *own_dev(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };
	if (geteuid() || unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return "a mount namespace is made by root alone";
	if (mount("none", "/dev", "tmpfs", 0, NULL) || mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3)) || mknod("/dev/urandom", S_IFCHR | 0666, makedev(1, 9)))
		return "no /dev can be made here";
	log_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return bind(log_fd, (struct sockaddr *)&a, sizeof a) ? "no /dev/log can be made here" : NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(a_daemon_logs_to_syslog) };
	const char *why = own_dev();
	if (!why)
		return cmocka_run_group_tests(tests, NULL, NULL);
	printf("%s\n", why);
	return 77;
}
