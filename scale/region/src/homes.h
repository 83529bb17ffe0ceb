/*
 * homes.h
 *		Which home a key has, and where ratelimit's own functions are.
 */
#ifndef REGION_HOMES_H
#define REGION_HOMES_H

#define HOME_HERE	(-1)

extern Oid	extension_schema(const char *extension, Oid *owner);
extern int	home_of(const char *limiter, int limiter_len, const char *key, int key_len);

typedef enum EngineFunction
{
	ENGINE_CONSUME,
	ENGINE_THROTTLE,
	ENGINE_PEEK,
	ENGINE_CONSUME_UPTO,
	ENGINE_REWARD,
	ENGINE_REPORT,
	N_ENGINE_FUNCTIONS
} EngineFunction;

extern Datum engine_call(EngineFunction function, int nargs, const Datum *args, bool as_caller);

#endif							/* REGION_HOMES_H */
