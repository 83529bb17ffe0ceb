/*
 * violations/gateway.c
 *		The gateway, which is the name of the calling instance.
 *
 * Violations are counted separately for each gateway.  This file finds the name and
 * hashes it; it counts nothing.
 */
#include "postgres.h"

#include <unistd.h>

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/guc.h"
#include "violations/gateway.h"

static uint64 hash_seed = 0;

/* Hash names of gateways with this seed from now on. */
void
gateway_use_seed(uint64 seed)
{
	hash_seed = seed;
}

/* Compute head and hash of a gateway's name. */
void
gateway_complete(Gateway *gateway)
{
	memset(&gateway->head, 0, sizeof(gateway->head));
	memcpy(gateway->head.bytes, gateway->name,
		   Min(gateway->len, (int) sizeof(gateway->head.bytes)));
	gateway->hash = hash_bytes_extended((const unsigned char *) gateway->name,
										gateway->len, hash_seed);
}

/*
 * Set a gateway's name.  In a name that is not valid in the database's encoding,
 * question marks replace all bytes that are not ASCII.
 */
void
gateway_set(Gateway *gateway, const char *wanted)
{
	strlcpy(gateway->raw, wanted, sizeof(gateway->raw));
	gateway->len = strlcpy(gateway->name, gateway->raw, sizeof(gateway->name));
	if (!pg_verifymbstr(gateway->name, gateway->len, true))
		for (char *p = gateway->name; *p; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	gateway_complete(gateway);
}

/* The gateway that my_gateway() found last.  Its name is empty before that. */
static Gateway mine;

/*
 * The gateway that was the calling one when this session last asked: good enough
 * where a wrong name does no harm, and cheaper.
 */
const Gateway *
my_last_gateway(void)
{
	return &mine;
}

/*
 * The calling instance: the first of ratelimit.gateway_name, application_name,
 * cluster_name and the host's name that is not empty.  Settings that come with a
 * connection have not been checked for the database's encoding (see gateway_set()).
 */
const Gateway *
my_gateway(void)
{
	static char host[MAX_GATEWAY_LEN + 1];
	const char *wanted = host;

	if (gateway_name_setting && gateway_name_setting[0])
		wanted = gateway_name_setting;
	else if (application_name && application_name[0])
		wanted = application_name;
	else if (cluster_name && cluster_name[0])
		wanted = cluster_name;
	else if (!host[0] && (gethostname(host, sizeof(host) - 1) != 0 || !host[0]))
		strlcpy(host, "unknown", sizeof(host));

	if (strcmp(wanted, mine.raw) != 0)
		gateway_set(&mine, wanted);
	return &mine;
}
