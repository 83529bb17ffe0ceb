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

/* The area of an address is its first 16 bits, if it is IPv4, or its first 32 bits. */
typedef enum AreaKind
{
	AREA_NONE,					/* the key is not an address */
	AREA_V4,
	AREA_V6,
	AREA_UNSURE					/* only address_parse() can tell */
} AreaKind;

extern hidden_data const int8 address_digits[256];

extern bool address_parse(const char *key, int len, Address *address);
extern void address_cut(Address *address, int bits);

/*
 * The area that the key is in if it is an address.  This looks at the beginning of the
 * key only, so the key need not be an address even if it has an area.
 */
static inline AreaKind
address_area(const char *key, int len, uint32 *area)
{
	uint32		groups[2] = {0, 0};
	uint32		decimal[2] = {0, 0};
	int			at = 0;

	for (int group = 0; group < 2; group++)
	{
		int			begin = at;

		while (at < len && address_digits[(uint8) key[at]] >= 0 && at - begin < 4)
		{
			int			digit = address_digits[(uint8) key[at++]];

			groups[group] = groups[group] << 4 | digit;
			decimal[group] = decimal[group] * 10 + digit;
		}
		if (at >= len)
			return AREA_NONE;
		if (at == begin)
		{
			/* of the second group this is "2001::", after which zeros follow */
			if (key[at] != ':')
				return AREA_NONE;
			if (group == 0)
				return AREA_UNSURE;
		}
		else if (key[at] == '.')
		{
			if (group == 0)
			{
				at++;
				continue;
			}
			*area = (decimal[0] & 0xff) << 8 | (decimal[1] & 0xff);
			return key[begin - 1] == '.' ? AREA_V4 : AREA_NONE;
		}
		else if (key[at] != ':' && key[at] != '/')
			return AREA_NONE;
		at++;
	}
	/* an IPv4 address in the form of IPv6 begins with zeros */
	*area = groups[0] << 16 | groups[1];
	return *area == 0 ? AREA_UNSURE : AREA_V6;
}

#endif							/* RATELIMIT_CORE_ADDRESS_H */
