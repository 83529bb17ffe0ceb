/*
 * core/address.h
 *		Keys that are IP addresses: see core/address.c.
 */
#ifndef RATELIMIT_CORE_ADDRESS_H
#define RATELIMIT_CORE_ADDRESS_H

#include "core/compat.h"

/* An address, or a network: the first "bits" bits of it, and zeros. */
typedef struct Address
{
	bool		v6;
	int			bits;			/* 32 or 128 for a single address */
	uint64		high;			/* the first 64 bits of an IPv6 address */
	uint64		low;			/* the other 64 bits, or the IPv4 address */
} Address;

/*
 * How an address begins, as far as that can be told quickly.  The key need not be an
 * address even if it begins as one.
 */
typedef enum AddressBegin
{
	BEGIN_NONE,					/* the key is not an address */
	BEGIN_V4,					/* all 32 bits of an IPv4 address */
	BEGIN_V6_32,				/* the first 32 bits of an IPv6 address */
	BEGIN_V6_48,				/* its first 48 bits */
	BEGIN_UNSURE				/* only address_parse() can tell */
} AddressBegin;

extern hidden_data const int8 address_digits[256];

extern bool address_parse(const char *key, int len, Address *address);
extern void address_cut(Address *address, int bits);

/* The first three groups of an IPv6 address, or as many as there are before "::". */
static inline AddressBegin
address_begin_v6(const char *key, int len, uint64 *begin)
{
	uint64		bits = 0;
	int			at = 0;

	for (int n = 0; n < 3; n++)
	{
		uint32		group = 0;
		int			start = at;

		while (at < len && address_digits[(uint8) key[at]] >= 0)
			group = group << 4 | address_digits[(uint8) key[at++]];
		if (at - start > 4)
			return BEGIN_NONE;
		bits = bits << 16 | group;
		if (at == start)
		{
			if (at >= len || key[at] != ':')
				return BEGIN_NONE;
			/* "::" is at least one group of zeros, and any number of them */
			if (n == 0)
				return BEGIN_UNSURE;
			*begin = n == 1 ? bits : bits >> 16 << 16;
			return n == 1 ? BEGIN_V6_32 : BEGIN_V6_48;
		}
		if (at >= len)
			return BEGIN_NONE;
		if (key[at] != ':')
			return key[at] == '/' || key[at] == '.' ? BEGIN_UNSURE : BEGIN_NONE;
		at++;
	}
	*begin = bits;
	/* an IPv4 address in the form of IPv6 begins with zeros */
	return bits == 0 ? BEGIN_UNSURE : BEGIN_V6_48;
}

/* How the key begins if it is an address; *begin has so many bits of it. */
static pg_attribute_always_inline AddressBegin
address_begin(const char *key, int len, uint64 *begin)
{
	uint32		address = 0;
	uint32		octet = 0;
	int			dots = 0;

	if (len == 0 || (address_digits[(uint8) *key] < 0 && *key != ':'))
		return BEGIN_NONE;
	for (int i = 0; i < len; i++)
	{
		uint32		digit = (uint8) key[i] - '0';

		if (digit <= 9)
			octet = octet * 10 + digit;
		else if (key[i] == '.')
		{
			address = (address | octet) << 8;
			octet = 0;
			dots++;
		}
		else if (key[i] == '/' && dots == 3)
			break;
		else
			return address_begin_v6(key, len, begin);
	}
	*begin = address | octet;
	return dots == 3 ? BEGIN_V4 : BEGIN_NONE;
}

#endif							/* RATELIMIT_CORE_ADDRESS_H */
