/*
 * nfsload: a load generator for NFSv3 servers over TCP.
 *
 * Speaks ONC RPC directly (RFC 5531, RFC 1813), so that what it measures is the server: one thread a
 * connection, a fixed number of calls in flight on each, every reply checked. Prints one JSON line.
 *
 *   nfsload --port N [--mount-port N] [--export PATH] --work NAME [--conns N] [--depth N] [--secs S]
 *
 * Workloads: null getattr lookup access read4k readseq readdirplus (walks the tree again and again)
 *   create (empty files)  createwrite (create, write 4 KiB, commit)  write4k writeseq (1 MiB, unstable)
 *   untar (what Linux's client asks for each file that tar unpacks: six calls)
 *   setattr (chmod of each file found, once: copy-up of metadata)  copyup (write 1 byte to each file found, once)
 *   remove (of 2,000 files a connection, made before the clock starts)  rename (of one's own files, to and fro)
 *
 * --save FILE writes the handle and file id of everything that the walk finds; --check FILE asks for each of them by GETATTR, later,
 * and counts those that are gone or have another file id: {"handles":N,"lost":N,"changed":N}.
 *
 * copybig writes one byte to the largest file, once: p50 is what its copy-up took. --fake SIZE is for servers that answer NULL or READ
 * alone: nothing is mounted or walked. Only 127.0.0.1 is ever contacted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PROG_NFS = 100003, PROG_MOUNT = 100005, MAX_DEPTH = 1024, MAX_CONNS = 10000 };
enum { GETATTR = 1, SETATTR = 2, LOOKUP = 3, ACCESS = 4, READ = 6, WRITE = 7, CREATE = 8, MKDIR = 9,
       REMOVE = 12, RENAME = 14, READDIR = 16, READDIRPLUS = 17, FSINFO = 19, COMMIT = 21 };

struct fh { uint32_t len; uint8_t data[64]; };
struct file { struct fh fh; uint64_t size; uint32_t dir; char *name; };   /* dir: index into dirs */

static int port = 2049, mount_port, conns = 1, depth = 1;
static double secs = 3;
static size_t BUF = (1 << 20) + 8192; /* of one connection, for calls and for replies */
static uint64_t fake;             /* size of the one file of a server that knows no MOUNT */
static const char *export_path = "/", *work = "null", *save_to, *check_from;
static FILE *save;
static struct file *files; static size_t nfiles, cap_files;
static struct fh *dirs; static size_t ndirs, cap_dirs;
static struct file big;                     /* the largest file: reads go there */
static volatile size_t next_once;           /* for workloads that touch each file once */

static void die(const char *what) { perror(what); exit(1); }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

/* ---- XDR, by hand: a cursor that writes or reads big-endian words ---- */
struct xdr { uint8_t *p, *end; bool bad; };
static void put32(struct xdr *x, uint32_t v) { v = htobe32(v); memcpy(x->p, &v, 4); x->p += 4; }
static void put64(struct xdr *x, uint64_t v) { put32(x, v >> 32); put32(x, (uint32_t)v); }
static void put_bytes(struct xdr *x, const void *d, uint32_t n)
{
	put32(x, n); memcpy(x->p, d, n);
	memset(x->p + n, 0, -n & 3); x->p += (n + 3) & ~3u;
}
static void put_fh(struct xdr *x, const struct fh *f) { put_bytes(x, f->data, f->len); }
static void put_str(struct xdr *x, const char *s) { put_bytes(x, s, strlen(s)); }
static uint32_t get32(struct xdr *x)
{
	uint32_t v;
	if (x->bad || x->end - x->p < 4) { x->bad = true; return 0; }
	memcpy(&v, x->p, 4); x->p += 4; return be32toh(v);
}
static uint64_t get64(struct xdr *x) { uint64_t h = get32(x); return h << 32 | get32(x); }
static void skip(struct xdr *x, size_t n) { if (x->bad || (size_t)(x->end - x->p) < n) x->bad = true; else x->p += n; }
static void get_fh(struct xdr *x, struct fh *f)
{
	f->len = get32(x);
	if (f->len > 64 || x->end - x->p < (long)f->len) { x->bad = true; return; }
	memcpy(f->data, x->p, f->len); skip(x, (f->len + 3) & ~3u);
}
struct attr { uint32_t type; uint64_t size, fileid; };
static bool get_attr(struct xdr *x, struct attr *a)   /* post_op_attr */
{
	if (!get32(x)) return false;
	a->type = get32(x); skip(x, 16); a->size = get64(x); skip(x, 24); a->fileid = get64(x); skip(x, 24);
	return true;
}

/* ---- a connection ---- */
struct conn {
	int fd; uint32_t xid; size_t have, used;
	uint8_t *in, *out;
	struct { double t0; int step; struct fh fh; uint64_t arg; bool busy; } slot[MAX_DEPTH];
	uint64_t ops, bytes, errors[10100], rng, made; double *lat, took; size_t nlat, cap_lat;
	struct fh mydir; int id; pthread_t thread;
};

static void conn_open(struct conn *c, int p)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(p), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int one = 1;
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	for (int reserved = 1023 - (getpid() + c->id) % 400; conns <= 64 && geteuid() == 0 && reserved > 500; reserved--) {
		struct sockaddr_in l = { .sin_family = AF_INET, .sin_port = htons(reserved), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
		if (bind(c->fd, (void *)&l, sizeof l) == 0) break;
	}
	if (connect(c->fd, (void *)&a, sizeof a)) die("connect");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	c->in = malloc(BUF + 65536); c->out = malloc(BUF); c->have = c->used = 0;
	if (!c->in || !c->out) die("malloc");
	c->rng = 88172645463325252ull + c->id * 7919u;
}

static struct xdr call_begin(struct conn *c, uint32_t prog, uint32_t proc, uint32_t xid)
{
	struct xdr x = { c->out + 4, c->out + BUF, false };
	put32(&x, xid); put32(&x, 0); put32(&x, 2); put32(&x, prog); put32(&x, 3); put32(&x, proc);
	put32(&x, 1); put32(&x, 24);                              /* AUTH_SYS, root */
	put32(&x, 0); put_str(&x, "load"); put32(&x, 0); put32(&x, 0); put32(&x, 0);
	put32(&x, 0); put32(&x, 0);
	return x;
}
static void call_send(struct conn *c, struct xdr *x)
{
	size_t n = x->p - c->out, off = 0; uint32_t mark = htobe32(0x80000000u | (n - 4));
	memcpy(c->out, &mark, 4);
	while (off < n) {
		ssize_t w = write(c->fd, c->out + off, n - off);
		if (w < 0) { if (errno == EINTR) continue; die("write"); }
		off += w;
	}
}
/* The next reply, from its results on. Blocks. Sets *xid. */
static struct xdr reply_next(struct conn *c, uint32_t *xid)
{
	for (;;) {
		size_t avail = c->have - c->used, end = c->used, total = 0; bool last = false;
		while (!last && c->have - end >= 4) {                 /* a record may come in several fragments */
			uint32_t m; memcpy(&m, c->in + end, 4); m = be32toh(m);
			size_t n = m & 0x7fffffff;
			if (c->have - end < 4 + n) break;
			last = m >> 31; end += 4 + n; total += n;
		}
		if (last) {
			uint8_t *start = c->in + c->used + 4, *to = start;
			for (size_t at = c->used; at < end; ) {
				uint32_t m; memcpy(&m, c->in + at, 4);
				size_t n = be32toh(m) & 0x7fffffff;
				if (to != c->in + at + 4) memmove(to, c->in + at + 4, n);
				to += n; at += 4 + n;
			}
			struct xdr x = { start, start + total, false };
			c->used = end;
			*xid = get32(&x);
			uint32_t type = get32(&x), stat = get32(&x); get32(&x);
			skip(&x, (get32(&x) + 3) & ~3u);
			uint32_t acc = get32(&x);
			if (x.bad || type != 1 || stat || acc) { fprintf(stderr, "nfsload: RPC error %u %u\n", stat, acc); exit(1); }
			return x;
		}
		if (c->used) { memmove(c->in, c->in + c->used, avail); c->have = avail; c->used = 0; }
		ssize_t r = read(c->fd, c->in + c->have, BUF + 65536 - c->have);
		if (r <= 0) { if (r < 0 && errno == EINTR) continue; fprintf(stderr, "nfsload: connection closed\n"); exit(1); }
		c->have += r;
	}
}
static struct xdr call(struct conn *c, struct xdr *x) { uint32_t xid; call_send(c, x); return reply_next(c, &xid); }

/* ---- the walk that finds what there is ---- */
static void add_dir(const struct fh *f)
{
	if (ndirs == cap_dirs) dirs = realloc(dirs, (cap_dirs = cap_dirs * 2 + 1024) * sizeof *dirs);
	dirs[ndirs++] = *f;
}
static void add_file(const struct fh *f, const char *name, uint32_t dir, uint64_t size)
{
	if (nfiles == cap_files) files = realloc(files, (cap_files = cap_files * 2 + 1024) * sizeof *files);
	files[nfiles++] = (struct file){ *f, size, dir, strdup(name) };
	if (size > big.size) big = files[nfiles - 1];
}
static void lookup(struct conn *c, const struct fh *dir, const char *name, struct fh *f, struct attr *a)
{
	struct xdr x = call_begin(c, PROG_NFS, LOOKUP, ++c->xid);
	put_fh(&x, dir); put_str(&x, name);
	struct xdr r = call(c, &x);
	if (get32(&r) == 0) { get_fh(&r, f); get_attr(&r, a); }
}

/* One READDIRPLUS (or READDIR and LOOKUPs, where the server has none) of *dir from *cookie. Returns the number of entries; keep adds them to the lists. */
static bool plain_readdir;
static long readdirplus(struct conn *c, uint32_t dir, struct fh *fh, uint64_t *cookie, uint64_t *verf, bool *eof, bool keep)
{
	struct xdr x = call_begin(c, PROG_NFS, plain_readdir ? READDIR : READDIRPLUS, ++c->xid); struct attr a; long n = 0;
	put_fh(&x, fh); put64(&x, *cookie); put64(&x, *verf); put32(&x, 65536); if (!plain_readdir) put32(&x, 1 << 18);
	struct xdr r = call(c, &x); uint32_t st = get32(&r);
	if (st == 10004 && !plain_readdir) { plain_readdir = true; return readdirplus(c, dir, fh, cookie, verf, eof, keep); }
	if (plain_readdir && !st) {         /* the replies to come overwrite this one */
		uint8_t *copy = malloc(r.end - r.p); if (!copy) die("malloc");
		memcpy(copy, r.p, r.end - r.p); r.end = copy + (r.end - r.p); r.p = copy;
	}
	uint8_t *owned = plain_readdir ? r.p : NULL;
	if (st) { fprintf(stderr, "nfsload: READDIRPLUS status %u\n", st); exit(1); }
	get_attr(&r, &a); *verf = get64(&r);
	while (get32(&r) && !r.bad) {
		char name[256]; struct fh f = { 0 }; a.type = 0; a.size = 0;
		get64(&r); uint32_t len = get32(&r);
		if (len > 255) { r.bad = true; break; }
		memcpy(name, r.p, len); name[len] = 0; skip(&r, (len + 3) & ~3u);
		*cookie = get64(&r);
		if (!plain_readdir) { get_attr(&r, &a); if (get32(&r)) get_fh(&r, &f); }
		else if (strcmp(name, ".") && strcmp(name, "..")) lookup(c, fh, name, &f, &a);
		n++;
		if (save && f.len) { uint64_t id = a.fileid; fwrite(&f, sizeof f, 1, save); fwrite(&id, sizeof id, 1, save); }
		if (!keep || !strcmp(name, ".") || !strcmp(name, "..") || !f.len) continue;
		if (a.type == 2) add_dir(&f); else if (a.type == 1) add_file(&f, name, dir, a.size);
	}
	*eof = get32(&r);
	if (r.bad) { fprintf(stderr, "nfsload: bad READDIRPLUS reply\n"); exit(1); }
	free(owned);
	return n;
}
static long walk(struct conn *c, bool keep)
{
	long n = 0;
	for (size_t d = 0; d < ndirs; d++) {
		uint64_t cookie = 0, verf = 0; bool eof = false;
		while (!eof) { struct fh f = dirs[d]; n += readdirplus(c, d, &f, &cookie, &verf, &eof, keep); }
	}
	return n;
}
static void mount_root(void)
{
	struct conn *c = calloc(1, sizeof *c); conn_open(c, mount_port);
	struct xdr x = call_begin(c, PROG_MOUNT, 1, 1); put_str(&x, export_path);
	struct xdr r = call(c, &x); uint32_t st = get32(&r); struct fh f;
	if (st) { fprintf(stderr, "nfsload: MNT %s: status %u\n", export_path, st); exit(1); }
	get_fh(&r, &f); add_dir(&f); close(c->fd); free(c->in); free(c->out); free(c);
}
static uint32_t make(struct conn *c, uint32_t proc, const struct fh *dir, const char *name, struct fh *out)
{
	struct xdr x = call_begin(c, PROG_NFS, proc, ++c->xid);
	put_fh(&x, dir); put_str(&x, name);
	if (proc == CREATE) put32(&x, 0);
	put32(&x, 1); put32(&x, proc == MKDIR ? 0755 : 0644); for (int i = 0; i < 5; i++) put32(&x, 0);
	struct xdr r = call(c, &x); uint32_t st = get32(&r);
	if (!st && get32(&r)) get_fh(&r, out);
	return st;
}

static int check_handles(const char *from)
{
	struct conn *c = calloc(1, sizeof *c); struct fh f; uint64_t id; unsigned long n = 0, lost = 0, changed = 0; FILE *in = fopen(from, "r");
	if (!c || !in) die(from);
	conn_open(c, port);
	while (fread(&f, sizeof f, 1, in) == 1 && fread(&id, sizeof id, 1, in) == 1) {
		struct xdr x = call_begin(c, PROG_NFS, GETATTR, ++c->xid); put_fh(&x, &f);
		struct xdr r = call(c, &x); n++;
		if (get32(&r)) { lost++; continue; }
		skip(&r, 20 + 32);                               /* type mode nlink uid gid, size used rdev fsid */
		if (get64(&r) != id) changed++;
	}
	printf("{\"handles\":%lu,\"lost\":%lu,\"changed\":%lu}\n", n, lost, changed);
	return lost || changed;
}

/* ---- the measured loop ---- */
static uint64_t rnd(struct conn *c) { c->rng ^= c->rng << 13; c->rng ^= c->rng >> 7; return c->rng ^= c->rng << 17; }
static const struct file *pick(struct conn *c) { return &files[rnd(c) % nfiles]; }
static void put_no_attrs(struct xdr *x, int mode) { put32(x, mode >= 0); if (mode >= 0) put32(x, mode); for (int i = 0; i < 5; i++) put32(x, 0); }
static char block[1 << 20];

/* What Linux's client asks for each file that tar unpacks as root: O_EXCL and the attributes that such a CREATE can't carry, the bytes, times, owner, mode. */
enum { UNTAR_STEPS = 6 };
static void issue_untar(struct conn *c, int s, uint32_t xid, struct xdr *x)
{
	static const char sets[UNTAR_STEPS][6] = { [1] = { 1, 0, 0, 0, 1, 1 }, [3] = { 0, 0, 0, 0, 2, 2 }, [4] = { 0, 1, 1 }, [5] = { 1 } }; /* mode uid gid size atime mtime */
	int step = c->slot[s].step;
	if (!step) {
		char name[64]; uint64_t n = c->made++;
		snprintf(name, sizeof name, "f%llu", (unsigned long long)n);
		*x = call_begin(c, PROG_NFS, CREATE, xid); put_fh(x, &c->mydir); put_str(x, name); put32(x, 2); put64(x, n * 0x9e3779b97f4a7c15u);
		return;
	}
	if (step == 2) {
		*x = call_begin(c, PROG_NFS, WRITE, xid); put_fh(x, &c->slot[s].fh); put64(x, 0); put32(x, 4096); put32(x, 2); put_bytes(x, block, 4096);
		return;
	}
	*x = call_begin(c, PROG_NFS, SETATTR, xid); put_fh(x, &c->slot[s].fh);
	for (int i = 0; i < 6; i++) {
		put32(x, sets[step][i]);
		if (i == 0 && sets[step][i]) put32(x, 0644);
		else if (i < 4 && sets[step][i]) put32(x, 0);
		else if (i >= 4 && sets[step][i] == 2) { put32(x, 1700000000); put32(x, 0); }
	}
	put32(x, 0);
}

/* Sends the next call of the workload in slot s. Returns false when there is no more to do. */
static bool issue(struct conn *c, int s)
{
	char name[64]; struct xdr x; uint32_t xid = (uint32_t)s | (c->xid++ & 0xfffff) << 10;
	bool w = c->slot[s].step > 0;                       /* second or third step of a compound */
#define BEGIN(proc) x = call_begin(c, PROG_NFS, proc, xid)
	if (!strcmp(work, "null")) { BEGIN(0); }
	else if (!strcmp(work, "getattr")) { BEGIN(GETATTR); put_fh(&x, &pick(c)->fh); }
	else if (!strcmp(work, "access")) { BEGIN(ACCESS); put_fh(&x, &pick(c)->fh); put32(&x, 0x3f); }
	else if (!strcmp(work, "lookup")) { const struct file *f = pick(c); BEGIN(LOOKUP); put_fh(&x, &dirs[f->dir]); put_str(&x, f->name); }
	else if (!strcmp(work, "read4k") || !strcmp(work, "readseq")) {
		uint32_t n = work[4] == '4' ? 4096 : 1 << 20; uint64_t blocks = big.size / n ? big.size / n : 1;
		uint64_t b = work[4] == '4' ? rnd(c) % blocks : c->made++ % blocks;
		BEGIN(READ); put_fh(&x, &big.fh); put64(&x, b * n); put32(&x, n);
	} else if (!strcmp(work, "write4k") || !strcmp(work, "writeseq")) {
		uint32_t n = work[5] == '4' ? 4096 : 1 << 20; uint64_t b = work[5] == '4' ? rnd(c) % 16384 : c->made++ % 256;
		BEGIN(WRITE); put_fh(&x, &c->slot[0].fh); put64(&x, b * n); put32(&x, n); put32(&x, 0); put_bytes(&x, block, n);
	} else if (!strcmp(work, "create") || (!strcmp(work, "createwrite") && !w)) {
		snprintf(name, sizeof name, "f%llu", (unsigned long long)c->made++);
		BEGIN(CREATE); put_fh(&x, &c->mydir); put_str(&x, name); put32(&x, 0); put_no_attrs(&x, 0644);
	} else if (!strcmp(work, "createwrite") && c->slot[s].step == 1) {
		BEGIN(WRITE); put_fh(&x, &c->slot[s].fh); put64(&x, 0); put32(&x, 4096); put32(&x, 0); put_bytes(&x, block, 4096);
	} else if (!strcmp(work, "createwrite")) {
		BEGIN(COMMIT); put_fh(&x, &c->slot[s].fh); put64(&x, 0); put32(&x, 0);
	} else if (!strcmp(work, "untar")) {
		issue_untar(c, s, xid, &x);
	} else if (!strcmp(work, "remove")) {
		if (c->made >= 2000) return false;
		snprintf(name, sizeof name, "f%llu", (unsigned long long)c->made++);
		BEGIN(REMOVE); put_fh(&x, &c->mydir); put_str(&x, name);
	} else if (!strcmp(work, "rename")) {
		char to[64]; bool back = c->slot[s].arg++ & 1;
		snprintf(name, sizeof name, back ? "b%d" : "a%d", s); snprintf(to, sizeof to, back ? "a%d" : "b%d", s);
		BEGIN(RENAME); put_fh(&x, &c->mydir); put_str(&x, name); put_fh(&x, &c->mydir); put_str(&x, to);
	} else if (!strcmp(work, "setattr") || !strcmp(work, "copyup")) {
		size_t i = __atomic_fetch_add(&next_once, 1, __ATOMIC_RELAXED);
		while (i < nfiles && files[i].size > 1 << 20) i = __atomic_fetch_add(&next_once, 1, __ATOMIC_RELAXED);
		if (i >= nfiles) return false;
		if (work[0] == 's') { BEGIN(SETATTR); put_fh(&x, &files[i].fh); put_no_attrs(&x, 0600); put32(&x, 0); }
		else { BEGIN(WRITE); put_fh(&x, &files[i].fh); put64(&x, 0); put32(&x, 1); put32(&x, 0); put_bytes(&x, "x", 1); }
	} else if (!strcmp(work, "copybig")) {
		if (__atomic_fetch_add(&next_once, 1, __ATOMIC_RELAXED)) return false;
		BEGIN(WRITE); put_fh(&x, &big.fh); put64(&x, 0); put32(&x, 1); put32(&x, 0); put_bytes(&x, "x", 1);
	} else { fprintf(stderr, "nfsload: unknown workload %s\n", work); exit(2); }
	c->slot[s].busy = true;
	if (!w) c->slot[s].t0 = now();
	call_send(c, &x);
	return true;
}

static void *run(void *arg)
{
	struct conn *c = arg; char name[64]; struct attr a; int busy = 0; uint32_t xid;
	int steps = !strcmp(work, "createwrite") ? 3 : !strcmp(work, "untar") ? UNTAR_STEPS : 1; bool rd = !strncmp(work, "read", 4) && work[4] != 'd';
	double start = now(), end = start + secs;
	if (!strcmp(work, "readdirplus")) {
		while (now() < end) { long n = walk(c, false); c->ops += n; }
		c->took = now() - start;
		return NULL;
	}
	if (strstr("write4k writeseq create createwrite remove rename untar", work)) {
		snprintf(name, sizeof name, "load.%d.%d", (int)getpid(), c->id);
		uint32_t st = make(c, MKDIR, &dirs[0], name, &c->mydir);
		if (st) { fprintf(stderr, "nfsload: mkdir %s: status %u\n", name, st); exit(1); }
		if (!strncmp(work, "write", 5)) make(c, CREATE, &c->mydir, "data", &c->slot[0].fh);
		if (!strcmp(work, "remove")) for (int i = 0; i < 2000; i++) { struct fh f; snprintf(name, sizeof name, "f%d", i); make(c, CREATE, &c->mydir, name, &f); }
		if (!strcmp(work, "rename")) for (int s = 0; s < depth; s++) { struct fh f; snprintf(name, sizeof name, "a%d", s); make(c, CREATE, &c->mydir, name, &f); }
		start = now(); end = start + secs;
	}
	for (int s = 0; s < depth; s++) busy += issue(c, s);
	while (busy) {
		struct xdr r = reply_next(c, &xid); int s = xid & 1023; uint32_t st = 0; double t = now();
		if (strcmp(work, "null")) st = get32(&r);
		c->slot[s].busy = false; busy--;
		if (st) {
			c->errors[st < 10100 ? st : 10099]++; c->slot[s].step = 0;
		} else if (c->slot[s].step < steps - 1) {
			if (c->slot[s].step == 0) { if (get32(&r)) get_fh(&r, &c->slot[s].fh); }
			c->slot[s].step++;
			busy += issue(c, s); continue;
		} else {
			if (rd) { get_attr(&r, &a); c->bytes += get32(&r); }
			if (!strncmp(work, "write", 5)) c->bytes += work[5] == '4' ? 4096 : 1 << 20;
			c->slot[s].step = 0; c->ops++;
			if (c->nlat == c->cap_lat) c->lat = realloc(c->lat, (c->cap_lat = c->cap_lat * 2 + 4096) * sizeof *c->lat);
			c->lat[c->nlat++] = t - c->slot[s].t0;
		}
		if (t < end) busy += issue(c, s);
	}
	if (!strncmp(work, "write", 5)) {
		struct xdr x = call_begin(c, PROG_NFS, COMMIT, ++c->xid); put_fh(&x, &c->slot[0].fh); put64(&x, 0); put32(&x, 0);
		call(c, &x);
	}
	c->took = now() - start;                            /* the COMMIT of the write workloads counted in */
	return NULL;
}

static int by_value(const void *a, const void *b) { double d = *(const double *)a - *(const double *)b; return (d > 0) - (d < 0); }

int main(int argc, char **argv)
{
	static const struct option o[] = { { "port", 1, 0, 'p' }, { "mount-port", 1, 0, 'm' }, { "export", 1, 0, 'e' }, { "work", 1, 0, 'w' },
		{ "conns", 1, 0, 'c' }, { "depth", 1, 0, 'd' }, { "secs", 1, 0, 's' }, { "save", 1, 0, 'S' }, { "check", 1, 0, 'C' }, { "fake", 1, 0, 'F' }, { 0, 0, 0, 0 } };
	for (int ch; (ch = getopt_long(argc, argv, "p:m:e:w:c:d:s:", o, NULL)) != -1;)
		switch (ch) {
		case 'p': port = atoi(optarg); break;
		case 'm': mount_port = atoi(optarg); break;
		case 'e': export_path = optarg; break;
		case 'w': work = optarg; break;
		case 'c': conns = atoi(optarg); break;
		case 'd': depth = atoi(optarg); break;
		case 's': secs = atof(optarg); break;
		case 'S': save_to = optarg; work = "getattr"; break;
		case 'C': check_from = optarg; break;
		case 'F': fake = strtoull(optarg, NULL, 0); break;
		default: fprintf(stderr, "usage: nfsload --port N [--mount-port N] [--export PATH] --work NAME [--conns N] [--depth N] [--secs S]\n"); return 2;
		}
	if (!mount_port) mount_port = port;
	if (conns < 1 || conns > MAX_CONNS || depth < 1 || depth > MAX_DEPTH || secs > 600) { fprintf(stderr, "nfsload: out of bounds\n"); return 2; }
	if (check_from) return check_handles(check_from);
	if (save_to && !(save = fopen(save_to, "w"))) die(save_to);
	struct conn *cs = calloc(conns, sizeof *cs); if (!cs) die("calloc");
	for (int i = 0; i < conns; i++) cs[i].id = i;
	double t0 = now(); long entries = 0;
	if (fake) {
		big = (struct file){ .fh.len = 32, .size = fake };
	} else if (strcmp(work, "null")) {
		struct conn *w = calloc(1, sizeof *w); w->id = 9999; conn_open(w, port);
		mount_root();
		entries = walk(w, true); close(w->fd);
		if (!nfiles) { fprintf(stderr, "nfsload: no files under %s\n", export_path); return 1; }
	}
	double cold = now() - t0;
	if (save && fclose(save)) die(save_to);
	if (conns > 64 && !strstr(work, "seq")) BUF = 1 << 17;
	for (int i = 0; i < conns; i++) conn_open(&cs[i], port);
	pthread_attr_t small; pthread_attr_init(&small); pthread_attr_setstacksize(&small, 1 << 17);
	uint64_t ops = 0, bytes = 0, errs[10100] = { 0 }; size_t n = 0;
	for (int i = 0; i < conns; i++) if (pthread_create(&cs[i].thread, &small, run, &cs[i])) die("pthread_create");
	double took = 0;
	for (int i = 0; i < conns; i++) {
		pthread_join(cs[i].thread, NULL); if (cs[i].took > took) took = cs[i].took; ops += cs[i].ops; bytes += cs[i].bytes; n += cs[i].nlat;
		for (int e = 0; e < 10100; e++) errs[e] += cs[i].errors[e];
	}
	double *lat = malloc((n + 1) * sizeof *lat); size_t k = 0;
	for (int i = 0; i < conns; i++) { memcpy(lat + k, cs[i].lat, cs[i].nlat * sizeof *lat); k += cs[i].nlat; }
	qsort(lat, n, sizeof *lat, by_value);
	printf("{\"work\":\"%s\",\"conns\":%d,\"depth\":%d,\"secs\":%.3f,\"ops\":%llu,\"ops_s\":%.0f,\"mib_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,"
	       "\"files\":%zu,\"cold_walk_s\":%.3f,\"cold_entries_s\":%.0f,\"errors\":{", work, conns, depth, took, (unsigned long long)ops, ops / took,
	       bytes / took / 1048576, n ? lat[n / 2] * 1e6 : 0, n ? lat[n * 99 / 100] * 1e6 : 0, n ? lat[n * 999 / 1000] * 1e6 : 0, nfiles, cold, entries / cold);
	for (int e = 0, first = 1; e < 10100; e++) if (errs[e]) { printf("%s\"%d\":%llu", first ? "" : ",", e, (unsigned long long)errs[e]); first = 0; }
	printf("}}\n");
	return 0;
}
