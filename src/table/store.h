/*
 * table/store.h
 *		What table/store.c and table/clean.c share.
 */
#ifndef RATELIMIT_TABLE_STORE_H
#define RATELIMIT_TABLE_STORE_H

#include "table/rows.h"

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

extern Owed table_row_owed(Row *row, double tokens, BucketRule *own);

#pragma GCC visibility pop

#endif							/* RATELIMIT_TABLE_STORE_H */
