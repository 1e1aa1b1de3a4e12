/* player.h: plays steps on a world as they are thrown by dice, and writes each down before it is carried out. */
#ifndef OVERNFSD_ORACLE_PLAYER_H
#define OVERNFSD_ORACLE_PLAYER_H

#include "random.h"
#include "world.h"

enum { MOST_KNOWN = 2000 };

struct known { /* a path that is thought to exist */
	char *path;
	mode_t type;
};
struct player {
	struct world *world;
	FILE *script;
	struct dice dice;
	struct known known[MOST_KNOWN];
	size_t nknown;
	size_t lowers;
	bool hard_links; /* in lowers */
};

int play(struct player *p, struct step s); /* the strings of s are the caller's */
void play_plain(struct player *p, enum verb verb); /* a step without arguments */
void known_clear(struct player *p);
void known_add(struct player *p, const char *path, mode_t type);
void known_remove(struct player *p, const char *path);
void known_rename(struct player *p, const char *from, const char *to); /* and what is below */
void known_refresh(struct player *p); /* from the tree */
const char *random_name(struct dice *d, bool for_file); /* long ones only for what is no directory, and not the longest: Linux limits the length of redirects (of metacopies too) to 256 bytes */
uint64_t random_mode(struct dice *d);
void random_acl(struct dice *d, char hex[200]);

/* stack.c: the layers, some of them made by Linux */
void make_stack(struct player *p, const char *fs);
/* operations.c */
void random_operations(struct player *p, size_t n, bool by_linux); /* by_linux: on Linux mounts alone, which can set xattrs too */
/* A whole run: the stack, and about n operations with all that happens to the servers. */
void play_seed(struct player *p, uint64_t seed, size_t n, const char *fs);

#endif
