/* sample.c: see sample.h. */
#include "sample.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char tree[] = "cd lower1; printf 'hello from below' >hello; ln -s hello link; mkfifo fifo; mkdir d closed sticky open;"
		    "echo a >d/a; echo b >d/b; echo secret >private; chmod 600 private; echo mine >mine; chown 1000:1000 mine; chmod 400 mine;"
		    "chmod 700 closed; echo in >closed/in; chmod 1777 sticky; chmod 777 open; touch sticky/roots; printf '#!/bin/sh\\n' >run; chmod 711 run;"
		    "echo group >group; chown 0:500 group; chmod 640 group; cd ../lower2; mkdir d; echo c >d/c; echo deep >deep; echo hidden >hello";

struct stack stack, frozen;
struct client root, user, reader;
char long_name[300];

bool sample_can_run(void)
{
	if (geteuid())
		puts("making files of several owners needs root");
	return !geteuid();
}

int sample_setup(void **state)
{
	(void)state;
	umask(022);
	memset(long_name, 'n', sizeof long_name - 1);
	stack_make(&stack, NULL, tree);
	server_start(&stack, "--no-root-squash");
	stack_make(&frozen, NULL, tree);
	server_start_with(&frozen, "--lower %s/lower1 --lower %s/lower2", "--no-root-squash");
	client_open(&root, &stack, 0, 0);
	client_open(&user, &stack, 1000, 1000);
	client_open(&reader, &frozen, 0, 0);
	return 0;
}

int sample_teardown(void **state)
{
	(void)state;
	client_close(&root);
	client_close(&user);
	client_close(&reader);
	stack_remove(&stack);
	stack_remove(&frozen);
	return 0;
}

struct fh path(struct client *c, const char *name)
{
	struct fh fh;
	assert_nfs(client_path(c, name, &fh, NULL), NFS3_OK);
	return fh;
}

struct fh bad_handle(void)
{
	struct fh fh = root.root;
	fh.data[9] ^= 1;
	return fh;
}
