/* world.c: see world.h. */
#include "compare.h"
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { MOST_LOWERS = 4 };

struct side {
	char name[16];
	char upper[128], work[128], mount[128];
	bool mounted, served;
	struct kernel kernel;
	struct nfs nfs;
	struct stack server;
};

struct world {
	char base[64], root[96]; /* root: where the layers are */
	int nlowers;
	char options[256], server_args[256];
	struct side sides[2];
	struct side builder; /* its upper is a lower */
	bool building, epoch_set;
	struct tree lowers[MOST_LOWERS + 1]; /* as they were; they never change */
};

static void check(bool ok, const char *what)
{
	if (!ok)
		differ("the oracle itself failed: %s: %s", what, strerror(errno));
}

/* ---- directories and mounts ---- */
static void make_dir(const char *path)
{
	check(!mkdir(path, 0755), path);
}

static void side_init(struct world *w, struct side *side, const char *name)
{
	snprintf(side->name, sizeof side->name, "%s", name);
	snprintf(side->upper, sizeof side->upper, "%s/%s-upper", w->root, name);
	snprintf(side->work, sizeof side->work, "%s/%s-work", w->root, name);
	snprintf(side->mount, sizeof side->mount, "%s/%s-mount", w->root, name);
	make_dir(side->upper);
	make_dir(side->work);
	make_dir(side->mount);
}

struct world *world_new(const char *dir)
{
	struct world *w = calloc(1, sizeof *w);
	check(w && !mount("tmpfs", dir, "tmpfs", MS_NOATIME, "mode=755"), "tmpfs");
	snprintf(w->base, sizeof w->base, "%s", dir);
	snprintf(w->root, sizeof w->root, "%s", dir);
	strcpy(w->options, "index=on,redirect_dir=on,metacopy=on");
	strcpy(w->server_args, "--async");
	return w;
}

/* A file system in an image of its own; tmpfs is there already. */
static void use_file_system(struct world *w, const char *type)
{
	char cmd[512];
	if (!strcmp(type, "tmpfs"))
		return;
	snprintf(w->root, sizeof w->root, "%s/fs", w->base);
	make_dir(w->root);
	snprintf(cmd, sizeof cmd, "cd %s && truncate -s 400M image && mkfs.%s -q %s image >/dev/null 2>&1 && mount -o loop,noatime image fs", w->base, type,
		 strcmp(type, "ext4") ? "" : "-F");
	check(!system(cmd), cmd);
}

static void use_lowers(struct world *w, int n)
{
	char path[128];
	check(!chdir(w->root), w->root);
	check(n >= 1 && n <= MOST_LOWERS, "number of lowers");
	w->nlowers = n;
	for (int i = 1; i <= n; i++) {
		snprintf(path, sizeof path, "%s/l%d", w->root, i);
		make_dir(path);
	}
	side_init(w, &w->sides[0], "first");
	side_init(w, &w->sides[1], "second");
}

/* "prefix/l2separator/l3" and so on, from the given one down. */
static void lowers_text(const struct world *w, char *text, size_t size, const char *prefix, const char *separator, int from)
{
	size_t n = 0;
	*text = 0;
	for (int i = from; i <= w->nlowers; i++)
		n += (size_t)snprintf(text + n, size - n, "%s%s%s/l%d", i > from ? separator : "", prefix, w->root, i);
}

static void mount_side(struct world *w, struct side *side, int from)
{
	char lowers[1024], options[2048];
	lowers_text(w, lowers, sizeof lowers, "", ":", from);
	snprintf(options, sizeof options, "xino=off,%s,lowerdir=%s,upperdir=%s,workdir=%s", w->options, lowers, side->upper, side->work);
	if (mount("overlay", side->mount, "overlay", MS_NOATIME, options))
		differ("Linux can't mount the %s side's layers: %s (%s)", side->name, strerror(errno), options);
	side->kernel.root = open(side->mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	check(side->kernel.root >= 0, side->mount);
	side->mounted = true;
}

static void unmount_side(struct side *side)
{
	close(side->kernel.root);
	check(!umount2(side->mount, 0), "umount");
	side->mounted = false;
}

static void serve_side(struct world *w, struct side *side)
{
	char lowers[1024], options[1700];
	lowers_text(w, lowers, sizeof lowers, "--lower ", " ", 1);
	snprintf(options, sizeof options, "%s --upper %s --work %s --no-root-squash%s", lowers, side->upper, side->work,
		 strstr(w->options, "metacopy=off") ? " --no-metacopy" : ""); /* such a mount follows none */
	server_start_with(&side->server, options, w->server_args);
	nfs_open(&side->nfs, &side->server);
	side->served = true;
}

static void stop_side(struct side *side, bool gently)
{
	nfs_close(&side->nfs);
	if (gently)
		server_stop(&side->server);
	else
		server_kill(&side->server);
	side->served = false;
}

/* ---- the stack ---- */
static void layer_tree(struct world *w, int layer, struct tree *t)
{
	char path[128];
	snprintf(path, sizeof path, "%s/l%d", w->root, layer);
	struct kernel raw = { .root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) };
	check(raw.root >= 0, path);
	kernel_tree(&raw, t);
	close(raw.root);
}

/* From here on the lowers are what they are, and the clock has ticked since. */
static void set_epoch(struct world *w)
{
	if (w->epoch_set)
		return;
	usleep(20000);
	clock_gettime(CLOCK_REALTIME_COARSE, &compare_epoch);
	usleep(10000);
	for (int i = 0; i < 2; i++) { /* made a moment apart */
		struct timespec t[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };
		check(!utimensat(AT_FDCWD, w->sides[i].upper, t, 0), "times of the upper");
	}
	for (int i = 1; i <= w->nlowers; i++)
		layer_tree(w, i, &w->lowers[i]);
	w->epoch_set = true;
}

static void check_lowers(struct world *w)
{
	for (int i = 1; i <= w->nlowers; i++) {
		struct tree now;
		layer_tree(w, i, &now);
		compare_trees("a lower layer before", &w->lowers[i], "the same layer now", &now);
		tree_free(&now);
	}
}

static void put_xattr(const char *path, const char *name, const char *hex)
{
	uint8_t value[512];
	size_t len = 0;
	for (const char *c = hex; c[0] && c[1] && len < sizeof value; c += 2)
		sscanf(c, "%2hhx", &value[len++]);
	lsetxattr(path, name, value, len, 0); /* the shrinker may have taken what it was for */
}

static void put_file(const char *path, const struct step *s)
{
	static uint8_t buf[1 << 17];
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	size_t size = s->n[4] < sizeof buf ? s->n[4] : sizeof buf;
	fill_pattern(buf, 0, size, s->n[5]);
	check(write(fd, buf, size) == (ssize_t)size && !fchown(fd, (uid_t)s->n[2], (gid_t)s->n[3]) && !fchmod(fd, (mode_t)s->n[1]), path);
	close(fd);
}

/* A step whose parent is not there makes nothing: the shrinker leaves such. */
static void put_at(const char *layer, const struct step *s)
{
	char path[4096], old[4096];
	snprintf(path, sizeof path, "%s/%s", layer, s->s[0]);
	switch (s->verb) {
	case PUT_DIR:
		mkdir(path, 0700);
		if (!lchown(path, (uid_t)s->n[2], (gid_t)s->n[3]))
			chmod(path, (mode_t)s->n[1]);
		break;
	case PUT_FILE: put_file(path, s); break;
	case PUT_SYMLINK: (void)!symlink(s->s[1], path); break;
	case PUT_NODE: mknod(path, (mode_t)s->n[1], makedev(s->n[2], s->n[3])); break;
	case PUT_HARD:
		snprintf(old, sizeof old, "%s/%s", layer, s->s[1]);
		(void)!link(old, path);
		break;
	case PUT_WHITEOUT: mknod(path, S_IFCHR, 0); break;
	default: put_xattr(path, s->s[1], s->s[2]);
	}
}

static void put(struct world *w, const struct step *s)
{
	char layer[128];
	if (!s->n[0]) {
		set_epoch(w);
		for (int i = 0; i < 2; i++)
			put_at(w->sides[i].upper, s);
		return;
	}
	compare_hard_links |= s->verb == PUT_HARD;
	snprintf(layer, sizeof layer, "%s/l%d", w->root, (int)s->n[0]);
	put_at(layer, s);
}

/* ---- stages ---- */
static void end_building(struct world *w)
{
	if (w->building)
		unmount_side(&w->builder);
	w->building = false;
}

static void begin_building(struct world *w, int layer)
{
	char name[16];
	end_building(w);
	check(layer >= 1 && layer < w->nlowers && !w->epoch_set, "only a lower above another can be built, before the uppers are used");
	snprintf(name, sizeof name, "build%d", layer);
	memset(&w->builder, 0, sizeof w->builder);
	side_init(w, &w->builder, name);
	snprintf(w->builder.upper, sizeof w->builder.upper, "%s/l%d", w->root, layer);
	mount_side(w, &w->builder, layer + 1);
	w->building = true;
}

static struct side *served(struct world *w)
{
	return w->sides[0].served ? &w->sides[0] : &w->sides[1];
}

static struct side *mounted(struct world *w)
{
	return w->sides[0].served ? &w->sides[1] : &w->sides[0];
}

static void begin(struct world *w)
{
	end_building(w);
	set_epoch(w);
	for (int i = 0; i < 2; i++)
		mount_side(w, &w->sides[i], 1);
}

static void serve(struct world *w)
{
	end_building(w);
	set_epoch(w);
	if (w->sides[0].mounted)
		unmount_side(&w->sides[0]);
	if (!w->sides[1].mounted)
		mount_side(w, &w->sides[1], 1);
	serve_side(w, &w->sides[0]);
}

static void compare(struct world *w)
{
	struct tree a, b;
	if (!w->sides[0].served && !w->sides[1].served)
		return;
	nfs_check_handles(&served(w)->nfs);
	nfs_tree(&served(w)->nfs, &a);
	kernel_tree(&mounted(w)->kernel, &b);
	compare_trees("overnfsd", &a, "Linux", &b);
	tree_free(&a);
	tree_free(&b);
	check_lowers(w);
}

/* Each serves what the other left. */
static void swap(struct world *w)
{
	struct side *ours = served(w), *linux_side = mounted(w);
	struct tree by_us, by_linux, a, b;
	if (!ours->served)
		return;
	compare(w);
	nfs_tree(&ours->nfs, &by_us);
	kernel_tree(&linux_side->kernel, &by_linux);
	stop_side(ours, true);
	nfs_forget(&ours->nfs);
	mount_side(w, ours, 1);
	kernel_tree(&ours->kernel, &a);
	compare_trees("overnfsd", &by_us, "Linux over overnfsd's layers", &a);
	compare_trees("Linux over overnfsd's layers", &a, "Linux over its own layers", &by_linux);
	unmount_side(linux_side);
	serve_side(w, linux_side);
	nfs_tree(&linux_side->nfs, &b);
	compare_trees("overnfsd over Linux's layers", &b, "Linux over its own layers", &by_linux);
	tree_free(&by_us);
	tree_free(&by_linux);
	tree_free(&a);
	tree_free(&b);
}

static void start_again(struct world *w, bool gently)
{
	struct side *side = served(w);
	if (!side->served)
		return;
	stop_side(side, gently);
	serve_side(w, side);
	compare(w);
}

/* ---- operations ---- */
static void compare_path(struct world *w, const char *path)
{
	struct attr a, b;
	bool nfs = w->sides[0].served || w->sides[1].served;
	int x = nfs ? nfs_stat(&served(w)->nfs, path, &a) : kernel_stat(&w->sides[0].kernel, path, &a);
	int y = kernel_stat(nfs ? &mounted(w)->kernel : &w->sides[1].kernel, path, &b);
	const char *name = nfs ? "overnfsd" : "Linux";
	if (x != y)
		differ("\"%s\": %s says %d, Linux %d", shown(path), shown(name), x, y);
	if (!x)
		compare_attrs(path, name, &a, "Linux", &b);
}

/* What Linux has copied up before it refused must be copied up on the other side too, for times to stay comparable. */
static void copy_up(struct world *w, const char *path)
{
	struct attr a;
	struct outcome ignored;
	if (kernel_stat(&mounted(w)->kernel, path, &a))
		return;
	struct step s = { .verb = UTIMES, .s = { (char *)path },
			  .n = { (uint64_t)a.atime.tv_sec, (uint64_t)a.atime.tv_nsec, (uint64_t)a.mtime.tv_sec, (uint64_t)a.mtime.tv_nsec } };
	kernel_run(&mounted(w)->kernel, &s, &ignored);
	nfs_run(&served(w)->nfs, &s, &ignored);
}

static int operate(struct world *w, const struct step *s)
{
	struct outcome a, b;
	char dir[4096];
	if (w->building) {
		compare_hard_links |= s->verb == LINK;
		kernel_run(&w->builder.kernel, s, &a);
		return a.status;
	}
	bool nfs = w->sides[0].served || w->sides[1].served;
	if (!nfs && !w->sides[0].mounted)
		return NFS3ERR_STALE; /* the shrinker took the stage away */
	if (nfs)
		nfs_run(&served(w)->nfs, s, &a);
	else
		kernel_run(&w->sides[0].kernel, s, &a);
	kernel_run(nfs ? &mounted(w)->kernel : &w->sides[1].kernel, s, &b);
	compare_outcomes(s, nfs ? "overnfsd" : "Linux", &a, "Linux", &b);
	if (s->verb == RENAME && (b.status == NFS3ERR_NOTEMPTY || b.status == NFS3ERR_EXIST) && nfs) { /* Linux looks into a directory of the upper last of all */
		copy_up(w, s->s[0]);
		split_path(s->s[0], dir); /* whose times ext4 moves, as it makes the whiteout before it fails */
		copy_up(w, dir);
		split_path(s->s[1], dir);
		copy_up(w, dir);
	}
	for (int i = 0; i < (s->verb == RENAME || s->verb == LINK ? 2 : 1); i++) {
		compare_path(w, s->s[i]);
		split_path(s->s[i], dir);
		compare_path(w, dir);
	}
	return b.status;
}

int world_step(struct world *w, const struct step *s)
{
	if (step_is_operation(s->verb))
		return operate(w, s);
	if (step_is_entry(s->verb)) {
		put(w, s);
		return 0;
	}
	switch (s->verb) {
	case LOWERS: use_lowers(w, (int)s->n[0]); break;
	case FS: use_file_system(w, s->s[0]); break;
	case OPTIONS: snprintf(w->options, sizeof w->options, "%s", s->s[0]); break;
	case SERVER: snprintf(w->server_args, sizeof w->server_args, "%s", s->s[0]); break;
	case BUILD: begin_building(w, (int)s->n[0]); break;
	case BEGIN: begin(w); break;
	case SERVE: serve(w); break;
	case SWAP: swap(w); break;
	case RESTART: start_again(w, true); break;
	case KILL: start_again(w, false); break;
	default: compare(w);
	}
	return 0;
}

void world_tree(struct world *w, struct tree *t)
{
	kernel_tree(w->building ? &w->builder.kernel : &mounted(w)->kernel, t);
}

void world_end(struct world *w)
{
	end_building(w);
	for (int i = 0; i < 2; i++) {
		if (w->sides[i].served)
			stop_side(&w->sides[i], true);
		if (w->sides[i].mounted)
			unmount_side(&w->sides[i]);
		nfs_forget(&w->sides[i].nfs);
	}
	for (int i = 1; i <= w->nlowers; i++)
		tree_free(&w->lowers[i]);
	free(w);
}
