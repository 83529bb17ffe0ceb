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
 * A filter.  The head and the arrays are in shared memory or, if there is none,
 * the session's own.
 *
 * Each key or network sets five bits of one of the words.  A network also sets, for
 * every area that it shares addresses with, the bit that says that the area's addresses
 * have to be looked for with the network's length.  An area has the same first 16 bits,
 * of IPv6 32 bits; several areas may share a place.  And so that an address is not
 * looked for with many lengths in vain, a long network also sets the bits of its
 * marker: its first 20 or 24 bits, of IPv6 48 bits.
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

/* The lengths of networks, as bits, that the markers of IPv4 and IPv6 stand for. */
#define MARKED_24		UINT32_C(0xff800000)	/* 24 to 32 */
#define MARKED_20		UINT32_C(0x00780000)	/* 20 to 23 */
#define MARKED_48		UINT32_C(0xfffff800)	/* 48 to 128, in steps of 4 */

/* What the networks of an area have for lengths.  The area is the first bits. */
static pg_attribute_always_inline pg_atomic_uint32 *
exception_area(bool v6, uint64 area)
{
	uint64		n = area ^ exception_filter.seed;

	if (v6)
		n = hash_fold(n, hash_secrets[2]);
	return &exception_filter.areas[n & exception_filter.area_mask];
}

/* The hash of a marker, which is the first bits of networks, shifted to the right. */
static pg_attribute_always_inline uint64
exception_marker_hash(int bits, uint64 marker)
{
	return hash_fold(marker ^ exception_filter.seed, hash_secrets[1] + bits);
}

/* Is the key, if it is an address, probably in a network?  Looks at all of the key. */
static inline bool
exception_filter_has_parsed(const char *key, int len)
{
	Address		address;

	return address_parse(key, len, &address) && exception_filter_has_networks_of(&address);
}

/* May there be a row whose network contains the key, if it is an address? */
static pg_attribute_always_inline bool
exception_filter_has_address(const char *key, int len)
{
	uint64		begin;
	uint32		lengths;
	Address		v4;

	switch (address_begin(key, len, &begin))
	{
		case BEGIN_NONE:
			return false;
		case BEGIN_V4:
			lengths = pg_atomic_read_u32(exception_area(false, begin >> 16));
			if ((lengths & MARKED_24) &&
				!exception_filter_has(exception_marker_hash(24, begin >> 8)))
				lengths &= ~MARKED_24;
			if ((lengths & MARKED_20) &&
				!exception_filter_has(exception_marker_hash(20, begin >> 12)))
				lengths &= ~MARKED_20;
			if (likely(lengths == 0))
				return false;
			v4.v6 = false;
			v4.bits = 32;
			v4.high = 0;
			v4.low = begin;
			return exception_filter_has_networks_of(&v4);
		case BEGIN_V6_32:
			lengths = pg_atomic_read_u32(exception_area(true, begin));
			break;
		case BEGIN_V6_48:
			lengths = pg_atomic_read_u32(exception_area(true, begin >> 16));
			if ((lengths & MARKED_48) &&
				!exception_filter_has(exception_marker_hash(48, begin)))
				lengths &= ~MARKED_48;
			break;
		default:
			lengths = 1;
			break;
	}
	return unlikely(lengths != 0) && exception_filter_has_parsed(key, len);
}

#endif							/* RATELIMIT_MEMORY_EXCEPTION_FILTER_H */
