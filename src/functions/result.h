/*
 * functions/result.h
 *		What SQL functions answer about a decision: see functions/result.c.
 */
#ifndef RATELIMIT_FUNCTIONS_RESULT_H
#define RATELIMIT_FUNCTIONS_RESULT_H

#include "core/call.h"
#include "datatype/timestamp.h"
#include "fmgr.h"

extern Owed decision_wait(const BucketRule *rule, const Decision *decision);
extern int	most_binding(const BucketCall *calls, int n);
extern Owed decision_reset(const BucketRule *rule, const Decision *decision);
extern Interval *period_length(const BucketRule *rule);
extern Datum interval_from_ns(Owed ns);
extern TimestampTz timestamp_after(Owed ns);
extern Datum make_result(FunctionCallInfo fcinfo, const BucketId *id,
						 const BucketRule *rule, const Decision *decision);
extern Datum make_element(FunctionCallInfo fcinfo, const BucketId *id,
						  const BucketRule *rule, const Decision *decision);
extern Datum make_results(FunctionCallInfo fcinfo, Datum *elements, int n);

#endif							/* RATELIMIT_FUNCTIONS_RESULT_H */
