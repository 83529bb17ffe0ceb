/*
 * fuzz.h
 *		What the fuzzers that run in a server share: see fuzz.c.
 */
#ifndef RATELIMIT_FUZZ_H
#define RATELIMIT_FUZZ_H

#include "postgres.h"

/* An input that is being taken apart.  Where it ends, zeros follow. */
typedef struct Bytes
{
	const uint8 *at;
	const uint8 *end;
} Bytes;

/* A fuzzer.  Errors that it may raise are those of these SQLSTATEs, or of their classes. */
typedef struct Fuzzer
{
	const char *name;
	void		(*try) (Bytes *input);
	const char *errors;			/* "22 54000": separated by blanks */
} Fuzzer;

extern void finding(const char *format,...) pg_attribute_noreturn();
extern uint8 take_byte(Bytes *input);
extern void take_bytes(Bytes *input, void *to, Size n);
extern double take_double(Bytes *input);
extern char *take_text(Bytes *input, int most, int *len);
extern void check_fields(const char *json);

extern const Fuzzer fuzz_bucket;
extern const Fuzzer fuzz_headers;
extern const Fuzzer fuzz_period;
extern const Fuzzer fuzz_postgrest;
extern const Fuzzer fuzz_reports;
extern const Fuzzer fuzz_saved;

#endif							/* RATELIMIT_FUZZ_H */
