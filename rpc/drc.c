/* drc.c: the reply cache. A call that comes again, over whatever connection, is not run again but answered with the reply of the first. */
#include "internal.h"

#include <netinet/in.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { SAVED_MAX = 4096, DEFAULT_ENTRIES = 16384, WAITERS = 4, SUMMED = 512 };
#define DEFAULT_LIFE_NS 600000000000u /* ten minutes: a client that has no clock may count its xids from the same number after each start */

struct key {
	uint8_t address[16];
	uint32_t xid, prog, vers, proc;
	uint64_t checksum; /* of the arguments and who asks: the same xid after a reboot, or of another machine behind the same address, is not the same call */
};

struct entry {
	struct key key;
	struct entry *hash_next, *older, *newer;
	bool hashed, done;
	uint64_t asked; /* now_ns() when it was answered, or the answer given again */
	uint8_t *reply;
	long len;
	struct conn *waiters[WAITERS]; /* the call came again, by these, while the first was at work: counted */
};

struct drc {
	pthread_mutex_t lock; /* guards all */
	struct entry *entries, **buckets;
	struct entry *oldest, *newest;
	size_t n, mask;
	uint64_t life_ns;
	uint8_t secret[crypto_shorthash_KEYBYTES];
};

static void make_key(struct drc *d, const struct rpc_call *call, const uint8_t *args, size_t len, struct key *k)
{
	memset(k, 0, sizeof *k);
	if (call->peer.ss_family == AF_INET6)
		memcpy(k->address, &((const struct sockaddr_in6 *)&call->peer)->sin6_addr, 16);
	else
		memcpy(k->address, &((const struct sockaddr_in *)&call->peer)->sin_addr, 4);
	k->xid = call->xid;
	k->prog = call->prog;
	k->vers = call->vers;
	k->proc = call->proc;
	/* The beginning has handle, name or offset; of data that is written, the end has to do besides. */
	uint64_t sum, end = 0, machine;
	crypto_shorthash((uint8_t *)&sum, args, len < 2 * SUMMED ? len : SUMMED, d->secret);
	if (len >= 2 * SUMMED)
		crypto_shorthash((uint8_t *)&end, args + len - SUMMED, SUMMED, d->secret);
	crypto_shorthash((uint8_t *)&machine, (const uint8_t *)call->machine, strlen(call->machine), d->secret);
	k->checksum = (sum ^ end * 0x9e3779b97f4a7c15u ^ len << 40 ^ machine << 1) ^ ((uint64_t)call->uid << 32 | call->gid);
}

static size_t bucket(const struct drc *d, const struct key *k)
{
	uint64_t h = (k->checksum ^ k->xid) * 0x9e3779b97f4a7c15u;
	return h >> 32 & d->mask; /* where all bits of an xid have a say: some clients count in the upper ones */
}

static void unlink_age(struct drc *d, struct entry *e)
{
	*(e->older ? &e->older->newer : &d->oldest) = e->newer;
	*(e->newer ? &e->newer->older : &d->newest) = e->older;
}

static void append(struct drc *d, struct entry *e)
{
	e->newer = NULL;
	e->older = d->newest;
	*(d->newest ? &d->newest->newer : &d->oldest) = e;
	d->newest = e;
}

struct drc *drc_new(size_t n, uint64_t life_ns)
{
	struct drc *d = calloc(1, sizeof *d);
	n = n ? n : DEFAULT_ENTRIES;
	if (!d)
		return NULL;
	for (d->mask = 1024; d->mask < n; d->mask *= 2)
		;
	d->entries = calloc(n, sizeof *d->entries);
	d->buckets = calloc(d->mask--, sizeof *d->buckets);
	if (!d->entries || !d->buckets) {
		free(d->entries);
		free(d->buckets);
		free(d);
		return NULL;
	}
	d->n = n;
	d->life_ns = life_ns ? life_ns : DEFAULT_LIFE_NS;
	for (size_t i = 0; i < n; i++)
		append(d, &d->entries[i]);
	randombytes_buf(d->secret, sizeof d->secret);
	pthread_mutex_init(&d->lock, NULL);
	return d;
}

void drc_free(struct drc *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < d->n; i++)
		free(d->entries[i].reply);
	free(d->entries);
	free(d->buckets);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static void unhash(struct drc *d, struct entry *e)
{
	struct entry **p = &d->buckets[bucket(d, &e->key)];
	while (*p && *p != e)
		p = &(*p)->hash_next;
	if (*p)
		*p = e->hash_next;
	e->hashed = false;
	free(e->reply);
	e->reply = NULL;
}

/* The oldest entry that is not being answered right now. */
static struct entry *reuse(struct drc *d)
{
	struct entry *e = d->oldest;
	while (e && e->hashed && !e->done)
		e = e->newer;
	if (e && e->hashed)
		unhash(d, e);
	return e;
}

/* Once the connection of the first broke, nobody would hear of it. */
static void wait_for(struct entry *e, struct conn *conn)
{
	int i = 0;
	while (i < WAITERS && e->waiters[i] && e->waiters[i] != conn)
		i++;
	if (!conn || i == WAITERS || e->waiters[i])
		return;
	e->waiters[i] = conn;
	atomic_fetch_add(&conn->refs, 1);
}

static struct entry *find(struct drc *d, const struct key *k)
{
	struct entry *e = d->buckets[bucket(d, k)];
	while (e && memcmp(&e->key, k, sizeof *k))
		e = e->hash_next;
	if (e && e->done && now_ns() - e->asked > d->life_ns) {
		unhash(d, e);
		return NULL;
	}
	return e;
}

enum drc_answer drc_begin(struct drc *d, const struct rpc_call *call, const uint8_t *args, size_t args_len, uint8_t *out,
			  size_t room, long *len, void **entry)
{
	struct key k;
	enum drc_answer answer = DRC_NEW;
	*entry = NULL;
	make_key(d, call, args, args_len, &k);
	pthread_mutex_lock(&d->lock);
	struct entry *e = find(d, &k);
	if (e && (!e->done || (size_t)e->len > room)) {
		if (!e->done)
			wait_for(e, call->conn);
		answer = DRC_BUSY;
	} else if (e) {
		memcpy(out, e->reply, (size_t)e->len);
		*len = e->len;
		e->asked = now_ns();
		answer = DRC_DONE;
	} else if ((e = reuse(d))) {
		unlink_age(d, e);
		append(d, e);
		e->key = k;
		e->done = false;
		e->hashed = true;
		e->hash_next = d->buckets[bucket(d, &k)];
		d->buckets[bucket(d, &k)] = e;
		*entry = e;
	}
	pthread_mutex_unlock(&d->lock);
	return answer;
}

void drc_finish(struct drc *d, void *entry, const uint8_t *reply, long len)
{
	struct entry *e = entry;
	if (!e)
		return;
	uint8_t *copy = len > 0 && len <= SAVED_MAX ? malloc((size_t)len) : NULL;
	if (copy)
		memcpy(copy, reply, (size_t)len);
	struct conn *waiters[WAITERS];
	pthread_mutex_lock(&d->lock);
	memcpy(waiters, e->waiters, sizeof waiters);
	memset(e->waiters, 0, sizeof e->waiters);
	if (copy) {
		e->reply = copy;
		e->len = len;
		e->done = true;
		e->asked = now_ns();
	} else {
		unhash(d, e);
	}
	pthread_mutex_unlock(&d->lock);
	for (int i = 0; i < WAITERS && waiters[i]; i++) {
		if (len > 0)
			conn_send_record(waiters[i], reply, (size_t)len);
		conn_put(waiters[i]);
	}
}
