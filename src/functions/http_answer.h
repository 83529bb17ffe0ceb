/*
 * functions/http_answer.h
 *		Decisions as HTTP answers: see functions/http_answer.c.
 */
#ifndef RATELIMIT_FUNCTIONS_HTTP_ANSWER_H
#define RATELIMIT_FUNCTIONS_HTTP_ANSWER_H

#include "core/call.h"
#include "core/compat.h"
#include "core/settings.h"
#include "lib/stringinfo.h"

/* By how many seconds an rl_result's times may be off: it has whole microseconds. */
#define RESULT_ERROR	1e-6

/* The relative error of a division: 100 / (100.0 / 60) is a little above 60. */
#define ROUNDING		1e-12

/* A limit as the fields show it.  NAN means "not known", a time below 0 "never". */
typedef struct HttpLimit
{
	double		capacity;
	double		remaining;
	double		more_after;		/* seconds until there is more */
	double		retry_after;	/* seconds until the call is allowed; 0: it was */
	double		window;			/* seconds in which an empty bucket fills */
	double		window_error;	/* the window may be shorter by this */
} HttpLimit;

/* Header fields, of one limit or of several. */
typedef struct HttpFields
{
	StringInfoData limits;		/* RateLimit */
	StringInfoData policies;	/* RateLimit-Policy */
	double		retry_after;	/* Retry-After, in seconds; 0: is left out */
} HttpFields;

extern char *sf_string(const char *s, int len);
extern char *sf_bytes(const char *bytes, int len);
extern double http_next_token(double capacity, double remaining, double full);
extern void http_fields_begin(HttpFields *fields);
extern void http_fields_add_limit(HttpFields *fields, const char *name,
								  const HttpLimit *limit, const char *unit,
								  const char *partition);
extern void http_fields_add(HttpFields *fields, const BucketCall *call);
extern char *http_fields_json(const HttpFields *fields, bool array);
pg_noreturn extern void http_deny(const BucketCall *calls, int n, int most,
								  HttpError form);

#endif							/* RATELIMIT_FUNCTIONS_HTTP_ANSWER_H */
