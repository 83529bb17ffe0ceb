/*
 * settings.c
 *		Settings of this extension, and those of ratelimit that count here as well.
 */
#include "postgres.h"

#include <limits.h>
#include <unistd.h>

#include "compat.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "settings.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

int			max_leases_setting;
char	   *server_name_setting;
int			timeout_setting;
int			span_setting;
int			idle_setting;
int			term_setting;

void
settings_define(void)
{
	DefineCustomIntVariable("ratelimit_region.max_leases",
							"How many keys this server can hold leases of, for all databases together.",
							NULL, &max_leases_setting, 16384, 16, 4194304,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("ratelimit_region.server_name",
							   "The name of this server for the homes that it leases from.",
							   "Empty: cluster_name, or if that is empty, host and port.",
							   &server_name_setting, "", PGC_POSTMASTER, 0,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit_region.timeout",
							"How long a call waits for its home.",
							NULL, &timeout_setting, 1000, 1, 600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit_region.lease_span",
							"For how long the tokens of a portion last, at the rate of its key.",
							NULL, &span_setting, 500, 10, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit_region.lease_idle",
							"After how long without a call a lease is given back.",
							NULL, &idle_setting, 5000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit_region.lease_term",
							"How long tokens of a lease may be used, if they cannot be given back.",
							NULL, &term_setting, 60000, 100, 86400000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	MarkGUCPrefixReserved("ratelimit_region");
}

/* The name of this server for its homes. */
const char *
server_name(void)
{
	static char name[NAMEDATALEN * 2];
	char		host[NAMEDATALEN] = "";

	if (server_name_setting[0])
		return server_name_setting;
	if (cluster_name && cluster_name[0])
		return cluster_name;
	if (gethostname(host, sizeof(host) - 1) != 0)
		strlcpy(host, "unknown", sizeof(host));
	snprintf(name, sizeof(name), "%s:%d", host, PostPortNumber);
	return name;
}

/*
 * Where the library of ratelimit has a boolean setting.  It is looked for once, as each
 * call needs it.
 */
static const bool *
bool_of_ratelimit(const char *name)
{
	int			n = 0;
	struct config_generic **variables = guc_variables(&n);

	for (int i = 0; i < n; i++)
	{
		if (variables[i]->vartype == PGC_BOOL && strcmp(variables[i]->name, name) == 0)
			return ((struct config_bool *) variables[i])->variable;
	}
	return NULL;
}

bool
setting_enabled(void)
{
	static const bool *enabled = NULL;

	if (!enabled)
		enabled = bool_of_ratelimit("ratelimit.enabled");
	return !enabled || *enabled;
}

bool
setting_shadow(void)
{
	static const bool *shadow = NULL;

	if (!shadow)
		shadow = bool_of_ratelimit("ratelimit.shadow");
	return shadow && *shadow;
}

OnError
setting_on_error(void)
{
	const char *value = GetConfigOption("ratelimit.on_error", true, false);

	if (value && strcmp(value, "allow") == 0)
		return ON_ERROR_ALLOW;
	if (value && strcmp(value, "deny") == 0)
		return ON_ERROR_DENY;
	return ON_ERROR_ERROR;
}
