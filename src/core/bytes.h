/*
 * core/bytes.h
 *		Reading the bytes of texts and of short names, without function calls.
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

#endif							/* RATELIMIT_BYTES_H */
