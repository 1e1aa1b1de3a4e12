/*
 * Layers whose overlayfs xattrs are damaged or made up: an error for the object that has them, and for it alone. The server stays alive, the other objects
 * are served, and it stops cleanly. SEED= and ROUNDS= choose the run.
 */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { OBJECTS = 12, VALUE_MAX = 300 };

/* Each directory has a control file, which must always be served. */
static const char tree[] = "for l in upper lower1 lower2; do cd $l; mkdir -p d/sub e; echo control >d/control; echo control >d/sub/control; echo control >e/control;"
			   "echo control >control; cd ..; done; cd lower2; echo low >d/f; echo low >f; ln f e/linked; echo low >d/sub/g; ln -s f link; cd ../lower1; echo mid >d/f;"
			   "echo mid >h; cd ../upper; echo up >d/f; echo up >f; mkdir new; echo control >new/control; echo up >e/u";

/* What is damaged: never a control file, nor the directories that lead to one but in the last component. */
static const char *const objects[OBJECTS] = { "upper/d/f", "upper/f", "upper/new", "upper/e/u", "lower1/d/f", "lower1/h", "lower2/d/f", "lower2/f",
					      "lower2/d/sub/g", "upper/d/sub", "lower1/e", "upper/e" };
static const char *const names[] = { "redirect", "origin", "metacopy", "nlink", "opaque", "overnfsd", "whiteout", "upper", "impure", "uuid", "protattr", "xwhiteouts" };

static uint64_t state64;
static uint32_t below(uint32_t n) /* splitmix64 */
{
	uint64_t z = state64 += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (uint32_t)(z >> 32) % n;
}

/* A value that is right somewhere, then damaged; or bytes at random. */
static size_t make_value(uint8_t v[VALUE_MAX])
{
	static const char *const texts[] = { "y", "x", "n", "/d/f", "/f", "f", "../f", "/d/../f", "//f", "/", "", ".", "..", "a/b", "/no/such/path", "control", "/e",
					     "U+1", "U-1", "L+0", "U+4294967295", "U-999999999999999999999", "U+", "L", "a,i", "\1\2\3", "/d/sub/../../../etc/passwd" };
	static const uint8_t origin[] = { 0, 0xfb, 29, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 0, 0, 0, 2, 0, 0, 0 };
	static const uint8_t meta[] = { 0, 36, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32 };
	static const uint8_t identity[34] = { 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 77 };
	size_t len = 0;
	switch (below(6)) {
	case 0: case 1: len = strlen(strcpy((char *)v, texts[below(sizeof texts / sizeof *texts)])); break;
	case 2: memcpy(v, origin, len = sizeof origin); break;
	case 3: memcpy(v, meta, len = sizeof meta); break;
	case 4: memcpy(v, identity, len = sizeof identity); break;
	default:
		len = below(VALUE_MAX);
		for (size_t i = 0; i < len; i++)
			v[i] = (uint8_t)below(256);
	}
	for (uint32_t n = below(3); n && len; n--)
		v[below((uint32_t)len)] ^= (uint8_t)(1u << below(8));
	if (below(4) == 0)
		len = below((uint32_t)len + 1);
	else if (below(6) == 0 && len < VALUE_MAX)
		v[len++] = (uint8_t)below(256);
	return len;
}

static void damage(const struct stack *s, const char *prefix)
{
	char path[128], name[64];
	uint8_t v[VALUE_MAX + 1];
	const char *object = objects[below(OBJECTS)], *what = names[below(sizeof names / sizeof *names)];
	snprintf(path, sizeof path, "%s/%s", s->dir, object);
	snprintf(name, sizeof name, "%s%s", prefix, what);
	size_t len = make_value(v);
	if (lsetxattr(path, name, v, len, 0) && errno != ENOENT)
		fail_msg("%s on %s: %s", name, path, strerror(errno));
}

/* Statuses are the server's to choose, but each has a name. */
static void fair(nfsstat3 st)
{
	assert_int_not_equal(st, NFS3ERR_SERVERFAULT);
}

/* Everything a client may do with an object. */
static void use(struct client *c, const struct fh *dir, const char *name, const struct fh *fh, const fattr3 *a)
{
	char data[100];
	uint32_t got;
	bool eof;
	sattr3 s = { 0 };
	s.mode.set_it = TRUE;
	s.mode.set_uint32_u.value = 0700;
	fair(client_getattr(c, fh, NULL));
	if (a->type == NF3REG) {
		fair(client_read(c, fh, 0, sizeof data, data, &got, &eof));
		if (below(2))
			fair(client_write(c, fh, below(20), "x", 1, UNSTABLE, NULL));
		fair(client_link(c, fh, dir, "another"));
	}
	fair(client_setattr(c, fh, &s, NULL, NULL));
	fair(client_rename(c, dir, name, dir, "renamed"));
	if (below(2))
		fair(client_rename(c, dir, "renamed", dir, name));
	fair(client_remove(c, dir, "another"));
	if (below(3) == 0)
		a->type == NF3DIR ? client_rmdir(c, dir, name) : client_remove(c, dir, name);
}

static struct {
	char name[256][256];
	int n;
} listed;

static void collect(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh)
{
	(void)arg, (void)fileid, (void)attr, (void)fh;
	if (strcmp(name, ".") && strcmp(name, "..") && listed.n < 256)
		snprintf(listed.name[listed.n++], 256, "%s", name);
}

static void visit(struct client *c, const struct fh *dir, int depth, bool change)
{
	static char names_at[8][256][256];
	if (depth >= 8)
		return;
	listed.n = 0;
	client_listplus(c, dir, 8192, collect, NULL);
	int n = listed.n;
	memcpy(names_at[depth], listed.name, (size_t)n * 256);
	for (int i = 0; i < n; i++) {
		struct fh fh;
		fattr3 a;
		const char *name = names_at[depth][i];
		nfsstat3 st = client_lookup(c, dir, name, &fh, &a);
		fair(st);
		if (st)
			continue;
		if (a.type == NF3DIR)
			visit(c, &fh, depth + 1, change);
		if (change && strcmp(name, "control") && strcmp(name, "d") && strcmp(name, "new"))
			use(c, dir, name, &fh, &a);
	}
}

static void controls_are_served(struct client *c)
{
	static const char *const paths[] = { "control", "d/control" };
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		char *text = client_content(c, paths[i]);
		if (!text || strcmp(text, "control\n"))
			fail_msg("%s is not served", paths[i]);
		free(text);
	}
}

static void run(const char *prefix, const char *options, unsigned rounds)
{
	struct stack s;
	for (unsigned round = 0; round < rounds; round++) {
		struct client c;
		stack_make(&s, NULL, tree);
		for (uint32_t n = 1 + below(6); n; n--)
			damage(&s, prefix);
		for (int life = 0; life < 2; life++) { /* as found, then what the first left */
			server_start(&s, options);
			client_open(&c, &s, 0, 0);
			controls_are_served(&c);
			visit(&c, &c.root, 0, false);
			visit(&c, &c.root, 0, true);
			controls_are_served(&c);
			client_close(&c);
			server_stop(&s);
		}
		stack_remove(&s);
	}
}

static unsigned number(const char *variable, unsigned plain)
{
	const char *value = getenv(variable);
	return value ? (unsigned)strtoul(value, NULL, 0) : plain;
}

static unsigned rounds(void)
{
	const char *build = getenv("BUILD");
	return number("ROUNDS", !build || !strstr(build, "san") ? 16 : strstr(build, "tsan") ? 4 : 10);
}

static void damaged_user_xattrs_harm_their_objects_alone(void **state)
{
	(void)state;
	state64 = number("SEED", 1);
	run("user.overlay.", "--no-root-squash --async --userxattr --log-level error", rounds());
}

static void damaged_trusted_xattrs_harm_their_objects_alone(void **state)
{
	(void)state;
	if (geteuid()) {
		print_message("skipped: trusted.* is root's\n");
		skip();
	}
	state64 = number("SEED", 1) + 1;
	run("trusted.overlay.", "--no-root-squash --async --log-level error", rounds());
	printf("| fuzz of xattrs: SEED=%u, %u stacks each of user and trusted\n", number("SEED", 1), rounds());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damaged_user_xattrs_harm_their_objects_alone),
		cmocka_unit_test(damaged_trusted_xattrs_harm_their_objects_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
