/*
 * core/bytes.h
 *		Reading, copying and comparing the bytes of short names, without function
 *		calls.
 */
#ifndef RATELIMIT_BYTES_H
#define RATELIMIT_BYTES_H

#include "core/compat.h"
#include "fmgr.h"

/* The bytes of a text.  Only a toasted one needs a function call. */
static inline const char *
text_bytes(Datum datum, int *len)
{
	const text *value = (text *) DatumGetPointer(datum);

	if (unlikely(VARATT_IS_COMPRESSED(value) || VARATT_IS_EXTERNAL(value)))
		value = DatumGetTextPP(datum);
	if (VARATT_IS_SHORT(value))
	{
		*len = VARSIZE_SHORT(value) - VARHDRSZ_SHORT;
		return VARDATA_SHORT(value);
	}
	*len = VARSIZE(value) - VARHDRSZ;
	return VARDATA(value);
}

static inline uint64
load_64(const char *bytes)
{
	uint64		result;

	memcpy(&result, bytes, sizeof(result));
	return result;
}

static inline uint32
load_32(const char *bytes)
{
	uint32		result;

	memcpy(&result, bytes, sizeof(result));
	return result;
}

/*
 * These replace memcpy() and memcmp() == 0 for names, which are so short that calling
 * libc costs more than the work.  The last load may overlap the one before it.
 */
static inline void
copy_bytes(char *to, const char *from, int n)
{
	if (likely(n >= 8))
	{
		for (int at = 0; at < n - 8; at += 8)
			memcpy(to + at, from + at, 8);
		memcpy(to + n - 8, from + n - 8, 8);
	}
	else if (n >= 4)
	{
		memcpy(to, from, 4);
		memcpy(to + n - 4, from + n - 4, 4);
	}
	else if (n > 0)
	{
		to[0] = from[0];
		to[n / 2] = from[n / 2];
		to[n - 1] = from[n - 1];
	}
}

static inline bool
same_bytes(const char *a, const char *b, int n)
{
	if (likely(n >= 4 && n <= 8))
		return load_32(a) == load_32(b) && load_32(a + n - 4) == load_32(b + n - 4);
	if (n > 8)
	{
		for (int at = 0; at < n - 8; at += 8)
			if (load_64(a + at) != load_64(b + at))
				return false;
		return load_64(a + n - 8) == load_64(b + n - 8);
	}
	return n == 0 || (a[0] == b[0] && a[n / 2] == b[n / 2] && a[n - 1] == b[n - 1]);
}

#endif							/* RATELIMIT_BYTES_H */
