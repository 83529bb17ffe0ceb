/*
 * violations/gateway.h
 *		The calling instance: see violations/gateway.c.
 */
#ifndef RATELIMIT_VIOLATIONS_GATEWAY_H
#define RATELIMIT_VIOLATIONS_GATEWAY_H

#include "core/settings.h"

/* A gateway's name, and what is derived from it. */
typedef struct Gateway
{
	char		raw[MAX_GATEWAY_LEN + 1];	/* as set */
	char		name[MAX_GATEWAY_LEN + 1];	/* valid text */
	int			len;			/* of name */
	uint64		hash;
} Gateway;

extern void gateway_use_seed(uint64 seed);
extern void gateway_hash(Gateway *gateway);
extern void gateway_set(Gateway *gateway, const char *wanted);
extern const Gateway *my_gateway(void);

#endif							/* RATELIMIT_VIOLATIONS_GATEWAY_H */
