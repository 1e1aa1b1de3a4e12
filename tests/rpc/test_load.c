/*
 * Many clients at once change one small tree at random: names, directories that move under one another, links, data, attributes. Afterwards the tree
 * that this server shows must be the one that a fresh server shows, handles and all, and the lowers what they were. SEED= and OPS= choose the run.
 * Under ThreadSanitizer and AddressSanitizer what they find makes the server's exit code, which is looked at.
 */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS = 8, NAMES = 6 };

static const char tree[] = "cd lower2; mkdir -p a/b/c b/c d; for f in a/a a/b/a a/b/c/a b/a b/c/b d/a e f; do echo \"lower $f\" >$f; done; ln e d/linked; ln -s e c;"
			   "cd ../lower1; mkdir -p a/b b; echo upper one >a/b/d; echo over >b/a; ln a/b/d b/d;"
			   "cd ..; find lower1 lower2 -printf '%p %y %i %m %n %s %T@ %C@ %l\\n' | sort >before; cat $(find lower1 lower2 -type f | sort) | md5sum >>before";

static unsigned seed;
static unsigned below(unsigned n)
{
	return (unsigned)rand_r(&seed) % n;
}

static const char *any_name(void)
{
	static const char *const names[NAMES] = { "a", "b", "c", "d", "e", "f" };
	return names[below(NAMES)];
}

/* A directory: from the root down some random names, as far as they lead. */
static struct fh any_dir(struct client *c)
{
	struct fh dir = c->root, next;
	fattr3 a;
	for (unsigned depth = below(4); depth; depth--) {
		if (client_lookup(c, &dir, any_name(), &next, &a))
			break;
		if (a.type != NF3DIR)
			break;
		dir = next;
	}
	return dir;
}

static void must_be_fair(const char *what, nfsstat3 st)
{
	switch (st) {
	case NFS3_OK: case NFS3ERR_NOENT: case NFS3ERR_EXIST: case NFS3ERR_NOTDIR: case NFS3ERR_ISDIR: case NFS3ERR_NOTEMPTY: case NFS3ERR_STALE:
	case NFS3ERR_INVAL: case NFS3ERR_JUKEBOX: return;
	default: fail_msg("%s: status %d", what, st);
	}
}

struct known {
	struct fh fh;
	bool have;
};

static void change(struct client *c, struct known *known)
{
	struct fh dir = any_dir(c), to, fh;
	const char *name = any_name();
	char data[300];
	sattr3 s = { 0 };
	uint32_t got;
	bool eof;
	switch (below(18)) {
	case 0: case 1: must_be_fair("CREATE", client_create(c, &dir, name, below(2) ? UNCHECKED : GUARDED, 0600 + below(64), NULL)); break;
	case 2: must_be_fair("CREATE", client_create(c, &dir, name, EXCLUSIVE, below(1000), NULL)); break;
	case 3: case 4: must_be_fair("MKDIR", client_mkdir(c, &dir, name, 0755, NULL)); break;
	case 5: must_be_fair("SYMLINK", client_symlink(c, &dir, name, "target", NULL)); break;
	case 6: must_be_fair("MKNOD", client_mknod(c, &dir, name, NF3FIFO, 0, 0, NULL)); break;
	case 7: must_be_fair("REMOVE", client_remove(c, &dir, name)); break;
	case 8: must_be_fair("RMDIR", client_rmdir(c, &dir, name)); break;
	case 9: case 10: case 11:
		to = any_dir(c);
		must_be_fair("RENAME", client_rename(c, &dir, name, &to, any_name()));
		break;
	case 12:
		if (!client_lookup(c, &dir, name, &fh, NULL)) {
			to = any_dir(c);
			must_be_fair("LINK", client_link(c, &fh, &to, any_name()));
		}
		break;
	case 13: case 14:
		if (!client_lookup(c, &dir, name, &fh, NULL)) {
			memset(data, (int)('a' + below(26)), sizeof data);
			must_be_fair("WRITE", client_write(c, &fh, below(1000), data, 1 + below(sizeof data), below(2) ? UNSTABLE : FILE_SYNC, NULL));
			*known = (struct known){ fh, true };
		}
		break;
	case 15:
		s.mode.set_it = TRUE;
		s.mode.set_uint32_u.value = 0600 + below(64);
		s.size.set_it = below(3) == 0;
		s.size.set_uint64_u.value = below(2000);
		if (!client_lookup(c, &dir, name, &fh, NULL))
			must_be_fair("SETATTR", client_setattr(c, &fh, &s, NULL, NULL));
		break;
	case 16:
		if (known->have) {
			must_be_fair("READ", client_read(c, &known->fh, 0, sizeof data, data, &got, &eof));
			must_be_fair("COMMIT", client_commit(c, &known->fh, NULL));
		}
		break;
	default: {
		bool plus = below(2);
		long n = plus ? client_listplus(c, &dir, 1000, NULL, NULL) : client_list(c, &dir, 400, NULL, NULL);
		if (n < 0)
			must_be_fair(plus ? "READDIRPLUS" : "READDIR", (nfsstat3)-n);
	}
	}
}

/* ---- the tree as a client sees it, as text ---- */
struct walk {
	struct client *c;
	FILE *out;
	struct entry {
		char name[256];
		uint64_t fileid;
	} at[64];
	int n;
};

static void collect(void *arg, const char *name, uint64_t fileid)
{
	struct walk *w = arg;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return;
	assert_true(w->n < 64);
	snprintf(w->at[w->n].name, sizeof w->at[0].name, "%s", name);
	w->at[w->n++].fileid = fileid;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static void show(struct client *c, const struct fh *fh, const char *path, const fattr3 *a, FILE *out)
{
	char data[4096];
	uint32_t got = 0, sum = 0;
	bool eof = true;
	if (a->type == NF3REG)
		assert_nfs(client_read(c, fh, 0, sizeof data, data, &got, &eof), NFS3_OK);
	else if (a->type == NF3LNK)
		assert_nfs(client_readlink(c, fh, data, sizeof data), NFS3_OK);
	if (a->type == NF3LNK)
		got = (uint32_t)strlen(data);
	for (uint32_t i = 0; i < got; i++)
		sum = sum * 31 + (uint8_t)data[i];
	assert_true(eof);
	fprintf(out, "%s type %d mode %o nlink %u size %lu id %lx mtime %u.%u data %x handle ", path, a->type, a->mode, a->nlink,
		a->type == NF3DIR ? 0 : (unsigned long)a->size, (unsigned long)a->fileid, a->mtime.seconds, a->mtime.nseconds, sum);
	for (uint32_t i = 0; i < fh->len; i++)
		fprintf(out, "%02x", fh->data[i]);
	fputc('\n', out);
}

static void show_tree(struct client *c, const struct fh *dir, const char *path, int depth, FILE *out)
{
	struct walk w = { .c = c };
	char child[8192];
	if (depth > 500)
		fail_msg("a directory is its own child: %s", path);
	assert_true(client_list(c, dir, 4096, collect, &w) >= 2);
	qsort(w.at, (size_t)w.n, sizeof w.at[0], by_name);
	for (int i = 0; i < w.n; i++) {
		struct fh fh;
		fattr3 a;
		snprintf(child, sizeof child, "%s/%s", path, w.at[i].name);
		assert_nfs(client_lookup(c, dir, w.at[i].name, &fh, &a), NFS3_OK);
		assert_int_equal(a.fileid, w.at[i].fileid);
		show(c, &fh, child, &a, out);
		if (a.type == NF3DIR)
			show_tree(c, &fh, child, depth + 1, out);
	}
}

static char *picture(const struct stack *s)
{
	struct client c;
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	client_open(&c, s, 0, 0);
	show_tree(&c, &c.root, "", 0, out);
	client_close(&c);
	fclose(out);
	return text;
}

static void shows_the_same(const char *a, const char *b)
{
	if (!strcmp(a, b))
		return;
	FILE *f = fopen("/tmp/overnfsd-load-a", "w"), *g = fopen("/tmp/overnfsd-load-b", "w");
	fputs(a, f), fputs(b, g);
	fclose(f), fclose(g);
	(void)!system("diff /tmp/overnfsd-load-a /tmp/overnfsd-load-b; rm -f /tmp/overnfsd-load-a /tmp/overnfsd-load-b");
	fail_msg("the tree of the server that ran (<) is not that of a fresh one (>)");
}

/* One client, in a process of its own: what fails there fails there alone. */
static struct {
	uint16_t port;
	int ops;
} job;

static void a_client_changes_the_tree(void **state)
{
	struct client c;
	struct known known = { .have = false };
	struct stack s = { .port = job.port };
	(void)state;
	client_open(&c, &s, 0, 0);
	for (int op = 0; op < job.ops; op++)
		change(&c, &known);
	client_close(&c);
}

static void run_clients(const struct stack *s, unsigned first_seed, int ops)
{
	pid_t pid[CLIENTS];
	int failed = 0;
	char arg[3][24];
	snprintf(arg[0], sizeof arg[0], "%u", s->port);
	snprintf(arg[2], sizeof arg[2], "%d", ops);
	for (int i = 0; i < CLIENTS; i++) {
		snprintf(arg[1], sizeof arg[1], "%u", first_seed + (unsigned)i * 7919);
		fflush(NULL);
		if ((pid[i] = fork()))
			continue;
		dup2(2, 1);
		execl("/proc/self/exe", "test_load", arg[0], arg[1], arg[2], (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < CLIENTS; i++) {
		int status;
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		failed += status != 0;
	}
	assert_int_equal(failed, 0);
}

static void run(const char *options, unsigned first_seed, int ops)
{
	struct stack s;
	stack_make(&s, NULL, tree);
	server_start(&s, options);
	run_clients(&s, first_seed, ops);
	char *ran = picture(&s);
	server_stop(&s); /* exit code 0: no sanitizer found anything */
	stack_sh(&s, "test -z \"$(ls -A work/work)\"");
	server_start(&s, options);
	char *fresh = picture(&s);
	shows_the_same(ran, fresh);
	server_stop(&s);
	stack_sh(&s, "mv before expected; find lower1 lower2 -printf '%p %y %i %m %n %s %T@ %C@ %l\\n' | sort >before;"
		     "cat $(find lower1 lower2 -type f | sort) | md5sum >>before; cmp before expected");
	free(ran);
	free(fresh);
	stack_remove(&s);
}

static int amount(int plain)
{
	const char *ops = getenv("OPS"), *build = getenv("BUILD");
	return ops ? atoi(ops) : build && strstr(build, "tsan") ? plain / 30 : build && strstr(build, "san") ? plain / 4 : plain;
}

static unsigned chosen_seed(void)
{
	const char *s = getenv("SEED");
	unsigned chosen = s ? (unsigned)atoi(s) : (unsigned)time(NULL);
	printf("| load: SEED=%u\n", chosen);
	return chosen;
}

static void clients_at_once_leave_the_tree_that_a_fresh_server_shows(void **state)
{
	(void)state;
	run("--no-root-squash --async", chosen_seed(), amount(3000));
}

static void with_few_objects_in_memory_too(void **state)
{
	(void)state;
	run("--no-root-squash --async --max-objects 16 --threads 4", chosen_seed() + 1, amount(1500));
}

static void with_every_change_on_disk_too(void **state)
{
	(void)state;
	run("--no-root-squash --sync", chosen_seed() + 2, amount(500));
}

int main(int argc, char **argv)
{
	if (argc == 4) {
		const struct CMUnitTest client[] = { cmocka_unit_test(a_client_changes_the_tree) };
		job.port = (uint16_t)atoi(argv[1]);
		seed = (unsigned)atoi(argv[2]);
		job.ops = atoi(argv[3]);
		return cmocka_run_group_tests(client, NULL, NULL);
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_at_once_leave_the_tree_that_a_fresh_server_shows),
		cmocka_unit_test(with_few_objects_in_memory_too),
		cmocka_unit_test(with_every_change_on_disk_too),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
