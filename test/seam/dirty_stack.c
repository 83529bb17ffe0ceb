/*
 * dirty_stack.c
 *		A library beside ratelimit, as others are: its hook leaves the stack that
 *		ratelimit's hook then runs on full of bytes that are not zero.
 *
 * Preloaded after ratelimit, so its hook is called first, and calls ratelimit's.
 */
#include "postgres.h"

#include "fmgr.h"
#include "storage/ipc.h"

PG_MODULE_MAGIC;

extern void _PG_init(void);

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static pg_noinline void
fill_stack(void)
{
	volatile char bytes[2048];

	for (int i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char) 0xAA;
}

static void
shmem_startup(void)
{
	fill_stack();
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
}

void
_PG_init(void)
{
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}
