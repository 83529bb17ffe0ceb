/*
 * core/address.c
 *		Keys that are IP addresses, as text, and their prefixes.
 *
 * An address is four decimal numbers with dots, or what RFC 4291 makes of an IPv6
 * address, with or without "/" and the length of a prefix behind it.  An IPv4 address in
 * the form of IPv6 (::ffff:192.0.2.1) is that IPv4 address.  Anything else is not an
 * address: ports, brackets, zones and leading zeros of IPv4 are not read.
 *
 * This is pure, allocates nothing, and raises no errors.
 */
#include "postgres.h"

#include "core/address.h"

#define X	-1
#define X16	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X

/* The value of a hexadecimal digit; -1 for other characters. */
const int8	address_digits[256] = {
	X16, X16, X16,
	0, 1, 2, 3, 4, 5, 6, 7, 8, 9, X, X, X, X, X, X,
	X, 10, 11, 12, 13, 14, 15, X, X, X, X, X, X, X, X, X,
	X16,
	X, 10, 11, 12, 13, 14, 15, X, X, X, X, X, X, X, X, X,
	X16, X16, X16, X16, X16, X16, X16, X16, X16
};

/* Read a decimal number that has no leading zero and is not above "max". */
static bool
read_number(const char **at, const char *end, int max, int *number)
{
	const char *begin = *at;
	int			value = 0;

	while (*at < end && **at >= '0' && **at <= '9' && value <= max)
		value = value * 10 + (*(*at)++ - '0');
	*number = value;
	return *at > begin && value <= max && (*begin != '0' || *at == begin + 1);
}

/* Read an IPv4 address, up to the end or to a "/". */
static bool
read_v4(const char **at, const char *end, uint64 *result)
{
	*result = 0;
	for (int i = 0; i < 4; i++)
	{
		int			octet;

		if (i > 0 && (*at == end || *(*at)++ != '.'))
			return false;
		if (!read_number(at, end, 255, &octet))
			return false;
		*result = *result << 8 | octet;
	}
	return *at == end || **at == '/';
}

/* Read an IPv6 address, up to the end or to a "/". */
static bool
read_v6(const char **at, const char *end, Address *address)
{
	uint16		groups[8] = {0};
	int			n = 0;
	int			gap = -1;		/* before which group "::" stands */

	if (end - *at >= 2 && (*at)[0] == ':' && (*at)[1] == ':')
	{
		gap = 0;
		*at += 2;
	}
	while (*at < end && **at != '/')
	{
		const char *begin = *at;
		uint32		value = 0;

		while (*at < end && address_digits[(uint8) **at] >= 0 && *at - begin < 5)
			value = value << 4 | address_digits[(uint8) *(*at)++];
		if (*at < end && **at == '.')
		{
			uint64		v4;

			*at = begin;
			if (n > 6 || !read_v4(at, end, &v4))
				return false;
			groups[n++] = (uint16) (v4 >> 16);
			groups[n++] = (uint16) v4;
			break;
		}
		if (*at == begin || *at - begin > 4 || n == 8)
			return false;
		groups[n++] = (uint16) value;
		if (*at == end || **at == '/')
			break;
		if (*(*at)++ != ':')
			return false;
		if (*at < end && **at == ':')
		{
			if (gap >= 0)
				return false;
			gap = n;
			(*at)++;
		}
		else if (*at == end || **at == '/')
			return false;
	}
	if (gap >= 0 ? n == 8 : n != 8)
		return false;
	if (gap >= 0)
	{
		memmove(&groups[8 - (n - gap)], &groups[gap], (n - gap) * sizeof(uint16));
		memset(&groups[gap], 0, (8 - n) * sizeof(uint16));
	}
	address->high = address->low = 0;
	for (int i = 0; i < 4; i++)
	{
		address->high = address->high << 16 | groups[i];
		address->low = address->low << 16 | groups[i + 4];
	}
	return true;
}

/* Read the key as an address.  Returns false if it is not one. */
bool
address_parse(const char *key, int len, Address *address)
{
	const char *end = key + len;
	const char *at = key;
	int			max;

	/* the first group of an IPv6 address has at most four characters */
	address->v6 = memchr(key, ':', Min(len, 5)) != NULL;
	address->high = 0;
	max = address->v6 ? 128 : 32;
	if (!(address->v6 ? read_v6(&at, end, address) : read_v4(&at, end, &address->low)))
		return false;
	address->bits = max;
	if (at < end)
	{
		at++;
		if (!read_number(&at, end, max, &address->bits) || at != end)
			return false;
	}
	if (address->v6 && address->bits >= 96 && address->high == 0 &&
		address->low >> 32 == 0xffff)
	{
		address->v6 = false;
		address->bits -= 96;
		address->low = (uint32) address->low;
	}
	address_cut(address, address->bits);
	return true;
}

/* Make the address the network of so many bits, but not more than it has, that it is in. */
void
address_cut(Address *address, int bits)
{
	bits = Min(bits, address->v6 ? 128 : 32);
	address->bits = bits;
	if (!address->v6)
		address->low = bits == 0 ? 0 : address->low >> (32 - bits) << (32 - bits);
	else if (bits <= 64)
	{
		address->high = bits == 0 ? 0 : address->high >> (64 - bits) << (64 - bits);
		address->low = 0;
	}
	else
		address->low = address->low >> (128 - bits) << (128 - bits);
}
