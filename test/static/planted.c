/*
 * Defects that each tool of test/static/run must find, so that one that finds
 * nothing in src/ has looked.  Not part of the extension.
 */
#include "postgres.h"

#include "fmgr.h"

#ifndef USE_ASSERT_CHECKING
#error "the analyzers shall see the assertions"
#endif

PG_FUNCTION_INFO_V1(planted);

Datum
planted(PG_FUNCTION_ARGS)
{
	int		   *n = NULL;
	int			last = 0;

	for (int i = 0; i < 4; i++)
	{
		int			last = i;	/* clang: -Wshadow */

		if (PG_GETARG_INT32(0) == last)
			*n = last;			/* the analyzers: a null pointer */
	}
	PG_RETURN_INT32(last);
}
