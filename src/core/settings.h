/*
 * core/settings.h
 *		The settings ratelimit.*: see core/settings.c.
 */
#ifndef RATELIMIT_SETTINGS_H
#define RATELIMIT_SETTINGS_H

#include "core/compat.h"

#define RATELIMIT_VERSION	"1.0"	/* as in ratelimit.control */
#define RATELIMIT_RELEASE	"1.0.0" /* as in META.json */

#define MAX_GATEWAY_LEN		255 /* bytes */

typedef enum OverflowPolicy
{
	OVERFLOW_TABLE,
	OVERFLOW_EVICT
} OverflowPolicy;

typedef enum OnError
{
	ON_ERROR_ERROR,
	ON_ERROR_ALLOW,
	ON_ERROR_DENY
} OnError;

typedef enum ViolationSink
{
	SINK_TABLE,
	SINK_LOG,
	SINK_NONE
} ViolationSink;

/* The forms of the error that denies a request: functions/http_answer.c. */
typedef enum HttpError
{
	HTTP_ERROR_PT429,			/* a status alone */
	HTTP_ERROR_PGRST,			/* with headers */
	HTTP_ERROR_PROBLEM			/* and with the problem's details */
} HttpError;

/* Of errors that do not come up with shared memory; "what" would then live there. */
#define hint_shared_memory(what) \
	errhint("For %s to live in shared memory, ratelimit.shared_memory must be on and, before PostgreSQL 17, \"ratelimit\" in shared_preload_libraries.", what)

/*
 * The sizes of shared memory (all_sizes in core/settings.c), such as max_buckets, are
 * the ones that the memory was made with.  Only core/settings.c knows what is
 * configured meanwhile, for the next start.
 */
#define MAX_SIZES		32

extern int	max_buckets_setting;
extern int	overflow_setting;
extern int	on_error_setting;
extern int	flush_interval_setting; /* seconds */
extern char *gateway_name_setting;
extern int	max_violations_setting;
extern int	violation_sink_setting;
extern int	violation_retention_setting;	/* seconds; 0: forever */
extern int	flag_threshold_setting;
extern int	flag_window_setting;	/* seconds */
extern char *flag_limiters_setting; /* separated by commas */
extern int	max_episodes_setting;
extern int	episode_retention_setting;	/* seconds */
extern int	max_tickets_setting;
extern int	max_reservations_setting;
extern int	save_interval_setting;	/* seconds; 0: only at a clean stop */
extern hidden_data bool enabled_setting;
extern hidden_data bool shadow_setting;
extern hidden_data bool refund_setting; /* refund_on_rollback */
extern int	postgrest_headers_setting;	/* an HttpError */
extern bool shared_memory_setting;	/* read before memory is made only */

/* Does this process perhaps not know what is configured for shared memory? */
extern bool settings_overridden;

extern void settings_define(void);
extern int	settings_sizes(int *sizes);
extern void settings_use_sizes(const int *sizes);

#endif							/* RATELIMIT_SETTINGS_H */
