/* run.c: see run.h. */
#include "player.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct task {
	const struct script *script; /* NULL: by seed */
	uint64_t seed;
	size_t operations;
	const char *fs;
};

static bool own_mounts(void)
{
	return !unshare(CLONE_NEWNS) && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static void body(const struct task *task, const char *dir, FILE *script)
{
	static struct player p;
	p.script = script;
	p.world = world_new(dir);
	if (task->script)
		for (size_t i = 0; i < task->script->n; i++)
			play(&p, task->script->steps[i]);
	else
		play_seed(&p, task->seed, task->operations, task->fs);
	known_clear(&p);
	world_end(p.world);
}

static void child(const struct task *task, const char *dir, FILE *script, int story)
{
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setenv("CMOCKA_TEST_ABORT", "1", 1); /* a failed assertion of the client ends this process, and no more */
	dup2(story, 1);
	dup2(story, 2);
	umask(0);
	if (!own_mounts())
		differ("no mount namespace: %s", strerror(errno));
	body(task, dir, script);
	fflush(NULL);
	_exit(0);
}

static char *contents(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	char *text = calloc(1, (size_t)size + 1);
	if (text && pread(fd, text, (size_t)size, 0) < 0)
		*text = 0;
	return text;
}

static int temporary_file(void)
{
	return open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

static void run(struct run *run, const struct task *task)
{
	char dir[] = "/tmp/overnfsd-oracle-XXXXXX", path[64];
	int story = temporary_file(), script = temporary_file();
	FILE *f = script < 0 ? NULL : fdopen(dup(script), "w");
	siginfo_t info;
	int status;
	memset(run, 0, sizeof *run);
	if (!mkdtemp(dir) || story < 0 || !f)
		differ("no temporary files: %s", strerror(errno));
	fflush(NULL);
	pid_t pid = fork();
	if (!pid)
		child(task, dir, f, story);
	setpgid(pid, pid);
	waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT); /* not reaped yet: the number of its group is still its own */
	kill(-pid, SIGKILL);
	waitpid(pid, &status, 0);
	fclose(f);
	rmdir(dir);
	run->failed = !WIFEXITED(status) || WEXITSTATUS(status);
	run->story = contents(story);
	snprintf(path, sizeof path, "/proc/self/fd/%d", script);
	script_read(path, &run->script);
	for (size_t i = 0; i < run->script.n; i++)
		run->operations += step_is_operation(run->script.steps[i].verb);
	close(story);
	close(script);
}

void run_seed(struct run *r, uint64_t seed, size_t operations, const char *fs)
{
	run(r, &(struct task){ .seed = seed, .operations = operations, .fs = fs });
}

void run_script(struct run *r, const struct script *script)
{
	run(r, &(struct task){ .script = script });
}

void run_free(struct run *r)
{
	free(r->story);
	script_free(&r->script);
	memset(r, 0, sizeof *r);
}

static const char *try_mounts(void)
{
	char dir[] = "/tmp/overnfsd-oracle-XXXXXX", options[300];
	const char *why = NULL;
	if (!own_mounts() || !mkdtemp(dir))
		return "mounting is not allowed here";
	if (mount("tmpfs", dir, "tmpfs", 0, NULL))
		why = "a tmpfs can't be mounted";
	if (!why && (chdir(dir) || mkdir("l", 0755) || mkdir("u", 0755) || mkdir("w", 0755) || mkdir("m", 0755)))
		why = "a tmpfs can't be written to";
	snprintf(options, sizeof options, "index=on,redirect_dir=on,metacopy=on,xino=off,lowerdir=%s/l,upperdir=%s/u,workdir=%s/w", dir, dir, dir);
	if (!why && mount("overlay", "m", "overlay", 0, options))
		why = "Linux can't mount an overlay over a tmpfs here";
	(void)!chdir("/");
	umount2(dir, MNT_DETACH);
	rmdir(dir);
	return why;
}

const char *run_is_impossible(void)
{
	static char why[200];
	int fds[2];
	if (geteuid())
		return "the oracle mounts overlays: it needs root";
	if (pipe(fds))
		return "no pipe";
	pid_t pid = fork();
	if (!pid) {
		const char *reason = try_mounts();
		(void)!write(fds[1], reason ? reason : "", reason ? strlen(reason) : 0);
		_exit(0);
	}
	close(fds[1]);
	ssize_t n = read(fds[0], why, sizeof why - 1);
	close(fds[0]);
	waitpid(pid, NULL, 0);
	return n > 0 ? why : NULL;
}
