/* kill -9 at random moments under load: after each restart every handle that was given out answers right, and nothing that was acknowledged
 * as stable is lost. ROUNDS=10000 for the long run; SEED= to repeat one; KILL_BASE=/tmp for a disk (default: /dev/shm, as the kernel outlives the server). */
#include "handles.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OBJECTS = 64, DIRS = 6, CONTENT = 16, MOST_MICROSECONDS = 20000, STARTERS = 24 };

enum life { NONE, ALIVE, GONE };
struct thing {
	enum life life;
	bool is_dir;
	struct fh fh;
	uint64_t fileid;
	int parent; /* -1: the root */
	char name[24], content[CONTENT + 1];
	/* what the call that was under way when the server died may have made of it */
	bool maybe_gone, maybe_moved, maybe_written;
	int new_parent;
	char new_name[24], new_content[CONTENT + 1];
	char link[24]; /* a second name in the root, or "" */
	bool maybe_link;
};

static struct stack stack;
static struct client client;
static struct thing things[OBJECTS];
static uint64_t seed;
static unsigned counter; /* for names and contents that never come twice */
static unsigned long calls, in_flight;
static bool connected;

static uint32_t rnd(uint32_t n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % n;
}

/* One call; false: the server died before it answered. */
static bool call(uint32_t proc, xdrproc_t args, void *a, xdrproc_t res, void *r, size_t size, const nfsstat3 *status)
{
	do {
		memset(r, 0, size);
		if (client_call(&client, 100003, 3, proc, args, a, res, r)) {
			connected = false;
			in_flight++;
			return false;
		}
		if (*status == NFS3ERR_JUKEBOX)
			usleep(10000);
	} while (*status == NFS3ERR_JUKEBOX);
	calls++;
	return true;
}
#define TRY(proc, args_type, args, res_type, res) call(proc, (xdrproc_t)xdr_##args_type, args, (xdrproc_t)xdr_##res_type, res, sizeof *(res), &(res)->status)

static const struct fh *dir_of(int parent)
{
	return parent < 0 ? &client.root : &things[parent].fh;
}

static int pick(bool (*fits)(const struct thing *t))
{
	int start = (int)rnd(OBJECTS);
	for (int i = 0; i < OBJECTS; i++)
		if (fits(&things[(start + i) % OBJECTS]))
			return (start + i) % OBJECTS;
	return -1;
}

static bool is_free(const struct thing *t) { return t->life == NONE; }
static bool is_file(const struct thing *t) { return t->life == ALIVE && !t->is_dir; }
static bool is_alive(const struct thing *t) { return t->life == ALIVE; }

static bool is_below(int i, int of)
{
	for (; i >= 0; i = things[i].parent)
		if (i == of)
			return true;
	return false;
}

static int pick_dir(void)
{
	int d = (int)rnd(DIRS + 1) - 1;
	return d >= 0 && things[d].life == ALIVE ? d : -1;
}

/* ---- the load ---- */
static void create(void)
{
	int i = pick(is_free), dir = pick_dir();
	newres r;
	if (i < 0 || (i < DIRS && dir >= 0 && dir == i))
		return;
	struct thing t = { .life = ALIVE, .parent = i < DIRS ? -1 : dir, .is_dir = i < DIRS };
	snprintf(t.name, sizeof t.name, "born%u", counter++);
	bool ok;
	if (t.is_dir) {
		MKDIR3args a = { .where = { .dir = fh3(dir_of(t.parent)), .name = t.name } };
		ok = TRY(9, MKDIR3args, &a, newres, &r);
	} else {
		CREATE3args a = { .where = { .dir = fh3(dir_of(t.parent)), .name = t.name } };
		a.how.mode = GUARDED;
		ok = TRY(8, CREATE3args, &a, newres, &r);
	}
	if (!ok)
		return; /* nobody holds a handle of it */
	assert_nfs(r.status, NFS3_OK);
	nfs_fh3 *fh = &r.newres_u.resok.obj.post_op_fh3_u.handle;
	t.fh.len = fh->data.data_len;
	memcpy(t.fh.data, fh->data.data_val, t.fh.len);
	t.fileid = r.newres_u.resok.obj_attributes.post_op_attr_u.attributes.fileid;
	xdr_free((xdrproc_t)xdr_newres, (char *)&r);
	things[i] = t;
}

static void write_to(struct thing *t)
{
	WRITE3res r;
	snprintf(t->new_content, sizeof t->new_content, "%015u\n", counter++);
	WRITE3args a = { .file = fh3(&t->fh), .offset = 0, .count = CONTENT, .stable = FILE_SYNC, .data = { CONTENT, t->new_content } };
	t->maybe_written = true;
	if (!TRY(7, WRITE3args, &a, WRITE3res, &r))
		return;
	assert_nfs(r.status, NFS3_OK);
	memcpy(t->content, t->new_content, sizeof t->content);
	t->maybe_written = false;
}

static void change_mode(struct thing *t)
{
	SETATTR3args a = { .object = fh3(&t->fh), .new_attributes.mode = { .set_it = true, .set_uint32_u.value = 0700 + rnd(64) } };
	wccres r;
	if (TRY(2, SETATTR3args, &a, wccres, &r))
		assert_nfs(r.status, NFS3_OK);
}

static void move(int i)
{
	struct thing *t = &things[i];
	RENAME3res r;
	t->new_parent = t->is_dir ? -1 : pick_dir();
	if (t->is_dir && rnd(2)) { /* into another directory, but not into itself */
		int d = pick_dir();
		t->new_parent = d >= 0 && !is_below(d, i) ? d : -1;
	}
	snprintf(t->new_name, sizeof t->new_name, "moved%u", counter++);
	RENAME3args a = { .from = { fh3(dir_of(t->parent)), t->name }, .to = { fh3(dir_of(t->new_parent)), t->new_name } };
	t->maybe_moved = true;
	if (!TRY(14, RENAME3args, &a, RENAME3res, &r))
		return;
	assert_nfs(r.status, NFS3_OK);
	t->parent = t->new_parent;
	memcpy(t->name, t->new_name, sizeof t->name);
	t->maybe_moved = false;
}

/* One more name, or that one away again. */
static void toggle_link(struct thing *t)
{
	t->maybe_link = true;
	if (*t->link) {
		diropargs3 a = { .dir = fh3(&client.root), .name = t->link };
		wccres r;
		if (!TRY(12, diropargs3, &a, wccres, &r))
			return;
		assert_nfs(r.status, NFS3_OK);
		*t->link = 0;
	} else {
		LINK3res r;
		snprintf(t->link, sizeof t->link, "link%u", counter++);
		LINK3args a = { .file = fh3(&t->fh), .link = { fh3(&client.root), t->link } };
		if (!TRY(15, LINK3args, &a, LINK3res, &r))
			return;
		assert_nfs(r.status, NFS3_OK);
	}
	t->maybe_link = false;
}

static void remove_thing(struct thing *t)
{
	diropargs3 a = { .dir = fh3(dir_of(t->parent)), .name = t->name };
	wccres r;
	if (*t->link || t->maybe_link)
		return;
	t->maybe_gone = true;
	if (!TRY(12, diropargs3, &a, wccres, &r))
		return;
	assert_nfs(r.status, NFS3_OK);
	t->life = GONE;
	t->maybe_gone = false;
}

static void one_change(void)
{
	int file = pick(is_file), any = pick(is_alive);
	uint32_t what = rnd(10);
	if (what < 2)
		create();
	else if (what < 5 && file >= 0)
		write_to(&things[file]);
	else if (what < 6 && any >= 0)
		change_mode(&things[any]);
	else if (what < 8 && any >= 0)
		move(any);
	else if (what < 9 && file >= 0)
		toggle_link(&things[file]);
	else if (file >= 0)
		remove_thing(&things[file]);
}

/* ---- others at work: creates and removes, many in flight, answers thrown away ---- */
static uint8_t *word(uint8_t *p, uint32_t v)
{
	v = htonl(v);
	memcpy(p, &v, 4);
	return p + 4;
}

static uint8_t *put_call(uint8_t *p, uint32_t xid, uint32_t proc, const struct fh *dir, unsigned number)
{
	const uint32_t head[] = { xid, 0, 2, 100003, 3, proc, 1, 24, 0, 4, 0x74657374, 0, 0, 0, 0, 0 };
	uint8_t *mark = p;
	char name[17];
	p += 4;
	for (size_t i = 0; i < sizeof head / sizeof *head; i++)
		p = word(p, head[i]);
	p = word(p, dir->len);
	memcpy(p, dir->data, dir->len);
	p += dir->len;
	snprintf(name, sizeof name, "noise%011u", number % 100000000);
	p = word(p, 16);
	memcpy(p, name, 16);
	p += 16;
	for (int i = 0; proc == 8 && i < 7; i++) /* UNCHECKED, and six attributes that are not set */
		p = word(p, 0);
	word(mark, 0x80000000u | (uint32_t)(p - mark - 4));
	return p;
}

static void *make_noise(void *arg)
{
	struct client *c = arg;
	static uint8_t out[16384], in[65536];
	for (unsigned n = 0;; n += 16) {
		uint8_t *p = out;
		for (unsigned i = 0; i < 16; i++)
			p = put_call(p, 2 * (n + i) + 1, 8, &c->root, n + i);
		for (unsigned i = 0; i < 16; i++)
			p = put_call(p, 2 * (n + i) + 2, 12, &c->root, n + i);
		if (send(c->fd, out, (size_t)(p - out), MSG_NOSIGNAL) < 0 || recv(c->fd, in, sizeof in, 0) <= 0)
			return NULL;
	}
}

/* ---- the judgement ---- */
static void wrong(const struct thing *t, const char *what, long n)
{
	fail_msg("%s %s: %s (%ld); life %d, maybe gone %d moved %d written %d", t->is_dir ? "directory" : "file", t->name, what, n, t->life, t->maybe_gone, t->maybe_moved,
		 t->maybe_written);
}

static void settle_content(struct thing *t)
{
	char buf[CONTENT + 1] = "";
	uint32_t got = 0;
	nfsstat3 st = patient_read(&client, &t->fh, buf, CONTENT, &got);
	if (st)
		wrong(t, "can't be read", st);
	if (t->maybe_written && !strcmp(buf, t->new_content))
		memcpy(t->content, t->new_content, sizeof t->content);
	else if (strcmp(buf, t->content))
		wrong(t, "acknowledged data is lost", (long)got);
	t->maybe_written = false;
}

/* Which handle has the name, if any? */
static bool name_leads_to(struct thing *t, int parent, const char *name)
{
	struct fh fh;
	fattr3 a;
	nfsstat3 st;
	while ((st = client_lookup(&client, dir_of(parent), name, &fh, &a)) == NFS3ERR_JUKEBOX)
		usleep(10000);
	if (st == NFS3ERR_NOENT)
		return false;
	if (st)
		wrong(t, "LOOKUP fails", st);
	if (!same_handle(&fh, &t->fh))
		wrong(t, "LOOKUP gives another handle", 0);
	if (a.fileid != t->fileid)
		wrong(t, "LOOKUP gives another file id", 0);
	return true;
}

static void settle(struct thing *t)
{
	fattr3 a;
	nfsstat3 st = patient_getattr(&client, &t->fh, &a);
	if (t->life == GONE) {
		if (st != NFS3ERR_STALE)
			wrong(t, "removed, but its handle answers", st);
		t->life = rnd(4) ? GONE : NONE; /* asked about for some rounds */
		return;
	}
	if (t->maybe_gone && st == NFS3ERR_STALE) {
		t->life = GONE;
		t->maybe_gone = false;
		return;
	}
	t->maybe_gone = false;
	if (st)
		wrong(t, "its handle does not answer", st);
	if (a.fileid != t->fileid)
		wrong(t, "its file id changed", 0);
	if (!t->is_dir)
		settle_content(t);
}

static void settle_names(struct thing *t)
{
	bool old = name_leads_to(t, t->parent, t->name);
	if (t->maybe_moved) {
		bool new = name_leads_to(t, t->new_parent, t->new_name);
		if (old == new)
			wrong(t, "a rename is half done", old);
		if (new) {
			t->parent = t->new_parent;
			memcpy(t->name, t->new_name, sizeof t->name);
		}
		t->maybe_moved = false;
	} else if (!old) {
		wrong(t, "its name is lost", 0);
	}
	if (*t->link && !name_leads_to(t, -1, t->link)) {
		if (!t->maybe_link)
			wrong(t, "its second name is lost", 0);
		*t->link = 0;
	}
	t->maybe_link = false;
}

static void start(void)
{
	server_start(&stack, "--no-root-squash --max-objects 32");
	client_open(&client, &stack, 0, 0);
	connected = true;
}

static void one_round(void)
{
	struct client noise;
	pthread_t thread;
	start();
	for (int i = 0; i < OBJECTS; i++) /* by handle alone, before any name brings the object into memory */
		if (things[i].life != NONE)
			settle(&things[i]);
	for (int i = 0; i < OBJECTS; i++)
		if (things[i].life == ALIVE)
			settle_names(&things[i]);
	client_open(&noise, &stack, 0, 0);
	pid_t killer = fork();
	if (!killer) {
		usleep(rnd(MOST_MICROSECONDS));
		kill(stack.pid, SIGKILL);
		_exit(0);
	}
	rnd(MOST_MICROSECONDS); /* as the child did: the seed alone tells what follows */
	pthread_create(&thread, NULL, make_noise, &noise);
	while (connected)
		one_change();
	waitpid(killer, NULL, 0);
	waitpid(stack.pid, NULL, 0);
	stack.pid = 0;
	pthread_join(thread, NULL);
	client_close(&noise);
	client_close(&client);
}

static void after_any_kill_every_handle_answers_right(void **state)
{
	(void)state;
	unsigned long rounds = amount("ROUNDS", 100), i;
	const char *s = getenv("SEED"), *base = getenv("KILL_BASE");
	seed = s ? strtoull(s, NULL, 10) : (uint64_t)time(NULL) * 2654435761u + (uint64_t)getpid();
	printf("SEED=%llu\n", (unsigned long long)seed);
	stack_make(&stack, base ? base : access("/dev/shm", W_OK) ? NULL : "/dev/shm",
		   "for i in 0 1 2 3 4 5; do mkdir -p lower2/lower$i; done; for i in $(seq 6 29); do printf '%015d\\n' $i >lower2/lower$i; done; mkdir lower1/lower0");
	start();
	for (int k = 0; k < DIRS + STARTERS; k++) {
		struct thing *t = &things[k];
		fattr3 a;
		*t = (struct thing){ .life = ALIVE, .is_dir = k < DIRS, .parent = -1 };
		snprintf(t->name, sizeof t->name, "lower%d", k);
		snprintf(t->content, sizeof t->content, "%015d\n", k);
		assert_nfs(client_path(&client, t->name, &t->fh, &a), NFS3_OK);
		t->fileid = a.fileid;
	}
	client_close(&client);
	server_kill(&stack);
	double begun = seconds();
	for (i = 0; i < rounds; i++) {
		one_round();
		if (i % 500 == 499)
			printf("%lu rounds, %lu calls, %.0f s\n", i + 1, calls, seconds() - begun);
	}
	stack_sh(&stack, "! ls work/overnfsd/*.bad-* 2>/dev/null"); /* a kill damages nothing */
	printf("| %lu times kill -9 under load: %lu calls acknowledged, %lu in flight at the kill; all handles answered right, nothing stable was lost; %.1f s\n", i, calls,
	       in_flight, seconds() - begun);
}

static int teardown(void **state)
{
	(void)state;
	if (stack.pid)
		server_kill(&stack);
	stack_remove(&stack);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(after_any_kill_every_handle_answers_right) };
	setvbuf(stdout, NULL, _IOLBF, 0);
	return cmocka_run_group_tests(tests, NULL, teardown);
}
