/* main.c: the daemon: options, engine, server; then waits to be told to stop. */
#include "json.h"
#include "log.h"
#include "options.h"
#include "proc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <limits.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NFS_PROGRAM = 100003, MOUNT_PROGRAM = 100005, ANONYMOUS = 65534 };

static struct options options;
static struct export export;
static struct rpc_server *server;
static int ready_pipe = -1; /* a byte there tells our parent that all went well */

static int failed(const char *what, const char *why)
{
	fprintf(stderr, "overnfsd: %s%s%s\n", what, *what ? ": " : "", why);
	return 1;
}

static int failed_file(const char *option, const char *path, const char *why)
{
	fprintf(stderr, "overnfsd: %s %s: %s\n", option, path, why);
	return 1;
}

static bool allow(const struct sockaddr_storage *peer)
{
	return client_list_has(&export.clients, peer);
}

/* 32 hex digits; a file that is not there is made, for its owner alone. */
static int read_key(const char *path, uint8_t key[16], bool *made)
{
	char text[80] = "";
	size_t n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		randombytes_buf(key, 16);
		sodium_bin2hex(text, sizeof text, key, 16);
		text[32] = '\n';
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		bool ok = fd >= 0 && write(fd, text, 33) == 33 && !fsync(fd);
		if (fd >= 0)
			close(fd);
		*made = ok;
		return ok ? 0 : failed_file("key file", path, strerror(errno));
	}
	if (fd < 0)
		return failed_file("key file", path, strerror(errno));
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	if (got < 0 || sodium_hex2bin(key, 16, text, (size_t)got, " \n", &n, NULL) || n != 16)
		return failed_file("key file", path, "is not a key; it must hold 32 hex digits (name a file that is not there, and one is made)");
	return 0;
}

/* Every object may need a descriptor: as many as we may have. */
static void raise_limits(void)
{
	struct rlimit rl;
	if (getrlimit(RLIMIT_NOFILE, &rl))
		return;
	rl.rlim_cur = rl.rlim_max < 1 << 20 ? rl.rlim_max : 1 << 20;
	setrlimit(RLIMIT_NOFILE, &rl);
}

/* Root may go over quotas; what clients write must not, so that right is given up (as Linux nfsd does). */
static void keep_quotas(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &header, data))
		return;
	data[0].effective &= ~(1u << CAP_SYS_RESOURCE);
	syscall(SYS_capset, &header, data);
}

static int open_export(void)
{
	char err[512] = "";
	uint8_t key[16];
	bool key_made = false;
	if (sodium_init() < 0)
		return failed("libsodium", "can't be started");
	if (options.key_file && read_key(options.key_file, key, &key_made))
		return 1;
	struct overlay_config c = { .lowers = options.lowers, .nlowers = options.nlowers,
				    .data_lowers = options.data_lowers, .ndata_lowers = options.ndata_lowers, .upper = options.upper, .work = options.work,
				    .name = options.export_path, .key = options.key_file ? key : NULL, .read_only = options.read_only,
				    .sync = options.sync, .userxattr = options.userxattr, .no_metacopy = options.no_metacopy,
				    .no_redirect = options.no_redirect, .max_objects = options.max_objects,
				    .moves = options.moved, .nmoves = options.nmoved,
				    .before_block = rpc_blocking, .log = log_line };
	if (overlay_open(&c, &export.ov, err, sizeof err)) {
		if (key_made)
			unlink(options.key_file);
		return failed("", err);
	}
	export.path = options.export_path;
	export.squash = options.squash;
	export.anon_uid = export.anon_gid = ANONYMOUS;
	export.clients = options.clients;
	export.root_clients = options.root_clients;
	return 0;
}

static int listen_at(const char *address, uint16_t *port, bool any_port, bool optional)
{
	char err[256];
	int rc = rpc_server_listen(server, address, port, err, sizeof err);
	/* A machine may have no IPv6, and a port that was free in IPv4 may be taken there. */
	if (!rc || (optional && (rc == -EADDRNOTAVAIL || rc == -EAFNOSUPPORT || (rc == -EADDRINUSE && any_port))))
		return 0;
	return failed("", err);
}

static int listen_all(void)
{
	bool any_port = !options.port, any_mount_port = !options.mount_port;
	for (size_t i = 0; i < OPTIONS_ADDRESSES && options.listen[i]; i++) {
		bool optional = !options.nlisten && i;
		if (listen_at(options.listen[i], &options.port, any_port, optional))
			return 1;
		if (options.has_mount_port && options.mount_port != options.port &&
		    listen_at(options.listen[i], &options.mount_port, any_mount_port, optional))
			return 1;
	}
	if (!options.has_mount_port)
		options.mount_port = options.port;
	return 0;
}

static void register_all(void)
{
	static const struct {
		uint32_t prog, vers;
	} what[] = { { NFS_PROGRAM, 3 }, { MOUNT_PROGRAM, 3 }, { MOUNT_PROGRAM, 1 } };
	for (size_t i = 0; options.rpcbind && i < sizeof what / sizeof *what; i++) {
		int rc = rpc_server_register(server, what[i].prog, what[i].vers, what[i].prog == NFS_PROGRAM ? options.port : options.mount_port);
		if (rc) {
			log_line(5, "not registered with rpcbind (%s): clients give port=%u,mountport=%u", strerror(-rc), options.port, options.mount_port);
			return;
		}
	}
}

/* Listens, but answers nobody before rpc_server_start(). */
static int make_server(void)
{
	static struct rpc_program programs[] = {
		{ .prog = NFS_PROGRAM, .vers_low = 3, .vers_high = 3, .procs = nfs3_procs, .nprocs = 22, .user = &export },
		{ .prog = MOUNT_PROGRAM, .vers_low = 3, .vers_high = 3, .procs = mount3_procs, .nprocs = 6, .user = &export },
		{ .prog = MOUNT_PROGRAM, .vers_low = 1, .vers_high = 2, .procs = mount1_procs, .nprocs = 6, .user = &export },
	};
	struct rpc_config c = { .threads = options.threads, .busy_poll_us = options.busy_poll_us, .settle = nfs3_settle, .allow = allow, .log = log_line };
	int rc = rpc_server_create(&c, &server);
	if (rc)
		return failed("the server can't be made", strerror(-rc));
	for (size_t i = 0; i < sizeof programs / sizeof *programs; i++)
		rpc_server_add(server, &programs[i]);
	return listen_all();
}

/* The address that a client on another machine would name. */
static const char *address_to_mount(void)
{
	static char host[256];
	const char *a = options.listen[0];
	if ((strcmp(a, "0.0.0.0") && strcmp(a, "::")) || gethostname(host, sizeof host - 1))
		return a;
	return host;
}

static const char *mount_command(void)
{
	static char line[1600]; /* --export has at most 1000 bytes */
	const char *a = address_to_mount(), *open = strchr(a, ':') ? "[" : "", *close = *open ? "]" : "";
	snprintf(line, sizeof line, "mount -t nfs -o vers=3,proto=tcp%s,port=%u,mountport=%u,mountproto=tcp%s,nolock %s%s%s:%s /mnt", *open ? "6" : "",
		 options.port, options.mount_port, *open ? "6" : "", open, a, close, options.export_path);
	return line;
}

static void print_json(void)
{
	printf("{\"export\":");
	json_print_string(options.export_path);
	printf(",\"pid\":%d,\"port\":%u,\"mount_port\":%u,\"read_only\":%s,\"sync\":%s,\"upper\":", (int)getpid(), options.port, options.mount_port,
	       overlay_is_read_only(export.ov) ? "true" : "false", options.sync ? "true" : "false");
	if (options.upper)
		json_print_string(options.upper);
	else
		printf("null");
	printf(",\"lowers\":[");
	for (size_t i = 0; i < options.nlowers; i++) {
		if (i)
			putchar(',');
		json_print_string(options.lowers[i]);
	}
	printf("],\"mount\":");
	json_print_string(mount_command());
	puts("}");
}

static bool is_loopback(const char *address)
{
	return !strncmp(address, "127.", 4) || !strcmp(address, "::1") || !strcmp(address, "::1/128");
}

/* It takes both options to let a network in: half of it is a mistake that else shows as a refused connection. */
static void print_who_is_shut_out(void)
{
	bool listens_beyond = false, allows_beyond = false;
	for (size_t i = 0; i < options.nlisten; i++)
		listens_beyond |= !is_loopback(options.listen[i]);
	for (int i = 0; i < export.clients.n; i++)
		allows_beyond |= !is_loopback(export.clients.at[i].text);
	if (listens_beyond && !allows_beyond)
		puts("  only this machine may connect: add --clients to let others in");
	if (!listens_beyond && allows_beyond)
		puts("  no other machine can reach it: add --listen to let those clients in");
}

static void print_banner(void)
{
	static const char *const squash[] = { "root squashed to nobody", "all users squashed to nobody", "root not squashed" };
	bool ro = overlay_is_read_only(export.ov);
	printf("overnfsd serves %s, %s, %s\n", options.export_path, ro ? "read-only" : options.sync ? "read-write, sync" : "read-write, async",
	       squash[options.squash]);
	if (options.upper)
		printf("  upper    %s\n", options.upper);
	for (size_t i = 0; i < options.nlowers; i++)
		printf("  lower %zu  %s\n", i + 1, options.lowers[i]);
	printf("  clients ");
	for (int i = 0; i < export.clients.n; i++)
		printf(" %s%s", export.clients.at[i].text, i + 1 < export.clients.n ? "," : "");
	printf("\n  mount    %s\n", mount_command());
	if (!overlay_makes_for_callers(export.ov))
		printf("  without root: new files belong to user %d, whoever makes them\n", (int)geteuid());
	print_who_is_shut_out();
}

/* Opened and locked before anything is changed, written once all went well: a second server must not write over the first one's. */
static struct {
	int fd;
	bool made;
	char path[PATH_MAX];
} pid_file = { .fd = -1 };

static int open_pid_file(void)
{
	const int flags = O_WRONLY | O_CLOEXEC | O_NOFOLLOW;
	if (!options.pid_file)
		return 0;
	pid_file.fd = open(options.pid_file, flags | O_CREAT | O_EXCL, 0644);
	pid_file.made = pid_file.fd >= 0;
	if (!pid_file.made && errno == EEXIST)
		pid_file.fd = open(options.pid_file, flags);
	if (pid_file.fd >= 0 && flock(pid_file.fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
		return failed_file("pid file", options.pid_file, "it is in use by another server: give each one of its own");
	/* absolute, as a daemon leaves for / */
	return pid_file.fd < 0 || !realpath(options.pid_file, pid_file.path) ? failed_file("pid file", options.pid_file, strerror(errno)) : 0;
}

static int write_pid_file(void)
{
	if (pid_file.fd < 0)
		return 0;
	bool ok = !ftruncate(pid_file.fd, 0) && dprintf(pid_file.fd, "%d\n", (int)getpid()) > 0;
	pid_file.made = true; /* ours from now on */
	return ok ? 0 : failed_file("pid file", options.pid_file, strerror(errno));
}

static void close_pid_file(void)
{
	if (pid_file.made)
		unlink(pid_file.path);
	if (pid_file.fd >= 0)
		close(pid_file.fd);
}

/* What may be wrong without anything being changed comes first. */
static int start(void)
{
	int rc;
	umask(0);
	raise_limits();
	keep_quotas();
	if (make_server() || open_pid_file() || open_export())
		return 1;
	register_all();
	if ((rc = rpc_server_start(server)))
		return failed("the server can't be started", strerror(-rc));
	if (write_pid_file())
		return 1;
	if (options.json)
		print_json();
	else
		print_banner();
	fflush(stdout);
	return 0;
}

static void stop(void)
{
	if (server)
		rpc_server_stop(server);
	if (export.ov)
		overlay_close(export.ov);
	close_pid_file();
}

/* Tells the parent that all went well, and lets go of the terminal and of the directory. */
static void detach(void)
{
	(void)!write(ready_pipe, "", 1);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (chdir("/"))
		log_line(4, "the working directory stays in use: %s", strerror(errno));
}

static int run(void)
{
	sigset_t sigs;
	int sig;
	sigemptyset(&sigs);
	sigaddset(&sigs, SIGTERM);
	sigaddset(&sigs, SIGINT);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* under a limit of file sizes (ulimit -f) a client's WRITE beyond it gets EFBIG, and must not end the server */
	signal(SIGHUP, SIG_IGN); /* there is nothing to read again, and a closed terminal is no reason to stop */
	pthread_sigmask(SIG_BLOCK, &sigs, NULL); /* in all threads: they inherit it */
	if (start()) {
		stop();
		return 1;
	}
	log_start(options.log_level, !options.foreground);
	if (!options.foreground)
		detach();
	sigwait(&sigs, &sig);
	pthread_sigmask(SIG_UNBLOCK, &sigs, NULL); /* whoever can't wait for a disk that hangs sends it again */
	log_line(5, "stopping: finishing calls in flight");
	stop();
	return 0;
}

/* The child starts everything, as threads and the map do not survive a fork; the parent waits for how that went.
 * In the child: -1, or the exit code. */
static int daemonize(void)
{
	int ready[2];
	char ok;
	if (pipe2(ready, O_CLOEXEC))
		return failed("pipe", strerror(errno));
	pid_t pid = fork();
	if (pid < 0)
		return failed("fork", strerror(errno));
	if (pid) {
		close(ready[1]);
		_exit(read(ready[0], &ok, 1) == 1 ? 0 : 1);
	}
	close(ready[0]);
	ready_pipe = ready[1];
	setsid();
	return -1;
}

int main(int argc, char **argv)
{
	log_keep_standard();
	int rc = options_parse(&options, argc, argv);
	if (rc >= 0)
		return rc;
	log_start(options.log_level, 0);
	if (!options.foreground && (rc = daemonize()) >= 0)
		return rc;
	return run();
}
