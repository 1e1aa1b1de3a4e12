/* call.c: one call (RFC 5531 9): header, credentials, dispatch, reply. */
#include "internal.h"

#include <rpc/auth.h>
#include <rpc/clnt.h>
#include <rpc/rpc_msg.h>
#include <stdlib.h>
#include <string.h>

enum { REPLY_HEADER = 24, ARGS_SPACE = 4096 };

static long reply_header(uint8_t *out, uint32_t xid, uint32_t accept_stat)
{
	const uint32_t words[] = { xid, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, accept_stat };
	for (int i = 0; i < 6; i++)
		put_be32(out + 4 * i, words[i]);
	return REPLY_HEADER;
}

static long reply_mismatch(uint8_t *out, uint32_t xid, uint32_t low, uint32_t high)
{
	long n = reply_header(out, xid, PROG_MISMATCH);
	put_be32(out + n, low);
	put_be32(out + n + 4, high);
	return n + 8;
}

static long reply_denied(uint8_t *out, uint32_t xid, uint32_t stat, uint32_t a, uint32_t b)
{
	const uint32_t words[] = { xid, REPLY, MSG_DENIED, stat, a, b };
	for (int i = 0; i < 6; i++)
		put_be32(out + 4 * i, words[i]);
	return stat == RPC_MISMATCH ? 24 : 20;
}

/* Decode, run, encode. Returns the reply's length. */
static long run(struct rpc_server *server, struct rpc_call *call, const struct rpc_proc *proc, const uint8_t *args, size_t len, uint8_t *out,
		size_t room)
{
	_Alignas(16) char args_space[ARGS_SPACE], res_space[ARGS_SPACE];
	XDR in, enc;
	long n;
	if (proc->fast && (n = proc->fast(call, args, len, out + REPLY_HEADER, room - REPLY_HEADER)) >= 0)
		return reply_header(out, call->xid, SUCCESS) + n;
	if (proc->args_size > sizeof args_space || proc->res_size > sizeof res_space) {
		rpc_log(server, 3, "%s: its arguments need more room than there is", proc->name);
		return reply_header(out, call->xid, SYSTEM_ERR);
	}
	memset(args_space, 0, proc->args_size);
	memset(res_space, 0, proc->res_size);
	xdrmem_create(&in, (char *)(uintptr_t)args, (u_int)len, XDR_DECODE);
	if (!proc->xdr_args(&in, args_space) || xdr_getpos(&in) != len) { /* something behind the arguments is garbage too */
		xdr_free(proc->xdr_args, args_space);
		return reply_header(out, call->xid, GARBAGE_ARGS);
	}
	proc->run(call, args_space, res_space);
	n = reply_header(out, call->xid, SUCCESS);
	xdrmem_create(&enc, (char *)out + n, (u_int)(room - (size_t)n), XDR_ENCODE);
	if (proc->xdr_res(&enc, res_space))
		n += xdr_getpos(&enc);
	else
		n = reply_header(out, call->xid, SYSTEM_ERR);
	xdr_free(proc->xdr_args, args_space);
	if (proc->free_res)
		proc->free_res(res_space);
	return n;
}

static const struct rpc_program *find_program(struct rpc_server *server, struct rpc_call *call, uint32_t *low, uint32_t *high)
{
	*low = UINT32_MAX;
	*high = 0;
	for (int i = 0; i < server->nprograms; i++) {
		const struct rpc_program *p = server->programs[i];
		if (p->prog != call->prog)
			continue;
		if (call->vers >= p->vers_low && call->vers <= p->vers_high)
			return p;
		*low = p->vers_low < *low ? p->vers_low : *low;
		*high = p->vers_high > *high ? p->vers_high : *high;
	}
	return NULL;
}

static long dispatch(struct rpc_server *server, struct rpc_call *call, const struct rpc_proc *proc, const uint8_t *args, size_t len,
		     uint8_t *out, size_t room)
{
	long n;
	call->failure_words = proc->failure_words;
	if (proc->repeat == RPC_REPEATABLE)
		return run(server, call, proc, args, len, out, room);
	call->drc = server->drc[proc->repeat == RPC_ONCE_BULK];
	switch (drc_begin(call->drc, call, args, len, out, room, &n, &call->entry)) {
	case DRC_BUSY: return 0; /* the first one is still at work and will answer */
	case DRC_DONE: return n;
	default: break;
	}
	n = run(server, call, proc, args, len, out, room);
	if (!call->deferred)
		drc_finish(call->drc, call->entry, out, n);
	return n;
}

long call_fail(uint8_t *reply, long len, uint32_t status, uint32_t failure_words)
{
	if (get_be32(reply + REPLY_HEADER - 4) != SUCCESS)
		return len; /* it failed anyhow, and there is no room for results */
	put_be32(reply + REPLY_HEADER, status);
	memset(reply + REPLY_HEADER + 4, 0, 4 * (size_t)failure_words);
	return REPLY_HEADER + 4 + 4 * (long)failure_words;
}

long call_run(struct rpc_server *server, struct rpc_call *call, const uint8_t *rec, size_t len, uint8_t *out, size_t room)
{
	const uint8_t *p = rec + 24, *end = rec + len;
	call->file.done = NULL;
	call->deferred = NULL;
	call->entry = NULL;
	call->may_defer = server->config.settle && call->conn;
	uint32_t low, high, auth;
	if (len < 8 || get_be32(rec + 4) != CALL)
		return -1;
	call->xid = get_be32(rec);
	if (len < 24)
		return -1;
	if (get_be32(rec + 8) != RPC_MSG_VERSION)
		return reply_denied(out, call->xid, RPC_MISMATCH, RPC_MSG_VERSION, RPC_MSG_VERSION);
	call->prog = get_be32(rec + 12);
	call->vers = get_be32(rec + 16);
	call->proc = get_be32(rec + 20);
	if ((auth = auth_decode(&p, end, call)) != AUTH_OK)
		return reply_denied(out, call->xid, AUTH_ERROR, auth, 0);
	const struct rpc_program *program = find_program(server, call, &low, &high);
	if (!program)
		return high ? reply_mismatch(out, call->xid, low, high) : reply_header(out, call->xid, PROG_UNAVAIL);
	if (call->proc >= program->nprocs || !program->procs[call->proc].name)
		return reply_header(out, call->xid, PROC_UNAVAIL);
	if (call->proc == 0)
		return reply_header(out, call->xid, SUCCESS);
	call->user = program->user;
	return dispatch(server, call, &program->procs[call->proc], p, (size_t)(end - p), out, room);
}
