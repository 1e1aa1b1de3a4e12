/* worker.c: who leads a shard: workers, and how the lead passes from one that is stuck in a call to another (internal.h has the picture). */
#include "internal.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS = 64, WATCH_BUSY_US = 2000, WATCH_IDLE_US = 20000, IN_SIZE = 1 << 17 };

static _Thread_local struct worker *self;

static void *work(void *arg);

void worker_free(struct worker *w)
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

void worker_find_leader(struct rpc_server *s, struct shard *sh)
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
	worker_find_leader(s, sh);
	pthread_mutex_unlock(&s->lock);
}

void worker_enter(struct worker *w)
{
	unsigned long seq = atomic_load_explicit(&w->state, memory_order_relaxed) >> 2;
	atomic_store_explicit(&w->state, (seq + 1) << 2 | IN_CALL, memory_order_release);
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
	case SOURCE_LISTEN: listen_accept(w->server, src); break;
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

void *worker_watch(void *arg)
{
	struct rpc_server *s = arg;
	bool busy = false;
	atomic_store(&s->poll_ns, s->config.busy_poll_us < 0 ? poll_worth_ns() : (uint64_t)s->config.busy_poll_us * 1000);
	while (!atomic_load(&s->stopping)) {
		usleep(busy ? WATCH_BUSY_US : WATCH_IDLE_US);
		listen_wake(s);
		conn_reap(s);
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
