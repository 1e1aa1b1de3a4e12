/* shrink.c: delta debugging: ever smaller pieces of the script are left out, as long as it still fails. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

static bool can_go(enum verb verb)
{
	return verb != FS && verb != LOWERS && verb != SERVE;
}

/* Without the steps from at on, len of them. */
static struct script without(const struct script *script, size_t at, size_t len)
{
	struct script s = { 0 };
	for (size_t i = 0; i < script->n; i++)
		if (i < at || i >= at + len || !can_go(script->steps[i].verb))
			script_add(&s, &script->steps[i]);
	return s;
}

/* What went wrong, without what is between quotation marks: the first line of the story. */
static void kind_of(const struct run *run, char kind[200])
{
	size_t n = 0;
	bool quoted = false;
	for (const char *c = run->story; *c && *c != '\n' && n < 199; c++) {
		quoted ^= *c == '"';
		if (!quoted)
			kind[n++] = *c;
	}
	kind[n] = 0;
}

/* True: it fails without them too, and run is the smaller one now. */
static bool leave_out(struct run *run, size_t at, size_t len)
{
	struct run smaller;
	struct script s = without(&run->script, at, len);
	bool fails = false;
	char before[200], after[200];
	const char *tries = getenv("TRIES"); /* for what fails now and then */
	for (int left = tries ? atoi(tries) : 1; left > 0 && !fails && s.n < run->script.n; left--) {
		run_script(&smaller, &s);
		kind_of(run, before);
		kind_of(&smaller, after);
		fails = smaller.failed && !strcmp(before, after); /* another failure is another story */
		if (!fails)
			run_free(&smaller);
	}
	if (fails) {
		run_free(run);
		*run = smaller;
	}
	script_free(&s);
	return fails;
}

void shrink(struct run *run)
{
	for (size_t len = run->script.n / 2; len; len = len > 1 && len < 4 ? len - 1 : len / 2) {
		/* from the end: what comes late depends on what comes early */
		for (size_t at = run->script.n > len ? run->script.n - len : 0;; at = at > len ? at - len : 0) {
			leave_out(run, at, len);
			if (!at)
				break;
		}
	}
	for (bool again = true; again;) {
		again = false;
		for (size_t at = run->script.n; at--;)
			again |= leave_out(run, at, 1);
	}
}
