/* step.c: see step.h. A line is the verb and its arguments: "u1000 rename "a/b" "c"". */
#include "step.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct user users[USERS] = {
	{ 0, 0, 0, { 0 } }, { 1000, 1000, 0, { 0 } }, { 1001, 1001, 1, { 1000 } }, { 1002, 100, 2, { 50, 60 } }, { 1000, 50, 0, { 0 } },
};

/* u: user; s: string; n: number; o: octal number */
static const struct {
	const char *name, *arguments;
} verbs[VERBS] = {
	[LOWERS] = { "lowers", "n" }, [FS] = { "fs", "s" }, [OPTIONS] = { "options", "s" }, [SERVER] = { "server", "s" },
	[PUT_DIR] = { "put-dir", "nsonn" }, /* layer, path, mode, uid, gid */
	[PUT_FILE] = { "put-file", "nsonnnn" }, /* and size, pattern */
	[PUT_SYMLINK] = { "put-symlink", "nss" },
	[PUT_NODE] = { "put-node", "nsonn" }, /* layer, path, type and mode, major, minor */
	[PUT_HARD] = { "put-hard", "nss" }, /* layer, new path, old path */
	[PUT_WHITEOUT] = { "put-whiteout", "ns" },
	[PUT_XATTR] = { "put-xattr", "nsss" },
	[BUILD] = { "build", "n" }, [BEGIN] = { "begin", "" }, [SERVE] = { "serve", "" }, [SWAP] = { "swap", "" },
	[RESTART] = { "restart", "" }, [KILL] = { "kill", "" }, [COMPARE] = { "compare", "" },
	[CREATE] = { "create", "uso" }, [CREATE_GUARDED] = { "guarded", "uso" }, [CREATE_EXCLUSIVE] = { "exclusive", "usn" },
	[MKDIR] = { "mkdir", "uso" }, [SYMLINK] = { "symlink", "uss" }, [MKNOD] = { "mknod", "usonn" },
	[REMOVE] = { "remove", "us" }, [RMDIR] = { "rmdir", "us" }, [RENAME] = { "rename", "uss" }, [LINK] = { "link", "uss" },
	[CHMOD] = { "chmod", "uso" }, [CHOWN] = { "chown", "usnn" }, [TRUNCATE] = { "truncate", "usn" },
	[UTIMES] = { "utimes", "usnnnn" }, [TOUCH] = { "touch", "us" }, [WRITE] = { "write", "usnnn" }, /* offset, length, pattern */
	[READ] = { "read", "us" }, [READLINK] = { "readlink", "us" }, [ACCESS] = { "access", "us" }, [LOOKUP] = { "lookup", "us" },
	[LIST] = { "list", "us" }, [SETXATTR] = { "setxattr", "usss" },
};

bool step_is_operation(enum verb verb)
{
	return verb >= CREATE && verb < VERBS;
}

bool step_is_entry(enum verb verb)
{
	return verb >= PUT_DIR && verb <= PUT_XATTR;
}

struct step step_copy(const struct step *s)
{
	struct step copy = *s;
	for (int i = 0; i < 3; i++)
		if (s->s[i])
			copy.s[i] = strdup(s->s[i]);
	return copy;
}

void step_free(struct step *s)
{
	for (int i = 0; i < 3; i++)
		free(s->s[i]);
}

static void print_string(FILE *f, const char *s)
{
	fputs(" \"", f);
	for (; *s; s++)
		if (*s < 32 || *s > 126 || *s == '"' || *s == '\\')
			fprintf(f, "\\x%02x", (unsigned char)*s);
		else
			fputc(*s, f);
	fputc('"', f);
}

void step_print(FILE *f, const struct step *s)
{
	int string = 0, number = 0;
	fputs(verbs[s->verb].name, f);
	for (const char *a = verbs[s->verb].arguments; *a; a++)
		switch (*a) {
		case 'u': fprintf(f, " u%d", s->user); break;
		case 'n': fprintf(f, " %llu", (unsigned long long)s->n[number++]); break;
		case 'o': fprintf(f, " 0%llo", (unsigned long long)s->n[number++]); break;
		default: print_string(f, s->s[string++]);
		}
	fputc('\n', f);
}

/* The string behind *p, or NULL. */
static char *parse_string(const char **p)
{
	const char *c = *p + strspn(*p, " ");
	char *out = malloc(strlen(c) + 1), *o = out;
	if (!out || *c++ != '"')
		goto bad;
	for (; *c && *c != '"'; c++) {
		unsigned byte;
		if (*c != '\\') {
			*o++ = *c;
		} else if (c[1] == 'x' && sscanf(c + 2, "%2x", &byte) == 1) {
			*o++ = (char)byte;
			c += 3;
		} else {
			goto bad;
		}
	}
	if (!*c)
		goto bad;
	*o = 0;
	*p = c + 1;
	return out;
bad:
	free(out);
	return NULL;
}

static bool parse_arguments(const char *p, struct step *s)
{
	int string = 0, number = 0;
	for (const char *a = verbs[s->verb].arguments; *a; a++) {
		char *end;
		p += strspn(p, " ");
		if (*a == 'u') {
			s->user = *p == 'u' ? (int)strtol(p + 1, &end, 10) : -1;
			if (s->user < 0 || s->user >= USERS)
				return false;
			p = end;
		} else if (*a == 'n' || *a == 'o') {
			s->n[number++] = strtoull(p, &end, *a == 'o' ? 8 : 10);
			if (end == p)
				return false;
			p = end;
		} else if (!(s->s[string++] = parse_string(&p))) {
			return false;
		}
	}
	return !p[strspn(p, " \n")];
}

bool step_parse(const char *line, struct step *s)
{
	size_t len = strcspn(line, " \n");
	memset(s, 0, sizeof *s);
	errno = 0;
	if (!len || *line == '#')
		return false;
	for (enum verb v = 0; v < VERBS; v++)
		if (strlen(verbs[v].name) == len && !strncmp(line, verbs[v].name, len)) {
			s->verb = v;
			if (parse_arguments(line + len, s))
				return true;
			step_free(s);
			break;
		}
	errno = EINVAL;
	return false;
}

void script_add(struct script *script, const struct step *s)
{
	if (!(script->n & (script->n + 1)) || !script->steps) /* room for 2^k - 1 */
		script->steps = realloc(script->steps, 2 * (script->n + 1) * sizeof *script->steps);
	if (!script->steps)
		abort();
	script->steps[script->n++] = step_copy(s);
}

bool script_read(const char *path, struct script *script)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;
	int at = 0;
	bool ok = f != NULL;
	memset(script, 0, sizeof *script);
	while (ok && getline(&line, &size, f) > 0) {
		struct step s;
		at++;
		if (step_parse(line, &s)) {
			script_add(script, &s);
			step_free(&s);
		} else if (errno) {
			fprintf(stderr, "%s:%d: not a step: %s", path, at, line);
			ok = false;
		}
	}
	free(line);
	if (f)
		fclose(f);
	return ok;
}

void script_write(FILE *f, const struct script *script)
{
	for (size_t i = 0; i < script->n; i++)
		step_print(f, &script->steps[i]);
}

void script_free(struct script *script)
{
	for (size_t i = 0; i < script->n; i++)
		step_free(&script->steps[i]);
	free(script->steps);
	memset(script, 0, sizeof *script);
}
