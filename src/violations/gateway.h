/*
 * violations/gateway.h
 *		The name of the calling instance.  See violations/gateway.c.
 */
#ifndef RATELIMIT_VIOLATIONS_GATEWAY_H
#define RATELIMIT_VIOLATIONS_GATEWAY_H

#include "core/settings.h"

/*
 * The first bytes of a gateway's name, followed by zeros.  The head of a short name
 * contains all of it.
 */
typedef union GatewayHead
{
	char		bytes[16];
	uint64		words[2];
} GatewayHead;

/* A gateway's name, with what is computed from it. */
typedef struct Gateway
{
	char		raw[MAX_GATEWAY_LEN + 1];	/* as it was set */
	char		name[MAX_GATEWAY_LEN + 1];	/* valid in the database's encoding */
	int			len;			/* length of name */
	GatewayHead head;
	uint64		hash;
} Gateway;

extern void gateway_use_seed(uint64 seed);
extern void gateway_complete(Gateway *gateway);
extern void gateway_set(Gateway *gateway, const char *wanted);
extern const Gateway *my_gateway(void);
extern const Gateway *my_last_gateway(void);

/* Are these heads the same?  If the names are short, the names are the same then. */
static inline bool
same_gateway_head(const GatewayHead *a, const GatewayHead *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1];
}

static inline bool
gateway_is_short(const Gateway *gateway)
{
	return gateway->len <= (int) sizeof(gateway->head.bytes);
}

#endif							/* RATELIMIT_VIOLATIONS_GATEWAY_H */
