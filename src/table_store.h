/*
 * table_store.h
 *		What table_store.c and table_clean.c share.
 */
#ifndef RATELIMIT_TABLE_STORE_H
#define RATELIMIT_TABLE_STORE_H

#include "rows.h"

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

extern Owed table_row_owed(Row *row, double tokens, BucketRule *own);

#pragma GCC visibility pop

#endif							/* RATELIMIT_TABLE_STORE_H */
