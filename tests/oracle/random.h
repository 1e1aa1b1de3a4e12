/* random.h: numbers that are the same for the same seed, everywhere. */
#ifndef OVERNFSD_ORACLE_RANDOM_H
#define OVERNFSD_ORACLE_RANDOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dice {
	uint64_t state;
};

static inline uint64_t dice_roll(struct dice *d) /* splitmix64 */
{
	uint64_t z = d->state += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static inline size_t dice_below(struct dice *d, size_t n) /* 0 to n - 1 */
{
	return (size_t)(dice_roll(d) % n);
}

static inline bool dice_percent(struct dice *d, unsigned percent)
{
	return dice_below(d, 100) < percent;
}

#endif
