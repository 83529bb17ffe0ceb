/*
 * memory/exception_filter.h
 *		Which keys may have exceptions: see memory/exception_filter.c.
 */
#ifndef RATELIMIT_MEMORY_EXCEPTION_FILTER_H
#define RATELIMIT_MEMORY_EXCEPTION_FILTER_H

#include "access/xlogdefs.h"
#include "core/address.h"
#include "core/compat.h"
#include "core/names.h"
#include "core/parts.h"
#include "miscadmin.h"
#include "port/atomics.h"

/* What all users of a filter share. */
typedef struct ExceptionFilterHead
{
	pg_atomic_uint32 generation;	/* counts how often the filter was emptied */
	pg_atomic_uint32 added;		/* keys and networks since then */
	pg_atomic_uint32 base;		/* those of them that complete readings found */
} ExceptionFilterHead;

/*
 * A filter.  The head and the arrays are in shared memory or, if the library is not
 * preloaded, the session's own.
 *
 * Each key or network sets five bits of one of the words.  Each network also sets, for
 * every area (core/address.h) that it shares addresses with, the bit that says that
 * the area's addresses have to be looked for with the network's length.
 */
typedef struct ExceptionFilter
{
	ExceptionFilterHead *head;
	pg_atomic_uint64 *words;
	pg_atomic_uint32 *areas;
	uint32		word_mask;		/* one less than there are words, a power of two */
	uint32		area_mask;		/* likewise */
	uint64		seed;			/* other for each database */
} ExceptionFilter;

/*
 * What of a database's table is in the filter: all rows of the pages of this file
 * whose last change is not after "lsn", if the filter has this generation.
 */
typedef struct ExceptionMark
{
	uint32		generation;
	Oid			file;			/* InvalidOid: nothing of it */
	XLogRecPtr	lsn;
	bool		keys;			/* has it had rows with keys? */
	bool		networks;		/* has it had rows with networks? */
	int64		reading_until;	/* until then (monotonic clock, ns), another
								 * session's reading of the whole file is awaited */
} ExceptionMark;

extern const Part exception_filter_part;

/* This session's filter; head is NULL until there is one. */
extern hidden_data ExceptionFilter exception_filter;

extern void exception_filter_attach(uint32 rows);
extern bool exception_filter_is_full(void);
extern void exception_filter_clear(void);
extern uint32 exception_filter_add_key(const char *key, int len);
extern uint32 exception_filter_add_network(const Address *network);
extern bool exception_filter_has_network(const Address *address, int bits);
extern bool exception_filter_has_networks_of(const Address *address);
extern void exception_mark_lock(void);
extern void exception_mark_unlock(void);

/* Where the bits of a hash are, and which they are. */
static pg_attribute_always_inline pg_atomic_uint64 *
exception_word(uint64 hash, uint64 *bits)
{
	*bits = UINT64CONST(1) << (hash & 63) | UINT64CONST(1) << (hash >> 6 & 63) |
		UINT64CONST(1) << (hash >> 12 & 63) | UINT64CONST(1) << (hash >> 18 & 63) |
		UINT64CONST(1) << (hash >> 24 & 63);
	return &exception_filter.words[hash >> 32 & exception_filter.word_mask];
}

/* May there be a row with the key, or a network, of that hash?  "No" is certain. */
static pg_attribute_always_inline bool
exception_filter_has(uint64 hash)
{
	uint64		bits;
	uint64		word = pg_atomic_read_u64(exception_word(hash, &bits));

	return (word & bits) == bits;
}

static pg_attribute_always_inline uint64
exception_key_hash(const char *key, int len)
{
	return hash_key(exception_filter.seed, key, len);
}

/* Which of the areas is this? */
static inline pg_atomic_uint32 *
exception_area(bool v6, uint32 area)
{
	uint32		n = area;

	if (v6)
		n = (uint32) hash_fold(area ^ exception_filter.seed, hash_secrets[1] | 1);
	return &exception_filter.areas[(n ^ (uint32) (exception_filter.seed >> 40)) &
								   exception_filter.area_mask];
}

/* May there be a row whose network contains the key, if it is an address? */
static inline bool
exception_filter_has_address(const char *key, int len)
{
	uint32		area = 0;
	AreaKind	kind = address_area(key, len, &area);
	Address		address;

	if (kind == AREA_NONE)
		return false;
	if (kind != AREA_UNSURE &&
		pg_atomic_read_u32(exception_area(kind == AREA_V6, area)) == 0)
		return false;
	return address_parse(key, len, &address) && exception_filter_has_networks_of(&address);
}

#endif							/* RATELIMIT_MEMORY_EXCEPTION_FILTER_H */
