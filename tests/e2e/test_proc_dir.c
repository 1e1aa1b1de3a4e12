/* READDIR READDIRPLUS over the wire: what they list and what not, and each error of RFC 1813 that can be provoked. */
#include "sample.h"

#include <stdio.h>
#include <string.h>

struct seen {
	int n, dots;
	uint64_t fileid[2100];
	char name[2100][16];
};

static void see(void *arg, const char *name, uint64_t fileid)
{
	struct seen *s = arg;
	assert_true(s->n < 2100);
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		s->dots++;
	snprintf(s->name[s->n], sizeof s->name[0], "%s", name);
	s->fileid[s->n++] = fileid;
}

static void see_plus(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh)
{
	fattr3 a;
	struct fh h = { .len = fh ? fh->data.data_len : 0 };
	assert_non_null(attr);
	assert_non_null(fh);
	memcpy(h.data, fh->data.data_val, h.len);
	assert_nfs(client_getattr(&root, &h, &a), NFS3_OK);
	assert_int_equal(a.fileid, fileid);
	assert_int_equal(attr->fileid, fileid);
	assert_int_equal(attr->type, a.type);
	see(arg, name, fileid);
}

static void listings_are_complete_at_any_count(void **state)
{
	(void)state;
	static struct seen s;
	static const uint32_t counts[] = { 512, 1024, 4096, 65536, 1 << 20 };
	stack_sh(&stack, "mkdir lower1/big lower2/big; cd lower1/big; seq -f 'n%.0f' 1000 | xargs touch; cd ../../lower2/big; seq -f 'n%.0f' 500 1500 | xargs touch");
	struct fh big = path(&root, "big"), fh;
	assert_nfs(client_remove(&root, &big, "n700"), NFS3_OK);
	assert_nfs(client_create(&root, &big, "above", GUARDED, 0600, &fh), NFS3_OK);
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		memset(&s, 0, sizeof s);
		assert_int_equal(client_list(&root, &big, counts[i], see, &s), 1502);
		assert_int_equal(s.dots, 2);
		for (int j = 0; j < s.n; j += 97) { /* the file id is GETATTR's */
			fattr3 a;
			assert_nfs(client_lookup(&root, &big, s.name[j], &fh, &a), NFS3_OK);
			assert_int_equal(a.fileid, s.fileid[j]);
		}
		memset(&s, 0, sizeof s);
		assert_int_equal(client_listplus(&root, &big, counts[i], see_plus, &s), 1502);
		assert_int_equal(s.dots, 2);
	}
}

/* Linux's client asks for an eighth of its rsize: of 1024 bytes, less than an entry with a long name takes. */
static void a_small_dircount_still_gives_an_entry_a_reply(void **state)
{
	(void)state;
	struct fh dir;
	stack_sh(&stack, "mkdir lower1/long; cd lower1/long; for i in 1 2 3; do touch $i$(printf %0200d 0); done");
	dir = path(&root, "long");
	READDIRPLUS3args a = { .dir = fh3(&dir), .dircount = 1024 / 8, .maxcount = 1024 };
	int n = 0, calls = 0;
	for (bool eof = false; !eof; calls++) {
		READDIRPLUS3res r = { 0 };
		CALL(&root, 17, READDIRPLUS3args, &a, READDIRPLUS3res, &r);
		assert_nfs(r.status, NFS3_OK);
		assert_true(xdr_sizeof((xdrproc_t)xdr_READDIRPLUS3resok, &r.READDIRPLUS3res_u.resok) <= 1024);
		for (entryplus3 *e = r.READDIRPLUS3res_u.resok.reply.entries; e; e = e->nextentry, n++)
			a.cookie = e->cookie;
		eof = r.READDIRPLUS3res_u.resok.reply.eof;
		xdr_free((xdrproc_t)xdr_READDIRPLUS3res, (char *)&r);
	}
	assert_int_equal(n, 5);
	assert_true(calls >= 4); /* it bounds a reply all the same */
}

static void listings_refuse(void **state)
{
	(void)state;
	struct fh file = path(&root, "hello"), closed = path(&root, "closed"), bad = bad_handle();
	assert_int_equal(client_list(&root, &file, 4096, NULL, NULL), -NFS3ERR_NOTDIR);
	assert_int_equal(client_listplus(&root, &file, 4096, NULL, NULL), -NFS3ERR_NOTDIR);
	assert_int_equal(client_list(&user, &closed, 4096, NULL, NULL), -NFS3ERR_ACCES);
	assert_int_equal(client_list(&root, &root.root, 10, NULL, NULL), -NFS3ERR_TOOSMALL);
	assert_int_equal(client_list(&root, &root.root, 110, NULL, NULL), -NFS3ERR_TOOSMALL);
	assert_int_equal(client_listplus(&root, &root.root, 110, NULL, NULL), -NFS3ERR_TOOSMALL);
	assert_int_equal(client_list(&root, &bad, 4096, NULL, NULL), -NFS3ERR_BADHANDLE);
	assert_int_equal(client_listplus(&root, &bad, 4096, NULL, NULL), -NFS3ERR_BADHANDLE);
}

static void see_name_alone(void *arg, const char *name, uint64_t fileid, const fattr3 *attr, const nfs_fh3 *fh)
{
	assert_null(attr);
	assert_null(fh);
	see(arg, name, fileid);
}

/* What LOOKUP refuses, READDIRPLUS must not give: with its handle, a file would be open to whoever its own mode lets. */
static void who_may_read_a_directory_but_not_search_it_gets_names_alone(void **state)
{
	(void)state;
	static struct seen s;
	struct fh fh, dir;
	fattr3 a;
	stack_sh(&stack, "mkdir lower1/shown; echo in >lower1/shown/in; chmod 744 lower1/shown");
	dir = path(&user, "shown");
	assert_nfs(client_lookup(&user, &dir, "in", &fh, NULL), NFS3ERR_ACCES);
	assert_int_equal(client_listplus(&user, &dir, 4096, see_name_alone, &s), 3);
	assert_nfs(client_lookup(&root, &dir, "in", &fh, &a), NFS3_OK);
	for (int i = 0; i < s.n; i++)
		if (!strcmp(s.name[i], "in"))
			assert_int_equal(s.fileid[i], a.fileid);
	memset(&s, 0, sizeof s);
	assert_int_equal(client_listplus(&root, &dir, 4096, see_plus, &s), 3);
}

static void a_listing_is_steady_while_entries_come_and_go(void **state)
{
	(void)state;
	struct fh dir, fh;
	char name[32];
	int seen[200] = { 0 };
	assert_nfs(client_mkdir(&root, &root.root, "steady", 0755, &dir), NFS3_OK);
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof name, "stays%d", i);
		assert_nfs(client_create(&root, &dir, name, GUARDED, 0600, &fh), NFS3_OK);
	}
	READDIR3args a = { .dir = fh3(&dir), .count = 300 };
	bool eof = false;
	for (int round = 0; !eof; round++) {
		READDIR3res r = { 0 };
		CALL(&root, 16, READDIR3args, &a, READDIR3res, &r);
		assert_nfs(r.status, NFS3_OK);
		for (entry3 *e = r.READDIR3res_u.resok.reply.entries; e; e = e->nextentry) {
			int i;
			if (sscanf(e->name, "stays%d", &i) == 1)
				seen[i]++;
			a.cookie = e->cookie;
		}
		eof = r.READDIR3res_u.resok.reply.eof;
		xdr_free((xdrproc_t)xdr_READDIR3res, (char *)&r);
		snprintf(name, sizeof name, "comes%d", round);
		assert_nfs(client_create(&root, &dir, name, GUARDED, 0600, &fh), NFS3_OK);
		if (round % 2)
			assert_nfs(client_remove(&root, &dir, name), NFS3_OK);
	}
	for (int i = 0; i < 200; i++)
		assert_int_equal(seen[i], 1);
}

static void the_reserved_directory_is_neither_seen_nor_named(void **state)
{
	(void)state;
	struct stack s;
	struct client c;
	struct fh fh;
	static struct seen seen;
	stack_make(&s, NULL, tree);
	server_start_with(&s, "--lower %s/lower1 --upper %s/upper", "--no-root-squash");
	client_open(&c, &s, 0, 0);
	memset(&seen, 0, sizeof seen);
	assert_true(client_list(&c, &c.root, 4096, see, &seen) > 5);
	for (int i = 0; i < seen.n; i++)
		assert_string_not_equal(seen.name[i], ".overnfsd");
	stack_sh(&s, "test -d upper/.overnfsd");
	assert_nfs(client_lookup(&c, &c.root, ".overnfsd", &fh, NULL), NFS3ERR_NOENT);
	assert_nfs(client_mkdir(&c, &c.root, ".overnfsd", 0755, &fh), NFS3ERR_ACCES);
	assert_int_not_equal(client_rename(&c, &c.root, "hello", &c.root, ".overnfsd"), NFS3_OK);
	assert_int_not_equal(client_rmdir(&c, &c.root, ".overnfsd"), NFS3_OK);
	client_close(&c);
	stack_remove(&s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(listings_are_complete_at_any_count),
		cmocka_unit_test(a_small_dircount_still_gives_an_entry_a_reply),
		cmocka_unit_test(listings_refuse),
		cmocka_unit_test(who_may_read_a_directory_but_not_search_it_gets_names_alone),
		cmocka_unit_test(a_listing_is_steady_while_entries_come_and_go),
		cmocka_unit_test(the_reserved_directory_is_neither_seen_nor_named),
	};
	return SAMPLE_RUN(tests);
}
