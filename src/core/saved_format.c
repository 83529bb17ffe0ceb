/*
 * core/saved_format.c
 *		The layout of the file of saved state, as far as writing (core/saved_file.c)
 *		and reading (core/saved_load.c) share it.
 *
 * The file has a header, one disk sector long, with a checksum of its own.  Records
 * follow, each with its kind and size; the header has a checksum over all of them.
 * Kinds are numbered through, part after part (core/parts.c), and records come in
 * this order.
 */
#include "postgres.h"

#include <unistd.h>

#include "core/parts.h"
#include "core/saved_format.h"

/* The checksum of the header, which ends with it. */
pg_crc32c
saved_header_crc(const SavedHeader *header)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, offsetof(SavedHeader, crc));
	FIN_CRC32C(crc);
	return crc;
}

/* Is this a kind of records that only one start takes? */
bool
saved_kind_is_pending(int kind)
{
	const Part *part = part_of_kind(&kind);

	return part && part->pending && kind == part->n_kinds - 1;
}

/* The number of records of such kinds, given the numbers by kind. */
uint64
saved_pending_records(const uint64 *records)
{
	uint64		n = 0;

	for (int kind = 0; kind < MAX_SAVED_KINDS; kind++)
		if (saved_kind_is_pending(kind))
			n += records[kind];
	return n;
}

/* Write all of the bytes; false, with errno set, if that failed. */
bool
saved_write_all(int fd, const char *bytes, Size n)
{
	while (n > 0)
	{
		ssize_t		written;

		errno = 0;
		written = write(fd, bytes, n);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			/* if write didn't set errno, assume problem is no disk space */
			if (errno == 0)
				errno = ENOSPC;
			return false;
		}
		bytes += written;
		n -= written;
	}
	return true;
}
