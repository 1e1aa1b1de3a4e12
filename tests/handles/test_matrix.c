/* Every kind of object, in every state, through every event: the old handle still reaches it, with the same bytes and the same file id (promise I1).
 * After each event the server is killed and started again, then the map is deleted: the handles must survive that on top of the event. */
#include "handles.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum kind { REGULAR, DIRECTORY, SYMLINK, FIFO, DEVICE, HARD_LINKED, KINDS };
enum state { LOWER, MERGED, COPIED_UP, BORN, STATES };
static const char *const kinds[KINDS] = { "file", "directory", "symlink", "FIFO", "device", "hard-linked" };
static const char *const states[STATES] = { "lower", "merged", "copied up", "upper-born" };
static const char *const parents[STATES] = { "plower", "pmerged", "pcopied", "pborn" };
static const char *const renamed[STATES] = { "rlower", "rmerged", "rcopied", "rborn" };

struct subject {
	enum kind kind;
	enum state state;
	struct fh fh;
	uint64_t fileid;
	bool moved; /* its own name is now "moved" */
	bool x_gone; /* hard-linked: "y" is what is left */
	bool failed;
	const char *parent;
};

struct world {
	struct stack stack;
	struct client client;
	struct subject subjects[KINDS * STATES];
	size_t n;
	const char *layers, *args;
};

/* In lower2 everything; in lower1 what is merged once more. Only directories merge: of the rest, lower1's hides the other. */
static const char script[] =
	"make_in() { mkdir -p $1/$2/0 $1/$2/1/x $1/$2/2 $1/$2/3 $1/$2/4 $1/$2/5/sub; echo content $2 >$1/$2/0/x; echo inside >$1/$2/1/x/inside;"
	" ln -s target-$2 $1/$2/2/x; mkfifo $1/$2/3/x; mknod $1/$2/4/x c 1 3; echo linked $2 >$1/$2/5/x; ln $1/$2/5/x $1/$2/5/y; ln $1/$2/5/x $1/$2/5/sub/z; };"
	"make_in lower2 plower; make_in lower2 pmerged; make_in lower2 pcopied; make_in lower1 pmerged; mkdir other lower1/elsewhere";

static const char *layers_of_all = "--lower %s/lower1 --lower %s/lower2 --upper %s/upper --work %s/work";

static struct fh parent_handle(struct world *w, const struct subject *s)
{
	char path[64];
	snprintf(path, sizeof path, "%s/%d", s->parent, s->kind);
	return handle_of(&w->client, path);
}

static const char *own_name(const struct subject *s)
{
	return s->moved ? "moved" : s->x_gone ? "y" : "x";
}

static void make_born(struct world *w)
{
	struct client *c = &w->client;
	struct fh top, dir[KINDS], x, sub;
	char name[2] = "0";
	assert_nfs(client_mkdir(c, &c->root, "pborn", 0755, &top), NFS3_OK);
	for (int k = 0; k < KINDS; k++) {
		name[0] = (char)('0' + k);
		assert_nfs(client_mkdir(c, &top, name, 0755, &dir[k]), NFS3_OK);
	}
	assert_nfs(client_create(c, &dir[REGULAR], "x", GUARDED, 0644, &x), NFS3_OK);
	assert_nfs(client_write(c, &x, 0, "content pborn\n", 14, FILE_SYNC, NULL), NFS3_OK);
	assert_nfs(client_mkdir(c, &dir[DIRECTORY], "x", 0755, &x), NFS3_OK);
	assert_nfs(client_create(c, &x, "inside", GUARDED, 0644, &x), NFS3_OK);
	assert_nfs(client_symlink(c, &dir[SYMLINK], "x", "target-pborn", &x), NFS3_OK);
	assert_nfs(client_mknod(c, &dir[FIFO], "x", NF3FIFO, 0, 0, &x), NFS3_OK);
	assert_nfs(client_mknod(c, &dir[DEVICE], "x", NF3CHR, 1, 3, &x), NFS3_OK);
	assert_nfs(client_create(c, &dir[HARD_LINKED], "x", GUARDED, 0644, &x), NFS3_OK);
	assert_nfs(client_write(c, &x, 0, "linked pborn\n", 13, FILE_SYNC, NULL), NFS3_OK);
	assert_nfs(client_mkdir(c, &dir[HARD_LINKED], "sub", 0755, &sub), NFS3_OK);
	assert_nfs(client_link(c, &x, &dir[HARD_LINKED], "y"), NFS3_OK);
	assert_nfs(client_link(c, &x, &sub, "z"), NFS3_OK);
}

static void touch(struct client *c, const struct fh *fh, uint32_t seconds)
{
	sattr3 set = { .mtime = { .set_it = SET_TO_CLIENT_TIME, .set_time_u.value = { seconds, 0 } } };
	assert_nfs(client_setattr(c, fh, &set, NULL, NULL), NFS3_OK);
}

/* A mode where there is one, else an owner. */
static void change_mode(struct client *c, const struct subject *s)
{
	sattr3 set = { 0 };
	if (s->kind == SYMLINK) {
		set.uid.set_it = true;
		set.uid.set_uint32_u.value = 4;
	} else {
		set.mode.set_it = true;
		set.mode.set_uint32_u.value = 0750;
	}
	assert_nfs(client_setattr(c, &s->fh, &set, NULL, NULL), NFS3_OK);
}

static void world_start(struct world *w, const char *more)
{
	char args[256];
	snprintf(args, sizeof args, "--no-root-squash %s %s", w->args, more);
	server_start_with(&w->stack, w->layers, args);
	client_open(&w->client, &w->stack, 0, 0);
}

static void world_make(struct world *w, const char *base, const char *more)
{
	stack_make(&w->stack, base, script);
	world_start(w, more);
	make_born(w);
	w->n = 0;
	for (int st = 0; st < STATES; st++)
		for (int k = 0; k < KINDS; k++) {
			struct subject *s = &w->subjects[w->n++];
			fattr3 a;
			*s = (struct subject){ .kind = (enum kind)k, .state = (enum state)st, .parent = parents[st] };
			struct fh dir = parent_handle(w, s);
			assert_nfs(client_lookup(&w->client, &dir, "x", &s->fh, &a), NFS3_OK);
			s->fileid = a.fileid;
			if (st == COPIED_UP)
				touch(&w->client, &s->fh, 1000000);
		}
}

struct listed {
	const char *name;
	uint64_t fileid;
};

static void find_listed(void *arg, const char *name, uint64_t fileid)
{
	struct listed *l = arg;
	if (!strcmp(name, l->name))
		l->fileid = fileid;
}

static bool problem(struct subject *s, const char *when, const char *what, long status)
{
	printf("%s %s, %s: %s (%ld)\n", states[s->state], kinds[s->kind], when, what, status);
	s->failed = true;
	return true;
}

static bool has_content(struct client *c, const struct subject *s)
{
	char buf[256] = "", wanted[64];
	uint32_t got = 0;
	bool eof;
	if (s->kind == SYMLINK) {
		snprintf(wanted, sizeof wanted, "target-%s", parents[s->state]);
		return !client_readlink(c, &s->fh, buf, sizeof buf) && !strcmp(buf, wanted);
	}
	if (s->kind == DIRECTORY)
		return !client_lookup(c, &s->fh, "inside", &(struct fh){ 0 }, NULL);
	if (s->kind != REGULAR && s->kind != HARD_LINKED)
		return true;
	snprintf(wanted, sizeof wanted, "%s %s\n", s->kind == REGULAR ? "content" : "linked", parents[s->state]);
	return !client_read(c, &s->fh, 0, sizeof buf - 1, buf, &got, &eof) && got >= strlen(wanted) && !memcmp(buf, wanted, strlen(wanted));
}

/* By handle first: a lookup by name would bring the object back into the table. */
static void verify_handles(struct world *w, const char *when)
{
	static const ftype3 types[KINDS] = { NF3REG, NF3DIR, NF3LNK, NF3FIFO, NF3CHR, NF3REG };
	for (size_t i = 0; i < w->n; i++) {
		struct subject *s = &w->subjects[i];
		fattr3 a;
		nfsstat3 st = patient_getattr(&w->client, &s->fh, &a);
		if (st)
			problem(s, when, "the handle does not reach it", st);
		else if (a.type != types[s->kind])
			problem(s, when, "the handle reaches another type", a.type);
		else if (a.fileid != s->fileid)
			problem(s, when, "the file id changed", 0);
		else if (!has_content(&w->client, s))
			problem(s, when, "the content is not the object's", 0);
	}
}

static void verify_names(struct world *w, const char *when)
{
	for (size_t i = 0; i < w->n; i++) {
		struct subject *s = &w->subjects[i];
		struct fh dir = parent_handle(w, s), fh = { 0 };
		struct listed l = { own_name(s), 0 };
		fattr3 a;
		nfsstat3 st = client_lookup(&w->client, &dir, l.name, &fh, &a);
		if (st)
			problem(s, when, "the name does not reach it", st);
		else if (!same_handle(&fh, &s->fh))
			problem(s, when, "LOOKUP gives other bytes", 0);
		else if (client_list(&w->client, &dir, 4096, find_listed, &l) < 0 || l.fileid != s->fileid)
			problem(s, when, "READDIR gives another file id", 0);
	}
}

static void restart(struct world *w, bool kill, const char *between)
{
	client_close(&w->client);
	if (kill)
		server_kill(&w->stack);
	else
		server_stop(&w->stack);
	if (between)
		stack_sh(&w->stack, between);
	world_start(w, "");
}

/* ---- events ---- */
static const char map_is_deleted[] = "find . -name map.mdb -delete";

static bool event_write(struct world *w, struct subject *s)
{
	if (s->kind != REGULAR && s->kind != HARD_LINKED)
		return false;
	assert_nfs(client_write(&w->client, &s->fh, 100, "more", 4, FILE_SYNC, NULL), NFS3_OK);
	return true;
}

static bool event_chmod(struct world *w, struct subject *s)
{
	change_mode(&w->client, s);
	return true;
}

static bool event_rename(struct world *w, struct subject *s)
{
	struct fh dir = parent_handle(w, s);
	assert_nfs(client_rename(&w->client, &dir, "x", &dir, "moved"), NFS3_OK);
	s->moved = true;
	return true;
}

static bool event_link(struct world *w, struct subject *s)
{
	if (s->kind == DIRECTORY)
		return false;
	struct fh dir = handle_of(&w->client, "elsewhere");
	char name[16];
	snprintf(name, sizeof name, "%d-%d", s->state, s->kind);
	assert_nfs(client_link(&w->client, &s->fh, &dir, name), NFS3_OK);
	return true;
}

/* A name more, and the old name goes. */
static bool event_link_unlink(struct world *w, struct subject *s)
{
	if (s->kind == DIRECTORY)
		return false;
	struct fh dir = parent_handle(w, s);
	assert_nfs(client_link(&w->client, &s->fh, &dir, "moved"), NFS3_OK);
	assert_nfs(client_remove(&w->client, &dir, "x"), NFS3_OK);
	s->moved = true;
	return true;
}

static bool event_unlink_one(struct world *w, struct subject *s)
{
	if (s->kind != HARD_LINKED)
		return false;
	struct fh dir = parent_handle(w, s);
	assert_nfs(client_remove(&w->client, &dir, "x"), NFS3_OK);
	s->x_gone = true;
	return true;
}

static bool event_ancestor(struct world *w, struct subject *s)
{
	struct client *c = &w->client;
	if (s->kind == 0)
		assert_nfs(client_rename(c, &c->root, parents[s->state], &c->root, renamed[s->state]), NFS3_OK);
	s->parent = renamed[s->state];
	return true;
}

static bool event_moves_twice(struct world *w, struct subject *s)
{
	struct client *c = &w->client;
	event_rename(w, s);
	if (s->kind == KINDS - 1) { /* the ancestor behind its last child, into a directory of a lower */
		struct fh other = handle_of(&w->client, "elsewhere");
		assert_nfs(client_rename(c, &c->root, parents[s->state], &other, renamed[s->state]), NFS3_OK);
		for (size_t i = 0; i < w->n; i++)
			if (w->subjects[i].state == s->state) {
				static char inside[STATES][32];
				snprintf(inside[s->state], sizeof inside[0], "elsewhere/%s", renamed[s->state]);
				w->subjects[i].parent = inside[s->state];
			}
	}
	return true;
}

static bool event_nothing(struct world *w, struct subject *s)
{
	(void)w;
	(void)s;
	return true;
}

static void eviction(struct world *w)
{
	struct fh dir, f;
	char name[24];
	assert_nfs(client_mkdir(&w->client, &w->client.root, "crowd", 0755, &dir), NFS3_OK);
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof name, "f%d", i);
		assert_nfs(client_create(&w->client, &dir, name, GUARDED, 0644, &f), NFS3_OK);
	}
}

static void sigterm(struct world *w) { restart(w, false, NULL); }
static void sigkill(struct world *w) { restart(w, true, NULL); }
static void map_deleted(struct world *w) { restart(w, false, map_is_deleted); }

/* The map as it was before everything was renamed, linked and unlinked. */
static void map_rolled_back(struct world *w)
{
	restart(w, false, "find . -name map.mdb -exec cp {} kept.mdb \\;");
	for (size_t i = 0; i < w->n; i++) {
		struct subject *s = &w->subjects[i];
		if (s->kind == DIRECTORY)
			event_rename(w, s);
		else
			event_link_unlink(w, s);
	}
	for (size_t i = 0; i < w->n; i++)
		event_ancestor(w, &w->subjects[i]);
	restart(w, true, "cp kept.mdb $(find . -name map.mdb)");
}

static const struct event {
	const char *name;
	bool (*each)(struct world *w, struct subject *s); /* false: can't happen to it */
	void (*then)(struct world *w);
	const char *args;
} events[] = {
	{ "write", event_write, NULL, "" },
	{ "chmod", event_chmod, NULL, "" },
	{ "rename", event_rename, NULL, "" },
	{ "link", event_link, NULL, "" },
	{ "link, unlink", event_link_unlink, NULL, "" },
	{ "unlink one", event_unlink_one, NULL, "" },
	{ "ancestor", event_ancestor, NULL, "" },
	{ "both", event_moves_twice, NULL, "" },
	{ "eviction", event_nothing, eviction, "--max-objects 64" },
	{ "SIGTERM", event_nothing, sigterm, "" },
	{ "kill -9", event_nothing, sigkill, "" },
	{ "map deleted", event_nothing, map_deleted, "" },
	{ "rolled back", event_nothing, map_rolled_back, "" },
};
enum { EVENTS = sizeof events / sizeof *events };

static void run_event(const struct event *e, const char *base, const char *layers, const char *args, char cells[KINDS * STATES])
{
	static struct world w;
	memset(&w, 0, sizeof w);
	w.layers = layers;
	w.args = args;
	world_make(&w, base, e->args);
	for (size_t i = 0; i < w.n; i++)
		cells[i] = e->each(&w, &w.subjects[i]) ? 'y' : '-';
	if (e->then)
		e->then(&w);
	verify_handles(&w, e->name);
	verify_names(&w, e->name);
	restart(&w, true, NULL);
	char when[64];
	snprintf(when, sizeof when, "%s, then kill -9", e->name);
	verify_handles(&w, when);
	verify_names(&w, when);
	restart(&w, false, map_is_deleted);
	snprintf(when, sizeof when, "%s, then map deleted", e->name);
	verify_handles(&w, when);
	verify_names(&w, when);
	for (size_t i = 0; i < w.n; i++)
		if (w.subjects[i].failed)
			cells[i] = 'n';
	client_close(&w.client);
	stack_remove(&w.stack);
}

static void matrix(const char *title, const char *base, const char *layers, const char *args)
{
	static char cells[EVENTS][KINDS * STATES];
	int bad = 0, good = 0;
	static int turn;
	bool all = amount("MATRIX", 10) == 10; /* where a sanitizer makes all slow, each table has a third of the events, and together they have all */
	memset(cells, '.', sizeof cells);
	for (int e = 0; e < EVENTS; e++)
		if (all || e % 3 == turn % 3)
			run_event(&events[e], base, layers, args, cells[e]);
	turn++;
	printf("| %s\n| %-24s", title, "");
	for (int e = 0; e < EVENTS; e++)
		printf("| %s ", events[e].name);
	printf("|\n");
	for (int i = 0; i < KINDS * STATES; i++) {
		printf("| %-11s %-12s", states[i / KINDS], kinds[i % KINDS]);
		for (int e = 0; e < EVENTS; e++) {
			char c = cells[e][i];
			printf("| %-*s ", (int)strlen(events[e].name), c == 'y' ? "ok" : c == 'n' ? "NO" : c == '-' ? "-" : ".");
			bad += c == 'n';
			good += c == 'y';
		}
		printf("|\n");
	}
	printf("| %d cells hold, %d do not\n", good, bad);
	assert_int_equal(bad, 0);
	assert_true(good > (all ? 200 : 60));
}

static void every_handle_survives_every_event(void **state)
{
	(void)state;
	matrix("handles with trusted.overlay.*, on the disk", NULL, layers_of_all, "--async");
}

static void every_handle_survives_every_event_where_no_xattr_can_stand(void **state)
{
	(void)state;
	matrix("handles with user.overlay.* (no xattrs on symlinks, FIFOs, devices)", "/dev/shm", layers_of_all, "--userxattr");
}

static void every_handle_survives_every_event_on_tmpfs_with_a_reserved_directory(void **state)
{
	(void)state;
	matrix("handles on tmpfs, without --work", "/dev/shm", "--lower %s/lower1 --lower %s/lower2 --upper %s/upper", "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_handle_survives_every_event),
		cmocka_unit_test(every_handle_survives_every_event_where_no_xattr_can_stand),
		cmocka_unit_test(every_handle_survives_every_event_on_tmpfs_with_a_reserved_directory),
	};
	if (geteuid()) {
		puts("only root can make device files and owners");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
