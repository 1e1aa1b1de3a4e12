/* main.c: the daemon: options, engine, server; then waits to be told to stop. */
#include "banner.h"
#include "keyfile.h"
#include "log.h"
#include "options.h"
#include "pidfile.h"
#include "proc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
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

/* why: NULL where nothing is wrong */
static int failed_file(const char *option, const char *path, const char *why)
{
	if (why)
		fprintf(stderr, "overnfsd: %s %s: %s\n", option, path, why);
	return why != NULL;
}

static bool allow(const struct sockaddr_storage *peer)
{
	return client_list_has(&export.clients, peer);
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
	char err[OVERLAY_ERR] = "";
	uint8_t key[16];
	bool key_made = false;
	if (sodium_init() < 0)
		return failed("libsodium", "can't be started");
	if (options.key_file && failed_file("key file", options.key_file, key_file_read(options.key_file, key, &key_made)))
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

static int open_pid_file(void)
{
	return options.pid_file ? failed_file("pid file", options.pid_file, pid_file_open(options.pid_file)) : 0;
}

/* Our parent was interrupted: a server that came up all the same would be one that nobody knows of. */
static bool nobody_waits(void)
{
	struct pollfd p = { .fd = ready_pipe }; /* -1, in the foreground, is passed over */
	return poll(&p, 1, 0) > 0; /* an error: no end to read from */
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
	if (nobody_waits())
		return failed("the start was interrupted", "nothing is served");
	if ((rc = rpc_server_start(server)))
		return failed("the server can't be started", strerror(-rc));
	if (failed_file("pid file", options.pid_file, pid_file_write()))
		return 1;
	if (options.json)
		banner_print_json(&options, &export);
	else
		banner_print(&options, &export);
	fflush(stdout);
	return 0;
}

static void stop(void)
{
	if (server)
		rpc_server_stop(server);
	if (export.ov)
		overlay_close(export.ov);
	pid_file_close();
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
