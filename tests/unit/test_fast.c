/* The calls that are decoded and encoded by hand, against rpcgen's code: the same bytes and the same values, over random ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fast.h"

enum { ROUNDS = 20000, SPACE = 16384 };
static uint64_t seed = 88172645463325252u;
static uint8_t ours[SPACE], theirs[SPACE];

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static void fill(void *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)p)[i] = (uint8_t)rnd();
}

static uint32_t encoded(xdrproc_t proc, void *value)
{
	XDR x;
	xdrmem_create(&x, (char *)theirs, sizeof theirs, XDR_ENCODE);
	assert_true(proc(&x, value));
	return xdr_getpos(&x);
}

static char handle_bytes[NFS3_FHSIZE];

static nfs_fh3 a_handle(void)
{
	fill(handle_bytes, sizeof handle_bytes);
	return (nfs_fh3){ { .data_len = (u_int)(rnd() % (NFS3_FHSIZE + 1)), .data_val = handle_bytes } };
}

static void assert_handle(const nfs_fh3 *a, const nfs_fh3 *b)
{
	assert_int_equal(a->data.data_len, b->data.data_len);
	assert_memory_equal(a->data.data_val, b->data.data_val, a->data.data_len);
}

/* Whatever is cut off or added, it is not a call any more. */
#define ASSERT_WHOLE(decode, len)                                  \
	do {                                                       \
		assert_false(decode(theirs, rnd() % (len)));       \
		assert_false(decode(theirs, (len) + 4));           \
	} while (0)

static GETATTR3args getattr;
static LOOKUP3args lookup;
static ACCESS3args access3;
static READ3args read3;
static WRITE3args write3;
static char name[NAME_LIMIT + 1];
static bool getattr_is(const uint8_t *p, size_t len) { return decode_getattr(p, len, &getattr); }
static bool lookup_is(const uint8_t *p, size_t len) { return decode_lookup(p, len, &lookup, name); }
static bool access_is(const uint8_t *p, size_t len) { return decode_access(p, len, &access3); }
static bool read_is(const uint8_t *p, size_t len) { return decode_read(p, len, &read3); }
static bool write_is(const uint8_t *p, size_t len) { return decode_write(p, len, &write3); }

static void arguments_are_decoded_as_by_rpcgen(void **state)
{
	static char text[NAME_LIMIT + 1], data[8192];
	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		GETATTR3args g = { a_handle() };
		uint32_t len = encoded((xdrproc_t)xdr_GETATTR3args, &g);
		assert_true(getattr_is(theirs, len));
		assert_handle(&getattr.object, &g.object);
		ASSERT_WHOLE(getattr_is, len);

		size_t n = rnd() % 16 ? rnd() % 256 : rnd() % (NAME_LIMIT + 1);
		memset(text, 0, sizeof text);
		for (size_t j = 0; j < n; j++)
			text[j] = (char)(1 + rnd() % 255);
		LOOKUP3args l = { { a_handle(), text } };
		len = encoded((xdrproc_t)xdr_LOOKUP3args, &l);
		assert_true(lookup_is(theirs, len));
		assert_handle(&lookup.what.dir, &l.what.dir);
		assert_string_equal(lookup.what.name, text);
		ASSERT_WHOLE(lookup_is, len);

		ACCESS3args a = { a_handle(), (uint32)rnd() };
		len = encoded((xdrproc_t)xdr_ACCESS3args, &a);
		assert_true(access_is(theirs, len));
		assert_handle(&access3.object, &a.object);
		assert_int_equal(access3.access, a.access);
		ASSERT_WHOLE(access_is, len);

		READ3args r = { a_handle(), rnd(), (uint32)rnd() };
		len = encoded((xdrproc_t)xdr_READ3args, &r);
		assert_true(read_is(theirs, len));
		assert_handle(&read3.file, &r.file);
		assert_true(read3.offset == r.offset && read3.count == r.count);
		ASSERT_WHOLE(read_is, len);

		u_int bytes = (u_int)(rnd() % 16 ? rnd() % 64 : rnd() % sizeof data);
		fill(data, bytes);
		WRITE3args w = { a_handle(), rnd(), (uint32)rnd(), (stable_how)(rnd() % 3), { bytes, data } };
		len = encoded((xdrproc_t)xdr_WRITE3args, &w);
		assert_true(write_is(theirs, len));
		assert_handle(&write3.file, &w.file);
		assert_true(write3.offset == w.offset && write3.count == w.count && write3.stable == w.stable);
		assert_int_equal(write3.data.data_len, bytes);
		assert_memory_equal(write3.data.data_val, data, bytes);
		ASSERT_WHOLE(write_is, len);
	}
}

static void a_name_with_a_nul_inside_is_an_empty_one(void **state)
{
	char text[] = "victimXx";
	LOOKUP3args l = { { a_handle(), text } }, rpcgens = { { { { 0, NULL } }, NULL } };
	(void)state;
	uint32_t len = encoded((xdrproc_t)xdr_LOOKUP3args, &l);
	theirs[len - 2] = 0;
	assert_true(lookup_is(theirs, len));
	XDR x;
	xdrmem_create(&x, (char *)theirs, len, XDR_DECODE);
	assert_true(xdr_LOOKUP3args(&x, &rpcgens));
	assert_string_equal(lookup.what.name, rpcgens.what.name);
	assert_string_equal(lookup.what.name, "");
	xdr_free((xdrproc_t)xdr_LOOKUP3args, &rpcgens);
}

static void lengths_that_lie_are_refused(void **state)
{
	(void)state;
	for (int i = 0; i < ROUNDS; i++) { /* any bytes at all: never beyond the end (ASan sees it), and what is taken is what rpcgen would take */
		size_t len = rnd() % 128;
		uint8_t *exact = malloc(len ? len : 1);
		GETATTR3args g = { { { 0, NULL } } };
		XDR x;
		fill(exact, len);
		if (len >= 4 && rnd() % 2)
			memset(exact, 0, 3);
		xdrmem_create(&x, (char *)exact, (u_int)len, XDR_DECODE);
		bool taken = xdr_GETATTR3args(&x, &g) && xdr_getpos(&x) == len;
		assert_int_equal(getattr_is(exact, len), taken);
		xdr_free((xdrproc_t)xdr_GETATTR3args, &g);
		lookup_is(exact, len);
		access_is(exact, len);
		read_is(exact, len);
		write_is(exact, len);
		free(exact);
	}
}

static void random_attributes(post_op_attr *p)
{
	fill(p, sizeof *p);
	p->attributes_follow = (bool_t)(rnd() % 2);
	p->post_op_attr_u.attributes.type = (ftype3)(1 + rnd() % 7);
}

static void random_wcc(wcc_data *w)
{
	fill(w, sizeof *w);
	w->before.attributes_follow = (bool_t)(rnd() % 2);
	random_attributes(&w->after);
}

static void assert_same(const uint8_t *end, xdrproc_t proc, void *res)
{
	uint32_t len = encoded(proc, res);
	assert_int_equal(end - ours, len);
	assert_memory_equal(ours, theirs, len);
}

static void results_are_encoded_as_by_rpcgen(void **state)
{
	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		nfsstat3 st = rnd() % 2 ? NFS3_OK : NFS3ERR_STALE;
		post_op_attr attr;
		memset(ours, 0xaa, RESULT_MAX);

		GETATTR3res g = { .status = st };
		random_attributes(&attr);
		g.GETATTR3res_u.obj_attributes = attr.post_op_attr_u.attributes;
		assert_same(encode_getattr(ours, &g), (xdrproc_t)xdr_GETATTR3res, &g);

		LOOKUP3res l = { .status = st };
		random_attributes(st ? &l.LOOKUP3res_u.dir_attributes : &l.LOOKUP3res_u.resok.dir_attributes);
		if (!st) {
			l.LOOKUP3res_u.resok.object = a_handle();
			random_attributes(&l.LOOKUP3res_u.resok.obj_attributes);
		}
		assert_same(encode_lookup(ours, &l), (xdrproc_t)xdr_LOOKUP3res, &l);

		ACCESS3res a = { .status = st };
		random_attributes(st ? &a.ACCESS3res_u.obj_attributes : &a.ACCESS3res_u.resok.obj_attributes);
		if (!st)
			a.ACCESS3res_u.resok.access = (uint32)rnd();
		assert_same(encode_access(ours, &a), (xdrproc_t)xdr_ACCESS3res, &a);

		READ3res r = { .status = st };
		random_attributes(st ? &r.READ3res_u.file_attributes : &r.READ3res_u.resok.file_attributes);
		if (!st) {
			r.READ3res_u.resok.count = (uint32)rnd();
			r.READ3res_u.resok.eof = (bool_t)(rnd() % 2);
		}
		assert_same(encode_read_head(ours, &r), (xdrproc_t)xdr_READ3res, &r); /* no data: the head alone */

		WRITE3res w = { .status = st };
		random_wcc(st ? &w.WRITE3res_u.file_wcc : &w.WRITE3res_u.resok.file_wcc);
		if (!st) {
			w.WRITE3res_u.resok.count = (uint32)rnd();
			w.WRITE3res_u.resok.committed = (stable_how)(rnd() % 3);
			fill(w.WRITE3res_u.resok.verf, sizeof w.WRITE3res_u.resok.verf);
		}
		assert_same(encode_write(ours, &w), (xdrproc_t)xdr_WRITE3res, &w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arguments_are_decoded_as_by_rpcgen),
		cmocka_unit_test(a_name_with_a_nul_inside_is_an_empty_one),
		cmocka_unit_test(lengths_that_lie_are_refused),
		cmocka_unit_test(results_are_encoded_as_by_rpcgen),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
