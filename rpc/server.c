/* server.c: listeners, shards, workers: start, hand-over, stop. */
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

enum { EVENTS = 64, DEAD_AFTER = 60, WATCH_BUSY_US = 2000, WATCH_IDLE_US = 20000, IN_SIZE = 1 << 17 };

static _Thread_local struct worker *self;

void rpc_log(struct rpc_server *server, int level, const char *fmt, ...)
{
	char line[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	if (server->config.log)
		server->config.log(level, "%s", line);
}

int rpc_server_create(const struct rpc_config *config, struct rpc_server **out)
{
	struct rpc_server *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->config = *config;
	if (!s->config.threads)
		s->config.threads = DEFAULT_THREADS;
	if (s->config.threads > 1000)
		s->config.threads = 1000;
	if (!s->config.max_record)
		s->config.max_record = (1 << 20) + 8192;
	if (!s->config.max_connections) {
		struct rlimit rl = { 1024, 1024 };
		getrlimit(RLIMIT_NOFILE, &rl);
		rlim_t part = rl.rlim_cur / 8 * 3; /* half are for files */
		s->config.max_connections = part < 100000 ? part : 100000;
	}
	int cpus = poll_processors();
	if (cpus == 1) /* the client could not run meanwhile */
		s->config.busy_poll_us = 0;
	s->nshards = cpus > MAX_SHARDS ? MAX_SHARDS : cpus;
	if (s->nshards > (s->config.threads + 3) / 4) /* each leader needs some who take over from it */
		s->nshards = (s->config.threads + 3) / 4;
	if (!s->config.max_queued) {
		long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
		s->config.max_queued = pages > 0 ? (size_t)pages / 8 * (size_t)size : (size_t)256 << 20;
	}
	if (!s->config.dead_after)
		s->config.dead_after = DEAD_AFTER;
	pthread_mutex_init(&s->lock, NULL);
	park_init(&s->parking);
	int rc = 0;
	for (int i = 0; i < 2; i++)
		if (!(s->drc[i] = drc_new(config->drc_entries)))
			rc = -ENOMEM;
	for (int i = 0; i < s->nshards; i++) {
		struct shard *sh = &s->shards[i];
		sh->server = s;
		sh->epoll = epoll_create1(EPOLL_CLOEXEC);
		sh->wake.kind = SOURCE_WAKE;
		sh->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		struct epoll_event e = { .events = EPOLLIN, .data.ptr = &sh->wake };
		if (!rc && (sh->epoll < 0 || sh->wake.fd < 0 || epoll_ctl(sh->epoll, EPOLL_CTL_ADD, sh->wake.fd, &e)))
			rc = -errno;
	}
	*out = s;
	if (rc)
		rpc_server_stop(s);
	return rc;
}

int rpc_server_add(struct rpc_server *s, const struct rpc_program *program)
{
	if (s->nprograms == MAX_PROGRAMS)
		return -ENOSPC;
	s->programs[s->nprograms++] = program;
	return 0;
}

/* ---- listening ---- */
/* ::ffff:1.2.3.4 is 1.2.3.4 */
static void plain_address(struct sockaddr_storage *a)
{
	struct sockaddr_in6 v6;
	memcpy(&v6, a, sizeof v6);
	if (a->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr))
		return;
	struct sockaddr_in *v4 = (void *)a;
	memset(a, 0, sizeof *a);
	v4->sin_family = AF_INET;
	v4->sin_port = v6.sin6_port;
	memcpy(&v4->sin_addr, v6.sin6_addr.s6_addr + 12, 4);
}

static int parse_address(const char *address, uint16_t port, struct sockaddr_storage *out, socklen_t *len)
{
	struct sockaddr_in *v4 = (void *)out;
	struct sockaddr_in6 *v6 = (void *)out;
	memset(out, 0, sizeof *out);
	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		*len = sizeof *v4;
		return 0;
	}
	if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		plain_address(out);
		*len = out->ss_family == AF_INET ? sizeof *v4 : sizeof *v6;
		return 0;
	}
	return -EINVAL;
}

static int tcp_open(struct sockaddr *address, socklen_t len)
{
	int on = 1, fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (address->sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	if (bind(fd, address, len) || listen(fd, 1024) || getsockname(fd, address, &len)) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

static int add_listener(struct rpc_server *s, int kind, int fd)
{
	struct source *src = &s->listeners[s->nlisteners++];
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = src };
	src->kind = kind;
	src->fd = fd;
	src->shard = &s->shards[s->nlisteners % s->nshards];
	return epoll_ctl(src->shard->epoll, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

int rpc_server_listen(struct rpc_server *s, const char *address, uint16_t *port, char *err, size_t errlen)
{
	struct sockaddr_storage a;
	socklen_t len;
	int rc = -EADDRINUSE, tcp = -1, udp = -1;
	if (parse_address(address, *port, &a, &len)) {
		snprintf(err, errlen, "%s is not an address; write one like 127.0.0.1 or ::1", address);
		return -EINVAL;
	}
	if (s->nlisteners + 2 > MAX_LISTENERS) {
		snprintf(err, errlen, "too many addresses to listen on; at most %d", MAX_LISTENERS / 2);
		return -ENOSPC;
	}
	for (int tries = 0; tries < 20 && rc == -EADDRINUSE; tries++) { /* with port 0, the one that TCP got may be taken for UDP */
		tcp = tcp_open((struct sockaddr *)&a, len);
		rc = tcp < 0 ? tcp : 0;
		udp = rc ? -1 : udp_open((struct sockaddr *)&a, len);
		if (!rc && udp < 0) {
			rc = udp;
			close(tcp);
		}
		if (rc && *port)
			break;
		if (rc)
			parse_address(address, 0, &a, &len);
	}
	if (rc) {
		const char *advice = rc == -EADDRINUSE	    ? "; another server has that port: stop it, or take another one"
				     : rc == -EADDRNOTAVAIL ? "; it must be an address of this machine"
				     : rc == -EACCES	    ? "; ports below 1024 need root"
							    : "";
		snprintf(err, errlen, "can't listen on %s port %u: %s%s", address, *port, strerror(-rc), advice);
		return rc;
	}
	*port = ntohs(((struct sockaddr_in *)&a)->sin_port); /* at the same place in both families */
	rc = add_listener(s, SOURCE_LISTEN, tcp);
	return rc ? rc : add_listener(s, SOURCE_UDP, udp);
}

/* Clients that vanished, or take nothing, must not hold connections and replies for ever: the kernel ends those (TCP_USER_TIMEOUT, tcp(7)). */
static void set_up_connection(struct rpc_server *s, int fd)
{
	int on = 1, idle = (int)s->config.dead_after, interval = idle / 4 ? idle / 4 : 1, probes = 4;
	unsigned timeout = s->config.dead_after * 1000;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
}

/* Out of descriptors: connections wait in the backlog until the watchdog turns the listener on again. Level-triggered, it would else be told again and again. */
static void rest_listener(struct source *src)
{
	struct epoll_event e = { .events = 0, .data.ptr = src };
	epoll_ctl(src->shard->epoll, EPOLL_CTL_MOD, src->fd, &e);
	atomic_store(&src->resting, true);
}

static void wake_listeners(struct rpc_server *s)
{
	for (int i = 0; i < s->nlisteners; i++) {
		struct source *src = &s->listeners[i];
		struct epoll_event e = { .events = EPOLLIN, .data.ptr = src };
		if (atomic_exchange(&src->resting, false))
			epoll_ctl(src->shard->epoll, EPOLL_CTL_MOD, src->fd, &e);
	}
}

/* For whoever wonders why a client can't mount. At most one a second, as anybody may knock. */
static void tell_refused(struct rpc_server *s, const struct sockaddr_storage *peer, const char *why)
{
	char address[INET6_ADDRSTRLEN] = "?";
	unsigned now = (unsigned)(now_ns() / 1000000000u);
	if (atomic_exchange(&s->refused_at, now) == now)
		return;
	const void *ip = peer->ss_family == AF_INET ? (const void *)&((const struct sockaddr_in *)peer)->sin_addr : &((const struct sockaddr_in6 *)peer)->sin6_addr;
	inet_ntop(peer->ss_family, ip, address, sizeof address);
	rpc_log(s, 5, "a connection from %s is refused: %s", address, why);
}

static void accept_all(struct rpc_server *s, struct source *listener)
{
	for (int i = 0; i < 64; i++) {
		struct sockaddr_storage peer = { 0 };
		socklen_t len = sizeof peer;
		int fd = accept4(listener->fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
				rest_listener(listener);
			return;
		}
		plain_address(&peer);
		const char *why = s->config.allow && !s->config.allow(&peer) ? "it is not among the clients that may connect" :
				  atomic_load(&s->nconns) >= s->config.max_connections ? "there are too many" : NULL;
		if (why) {
			tell_refused(s, &peer, why);
			close(fd);
			continue;
		}
		set_up_connection(s, fd);
		struct shard *sh = &s->shards[atomic_fetch_add(&s->next_shard, 1) % (unsigned)s->nshards];
		struct conn *c = conn_new(sh, fd, &peer);
		if (!c)
			rpc_log(s, 4, "a connection was refused: %s", strerror(errno));
	}
}

/* ---- workers ---- */
static void *work(void *arg);

static void worker_free(struct worker *w)
{
	free(w->in);
	free(w->out);
	free(w->kept);
	pthread_cond_destroy(&w->wake);
	free(w);
}

static struct worker *worker_new(struct rpc_server *s)
{
	struct worker *w = calloc(1, sizeof *w);
	if (!w)
		return NULL;
	w->server = s;
	w->in_size = IN_SIZE;
	w->out_size = 2 * (s->config.max_record + REPLY_SLACK); /* touched only as far as replies are long */
	w->in = malloc(w->in_size);
	w->out = malloc(w->out_size);
	pthread_cond_init(&w->wake, NULL);
	if (!w->in || !w->out) {
		worker_free(w);
		return NULL;
	}
	return w;
}

/* server.lock held. Gives the shard a leader: a spare, a new thread, or (all are busy) the next that is free. */
static void find_leader(struct rpc_server *s, struct shard *sh)
{
	struct worker *w = s->spares;
	if (atomic_load(&s->stopping))
		return; /* nobody leads any more */
	if (w) {
		s->spares = w->next_spare;
		w->shard = sh;
		sh->leader = w;
		pthread_cond_signal(&w->wake);
		return;
	}
	if (s->nworkers < s->config.threads && (w = worker_new(s))) {
		w->shard = sh;
		sh->leader = w;
		s->workers[s->nworkers] = w;
		if (!pthread_create(&w->thread, NULL, work, w)) {
			s->nworkers++;
			return;
		}
		worker_free(w);
	}
	sh->leader = NULL;
	sh->next_orphan = s->orphans;
	s->orphans = sh;
}

/* The caller won the swap from IN_CALL to STOLEN: w's shard gets another leader, and the batch's rest goes on there. */
static void take_over(struct worker *w)
{
	struct rpc_server *s = w->server;
	struct shard *sh = w->shard;
	struct conn *c = w->conn;
	if (c) {
		if (w->out_ready)
			conn_send(c, w->out, w->out_ready);
		if (conn_keep(c, w->rest, w->rest_len)) {
			rpc_log(s, 3, "out of memory: a connection is closed");
			shutdown(c->source.fd, SHUT_RDWR);
		}
		if (w->rest_len && !c->resuming) {
			atomic_fetch_add(&c->refs, 1);
			c->resuming = true;
			c->resume_next = sh->resume;
			sh->resume = c;
		}
	}
	pthread_mutex_lock(&s->lock);
	find_leader(s, sh);
	pthread_mutex_unlock(&s->lock);
}

bool worker_enter(struct worker *w)
{
	unsigned long seq = atomic_load_explicit(&w->state, memory_order_relaxed) >> 2;
	atomic_store_explicit(&w->state, (seq + 1) << 2 | IN_CALL, memory_order_release);
	return true;
}

bool worker_leave(struct worker *w)
{
	unsigned long v = atomic_load(&w->state);
	if ((v & STATE_MASK) == IN_CALL && atomic_compare_exchange_strong(&w->state, &v, v & ~(unsigned long)STATE_MASK))
		return true;
	while ((atomic_load(&w->state) & STATE_MASK) == STOLEN) /* the batch is still being read by who takes it over */
		sched_yield();
	return false;
}

static bool steal(struct worker *w, unsigned long v)
{
	if ((v & STATE_MASK) != IN_CALL || !atomic_compare_exchange_strong(&w->state, &v, (v & ~(unsigned long)STATE_MASK) | STOLEN))
		return false;
	take_over(w);
	atomic_fetch_or(&w->state, TAKEN);
	return true;
}

void rpc_blocking(void)
{
	if (!self || (self->conn && !self->rest_len && atomic_load(&self->server->nconns) == 1))
		return; /* nothing waits for this worker; the watchdog looks whether that stays so */
	steal(self, atomic_load(&self->state));
}

bool worker_leads(struct worker *w)
{
	return (atomic_load_explicit(&w->state, memory_order_relaxed) & STATE_MASK) < STOLEN;
}

static void resume(struct worker *w, struct shard *sh)
{
	while (worker_leads(w) && sh->resume) {
		struct conn *c = sh->resume;
		sh->resume = c->resume_next;
		c->resuming = false;
		conn_serve(w, c, false);
		conn_put(c);
	}
}

static void handle(struct worker *w, struct source *src, uint32_t events)
{
	struct conn *c = (struct conn *)src;
	switch (src->kind) {
	case SOURCE_WAKE: break;
	case SOURCE_LISTEN: accept_all(w->server, src); break;
	case SOURCE_UDP: udp_serve(w, src->fd); break;
	case SOURCE_CONN:
		if (events & EPOLLOUT) {
			atomic_fetch_add(&c->refs, 1);
			conn_writable(w, c);
			conn_put(c);
			break; /* level-triggered: what there is to read is said again */
		}
		conn_serve(w, c, true);
		break;
	}
}

static unsigned long calls_run(const struct worker *w)
{
	return atomic_load_explicit(&w->state, memory_order_relaxed) >> 2;
}

/* Leads a shard until the lead is taken, or the server stops. */
static void lead(struct worker *w, struct shard *sh)
{
	struct epoll_event ev[EVENTS];
	while (worker_leads(w) && !atomic_load(&w->server->stopping)) {
		resume(w, sh);
		if (!worker_leads(w))
			return;
		park_settle(w);
		if (!worker_leads(w))
			return;
		int n = poll_events(sh, ev, EVENTS);
		unsigned long before = calls_run(w);
		for (int i = 0; i < n && worker_leads(w); i++) {
			/* An event of a connection that an earlier one of this round closed can't be: each is closed by its own event alone,
			 * and a leader before us dropped its round's other events. */
			handle(w, ev[i].data.ptr, ev[i].events);
		}
		if (worker_leads(w)) /* else it is the next leader's */
			sh->lone = calls_run(w) - before <= 1;
	}
}

static void *work(void *arg)
{
	struct worker *w = self = arg;
	struct rpc_server *s = w->server;
	pthread_mutex_lock(&s->lock);
	while (true) {
		struct shard *sh;
		while (!(sh = w->shard) && !atomic_load(&s->stopping))
			pthread_cond_wait(&w->wake, &s->lock);
		if (!sh || atomic_load(&s->stopping))
			break;
		pthread_mutex_unlock(&s->lock);
		lead(w, sh);
		pthread_mutex_lock(&s->lock);
		atomic_fetch_and(&w->state, ~(unsigned long)STATE_MASK);
		w->shard = NULL;
		if (atomic_load(&s->stopping))
			break;
		free(w->kept); /* a spare holds no more than it must */
		w->kept = NULL;
		w->kept_size = 0;
		if (s->orphans) {
			w->shard = s->orphans;
			s->orphans = w->shard->next_orphan;
			w->shard->leader = w;
		} else {
			w->next_spare = s->spares;
			s->spares = w;
		}
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* Sees a leader that is in the same call as a tick ago, and takes the rest from it. */
static void *watch(void *arg)
{
	struct rpc_server *s = arg;
	bool busy = false;
	atomic_store(&s->poll_ns, s->config.busy_poll_us < 0 ? poll_worth_ns() : (uint64_t)s->config.busy_poll_us * 1000);
	while (!atomic_load(&s->stopping)) {
		usleep(busy ? WATCH_BUSY_US : WATCH_IDLE_US);
		wake_listeners(s);
		busy = false;
		for (int i = 0; i < s->nshards; i++) {
			struct shard *sh = &s->shards[i];
			pthread_mutex_lock(&s->lock);
			struct worker *w = sh->leader;
			unsigned long v = w ? atomic_load(&w->state) : 0;
			pthread_mutex_unlock(&s->lock);
			if (!w)
				continue;
			busy |= v != sh->seen_state;
			if ((v & STATE_MASK) == IN_CALL && v == sh->seen_state && !atomic_load(&s->stopping))
				steal(w, v);
			sh->seen_state = v;
		}
	}
	return NULL;
}

int rpc_server_start(struct rpc_server *s)
{
	int rc = 0;
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < s->nshards; i++)
		find_leader(s, &s->shards[i]);
	if (s->orphans)
		rc = -EAGAIN;
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = -pthread_create(&s->watchdog, NULL, watch, s);
	s->started = !rc;
	return rc;
}


/* What is under way is finished: a worker leaves its shard when it sees that the server stops. */
static void join_workers(struct rpc_server *s)
{
	uint64_t one = 1;
	atomic_store(&s->stopping, true);
	if (s->started)
		pthread_join(s->watchdog, NULL);
	for (int i = 0; i < s->nshards; i++)
		(void)!write(s->shards[i].wake.fd, &one, sizeof one);
	pthread_mutex_lock(&s->lock);
	int n = s->nworkers; /* no more are made: find_leader() */
	for (int i = 0; i < n; i++)
		pthread_cond_signal(&s->workers[i]->wake);
	pthread_mutex_unlock(&s->lock);
	for (int i = 0; i < n; i++)
		pthread_join(s->workers[i]->thread, NULL);
	if (n)
		park_settle(s->workers[0]); /* what was parked in the last rounds, also by those whose lead nobody took any more */
	for (int i = 0; i < n; i++)
		worker_free(s->workers[i]);
}

void rpc_server_stop(struct rpc_server *s)
{
	rpcbind_unregister(s);
	join_workers(s);
	for (int i = 0; i < s->nshards; i++)
		for (struct conn *c; (c = s->shards[i].resume);) {
			s->shards[i].resume = c->resume_next;
			conn_put(c);
		}
	for (int i = 0; i < s->nlisteners; i++)
		close(s->listeners[i].fd);
	server_drain(s);
	for (int i = 0; i < 2; i++)
		drc_free(s->drc[i]);
	for (int i = 0; i < s->nshards; i++) {
		if (s->shards[i].epoll >= 0)
			close(s->shards[i].epoll);
		if (s->shards[i].wake.fd >= 0)
			close(s->shards[i].wake.fd);
	}
	park_destroy(&s->parking);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
