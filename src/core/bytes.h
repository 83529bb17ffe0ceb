/*
 * core/bytes.h
 *		Reading and copying the bytes of texts and of short names, without function calls.
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
 * Copy a few bytes.  For lengths that it does not know, gcc may put "rep movs" in place of
 * memcpy(), which takes longer to begin than all of this.
 */
static inline void
copy_bytes(char *to, const char *from, int len)
{
	if (len >= 8)
	{
		for (int i = 0; i < len - 8; i += 8)
			memcpy(to + i, from + i, 8);
		memcpy(to + len - 8, from + len - 8, 8);
	}
	else if (len >= 4)
	{
		memcpy(to, from, 4);
		memcpy(to + len - 4, from + len - 4, 4);
	}
	else if (len > 0)
	{
		to[0] = from[0];
		to[len / 2] = from[len / 2];
		to[len - 1] = from[len - 1];
	}
}

/* Are these bytes the same?  Meant for short texts. */
static inline bool
same_bytes(const char *a, const char *b, int len)
{
	if (len >= 8)
	{
		for (int i = 0; i < len - 8; i += 8)
			if (load_64(a + i) != load_64(b + i))
				return false;
		return load_64(a + len - 8) == load_64(b + len - 8);
	}
	if (len >= 4)
		return load_32(a) == load_32(b) && load_32(a + len - 4) == load_32(b + len - 4);
	return len <= 0 || (a[0] == b[0] && a[len / 2] == b[len / 2] && a[len - 1] == b[len - 1]);
}

#endif							/* RATELIMIT_BYTES_H */
