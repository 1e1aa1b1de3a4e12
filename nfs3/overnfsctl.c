/* overnfsctl.c: looks after what a stopped server keeps on disk: check, rebuild. */
#include "json.h"
#include "log.h"
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, WRONG = 1, FAILED = 2, BAR = 40, QUIET_SECONDS = 2 };

static const char usage[] =
	"overnfsctl looks after what overnfsd keeps beside an upper layer, while the server is stopped.\n\n"
	"  overnfsctl check [--repair] [--json] LAYERS    is it sound? says in words what is not\n"
	"  overnfsctl rebuild [--json] LAYERS             makes the handle map anew from the layers\n\n"
	"LAYERS are the --lower, --upper and --work that the server is given, in the same order, or its --config FILE:\n"
	"  overnfsctl check --lower /srv/base --upper /srv/changes\n"
	"  overnfsctl rebuild --config /etc/overnfsd.conf\n\n"
	"The handle map (map.mdb in the work directory's overnfsd/, or in .overnfsd/overnfsd/ of the upper) finds files from the handles that\n"
	"clients hold. No handle hangs on it: without it a server searches the layers, which takes the first clients a while; rebuild does\n"
	"that up front. What can be found nowhere else stands beside it in identity.mdb: back that up with the upper.\n\n"
	"Exit code: 0 all is well, or was repaired; 1 something is wrong; 2 it could not be looked at.\n\nOptions:";

static struct options options;
static bool began_json;

static struct {
	time_t start;
	bool shown;
	int percent;
} bar;

/* Only where somebody watches, and for what takes longer than they would wait without wondering. */
static bool show_progress(void *arg, double fraction)
{
	struct timespec now;
	int percent = (int)(fraction * 100);
	(void)arg;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!bar.start)
		bar.start = now.tv_sec;
	if (!isatty(2) || now.tv_sec - bar.start < QUIET_SECONDS || (bar.shown && percent == bar.percent))
		return true;
	fprintf(stderr, "\r[");
	for (int i = 0; i < BAR; i++)
		fputc(i < percent * BAR / 100 ? '#' : '.', stderr);
	fprintf(stderr, "] %3d%%", percent);
	bar.shown = true;
	bar.percent = percent;
	return true;
}

static void end_progress(void)
{
	if (bar.shown)
		fprintf(stderr, "\r%*s\r", BAR + 8, "");
	bar.shown = false;
}

static void print_plainly(const char *text)
{
	for (; *text; text++)
		putchar(log_plain(*text));
}

/* One problem a line; in JSON they are elements of an array that print_result() closes. */
static void print_problem(void *arg, const char *text, bool repaired)
{
	size_t *n = arg;
	end_progress();
	if (options.json) {
		printf("%s{\"problem\":", (*n)++ ? "," : "");
		json_print_string(text);
		printf(",\"repaired\":%s}", repaired ? "true" : "false");
	} else {
		print_plainly(text);
		puts(repaired ? " (repaired)" : "");
	}
}

static void print_result(const struct overlay_check *r, bool rebuilt)
{
	if (options.json) {
		printf("],\"names\":%zu,\"map\":%s,\"entries\":%zu,\"bytes\":%zu,\"missing\":%zu,\"stale\":%zu,\"leftovers\":%zu,\"adopted\":%zu,\"wrong\":%zu,"
		       "\"repaired\":%zu}\n",
		       r->objects, r->has_map ? "true" : "false", r->entries, r->bytes, r->missing, r->stale, r->leftovers, r->adopted, r->problems,
		       r->repaired);
		return;
	}
	printf("%zu names in the merged tree, %zu entries in the handle map", r->objects, r->entries);
	if (r->entries)
		printf(", %zu bytes each", r->bytes / r->entries);
	puts("");
	if (!r->has_map && !options.repair)
		puts("there is no handle map: the server makes one, and searches meanwhile; overnfsctl rebuild makes it now");
	else if (r->missing && !options.repair)
		printf("%zu names are not in the map: no fault, but the first old handle of one starts a search; overnfsctl rebuild prevents that\n", r->missing);
	else if (r->missing)
		printf("%zu names were not in the map, and are now\n", r->missing);
	if (r->adopted)
		printf("%zu files were copied up in another upper layer, which this one is a copy of; they are marked as this one's now\n", r->adopted);
	if (r->leftovers)
		printf("%zu unfinished files are left in the work directory; the next start of the server removes them\n", r->leftovers);
	if (rebuilt)
		puts("the handle map is new");
	else if (!r->problems)
		puts("all is well");
	else
		printf("%zu wrong, %zu of them repaired%s\n", r->problems, r->repaired, r->problems > r->repaired && !options.repair ? "; --repair mends what it can" : "");
}

/* In JSON the line is closed, or else made, for who reads nothing but standard output. */
static int say_failed(const char *why)
{
	if (options.json) {
		printf("%s\"error\":", began_json ? "]," : "{");
		json_print_string(why);
		puts("}");
	}
	return FAILED;
}

static int failed(const char *why)
{
	end_progress();
	fprintf(stderr, "overnfsctl: %s\n", why);
	return say_failed(why);
}

/* Even where a mistake stands before it. */
static bool asks_for_json(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--json"))
			return true;
	return false;
}

static int run(bool rebuild)
{
	char err[OVERLAY_ERR] = "";
	size_t told = 0;
	struct overlay *ov;
	struct overlay_check r;
	struct overlay_listener to = { .progress = show_progress, .problem = print_problem, .arg = &told };
	struct overlay_config c = { .lowers = options.lowers, .nlowers = options.nlowers, .data_lowers = options.data_lowers,
				    .ndata_lowers = options.ndata_lowers, .upper = options.upper, .work = options.work,
				    .userxattr = options.userxattr, .moves = options.moved, .nmoves = options.nmoved, .offline = true,
				    .repair = rebuild || options.repair, .sync = true, .log = log_line };
	if (!options.upper)
		return failed("a stack without an upper layer keeps nothing on disk: there is nothing to look after");
	if (overlay_open(&c, &ov, err, sizeof err))
		return failed(err);
	if (options.json) {
		printf("{\"problems\":[");
		began_json = true;
	}
	int rc = rebuild ? overlay_rebuild(ov, &to, &r) : overlay_check(ov, options.repair, &to, &r);
	end_progress();
	if (!rc)
		print_result(&r, rebuild);
	overlay_close(ov);
	if (rc) {
		snprintf(err, sizeof err, "it could not be looked at whole: %s", strerror(-rc));
		return failed(err);
	}
	return r.problems > r.repaired ? WRONG : OK;
}

int main(int argc, char **argv)
{
	bool check = argc > 1 && !strcmp(argv[1], "check"), rebuild = argc > 1 && !strcmp(argv[1], "rebuild");
	log_keep_standard();
	log_start(5, 0);
	if (!check && !rebuild) {
		static const char *const asks[] = { "--help", "-h", "--version", "-V" };
		for (size_t i = 0; argc > 1 && i < sizeof asks / sizeof *asks; i++)
			if (!strcmp(argv[1], asks[i]))
				return options_parse_ctl(&options, 2, argv, usage);
		options.json = asks_for_json(argc, argv);
		return failed("say what to do: overnfsctl check ..., or overnfsctl rebuild ... (overnfsctl --help shows examples)");
	}
	int rc = options_parse_ctl(&options, argc - 1, argv + 1, usage);
	if (rc > 0) {
		options.json |= asks_for_json(argc, argv);
		return say_failed(options_mistake());
	}
	if (!rc)
		return OK;
	if (rebuild && options.repair)
		return failed("--repair goes with check; rebuild needs no saying so");
	return run(rebuild);
}
