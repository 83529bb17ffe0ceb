/*
 * next.c
 *		rl_next(): what the library of test/next/make's next version has and this
 *		one has not.
 */
#include "postgres.h"

#include "core/compat.h"
#include "utils/builtins.h"

SQL_FUNCTION(rl_next);

Datum
rl_next(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text("next"));
}
