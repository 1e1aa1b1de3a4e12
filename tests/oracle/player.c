/* player.c: see player.h. */
#include "player.h"

#include <stdlib.h>
#include <string.h>

int play(struct player *p, struct step s)
{
	step_print(p->script, &s);
	fflush(p->script);
	return world_step(p->world, &s);
}

void play_plain(struct player *p, enum verb verb)
{
	play(p, (struct step){ .verb = verb });
}

void known_clear(struct player *p)
{
	while (p->nknown)
		free(p->known[--p->nknown].path);
}

void known_add(struct player *p, const char *path, mode_t type)
{
	for (size_t i = 0; i < p->nknown; i++)
		if (!strcmp(p->known[i].path, path)) {
			p->known[i].type = type;
			return;
		}
	if (p->nknown < MOST_KNOWN)
		p->known[p->nknown++] = (struct known){ strdup(path), type };
}

void known_remove(struct player *p, const char *path)
{
	for (size_t i = 0; i < p->nknown; i++)
		if (!strcmp(p->known[i].path, path)) {
			free(p->known[i].path);
			p->known[i] = p->known[--p->nknown];
			return;
		}
}

void known_rename(struct player *p, const char *from, const char *to)
{
	size_t len = strlen(from);
	known_remove(p, to);
	for (size_t i = 0; i < p->nknown; i++) {
		char *old = p->known[i].path;
		if (strncmp(old, from, len) || (old[len] && old[len] != '/'))
			continue;
		if (asprintf(&p->known[i].path, "%s%s", to, old + len) < 0)
			abort();
		free(old);
	}
}

void known_refresh(struct player *p)
{
	struct tree t;
	known_clear(p);
	world_tree(p->world, &t);
	for (size_t i = 0; i < t.n && i < MOST_KNOWN; i++)
		p->known[p->nknown++] = (struct known){ strdup(t.nodes[i].path), t.nodes[i].attr.mode & S_IFMT };
	tree_free(&t);
}

const char *random_name(struct dice *d, bool for_file)
{
	static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h" };
	static const char *const odd[] = { "with space", "new\nline", "\xff\xfe", "\xc3\xbc", ".wh.a", "-r", "*", "#1", ".hidden", "back\\slash", "\"", "..." };
	static char longest[257];
	size_t roll = dice_below(d, 100);
	if (for_file && roll < 3) {
		size_t len = roll ? 180 : 256;
		memset(longest, 'l', sizeof longest);
		longest[len] = 0;
		return longest;
	}
	if (roll < 15)
		return odd[dice_below(d, sizeof odd / sizeof *odd)];
	return names[dice_below(d, sizeof names / sizeof *names)];
}

uint64_t random_mode(struct dice *d)
{
	static const uint16_t modes[] = { 0755, 0755, 0755, 0644, 0644, 0777, 0777, 0700, 0600, 0666, 01777, 01777, 02775, 02777, 04755, 06755, 02745, 0,
					  0444, 0711, 0311, 0070, 0007 };
	return modes[dice_below(d, sizeof modes / sizeof *modes)];
}

static int acl_entry(char *hex, unsigned tag, unsigned perm, uint32_t id)
{
	return sprintf(hex, "%02x00%02x00%02x%02x%02x%02x", tag, perm, id & 0xff, id >> 8 & 0xff, id >> 16 & 0xff, id >> 24);
}

/* linux/posix_acl_xattr.h, in the order that the kernel wants. */
void random_acl(struct dice *d, char hex[200])
{
	char *h = hex + sprintf(hex, "02000000");
	h += acl_entry(h, 1, (unsigned)dice_below(d, 8), UINT32_MAX);
	if (dice_percent(d, 60))
		h += acl_entry(h, 2, (unsigned)dice_below(d, 8), 1000);
	h += acl_entry(h, 2, (unsigned)dice_below(d, 8), 1001);
	h += acl_entry(h, 4, (unsigned)dice_below(d, 8), UINT32_MAX);
	if (dice_percent(d, 60))
		h += acl_entry(h, 8, (unsigned)dice_below(d, 8), 50);
	if (dice_percent(d, 30))
		h += acl_entry(h, 8, (unsigned)dice_below(d, 8), 1000);
	h += acl_entry(h, 16, (unsigned)dice_below(d, 8), UINT32_MAX);
	acl_entry(h, 32, (unsigned)dice_below(d, 8), UINT32_MAX);
}

/* What happens to the servers in between. */
static void disturb(struct player *p)
{
	size_t roll = dice_below(&p->dice, 100);
	play_plain(p, roll < 15 ? RESTART : roll < 35 ? KILL : roll < 50 ? SWAP : COMPARE);
}

void play_seed(struct player *p, uint64_t seed, size_t n, const char *fs)
{
	p->dice.state = seed * 0x2545f4914f6cdd1du;
	make_stack(p, fs);
	if (dice_percent(&p->dice, 40)) {
		play_plain(p, BEGIN);
		random_operations(p, 5 + dice_below(&p->dice, 60), true);
	}
	play_plain(p, SERVE);
	play_plain(p, COMPARE);
	for (size_t done = 0, batch; done < n; done += batch) {
		batch = 20 + dice_below(&p->dice, 120);
		if (batch > n - done)
			batch = n - done;
		random_operations(p, batch, false);
		disturb(p);
	}
	play_plain(p, SWAP);
	play_plain(p, COMPARE);
}
