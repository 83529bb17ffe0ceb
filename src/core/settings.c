/*
 * core/settings.c
 *		The settings ratelimit.*, with their default values and checks.
 *
 * Sizes of shared memory cannot change while it is there.  If the library is
 * preloaded, PostgreSQL sees to that (PGC_POSTMASTER).  Otherwise it is too late for
 * such a setting when the library is loaded, so the configuration may say something
 * else at any time, in some processes earlier than in others.  Therefore what is
 * configured is kept apart from the sizes that are used, which core/late.c takes from
 * the process that made the memory.
 *
 * Only the configuration can set them, not a session.  But before the library is
 * loaded, PostgreSQL lets every role set what is not known yet.  It refuses that
 * value when the setting is defined, and has forgotten the configured one by then, if
 * a role's or a connection's settings had replaced it.  settings_overridden says that
 * this may be the case.
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "core/settings.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

int			max_buckets_setting = 131072;
int			overflow_setting = OVERFLOW_TABLE;
int			on_error_setting = ON_ERROR_ERROR;
int			flush_interval_setting = 60;
char	   *gateway_name_setting = NULL;
int			max_violations_setting = 16384;
int			violation_sink_setting = SINK_TABLE;
int			violation_retention_setting = 0;
int			flag_threshold_setting = 1000;
int			flag_window_setting = 600;
char	   *flag_limiters_setting = NULL;
int			max_episodes_setting = 200;
int			max_reservations_setting = 4096;
int			episode_retention_setting = 3600;
int			max_tickets_setting = 8192;
int			save_interval_setting = 300;
bool		enabled_setting = true;
bool		shadow_setting = false;
bool		refund_setting = false;
int			postgrest_headers_setting = HTTP_ERROR_PT429;
bool		shared_memory_setting = true;
bool		settings_overridden = false;

/* The sizes, and what is configured for each of them. */
static struct
{
	const char *name;
	const char *about;
	const char *detail;
	int		   *used;
	int			standard;
	int			min;
	int			max;
	int			configured;
}			all_sizes[] = {
	{"ratelimit.max_buckets", "Buckets held in shared memory.", NULL,
	&max_buckets_setting, 131072, 16, 1 << 30},
	{"ratelimit.max_violations", "Distinct (gateway, limiter, key) counted between two flushes.",
		"Violations of further keys are counted together, as key (other).",
	&max_violations_setting, 16384, 16, 1 << 19},
	{"ratelimit.max_episodes", "Recent runs of violations that are remembered.", NULL,
	&max_episodes_setting, 200, 1, 10000},
	{"ratelimit.max_tickets", "Tickets of rl_acquire() that one role may hold at the same time.", NULL,
	&max_tickets_setting, 8192, 16, 200000},
	{"ratelimit.max_reservations", "Reservations held in shared memory.",
		"Further ones are kept in a table.",
	&max_reservations_setting, 4096, 16, 1 << 20},
};

StaticAssertDecl(lengthof(all_sizes) <= MAX_SIZES, "too many sizes");

static const struct config_enum_entry overflow_options[] = {
	{"table", OVERFLOW_TABLE, false},
	{"evict", OVERFLOW_EVICT, false},
	{NULL, 0, false}
};

static const struct config_enum_entry on_error_options[] = {
	{"error", ON_ERROR_ERROR, false},
	{"allow", ON_ERROR_ALLOW, false},
	{"deny", ON_ERROR_DENY, false},
	{NULL, 0, false}
};

static const struct config_enum_entry sink_options[] = {
	{"table", SINK_TABLE, false},
	{"log", SINK_LOG, false},
	{"none", SINK_NONE, false},
	{NULL, 0, false}
};

/* The values that a boolean can have, and "problem". */
static const struct config_enum_entry postgrest_headers_options[] = {
	{"off", HTTP_ERROR_PT429, false},
	{"on", HTTP_ERROR_PGRST, false},
	{"problem", HTTP_ERROR_PROBLEM, false},
	{"false", HTTP_ERROR_PT429, true},
	{"true", HTTP_ERROR_PGRST, true},
	{"no", HTTP_ERROR_PT429, true},
	{"yes", HTTP_ERROR_PGRST, true},
	{"0", HTTP_ERROR_PT429, true},
	{"1", HTTP_ERROR_PGRST, true},
	{NULL, 0, false}
};

/* check_hook of ratelimit.gateway_name */
static bool
check_gateway_name(char **value, void **extra, GucSource source)
{
	if (strlen(*value) <= MAX_GATEWAY_LEN)
		return true;
	GUC_check_errdetail("It must not be longer than %d bytes.", MAX_GATEWAY_LEN);
	return false;
}

/* Has a role's or a connection's value taken the place of the configured one? */
static bool
is_overridden(const char *name)
{
	const struct config_generic *setting = find_setting(name);

	/* cppcheck-suppress knownConditionTrueFalse ; it is NULL before 17 only */
	return setting && setting->reset_source > PGC_S_ARGV;
}

/* Define all settings, when the library is loaded; once in each process. */
void
settings_define(void)
{
	/* if the library is not preloaded, it is too late for PGC_POSTMASTER */
	GucContext	postmaster = process_shared_preload_libraries_in_progress ?
		PGC_POSTMASTER : PGC_SIGHUP;
	int			sizes[MAX_SIZES];

	/* a parallel worker that loads the library itself cannot take what is configured */
	settings_overridden = IsInParallelMode() || is_overridden("ratelimit.shared_memory");
	for (int i = 0; i < lengthof(all_sizes); i++)
	{
		settings_overridden |= is_overridden(all_sizes[i].name);
		DefineCustomIntVariable(all_sizes[i].name, all_sizes[i].about, all_sizes[i].detail,
								&all_sizes[i].configured,
								all_sizes[i].standard, all_sizes[i].min, all_sizes[i].max,
								postmaster, 0,
								NULL, NULL, NULL);
	}
	DefineCustomBoolVariable("ratelimit.shared_memory",
							 "Keep buckets in shared memory.",
							 "Off: all of them are in rate_limit_buckets.",
							 &shared_memory_setting,
							 true, postmaster, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("ratelimit.overflow",
							 "Where a bucket goes that does not fit in shared memory.",
							 "table: into rate_limit_buckets. evict: the bucket nearest to full gives way.",
							 &overflow_setting,
							 OVERFLOW_TABLE, overflow_options, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("ratelimit.on_error",
							 "What becomes of a call that rate_limit_buckets cannot decide.",
							 NULL,
							 &on_error_setting,
							 ON_ERROR_ERROR, on_error_options, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.flush_interval",
							"How often violations are written.",
							"And how often rows of rate_limit_buckets that are full again are deleted.",
							&flush_interval_setting,
							60, 1, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomStringVariable("ratelimit.gateway_name",
							   "Name of the calling instance, for its violations.",
							   "Empty: application_name, else cluster_name, else the host's name.",
							   &gateway_name_setting,
							   "", PGC_USERSET, 0,
							   check_gateway_name, NULL, NULL);
	DefineCustomEnumVariable("ratelimit.violation_sink",
							 "Where violations are written.",
							 NULL,
							 &violation_sink_setting,
							 SINK_TABLE, sink_options, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.violation_retention",
							"Age at which rows of rate_limit_violations are deleted.",
							"0 keeps them.",
							&violation_retention_setting,
							0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.flag_threshold",
							"Violations within flag_window at which a key is flagged.",
							NULL,
							&flag_threshold_setting,
							1000, 1, INT_MAX, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.flag_window",
							"Within which flag_threshold violations flag a key.",
							NULL,
							&flag_window_setting,
							600, 1, 86400 * 366, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomStringVariable("ratelimit.flag_limiters",
							   "Limiters whose keys are flagged, separated by commas.",
							   "*: all limiters.",
							   &flag_limiters_setting,
							   "user", PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.episode_retention",
							"How long an episode is shown after its last violation.",
							"Or for flag_window, if that is longer.",
							&episode_retention_setting,
							3600, 1, 86400 * 366, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.save_interval",
							"How often state is saved for a restart.",
							"0: only when the server is shut down.",
							&save_interval_setting,
							300, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("ratelimit.enabled",
							 "Decide calls.",
							 "Off: every call is allowed and nothing is counted.",
							 &enabled_setting,
							 true, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("ratelimit.shadow",
							 "Decide and record calls, but allow them all.",
							 NULL,
							 &shadow_setting,
							 false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("ratelimit.refund_on_rollback",
							 "Give tokens back when what took them is rolled back.",
							 NULL,
							 &refund_setting,
							 false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("ratelimit.postgrest_headers",
							 "Let rl_enforce() raise errors that PostgREST makes headers of.",
							 "problem: and with the details of a problem of type quota-exceeded.",
							 &postgrest_headers_setting,
							 HTTP_ERROR_PT429, postgrest_headers_options, PGC_USERSET, 0,
							 NULL, NULL, NULL);
	MarkGUCPrefixReserved("ratelimit");

	(void) settings_sizes(sizes);
	settings_use_sizes(sizes);
}

/* The sizes that are configured.  Returns how many there are. */
int
settings_sizes(int *sizes)
{
	for (int i = 0; i < lengthof(all_sizes); i++)
		sizes[i] = all_sizes[i].configured;
	return lengthof(all_sizes);
}

/* Use these sizes from now on. */
void
settings_use_sizes(const int *sizes)
{
	for (int i = 0; i < lengthof(all_sizes); i++)
		*all_sizes[i].used = sizes[i];
}
