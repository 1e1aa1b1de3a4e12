/* rpc/ under a toy program: what is refused, and that the reason is told as RFC 5531 says. */
#include "toy.h"

/* ---- errors of RFC 5531 ---- */
static void errors_are_told_as_the_rfc_says(void **state)
{
	(void)state;
	int fd = connected();
	struct answer a;
	put_call(&m, 1, PROG + 1, 3, 0);
	assert_int_equal(ask(fd).stat, 1); /* PROG_UNAVAIL */
	for (uint32_t vers = 0; vers < 9; vers++) {
		put_call(&m, 2, PROG, vers, 0);
		a = ask(fd);
		assert_int_equal(a.stat, vers == 2 || vers == 3 || vers == 7 ? 0 : 2); /* PROG_MISMATCH */
		if (a.stat) {
			assert_int_equal(a.low, 2);
			assert_int_equal(a.high, 7);
		}
	}
	put_call(&m, 3, PROG, 3, ABSENT);
	assert_int_equal(ask(fd).stat, 3); /* PROC_UNAVAIL */
	put_call(&m, 3, PROG, 3, PROCS); /* the first behind the table */
	assert_int_equal(ask(fd).stat, 3);
	put_call(&m, 3, PROG, 3, UINT32_MAX);
	assert_int_equal(ask(fd).stat, 3);
	put_call(&m, 3, PROG, 7, BIG);
	assert_int_equal(ask(fd).stat, 3);
	put_call(&m, 4, PROG, 3, 0);
	memcpy(m.data + 8, &(uint32_t){ htonl(3) }, 4);
	a = ask(fd); /* RPC_MISMATCH */
	assert_true(a.denied && a.stat == 0 && a.low == 2 && a.high == 2 && a.xid == 4);
	sem_post(&leave);
	word_call(5, UNENCODABLE, 0);
	assert_int_equal(ask(fd).stat, 5); /* SYSTEM_ERR */
	close(fd);
}

static void arguments_must_be_whole_and_nothing_more(void **state)
{
	(void)state;
	int fd = connected();
	put_call(&m, 1, PROG, 3, ECHO);
	assert_int_equal(ask(fd).stat, 4); /* GARBAGE_ARGS */
	static const uint32_t lengths[] = { 1, 5, 100, MIB, WIRE_MAX, WIRE_MAX + 1, 0x7fffffff, 0xfffffffc, 0xfffffffd, 0xffffffff };
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		put_call(&m, 2, PROG, 3, ECHO);
		put_word(&m, lengths[i]);
		assert_int_equal(ask(fd).stat, 4);
	}
	echo_call(3, "abcd", 4);
	put_word(&m, 0);
	assert_int_equal(ask(fd).stat, 4); /* something behind them */
	echo_call(3, "abcd", 4);
	m.data[m.len++] = 0;
	assert_int_equal(ask(fd).stat, 4);
	echo_call(3, "abc", 3);
	m.len--; /* the padding is cut */
	assert_int_equal(ask(fd).stat, 4);
	echo_call(3, "abc", 3);
	assert_int_equal(ask(fd).stat, 0);
	close(fd);
}

/* ---- credentials ---- */
static struct answer with_cred(int fd, uint32_t proc, uint32_t flavor, const struct message *cred)
{
	const uint32_t words[] = { 1, 0, 2, PROG, 3, proc, flavor };
	m.len = 0;
	for (int i = 0; i < 7; i++)
		put_word(&m, words[i]);
	put_opaque(&m, cred->data, cred->len);
	put_word(&m, 0);
	put_word(&m, 0);
	if (proc)
		put_word(&m, 0); /* ECHO of nothing */
	return ask(fd);
}
static struct message cred;
static void sys_cred(size_t name, uint32_t groups)
{
	static const char names[300];
	cred.len = 0;
	put_word(&cred, 0);
	put_opaque(&cred, names, name);
	put_word(&cred, 1000);
	put_word(&cred, 1000);
	put_word(&cred, groups);
	for (uint32_t i = 0; i < groups && i < 20; i++)
		put_word(&cred, i);
}

static void bad_credentials_are_refused_with_their_reason(void **state)
{
	(void)state;
	int fd = connected();
	struct answer a;
	sys_cred(255, 16);
	assert_int_equal(with_cred(fd, ECHO, 1, &cred).denied, 0);
	static const struct { size_t name; uint32_t groups; } bad[] = { { 4, 17 }, { 256, 0 }, { 4, 0xffffffff }, { 4, 0x40000001 } };
	for (size_t i = 0; i < 4; i++) {
		sys_cred(bad[i].name, bad[i].groups);
		a = with_cred(fd, ECHO, 1, &cred);
		assert_true(a.denied && a.stat == 1 && a.low == 1); /* AUTH_BADCRED */
	}
	sys_cred(8, 3);
	for (size_t len = cred.len; cred.len; cred.len = --len & ~(size_t)3) { /* cut everywhere */
		len = cred.len - 1;
		cred.len = len;
		a = with_cred(fd, ECHO, 1, &cred);
		assert_true(a.denied && a.stat == 1 && a.low == 1);
		cred.len = len + 1;
	}
	cred.len = 400;
	assert_int_equal(with_cred(fd, 0, 0, &cred).denied, 0);
	cred.len = 401; /* RFC 5531 8.2: at most 400 */
	a = with_cred(fd, 0, 0, &cred);
	assert_true(a.denied && a.stat == 1 && a.low == 1);
	cred.len = 8;
	for (uint32_t flavor = 2; flavor < 9; flavor++) {
		a = with_cred(fd, ECHO, flavor, &cred);
		assert_true(a.denied && a.stat == 1 && a.low == 2); /* AUTH_REJECTEDCRED */
		a = with_cred(fd, 0, flavor, &cred);
		assert_int_equal(a.denied, flavor == 6); /* NULL answers whoever asks; RPCSEC_GSS would make a context by it */
	}
	put_call(&m, 1, PROG, 3, 0);
	memcpy(m.data + 36, &(uint32_t){ htonl(8) }, 4); /* a verifier that is not there */
	a = ask(fd);
	assert_true(a.denied && a.stat == 1 && a.low == 3); /* AUTH_BADVERF */
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TOY_TEST(errors_are_told_as_the_rfc_says),
		TOY_TEST(arguments_must_be_whole_and_nothing_more),
		TOY_TEST(bad_credentials_are_refused_with_their_reason),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
