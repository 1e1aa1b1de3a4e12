/*
 * step.h: one line of a script: the making of the stack, an operation, or what happens to the servers. Scripts are
 * what a seed makes, what the shrinker cuts down and what a person replays.
 */
#ifndef OVERNFSD_ORACLE_STEP_H
#define OVERNFSD_ORACLE_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum verb {
	/* the stack; layer 0 is the upper, made twice alike, the others are shared by both sides */
	LOWERS, FS, OPTIONS, SERVER,
	PUT_DIR, PUT_FILE, PUT_SYMLINK, PUT_NODE, PUT_HARD, PUT_WHITEOUT, PUT_XATTR,
	/* stages: what the operations that follow go to */
	BUILD, /* a lower, as the upper of a Linux overlay mount of the lowers below it */
	BEGIN, /* both sides, by Linux */
	SERVE, /* the first side by overnfsd, the second by Linux */
	SWAP, /* the other way round */
	RESTART, KILL, COMPARE,
	/* operations; the user comes first */
	CREATE, CREATE_GUARDED, CREATE_EXCLUSIVE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME, LINK,
	CHMOD, CHOWN, TRUNCATE, UTIMES, TOUCH, WRITE, READ, READLINK, ACCESS, LOOKUP, LIST, SETXATTR,
	VERBS
};

struct step {
	enum verb verb;
	int user; /* index in users[] */
	char *s[3]; /* owned; paths, names, values */
	uint64_t n[6];
};

struct user {
	uint32_t uid, gid, ngroups, groups[3];
};
enum { USERS = 5 };
extern const struct user users[USERS]; /* [0] is root */

bool step_is_operation(enum verb verb);
bool step_is_entry(enum verb verb); /* makes something in a layer: can be left out */
struct step step_copy(const struct step *s);
void step_free(struct step *s);
void step_print(FILE *f, const struct step *s); /* with the newline */
bool step_parse(const char *line, struct step *s); /* false: no step (errno 0: empty or a comment; EINVAL: malformed) */

/* A whole script. */
struct script {
	struct step *steps;
	size_t n;
};
bool script_read(const char *path, struct script *script); /* false: can't be read, or a line (said on stderr) is malformed */
void script_write(FILE *f, const struct script *script);
void script_add(struct script *script, const struct step *s); /* a copy of s */
void script_free(struct script *script);

#endif
