/* Directories that get another name while a search for an old handle is under way: all that is below is found all the same. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "overlay.h"

enum { DIRECTORIES = 30, MANY = 15000 /* names: of more than one getdents, so that the search says that it will block */, MOST_READS = 40 };

static const struct overlay_cred root_cred;
static char dir[64];
static struct overlay *ov;
static atomic_bool armed;
static bool restless; /* set before a search */
static atomic_int reads; /* of the large directory */
static pthread_t asks; /* who asks says that it will block, too */

static void sh(const char *script)
{
	char cmd[512];
	snprintf(cmd, sizeof cmd, "set -e; cd %s; %s", dir, script);
	assert_int_equal(system(cmd), 0);
}

/* By the search itself, in the middle of a large directory: the names beside that one were read already, and most not entered yet. */
static void rename_all(void)
{
	struct overlay_wcc w1, w2;
	char from[16], to[16];
	if (!armed || pthread_equal(pthread_self(), asks))
		return;
	armed = restless;
	reads++;
	struct object *root = overlay_root(ov);
	for (int i = 0; i < DIRECTORIES; i++) {
		snprintf(from, sizeof from, "%c%d", reads % 2 ? 'd' : 'e', i);
		snprintf(to, sizeof to, "%c%d", reads % 2 ? 'e' : 'd', i);
		assert_int_equal(overlay_rename(ov, &root_cred, root, from, root, to, &w1, &w2), 0);
	}
	overlay_put(ov, root);
}

static void start(void)
{
	char lower[96], upper[96], work[96], err[256] = "";
	const char *lowers[] = { lower };
	snprintf(lower, sizeof lower, "%s/lower", dir);
	snprintf(upper, sizeof upper, "%s/upper", dir);
	snprintf(work, sizeof work, "%s/work", dir);
	struct overlay_config c = { .lowers = lowers, .nlowers = 1, .upper = upper, .work = work, .name = "/overlay", .before_block = rename_all };
	if (overlay_open(&c, &ov, err, sizeof err))
		fail_msg("%s", err);
}

static struct overlay_id id_of(int i)
{
	char name[16];
	struct object *root = overlay_root(ov), *d, *f;
	snprintf(name, sizeof name, "d%d", i);
	assert_int_equal(overlay_lookup(ov, &root_cred, root, name, &d, NULL), 0);
	assert_int_equal(overlay_lookup(ov, &root_cred, d, "f", &f, NULL), 0);
	struct overlay_id id = *overlay_id(f);
	overlay_put(ov, f);
	overlay_put(ov, d);
	overlay_put(ov, root);
	return id;
}

/* The ids of all files of a stack whose map is silent now. Removes the file of the first directory, if asked to. */
static void start_with_silent_map(struct overlay_id ids[DIRECTORIES], bool remove)
{
	char script[256];
	snprintf(script, sizeof script, "mkdir -p upper work lower/big; for i in $(seq 0 %d); do mkdir lower/d$i; echo $i >lower/d$i/f; done; cd lower/big; seq %d | xargs touch",
		 DIRECTORIES - 1, MANY);
	sh(script);
	start();
	for (int i = 0; i < DIRECTORIES; i++)
		ids[i] = id_of(i);
	overlay_close(ov);
	sh("rm work/overnfsd/map.mdb*");
	if (remove)
		sh("rm lower/d0/f");
	start();
	asks = pthread_self();
	reads = 0;
	armed = true;
}

static int get_in_the_end(const struct overlay_id *id)
{
	struct object *o;
	int rc;
	while ((rc = overlay_get(ov, id, &o)) == -EAGAIN)
		assert_true(reads < MOST_READS);
	overlay_put(ov, o);
	return rc;
}

static void what_is_below_directories_that_were_renamed_during_a_search_is_not_gone(void **state)
{
	struct overlay_id ids[DIRECTORIES];
	(void)state;
	start_with_silent_map(ids, false);
	for (int i = 0; i < DIRECTORIES; i++)
		assert_int_equal(get_in_the_end(&ids[i]), 0);
	assert_int_equal(reads, 1);
	assert_false(armed);
	overlay_close(ov);
}

/* or a client asks for it again and again, as long as somebody renames directories now and then */
static void what_is_gone_is_known_to_be_though_directories_are_renamed_during_each_search(void **state)
{
	struct overlay_id ids[DIRECTORIES];
	(void)state;
	restless = true;
	start_with_silent_map(ids, true);
	assert_int_equal(get_in_the_end(&ids[0]), -ESTALE);
	assert_true(reads > 0);
	for (int i = 1; i < DIRECTORIES; i++)
		assert_int_equal(get_in_the_end(&ids[i]), 0);
	overlay_close(ov);
	restless = false;
}

static int make_dir(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/overnfsd-unit-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	sh("cd /; rm -rf $OLDPWD");
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_below_directories_that_were_renamed_during_a_search_is_not_gone, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(what_is_gone_is_known_to_be_though_directories_are_renamed_during_each_search, make_dir, remove_dir),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
