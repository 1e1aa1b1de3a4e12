/* keyfile.c: see keyfile.h. */
#include "keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

const char *key_file_read(const char *path, uint8_t key[16], bool *made)
{
	char text[80] = "";
	size_t n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		randombytes_buf(key, 16);
		sodium_bin2hex(text, sizeof text, key, 16);
		text[32] = '\n';
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		*made = fd >= 0 && write(fd, text, 33) == 33 && !fsync(fd);
		const char *why = *made ? NULL : strerror(errno);
		if (fd >= 0)
			close(fd);
		if (fd >= 0 && why) /* half a key would be taken for a wrong one by the next start */
			unlink(path);
		return why;
	}
	if (fd < 0)
		return strerror(errno);
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	if (got < 0 || sodium_hex2bin(key, 16, text, (size_t)got, " \n", &n, NULL) || n != 16)
		return "is not a key; it must hold 32 hex digits (name a file that is not there, and one is made)";
	return NULL;
}
