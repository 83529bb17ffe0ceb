/*
 * violations/gateway.h
 *		The name of the calling instance.  See violations/gateway.c.
 */
#ifndef RATELIMIT_VIOLATIONS_GATEWAY_H
#define RATELIMIT_VIOLATIONS_GATEWAY_H

#include "core/settings.h"

/* A gateway's name, with its length and hash. */
typedef struct Gateway
{
	char		raw[MAX_GATEWAY_LEN + 1];	/* as it was set */
	char		name[MAX_GATEWAY_LEN + 1];	/* valid in the database's encoding */
	int			len;			/* length of name */
	uint64		hash;
} Gateway;

extern void gateway_use_seed(uint64 seed);
extern void gateway_hash(Gateway *gateway);
extern void gateway_set(Gateway *gateway, const char *wanted);
extern const Gateway *my_gateway(void);

#endif							/* RATELIMIT_VIOLATIONS_GATEWAY_H */
