/* options.c: one table of options, for the command line (--name value) and for the configuration file (name = value). */
#include "options.h"
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Values that are not the command line's own, which must live as long as the process. */
static char **kept;
static size_t nkept;

static const char *keep(const char *value, size_t len)
{
	char **more = realloc(kept, (nkept + 1) * sizeof *more);
	if (!more)
		return NULL;
	kept = more;
	return kept[nkept++] = strndup(value, len);
}

/* Each returns NULL, or what would be right. */
typedef const char *setter(struct options *o, const char *value);

/* Said here as well as by the engine, as here the line of a configuration file is known. */
static const char *check_layer(const char *v)
{
	return *v == '/' ? NULL : "it must be an absolute path, like /srv/base, without quotes";
}

static const char *add_lower(struct options *o, const char *v)
{
	if (o->nlowers > OPTIONS_LOWERS)
		return "at most 500 lower directories are possible";
	o->lowers[o->nlowers++] = v;
	return check_layer(v);
}

static const char *add_data_lower(struct options *o, const char *v)
{
	if (o->ndata_lowers > OPTIONS_LOWERS)
		return "at most 500 lower directories are possible";
	o->data_lowers[o->ndata_lowers++] = v;
	return check_layer(v);
}

static const char *set_upper(struct options *o, const char *v)
{
	o->upper = v;
	return check_layer(v);
}

static const char *set_work(struct options *o, const char *v)
{
	o->work = v;
	return check_layer(v);
}

static const char *set_export(struct options *o, const char *v)
{
	static const char *const right = "it must be a plain absolute path of at most 1000 bytes, like /overlay";
	size_t len = strlen(v);
	while (len > 1 && v[len - 1] == '/')
		len--;
	if (*v != '/' || len > 1000)
		return right;
	for (const char *p = v; p < v + len; p += strcspn(p + 1, "/") + 1) { /* each component, with the slash before it */
		size_t n = strcspn(p + 1, "/");
		if ((!n && len > 1) || (n == 1 && p[1] == '.') || (n == 2 && p[1] == '.' && p[2] == '.'))
			return right;
	}
	return (o->export_path = keep(v, len)) ? NULL : "out of memory";
}

static const char *add_listen(struct options *o, const char *v)
{
	if (o->nlisten == OPTIONS_ADDRESSES)
		return "at most 16 addresses are possible";
	uint8_t address[16];
	if (inet_pton(AF_INET, v, address) != 1 && inet_pton(AF_INET6, v, address) != 1)
		return "it is not an address; write one like 127.0.0.1 or ::1, and the option again for more";
	o->listen[o->nlisten++] = v;
	return NULL;
}

static bool number(const char *v, unsigned long most, unsigned long *n)
{
	char *end;
	errno = 0;
	*n = strtoul(v, &end, 10);
	return *v >= '0' && *v <= '9' && !*end && !errno && *n <= most;
}

static const char *set_port(struct options *o, const char *v)
{
	unsigned long n;
	if (!number(v, 65535, &n))
		return "it must be a port, 1 to 65535, or 0 for any free one";
	o->port = (uint16_t)n;
	return NULL;
}

static const char *set_mount_port(struct options *o, const char *v)
{
	unsigned long n;
	if (!number(v, 65535, &n))
		return "it must be a port, 1 to 65535, or 0 for any free one";
	o->mount_port = (uint16_t)n;
	o->has_mount_port = true;
	return NULL;
}

static const char *set_clients(struct options *o, const char *v)
{
	static char err[256];
	return client_list_parse(&o->clients, v, err, sizeof err) ? err : NULL;
}

static const char *set_root_clients(struct options *o, const char *v)
{
	static char err[256];
	return client_list_parse(&o->root_clients, v, err, sizeof err) ? err : NULL;
}

static const char *set_threads(struct options *o, const char *v)
{
	unsigned long n;
	if (!number(v, 1000, &n) || !n)
		return "it must be a number from 1 to 1000";
	o->threads = (int)n;
	return NULL;
}

static const char *set_busy_poll(struct options *o, const char *v)
{
	unsigned long n;
	if (!strcmp(v, "auto")) {
		o->busy_poll_us = -1;
		return NULL;
	}
	if (!number(v, 1000, &n))
		return "it must be a number of microseconds from 0 to 1000, or auto";
	o->busy_poll_us = (int)n;
	return NULL;
}

static const char *set_max_objects(struct options *o, const char *v)
{
	unsigned long n;
	if (!number(v, 1ul << 32, &n) || n < 16)
		return "it must be a number of objects, 16 or more";
	o->max_objects = n;
	return NULL;
}

static const char *set_log_level(struct options *o, const char *v)
{
	static const char *const names[] = { "error", "warning", "notice", "info", "debug" };
	for (int i = 0; i < 5; i++)
		if (!strcmp(v, names[i])) {
			o->log_level = 3 + i;
			return NULL;
		}
	return "it must be error, warning, notice, info or debug";
}

static const char *set_key_file(struct options *o, const char *v)
{
	o->key_file = v;
	return NULL;
}

static const char *add_moved(struct options *o, const char *v)
{
	const char *equals = strchr(v, '=');
	if (o->nmoved == OPTIONS_MOVES)
		return "at most 500 layers can have moved";
	if (*v != '/' || !equals || equals[1] != '/')
		return "it must be OLD=NEW, two absolute paths: where the layer was, and the --lower or --upper that it is now";
	const char *from = keep(v, (size_t)(equals - v));
	if (!from)
		return "out of memory";
	o->moved[o->nmoved++] = (struct layer_move){ .from = from, .to = equals + 1 };
	return NULL;
}

static const char *set_pid_file(struct options *o, const char *v)
{
	o->pid_file = v;
	return NULL;
}

/* A switch: "yes" and "no" in the configuration file. */
#define SWITCH(name, on, off)                                                             \
	static const char *set_##name(struct options *o, const char *v)                  \
	{                                                                                 \
		if (v && strcmp(v, "yes") && strcmp(v, "no"))                             \
			return "it must be yes or no";                                    \
		if (!v || !strcmp(v, "yes"))                                              \
			on;                                                               \
		else                                                                      \
			off;                                                              \
		return NULL;                                                              \
	}
SWITCH(rw, (o->read_write = true, o->read_only = false), (o->read_write = false, o->read_only = true))
SWITCH(ro, (o->read_only = true, o->read_write = false), o->read_only = false)
SWITCH(no_rpcbind, o->rpcbind = false, o->rpcbind = true)
SWITCH(no_root_squash, o->no_root_squash = true, o->no_root_squash = false)
SWITCH(all_squash, o->all_squash = true, o->all_squash = false)
SWITCH(sync, o->sync = true, o->sync = false)
SWITCH(async, o->sync = false, o->sync = true)
SWITCH(userxattr, o->userxattr = true, o->userxattr = false)
SWITCH(no_metacopy, o->no_metacopy = true, o->no_metacopy = false)
SWITCH(no_redirect, o->no_redirect = true, o->no_redirect = false)
SWITCH(foreground, o->foreground = true, o->foreground = false)
SWITCH(json, o->json = true, o->json = false)
SWITCH(repair, o->repair = true, o->repair = false)

static setter read_config;

static const struct row {
	const char *name, *argument; /* argument NULL: a switch */
	setter *set;
	const char *help;
} rows[] = {
	{ "lower", "DIR", add_lower, "a read-only lower directory; give it again for more, topmost first" },
	{ "data-lower", "DIR", add_data_lower, "a data-only lower, below all others: holds data of metacopies, and is never listed" },
	{ "upper", "DIR", set_upper, "the writable upper directory; without one the export is read-only" },
	{ "work", "DIR", set_work, "scratch space and handle map, on upper's file system (default: a hidden directory in upper)" },
	{ "export", "PATH", set_export, "the name that clients mount (default /overlay)" },
	{ "listen", "ADDR", add_listen, "address to listen on, v4 or v6; may be given again (default: loopback only)" },
	{ "port", "N", set_port, "port of NFS, TCP and UDP; 0 for any free one (default 2049)" },
	{ "mount-port", "N", set_mount_port, "a port of its own for MOUNT (default: the same as --port)" },
	{ "no-rpcbind", NULL, set_no_rpcbind, "do not register with rpcbind" },
	{ "clients", "CIDR,...", set_clients, "who may connect, like 10.0.0.0/8,fd00::/8; --listen lets them reach the server (default: loopback only)" },
	{ "rw", NULL, set_rw, "read-write: needs --upper (default where one is given)" },
	{ "ro", NULL, set_ro, "read-only, although there is an upper" },
	{ "root-clients", "CIDR,...", set_root_clients, "of those, whose root acts as root, like diskless machines" },
	{ "no-root-squash", NULL, set_no_root_squash, "every client's root acts as root (default: as nobody)" },
	{ "all-squash", NULL, set_all_squash, "every client's user acts as nobody, root too" },
	{ "sync", NULL, set_sync, "a change is on disk before its reply (default)" },
	{ "async", NULL, set_async, "faster; a power cut may lose the last seconds of acknowledged changes" },
	{ "threads", "N", set_threads, "the most calls that wait for disks at once (default 64)" },
	{ "busy-poll", "USEC", set_busy_poll, "look so long for a lone client's next call before sleeping (default auto: what pays; 0 saves power)" },
	{ "max-objects", "N", set_max_objects, "objects kept in memory, about 800 bytes each (default 1048576, at most a quarter of memory)" },
	{ "userxattr", NULL, set_userxattr, "user.overlay.* instead of trusted.overlay.* (always so without root); no metacopies then" },
	{ "no-metacopy", NULL, set_no_metacopy, "copy data up with every change, not only when data changes" },
	{ "no-redirect", NULL, set_no_redirect, "refuse to rename lower directories; Linux with userxattr mounts no upper with redirects" },
	{ "key-file", "FILE", set_key_file, "key of the handles, 32 hex digits: the same on two servers of one image gives the same handles" },
	{ "moved", "OLD=NEW", add_moved, "the layer at path NEW is the one that was at OLD: keep its handles (needed only where a start says so)" },
	{ "config", "FILE", read_config, "read options from FILE, 'name = value' each" },
	{ "pid-file", "FILE", set_pid_file, "write the server's pid there" },
	{ "foreground", NULL, set_foreground, "stay in the foreground and log to stderr" },
	{ "log-level", "L", set_log_level, "error, warning, notice, info or debug (default info)" },
	{ "json", NULL, set_json, "speak JSON, one line, instead of words" },
	{ "repair", NULL, set_repair, "mend what is wrong" },
};
enum { ROWS = sizeof rows / sizeof *rows };

/* overnfsctl has the options that say which layers, and its own, which are not the server's. */
static const char *program = "overnfsd", *ctl_usage;

static bool is_offered(const struct row *row)
{
	static const char *const shared[] = { "lower", "data-lower", "upper", "work", "userxattr", "moved", "config", "json" };
	bool own = !strcmp(row->name, "repair");
	if (!ctl_usage)
		return !own;
	for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
		own |= !strcmp(row->name, shared[i]);
	return own;
}

/* For an unknown name: the option that begins alike or holds it, as advice. */
static const char *nearest(const char *name, const char *dashes)
{
	static char err[200];
	size_t best = 0, most = 0;
	for (size_t i = 0; i < ROWS; i++) {
		size_t n = 0;
		while (name[n] && name[n] == rows[i].name[n])
			n++;
		if (strlen(name) > 2 && strstr(rows[i].name, name))
			n = strlen(name);
		if (n > most && is_offered(&rows[i])) {
			most = n;
			best = i;
		}
	}
	if (most < 2)
		return ctl_usage ? "there is no such option; overnfsctl --help lists them" : "there is no such option; overnfsd --help lists them";
	snprintf(err, sizeof err, "there is no such option; did you mean %s%s?", dashes, rows[best].name);
	return err;
}

static const char *config_option(void *arg, const char *name, const char *value)
{
	for (size_t i = 0; i < ROWS; i++) {
		if (strcmp(rows[i].name, name))
			continue;
		if (rows[i].set == read_config)
			return "a configuration file can't name another";
		if (rows[i].set == set_repair)
			return "it stands on the command line of overnfsctl check alone";
		const char *v = keep(value, strlen(value));
		return v ? rows[i].set(arg, v) : "out of memory";
	}
	return nearest(name, "");
}

static const char *read_config(struct options *o, const char *path)
{
	static char why[1400];
	return config_read(path, config_option, o, why, sizeof why) ? why : NULL;
}

static void print_help(void)
{
	puts(ctl_usage ? ctl_usage : "overnfsd serves a merged tree over NFSv3: read-only lower directories under a writable upper one.\n\n"
	     "  overnfsd --lower DIR [--lower DIR...] [--upper DIR [--work DIR]] [options]\n\n"
	     "Serve a base with its changes kept apart, then mount it:\n"
	     "  overnfsd --lower /srv/base --upper /srv/changes\n"
	     "  mount -t nfs -o vers=3,proto=tcp,port=2049,mountport=2049,mountproto=tcp,nolock 127.0.0.1:/overlay /mnt\n\n"
	     "Let a network use it:\n"
	     "  overnfsd --lower /srv/base --upper /srv/changes --listen 0.0.0.0 --clients 192.168.1.0/24\n\nOptions:");
	for (size_t i = 0; i < ROWS; i++) {
		char left[40];
		if (!is_offered(&rows[i]))
			continue;
		snprintf(left, sizeof left, "--%s%s%s", rows[i].name, rows[i].argument ? " " : "", rows[i].argument ? rows[i].argument : "");
		printf("  %-23s %s\n", left, rows[i].help);
	}
	printf("  %-23s this\n  %-23s the version\n", "--help", "--version");
}

static char mistake[OVERLAY_ERR];

static int refuse(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int refuse(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(mistake, sizeof mistake, fmt, ap);
	va_end(ap);
	fprintf(stderr, "%s: %s\n", program, mistake);
	return 1;
}

static int complain(const char *option, const char *value, const char *right)
{
	return refuse("--%s%s%s: %s", option, value ? " " : "", value ? value : "", right);
}

static bool is_layer(const struct options *o, const char *path)
{
	for (size_t i = 0; i < o->nlowers; i++)
		if (!strcmp(o->lowers[i], path))
			return true;
	return o->upper && !strcmp(o->upper, path);
}

size_t options_objects(size_t memory)
{
	size_t n = memory / 4 / 800;
	return n > 1 << 20 ? 1 << 20 : n < 16 ? 16 : n;
}

static int check(struct options *o)
{
	static const char *const loopback[] = { "127.0.0.1", "::1" };
	for (size_t i = 0; i < o->nmoved; i++)
		if (!is_layer(o, o->moved[i].to))
			return complain("moved", o->moved[i].to, "NEW must be a --lower or the --upper of this start, written as there");
	o->squash = o->all_squash ? SQUASH_ALL : o->no_root_squash ? SQUASH_NONE : SQUASH_ROOT;
	if (o->read_write && !o->upper)
		return complain("rw", NULL, "needs a writable layer: add --upper DIR");
	if (!o->nlowers && !o->upper)
		return refuse("no layer given: name at least one with --lower DIR or --upper DIR (%s --help shows examples)", program);
	if (!o->max_objects)
		o->max_objects = options_objects(rpc_memory());
	if (!o->clients.n)
		set_clients(o, "127.0.0.0/8,::1");
	for (size_t i = 0; !o->nlisten && i < 2; i++)
		o->listen[i] = loopback[i];
	return -1;
}

/* What getopt_long() found wrong: '?' or ':'. */
static int complain_of(int c, const char *argument)
{
	char name[64];
	if (c == ':')
		return complain(rows[optopt].name, NULL, "it needs a value; --help shows it");
	if (optopt > ' ' && optopt < 256) /* a letter; an index into rows or 0 otherwise */
		return refuse("-%c: there is no such option; %s --help lists them", optopt, program);
	snprintf(name, sizeof name, "%.*s", (int)strcspn(argument + 2, "="), argument + 2);
	for (int i = 0; i < ROWS; i++)
		if (!strcmp(rows[i].name, name) && is_offered(&rows[i]))
			return complain(name, NULL, "it takes no value");
	if (!strcmp(name, "help") || !strcmp(name, "version"))
		return complain(name, NULL, "it takes no value");
	return complain(name, NULL, nearest(name, "--"));
}

int options_parse(struct options *o, int argc, char **argv)
{
	struct option table[ROWS + 3] = { { 0 } };
	*o = (struct options){ .export_path = "/overlay", .port = 2049, .rpcbind = true, .sync = true, .log_level = 6, .busy_poll_us = -1 };
	int n = 0;
	for (int i = 0; i < ROWS; i++)
		if (is_offered(&rows[i]))
			table[n++] = (struct option){ rows[i].name, rows[i].argument ? required_argument : no_argument, NULL, i };
	table[n] = (struct option){ "help", no_argument, NULL, 'h' + 1000 };
	table[n + 1] = (struct option){ "version", no_argument, NULL, 'V' + 1000 };
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, ":hV", table, NULL)) != -1;) {
		if (c == 'h' || c == 'h' + 1000) {
			print_help();
			return 0;
		}
		if (c == 'V' || c == 'V' + 1000) {
			printf("%s " OVERNFSD_VERSION "\n", program);
			return 0;
		}
		if (c == '?' || c == ':')
			return complain_of(c, argv[optind - 1]);
		const char *right = rows[c].set(o, optarg);
		if (right)
			return complain(rows[c].name, optarg, right);
	}
	if (optind < argc)
		return refuse("'%s' is not an option; a layer is given with --lower %s", argv[optind], argv[optind]);
	return check(o);
}

const char *options_mistake(void)
{
	return mistake;
}

int options_parse_ctl(struct options *o, int argc, char **argv, const char *usage)
{
	program = "overnfsctl";
	ctl_usage = usage;
	return options_parse(o, argc, argv);
}
