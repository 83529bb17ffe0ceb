/*
 * violations/gateway.c
 *		The calling instance, whose violations are counted apart.
 */
#include "postgres.h"

#include <unistd.h>

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "violations/gateway.h"

static uint64 hash_seed = 0;

/* Hash names of gateways by this seed from here on. */
void
gateway_use_seed(uint64 seed)
{
	hash_seed = seed;
}

void
gateway_hash(Gateway *gateway)
{
	gateway->hash = hash_bytes_extended((const unsigned char *) gateway->name,
										gateway->len, hash_seed);
}

void
gateway_set(Gateway *gateway, const char *wanted)
{
	strlcpy(gateway->raw, wanted, sizeof(gateway->raw));
	gateway->len = strlcpy(gateway->name, gateway->raw, sizeof(gateway->name));
	if (!pg_verifymbstr(gateway->name, gateway->len, true))
		for (char *p = gateway->name; *p; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	gateway_hash(gateway);
}

/*
 * The calling instance: ratelimit.gateway_name, else application_name, else
 * cluster_name, else the host's name.  Settings that come with a connection have
 * not been checked for the database's encoding: what is not valid in it is
 * shown as question marks.
 */
const Gateway *
my_gateway(void)
{
	static char host[MAX_GATEWAY_LEN + 1];
	static Gateway mine;
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
