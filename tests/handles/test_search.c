/* The search while the tree is changed under it: directories move, files move, hard links come and go, and no live handle is called stale. */
#include "handles.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DIRS = 40, FILES = 25, MOVERS = 2 };

static struct stack stack;
static struct client client;
static struct fh handles[DIRS * FILES], dirs[DIRS];
static atomic_bool stop_moving;
static atomic_ulong moves;

static int setup(void **state)
{
	(void)state;
	stack_make(&stack, NULL, "for d in $(seq 0 39); do mkdir -p lower2/top$((d % 4))/dir$d; for f in $(seq 0 24); do echo $d-$f >lower2/top$((d % 4))/dir$d/f$f; done; done");
	server_start(&stack, "--no-root-squash --max-objects 64 --async");
	client_open(&client, &stack, 0, 0);
	char path[64];
	for (int d = 0; d < DIRS; d++) {
		snprintf(path, sizeof path, "top%d/dir%d", d % 4, d);
		dirs[d] = handle_of(&client, path);
		for (int f = 0; f < FILES; f++) {
			snprintf(path, sizeof path, "top%d/dir%d/f%d", d % 4, d, f);
			handles[d * FILES + f] = handle_of(&client, path);
		}
	}
	client_close(&client);
	server_stop(&stack);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (stack.pid)
		server_kill(&stack);
	stack_remove(&stack);
	return 0;
}

/* Each mover has its own half of the directories, and moves them from top to top; only status codes are looked at, as cmocka is for one thread. */
static void *move(void *arg)
{
	unsigned mine = *(unsigned *)arg, seed = mine + 1;
	struct client c;
	struct fh tops[4];
	int at[DIRS];
	char name[32];
	client_open(&c, &stack, 0, 0);
	for (int t = 0; t < 4; t++) {
		snprintf(name, sizeof name, "top%d", t);
		tops[t] = handle_of(&c, name);
	}
	for (int d = 0; d < DIRS; d++)
		at[d] = d % 4;
	while (!atomic_load(&stop_moving)) {
		int d = (int)((unsigned)rand_r(&seed) % (DIRS / MOVERS)) * MOVERS + (int)mine, to = rand_r(&seed) % 4;
		snprintf(name, sizeof name, "dir%d", d);
		nfsstat3 st = client_rename(&c, &tops[at[d]], name, &tops[to], name);
		if (!st) {
			at[d] = to;
			atomic_fetch_add(&moves, 1);
		} else if (st != NFS3ERR_JUKEBOX) {
			printf("rename: status %d\n", st);
			break;
		}
	}
	client_close(&c);
	return NULL;
}

static void no_live_handle_is_stale_while_directories_move_under_the_search(void **state)
{
	(void)state;
	unsigned long lives = amount("LIVES", 5) + 1, asked = 0, jukebox = 0;
	for (unsigned long life = 0; life < lives; life++) {
		pthread_t thread[MOVERS];
		unsigned which[MOVERS];
		fattr3 a;
		stack_sh(&stack, "rm -f work/overnfsd/map.mdb*");
		server_start(&stack, "--no-root-squash --max-objects 64 --async");
		client_open(&client, &stack, 0, 0);
		atomic_store(&stop_moving, false);
		for (unsigned i = 0; i < MOVERS; i++) {
			which[i] = i;
			assert_int_equal(pthread_create(&thread[i], NULL, move, &which[i]), 0);
		}
		for (int i = 0; i < DIRS * FILES; i++) {
			int n = (int)((unsigned long)i * 7919 % (DIRS * FILES));
			nfsstat3 st;
			do {
				st = client_getattr(&client, i % 5 ? &handles[n] : &dirs[n / FILES], &a);
				jukebox += st == NFS3ERR_JUKEBOX;
				if (st == NFS3ERR_JUKEBOX)
					usleep(1000);
			} while (st == NFS3ERR_JUKEBOX);
			asked++;
			if (st)
				fail_msg("life %lu, handle %d: status %d", life, n, st);
		}
		atomic_store(&stop_moving, true);
		for (int i = 0; i < MOVERS; i++)
			pthread_join(thread[i], NULL);
		/* back to where the next life's movers expect them */
		for (int d = 0; d < DIRS; d++) {
			char name[32], path[64];
			struct fh to;
			snprintf(path, sizeof path, "top%d", d % 4);
			to = handle_of(&client, path);
			snprintf(name, sizeof name, "dir%d", d);
			for (int t = 0; t < 4; t++) {
				snprintf(path, sizeof path, "top%d", t);
				struct fh from = handle_of(&client, path);
				if (t != d % 4 && !client_rename(&client, &from, name, &to, name))
					break;
			}
		}
		client_close(&client);
		server_stop(&stack);
	}
	printf("| %lu old handles asked for while a search ran and %lu directories moved: all reached, %lu times after a JUKEBOX\n", asked, atomic_load(&moves), jukebox);
	assert_true(atomic_load(&moves) > 0);
}

/* The server runs without root, which a directory's mode does not stop. */
static void a_directory_that_cannot_be_read_hides_no_other(void **state)
{
	(void)state;
	enum { SIBLINGS = 20 };
	struct stack s;
	struct client c;
	struct fh fh[SIBLINGS];
	fattr3 a;
	char command[4096], name[32], *server = getenv("OVERNFSD");
	server = strdup(server ? server : "build/overnfsd");
	stack_make(&s, NULL, "for d in $(seq 0 19); do mkdir lower2/d$d; echo $d >lower2/d$d/f; done; mkdir lower2/d7/shut; chmod 0 lower2/d7/shut;"
			     "[ $(id -u) != 0 ] || chown -R 65533:65533 .");
	snprintf(command, sizeof command, "%s%s", geteuid() ? "" : "setpriv --pdeathsig KILL --reuid=65533 --regid=65533 --clear-groups ", server);
	setenv("OVERNFSD", command, 1);
	for (int life = 0; life < 2; life++) {
		server_start(&s, NULL);
		client_open(&c, &s, 65533, 65533);
		for (int i = 0; i < SIBLINGS; i++) {
			snprintf(name, sizeof name, "d%d/f", i);
			if (!life)
				fh[i] = handle_of(&c, name);
			for (int tries = 0; client_getattr(&c, &fh[i], &a); tries++)
				if (tries == 5)
					fail_msg("the old handle of %s is not found", name);
		}
		client_close(&c);
		server_stop(&s);
		stack_sh(&s, "rm -f work/overnfsd/map.mdb*");
	}
	setenv("OVERNFSD", server, 1);
	free(server);
	stack_remove(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(no_live_handle_is_stale_while_directories_move_under_the_search),
					    cmocka_unit_test(a_directory_that_cannot_be_read_hides_no_other) };
	return cmocka_run_group_tests(tests, setup, teardown);
}
