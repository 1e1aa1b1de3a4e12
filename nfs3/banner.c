/* banner.c: see banner.h. */
#include "banner.h"

#include "json.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The address that a client on another machine would name. */
static const char *address_to_mount(const struct options *o)
{
	static char host[256];
	const char *a = o->listen[0];
	if ((strcmp(a, "0.0.0.0") && strcmp(a, "::")) || gethostname(host, sizeof host - 1))
		return a;
	return host;
}

static const char *mount_command(const struct options *o)
{
	static char line[1600]; /* --export has at most 1000 bytes */
	const char *a = address_to_mount(o), *open = strchr(a, ':') ? "[" : "", *close = *open ? "]" : "";
	const char *six = strchr(o->listen[0], ':') ? "6" : ""; /* a host's name does not tell */
	snprintf(line, sizeof line, "mount -t nfs -o vers=3,proto=tcp%s,port=%u,mountport=%u,mountproto=tcp%s,nolock %s%s%s:%s /mnt", six, o->port,
		 o->mount_port, six, open, a, close, o->export_path);
	return line;
}

void banner_print_json(const struct options *o, const struct export *e)
{
	printf("{\"export\":");
	json_print_string(o->export_path);
	printf(",\"pid\":%d,\"port\":%u,\"mount_port\":%u,\"read_only\":%s,\"sync\":%s,\"upper\":", (int)getpid(), o->port, o->mount_port,
	       overlay_is_read_only(e->ov) ? "true" : "false", o->sync ? "true" : "false");
	if (o->upper)
		json_print_string(o->upper);
	else
		printf("null");
	printf(",\"lowers\":[");
	for (size_t i = 0; i < o->nlowers; i++) {
		if (i)
			putchar(',');
		json_print_string(o->lowers[i]);
	}
	printf("],\"mount\":");
	json_print_string(mount_command(o));
	puts("}");
}

static bool is_loopback(const char *address)
{
	return !strncmp(address, "127.", 4) || !strcmp(address, "::1") || !strcmp(address, "::1/128");
}

/* It takes both options to let a network in: half of it is a mistake that else shows as a refused connection. */
static void print_who_is_shut_out(const struct options *o, const struct export *e)
{
	bool listens_beyond = false, allows_beyond = false;
	for (size_t i = 0; i < o->nlisten; i++)
		listens_beyond |= !is_loopback(o->listen[i]);
	for (int i = 0; i < e->clients.n; i++)
		allows_beyond |= !is_loopback(e->clients.at[i].text);
	if (listens_beyond && !allows_beyond)
		puts("  only this machine may connect: add --clients to let others in");
	if (!listens_beyond && allows_beyond)
		puts("  no other machine can reach it: add --listen to let those clients in");
}

void banner_print(const struct options *o, const struct export *e)
{
	static const char *const squash[] = { "root squashed to nobody", "all users squashed to nobody", "root not squashed" };
	bool ro = overlay_is_read_only(e->ov);
	printf("overnfsd serves %s, %s, %s\n", o->export_path, ro ? "read-only" : o->sync ? "read-write, sync" : "read-write, async",
	       squash[o->squash]);
	if (o->upper)
		printf("  upper    %s\n", o->upper);
	for (size_t i = 0; i < o->nlowers; i++)
		printf("  lower %zu  %s\n", i + 1, o->lowers[i]);
	if (o->upper && !o->work && !ro)
		puts("  map      in .overnfsd of the upper; give --work to mount the upper with Linux as well");
	printf("  clients ");
	for (int i = 0; i < e->clients.n; i++)
		printf(" %s%s", e->clients.at[i].text, i + 1 < e->clients.n ? "," : "");
	printf("\n  mount    %s\n", mount_command(o));
	if (!overlay_makes_for_callers(e->ov))
		printf("  without root: new files belong to user %d, whoever makes them\n", (int)geteuid());
	print_who_is_shut_out(o, e);
}
