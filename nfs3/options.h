/* options.h: what the user asked for, on the command line or in a configuration file. */
#ifndef OVERNFSD_OPTIONS_H
#define OVERNFSD_OPTIONS_H

#include "exports.h"

enum { OPTIONS_ADDRESSES = 16, OPTIONS_LOWERS = 500, OPTIONS_MOVES = 500 };

struct options {
	const char *lowers[OPTIONS_LOWERS + 1]; /* topmost first; one more than allowed, for the engine to refuse */
	size_t nlowers;
	const char *data_lowers[OPTIONS_LOWERS + 1]; /* the same */
	size_t ndata_lowers;
	const char *upper, *work, *export_path, *key_file, *pid_file;
	const char *listen[OPTIONS_ADDRESSES];
	size_t nlisten;
	uint16_t port, mount_port; /* 0: any free one; mount_port is port unless given */
	bool has_mount_port, rpcbind, read_write, read_only, sync, userxattr, no_metacopy, no_redirect, foreground, json;
	bool all_squash, no_root_squash; /* as given; all counts more than none, whatever their order */
	enum squash squash; /* what comes of the two */
	struct client_list clients, root_clients;
	int threads, log_level;
	int busy_poll_us;
	size_t max_objects; /* never 0 */
	struct layer_move moved[OPTIONS_MOVES];
	size_t nmoved;
	bool repair; /* of overnfsctl */
};

/* Fills o from argv. Returns -1 to go on, else the exit code: --help and --version print and exit 0, a mistake prints what is
 * wrong and what would be right, and exits 1. Strings live as long as the process. */
int options_parse(struct options *o, int argc, char **argv);
const char *options_mistake(void); /* what was wrong, as it was printed */
size_t options_objects(size_t memory); /* that are kept by default where there are so many bytes of it */
/* The same for overnfsctl: those of the options that say which layers, and its own. argv[0] is its command; usage stands above the list of options. */
int options_parse_ctl(struct options *o, int argc, char **argv, const char *usage);

#endif
