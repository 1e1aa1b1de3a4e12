/* server.c: the server as a whole: made, started, stopped. */
#include "internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

enum { DEAD_AFTER = 60 };

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
	*out = NULL;
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
	if (cpus == 1 && s->config.busy_poll_us < 0) /* a client of this machine could not run meanwhile */
		s->config.busy_poll_us = 0;
	s->nshards = cpus > MAX_SHARDS ? MAX_SHARDS : cpus;
	if (s->nshards > (s->config.threads + 3) / 4) /* each leader needs some who take over from it */
		s->nshards = (s->config.threads + 3) / 4;
	if (!s->config.max_queued)
		s->config.max_queued = rpc_memory() / 8;
	if (!s->config.dead_after)
		s->config.dead_after = DEAD_AFTER;
	pthread_mutex_init(&s->lock, NULL);
	park_init(&s->parking);
	int rc = 0;
	for (int i = 0; i < 2; i++)
		if (!(s->drc[i] = drc_new(config->drc_entries, 0)))
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
	if (rc)
		rpc_server_stop(s);
	else
		*out = s;
	return rc;
}

int rpc_server_add(struct rpc_server *s, const struct rpc_program *program)
{
	if (s->nprograms == MAX_PROGRAMS)
		return -ENOSPC;
	s->programs[s->nprograms++] = program;
	return 0;
}

int rpc_server_start(struct rpc_server *s)
{
	int rc = 0;
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < s->nshards; i++)
		worker_find_leader(s, &s->shards[i]);
	if (s->orphans)
		rc = -EAGAIN;
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = -pthread_create(&s->watchdog, NULL, worker_watch, s);
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
	int n = s->nworkers; /* no more are made: worker_find_leader() */
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
	join_workers(s);
	for (int i = 0; i < s->nshards; i++)
		for (struct conn *c; (c = s->shards[i].resume);) {
			s->shards[i].resume = c->resume_next;
			conn_put(c);
		}
	for (int i = 0; i < s->nlisteners; i++)
		close(s->listeners[i].fd);
	server_drain(s);
	rpcbind_unregister(s);
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
