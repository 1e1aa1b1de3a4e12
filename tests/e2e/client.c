/* client.c: see client.h. */
#include "client.h"
#include "mount3.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BUFFER = (1 << 20) + 16384 };

/* ---- the stack ---- */
bool stack_says(const struct stack *s, const char *script)
{
	char *cmd = NULL;
	if (asprintf(&cmd, "set -e; cd %s; %s", s->dir, script) < 0)
		fail();
	int rc = system(cmd);
	free(cmd);
	return rc == 0;
}

void stack_sh(const struct stack *s, const char *script)
{
	if (!stack_says(s, script))
		fail_msg("failed: %s", script);
}

void stack_make(struct stack *s, const char *base, const char *script)
{
	memset(s, 0, sizeof *s);
	snprintf(s->dir, sizeof s->dir, "%s/overnfsd-e2e-XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(s->dir));
	stack_sh(s, "chmod 755 .; mkdir upper work lower1 lower2");
	if (script)
		stack_sh(s, script);
}

void stack_remove(struct stack *s)
{
	if (s->pid)
		server_stop(s);
	stack_sh(s, "cd /; rm -rf $OLDPWD");
}

static void read_start(struct stack *s, int fd)
{
	char line[4096];
	size_t n = 0;
	ssize_t got;
	while (n < sizeof line - 1 && (got = read(fd, line + n, sizeof line - 1 - n)) > 0 && !memchr(line, '\n', n + (size_t)got))
		n += (size_t)got;
	line[sizeof line - 1] = 0;
	const char *port = strstr(line, "\"port\":");
	if (!port) {
		waitpid(s->pid, NULL, 0);
		s->pid = 0;
		fail_msg("the server did not start");
	}
	s->port = (uint16_t)atoi(port + 7);
}

void server_start_with(struct stack *s, const char *layers, const char *args)
{
	char cmd[4096], expanded[2048];
	int out[2];
	const char *server = getenv("OVERNFSD");
	snprintf(expanded, sizeof expanded, layers, s->dir, s->dir, s->dir, s->dir);
	snprintf(cmd, sizeof cmd, "exec %s --foreground --json --port 0 --no-rpcbind --log-level %s %s %s", server ? server : "build/overnfsd",
		 getenv("OVERNFSD_LOG") ? getenv("OVERNFSD_LOG") : "warning", expanded, args ? args : "");
	assert_int_equal(pipe(out), 0);
	s->pid = fork();
	if (!s->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails half-way leaves no server behind */
		dup2(out[1], 1);
		close(out[0]);
		close(out[1]);
		execl("/bin/sh", "sh", "-c", cmd, NULL);
		_exit(127);
	}
	close(out[1]);
	read_start(s, out[0]);
	close(out[0]);
}

void server_start(struct stack *s, const char *args)
{
	server_start_with(s, "--lower %s/lower1 --lower %s/lower2 --upper %s/upper --work %s/work", args);
}

void server_stop(struct stack *s)
{
	int status = 0;
	kill(s->pid, SIGTERM);
	waitpid(s->pid, &status, 0);
	s->pid = 0;
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

void server_kill(struct stack *s)
{
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	s->pid = 0;
}

/* ---- one connection ---- */
static void put(uint8_t **p, uint32_t v)
{
	v = htonl(v);
	memcpy(*p, &v, 4);
	*p += 4;
}

static uint32_t get(const uint8_t **p)
{
	uint32_t v;
	memcpy(&v, *p, 4);
	*p += 4;
	return ntohl(v);
}

static bool read_all(int fd, uint8_t *buf, size_t len)
{
	for (ssize_t n; len; buf += n, len -= (size_t)n)
		if ((n = read(fd, buf, len)) <= 0)
			return false;
	return true;
}

static bool write_all(int fd, const uint8_t *buf, size_t len)
{
	for (ssize_t n; len; buf += n, len -= (size_t)n)
		if ((n = send(fd, buf, len, MSG_NOSIGNAL)) <= 0)
			return false;
	return true;
}

static uint8_t *put_header(struct client *c, uint8_t *p, uint32_t prog, uint32_t vers, uint32_t proc)
{
	put(&p, ++c->xid);
	put(&p, 0);
	put(&p, 2);
	put(&p, prog);
	put(&p, vers);
	put(&p, proc);
	put(&p, c->no_auth ? 0 : 1);
	put(&p, c->no_auth ? 0 : 24 + 4 * c->ngroups);
	if (!c->no_auth) {
		put(&p, 0);
		put(&p, 4);
		memcpy(p, "test", 4);
		p += 4;
		put(&p, c->uid);
		put(&p, c->gid);
		put(&p, c->ngroups);
		for (uint32_t i = 0; i < c->ngroups; i++)
			put(&p, c->groups[i]);
	}
	put(&p, 0);
	put(&p, 0);
	return p;
}

int client_call(struct client *c, uint32_t prog, uint32_t vers, uint32_t proc, xdrproc_t xdr_args, void *args, xdrproc_t xdr_res, void *res)
{
	static _Thread_local uint8_t buf[BUFFER]; /* one for all calls: a fresh mebibyte each time costs ThreadSanitizer milliseconds */
	uint8_t *p = put_header(c, buf + 4, prog, vers, proc), mark[4];
	XDR x;
	if (xdr_args) {
		xdrmem_create(&x, (char *)p, (u_int)(BUFFER - (p - buf)), XDR_ENCODE);
		assert_true(xdr_args(&x, args));
		p += xdr_getpos(&x);
	}
	uint8_t *start = buf;
	put(&start, 0x80000000u | (uint32_t)(p - buf - 4));
	if (!write_all(c->fd, buf, (size_t)(p - buf)) || !read_all(c->fd, mark, 4))
		return -1;
	const uint8_t *m = mark;
	uint32_t len = get(&m) & 0x7fffffff;
	assert_true(len <= BUFFER);
	if (!read_all(c->fd, buf, len))
		return -1;
	const uint8_t *r = buf;
	assert_int_equal(get(&r), c->xid);
	assert_int_equal(get(&r), 1); /* a reply */
	assert_int_equal(get(&r), 0); /* accepted */
	r += 8;
	int rc = (int)get(&r);
	if (!rc && xdr_res) {
		xdrmem_create(&x, (char *)(uintptr_t)r, (u_int)(len - (uint32_t)(r - buf)), XDR_DECODE);
		assert_true(xdr_res(&x, res));
		assert_int_equal(xdr_getpos(&x), len - (uint32_t)(r - buf)); /* nothing left over */
	}
	return rc;
}

int client_nfs(struct client *c, uint32_t proc, xdrproc_t xdr_args, void *args, xdrproc_t xdr_res, void *res)
{
	int rc = client_call(c, 100003, 3, proc, xdr_args, args, xdr_res, res);
	if (rc < 0 && c->may_break) {
		c->broken = true;
		*(nfsstat3 *)res = NFS3ERR_SERVERFAULT; /* every result begins with its status */
		return rc;
	}
	assert_int_equal(rc, 0);
	return rc;
}

static void keep(struct fh *to, const nfs_fh3 *from)
{
	if (!to)
		return;
	to->len = from->data.data_len;
	memcpy(to->data, from->data.data_val, to->len);
}

void client_open(struct client *c, const struct stack *s, uint32_t uid, uint32_t gid)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(s->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int on = 1;
	dirpath path = "/overlay";
	mountres3 res = { 0 };
	*c = (struct client){ .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .xid = (uint32_t)random(), .uid = uid, .gid = gid };
	assert_int_equal(connect(c->fd, (struct sockaddr *)&a, sizeof a), 0);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	assert_int_equal(client_call(c, 100005, 3, 1, (xdrproc_t)xdr_dirpath, &path, (xdrproc_t)xdr_mountres3, &res), 0);
	assert_int_equal(res.fhs_status, MNT3_OK);
	keep(&c->root, &(nfs_fh3){ { res.mountres3_u.mountinfo.fhandle.fhandle3_len, res.mountres3_u.mountinfo.fhandle.fhandle3_val } });
	xdr_free((xdrproc_t)xdr_mountres3, (char *)&res);
}

void client_close(struct client *c)
{
	close(c->fd);
}

/* ---- procedures ---- */
nfs_fh3 fh3(const struct fh *fh)
{
	return (nfs_fh3){ { fh->len, (char *)(uintptr_t)fh->data } };
}

static diropargs3 at(const struct fh *dir, const char *name)
{
	return (diropargs3){ fh3(dir), (char *)(uintptr_t)name };
}

nfsstat3 client_getattr(struct client *c, const struct fh *fh, fattr3 *attr)
{
	GETATTR3args a = { fh3(fh) };
	GETATTR3res r = { 0 };
	CALL(c, 1, GETATTR3args, &a, GETATTR3res, &r);
	if (attr)
		*attr = r.GETATTR3res_u.obj_attributes;
	return r.status;
}

nfsstat3 client_setattr(struct client *c, const struct fh *fh, const sattr3 *set, const nfstime3 *guard, wcc_data *wcc)
{
	SETATTR3args a = { .object = fh3(fh), .new_attributes = *set };
	wccres r = { 0 };
	a.guard.check = guard != NULL;
	if (guard)
		a.guard.sattrguard3_u.obj_ctime = *guard;
	CALL(c, 2, SETATTR3args, &a, wccres, &r);
	if (wcc)
		*wcc = r.wcc;
	return r.status;
}

nfsstat3 client_lookup(struct client *c, const struct fh *dir, const char *name, struct fh *fh, fattr3 *attr)
{
	LOOKUP3args a = { at(dir, name) };
	LOOKUP3res r = { 0 };
	CALL(c, 3, LOOKUP3args, &a, LOOKUP3res, &r);
	nfsstat3 st = r.status;
	if (!st) {
		keep(fh, &r.LOOKUP3res_u.resok.object);
		assert_true(c->may_lack || r.LOOKUP3res_u.resok.obj_attributes.attributes_follow);
		if (attr)
			*attr = r.LOOKUP3res_u.resok.obj_attributes.post_op_attr_u.attributes;
	}
	xdr_free((xdrproc_t)xdr_LOOKUP3res, (char *)&r);
	return st;
}

nfsstat3 client_path(struct client *c, const char *path, struct fh *fh, fattr3 *attr)
{
	struct fh here = c->root;
	char copy[4096], *save = NULL;
	nfsstat3 st = client_getattr(c, &here, attr);
	snprintf(copy, sizeof copy, "%s", path);
	for (char *name = strtok_r(copy, "/", &save); name && !st; name = strtok_r(NULL, "/", &save)) {
		struct fh dir = here;
		st = client_lookup(c, &dir, name, &here, attr);
	}
	if (!st && fh)
		*fh = here;
	return st;
}

uint32_t client_access(struct client *c, const struct fh *fh, uint32_t bits)
{
	ACCESS3args a = { fh3(fh), bits };
	ACCESS3res r = { 0 };
	CALL(c, 4, ACCESS3args, &a, ACCESS3res, &r);
	assert_nfs(r.status, NFS3_OK);
	return r.ACCESS3res_u.resok.access;
}

nfsstat3 client_readlink(struct client *c, const struct fh *fh, char *target, size_t size)
{
	GETATTR3args a = { fh3(fh) };
	READLINK3res r = { 0 };
	CALL(c, 5, GETATTR3args, &a, READLINK3res, &r);
	nfsstat3 st = r.status;
	if (!st)
		snprintf(target, size, "%s", r.READLINK3res_u.resok.data);
	xdr_free((xdrproc_t)xdr_READLINK3res, (char *)&r);
	return st;
}

nfsstat3 client_read(struct client *c, const struct fh *fh, uint64_t offset, uint32_t count, void *buf, uint32_t *got, bool *eof)
{
	READ3args a = { fh3(fh), offset, count };
	READ3res r = { 0 };
	CALL(c, 6, READ3args, &a, READ3res, &r);
	nfsstat3 st = r.status;
	if (!st) {
		READ3resok *ok = &r.READ3res_u.resok;
		assert_int_equal(ok->count, ok->data.data_len);
		assert_true(ok->count <= count);
		if (ok->count)
			memcpy(buf, ok->data.data_val, ok->count);
		*got = ok->count;
		*eof = ok->eof;
	}
	xdr_free((xdrproc_t)xdr_READ3res, (char *)&r);
	return st;
}

nfsstat3 client_write(struct client *c, const struct fh *fh, uint64_t offset, const void *buf, uint32_t len, stable_how stable, uint64_t *verf)
{
	WRITE3args a = { fh3(fh), offset, len, stable, { len, (char *)(uintptr_t)buf } };
	WRITE3res r = { 0 };
	CALL(c, 7, WRITE3args, &a, WRITE3res, &r);
	if (!r.status) {
		assert_int_equal(r.WRITE3res_u.resok.count, len);
		assert_true(r.WRITE3res_u.resok.committed >= stable);
		if (verf)
			memcpy(verf, r.WRITE3res_u.resok.verf, 8);
	}
	return r.status;
}

nfsstat3 client_commit(struct client *c, const struct fh *fh, uint64_t *verf)
{
	COMMIT3args a = { fh3(fh), 0, 0 };
	COMMIT3res r = { 0 };
	CALL(c, 21, COMMIT3args, &a, COMMIT3res, &r);
	if (!r.status && verf)
		memcpy(verf, r.COMMIT3res_u.resok.verf, 8);
	return r.status;
}

static nfsstat3 made(const struct client *c, newres *r, struct fh *fh)
{
	nfsstat3 st = r->status;
	if (!st && !c->may_lack) {
		assert_true(r->newres_u.resok.obj.handle_follows);
		assert_true(r->newres_u.resok.obj_attributes.attributes_follow);
		assert_true(r->newres_u.resok.dir_wcc.before.attributes_follow);
		assert_true(r->newres_u.resok.dir_wcc.after.attributes_follow);
	}
	if (!st && r->newres_u.resok.obj.handle_follows) {
		keep(fh, &r->newres_u.resok.obj.post_op_fh3_u.handle);
	}
	xdr_free((xdrproc_t)xdr_newres, (char *)r);
	return st;
}

static sattr3 with_mode(uint32_t perm)
{
	sattr3 s = { 0 };
	s.mode.set_it = TRUE;
	s.mode.set_uint32_u.value = perm;
	return s;
}

nfsstat3 client_create(struct client *c, const struct fh *dir, const char *name, createmode3 mode, uint32_t perm, struct fh *fh)
{
	CREATE3args a = { .where = at(dir, name), .how.mode = mode };
	newres r = { 0 };
	if (mode == EXCLUSIVE)
		memcpy(a.how.createhow3_u.verf, &(uint64_t){ perm }, 8);
	else
		a.how.createhow3_u.obj_attributes = with_mode(perm);
	CALL(c, 8, CREATE3args, &a, newres, &r);
	return made(c, &r, fh);
}

nfsstat3 client_mkdir(struct client *c, const struct fh *dir, const char *name, uint32_t perm, struct fh *fh)
{
	MKDIR3args a = { .where = at(dir, name), .attributes = with_mode(perm) };
	newres r = { 0 };
	CALL(c, 9, MKDIR3args, &a, newres, &r);
	return made(c, &r, fh);
}

nfsstat3 client_symlink(struct client *c, const struct fh *dir, const char *name, const char *target, struct fh *fh)
{
	SYMLINK3args a = { .where = at(dir, name), .symlink_data = (char *)(uintptr_t)target };
	newres r = { 0 };
	CALL(c, 10, SYMLINK3args, &a, newres, &r);
	return made(c, &r, fh);
}

nfsstat3 client_mknod(struct client *c, const struct fh *dir, const char *name, ftype3 type, uint32_t major, uint32_t minor, struct fh *fh)
{
	MKNOD3args a = { .where = at(dir, name), .what.type = type };
	newres r = { 0 };
	if (type == NF3CHR || type == NF3BLK)
		a.what.mknoddata3_u.device = (devicedata3){ with_mode(0644), { major, minor } };
	else
		a.what.mknoddata3_u.pipe_attributes = with_mode(0644);
	CALL(c, 11, MKNOD3args, &a, newres, &r);
	return made(c, &r, fh);
}

nfsstat3 client_remove(struct client *c, const struct fh *dir, const char *name)
{
	diropargs3 a = at(dir, name);
	wccres r = { 0 };
	CALL(c, 12, diropargs3, &a, wccres, &r);
	return r.status;
}

nfsstat3 client_rmdir(struct client *c, const struct fh *dir, const char *name)
{
	diropargs3 a = at(dir, name);
	wccres r = { 0 };
	CALL(c, 13, diropargs3, &a, wccres, &r);
	return r.status;
}

nfsstat3 client_rename(struct client *c, const struct fh *from, const char *name, const struct fh *to, const char *new_name)
{
	RENAME3args a = { at(from, name), at(to, new_name) };
	RENAME3res r = { 0 };
	CALL(c, 14, RENAME3args, &a, RENAME3res, &r);
	return r.status;
}

nfsstat3 client_link(struct client *c, const struct fh *fh, const struct fh *dir, const char *name)
{
	LINK3args a = { fh3(fh), at(dir, name) };
	LINK3res r = { 0 };
	CALL(c, 15, LINK3args, &a, LINK3res, &r);
	return r.status;
}

long client_list(struct client *c, const struct fh *dir, uint32_t count, void (*each)(void *arg, const char *name, uint64_t fileid), void *arg)
{
	READDIR3args a = { .dir = fh3(dir), .count = count };
	long n = 0;
	for (bool eof = false; !eof;) {
		READDIR3res r = { 0 };
		CALL(c, 16, READDIR3args, &a, READDIR3res, &r);
		if (r.status)
			return -(long)r.status;
		READDIR3resok *ok = &r.READDIR3res_u.resok;
		memcpy(a.cookieverf, ok->cookieverf, sizeof a.cookieverf);
		eof = ok->reply.eof;
		assert_true(eof || ok->reply.entries);
		for (entry3 *e = ok->reply.entries; e; e = e->nextentry, n++) {
			if (each)
				each(arg, e->name, e->fileid);
			a.cookie = e->cookie;
		}
		assert_true(xdr_sizeof((xdrproc_t)xdr_READDIR3resok, ok) <= count);
		xdr_free((xdrproc_t)xdr_READDIR3res, (char *)&r);
	}
	return n;
}

long client_listplus(struct client *c, const struct fh *dir, uint32_t count,
		  void (*each)(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh), void *arg)
{
	READDIRPLUS3args a = { .dir = fh3(dir), .dircount = count, .maxcount = count };
	long n = 0;
	for (bool eof = false; !eof;) {
		READDIRPLUS3res r = { 0 };
		CALL(c, 17, READDIRPLUS3args, &a, READDIRPLUS3res, &r);
		if (r.status)
			return -(long)r.status;
		READDIRPLUS3resok *ok = &r.READDIRPLUS3res_u.resok;
		memcpy(a.cookieverf, ok->cookieverf, sizeof a.cookieverf);
		eof = ok->reply.eof;
		assert_true(eof || ok->reply.entries);
		for (entryplus3 *e = ok->reply.entries; e; e = e->nextentry, n++) {
			if (each)
				each(arg, e->name, e->fileid, e->name_attributes.attributes_follow ? &e->name_attributes.post_op_attr_u.attributes : NULL,
				     e->name_handle.handle_follows ? &e->name_handle.post_op_fh3_u.handle : NULL);
			a.cookie = e->cookie;
		}
		assert_true(xdr_sizeof((xdrproc_t)xdr_READDIRPLUS3resok, ok) <= count);
		xdr_free((xdrproc_t)xdr_READDIRPLUS3res, (char *)&r);
	}
	return n;
}

char *client_content(struct client *c, const char *path)
{
	struct fh fh;
	uint32_t got;
	bool eof;
	char *buf = calloc(1, 65537);
	if (!buf || client_path(c, path, &fh, NULL) || client_read(c, &fh, 0, 65536, buf, &got, &eof)) {
		free(buf);
		return NULL;
	}
	return buf;
}
