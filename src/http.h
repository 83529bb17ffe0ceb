/*
 * http.h
 *		Decisions as HTTP answers: see http.c.
 */
#ifndef RATELIMIT_HTTP_H
#define RATELIMIT_HTTP_H

#include "lib/stringinfo.h"
#include "ratelimit.h"

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

/* Header fields, of one limit or of several. */
typedef struct HttpFields
{
	StringInfoData limits;		/* RateLimit */
	StringInfoData policies;	/* RateLimit-Policy */
	double		retry_after;	/* Retry-After: seconds; not above 0: without it */
} HttpFields;

extern void http_fields_begin(HttpFields *fields);
extern void http_fields_add(HttpFields *fields, const BucketCall *call);
extern char *http_fields_json(const HttpFields *fields, bool array);
pg_noreturn extern void http_deny(const BucketCall *calls, int n, int most,
								  HttpError form);

#pragma GCC visibility pop

#endif							/* RATELIMIT_HTTP_H */
