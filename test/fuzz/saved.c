/*
 * saved.c
 *		The file of saved state (src/core/saved_load.c, and each part's load()).
 *
 * The input is a list of records, around which the file is made so that its checksums
 * and counts are right; or, rarely, it is the file itself.  It is loaded into memory that
 * is this process's own, and new for each input.  If it is taken, what is there then has
 * to be shown by the views, and to be saved to a file that is taken again.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/saved_file.h"
#include "core/saved_format.h"
#include "executor/spi.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

/* Forget everything: all parts begin in new memory. */
static void
begin_anew(void)
{
	static char *memory = NULL;
	static LWLockPadded *locks = NULL;

	if (!memory)
	{
		memory = malloc(parts_size() + PG_CACHE_LINE_SIZE);
		locks = calloc(parts_locks(), sizeof(LWLockPadded));
		if (!memory || !locks)
			finding("no memory");
		memory = (char *) CACHELINEALIGN(memory);
		for (int i = 0; i < parts_locks(); i++)
			LWLockInitialize(&locks[i].lock, LWTRANCHE_FIRST_USER_DEFINED);
	}
	memset(memory, 0, parts_size());
	parts_place(memory, locks, false);
	saved_set_loaded_mono(0);
}

/* Put this into the file's place. */
static void
write_file(const char *bytes, Size n)
{
	int			fd = open(SAVED_FILE, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || !saved_write_all(fd, bytes, n) || close(fd) != 0)
		finding("the file cannot be written: %m");
}

/* Read records of input, and write the file with them. */
static void
write_records(Bytes *input, uint8 flags)
{
	static char file[HEADER_SIZE + 100 * (sizeof(RecordHead) + MAX_SAVED_SIZE)];
	SavedHeader header = {0};
	char	   *at = file + HEADER_SIZE;

	for (int n = 0; n < 100 && input->at < input->end; n++)
	{
		uint8		kind = take_byte(input) % MAX_SAVED_KINDS;
		uint16		size;
		RecordHead	head;

		take_bytes(input, &size, sizeof(size));
		size = Min(size % MAX_SAVED_SIZE, input->end - input->at);
		head.kind = kind;
		head.size = size;
		memcpy(at, &head, sizeof(head));
		at += sizeof(head);
		take_bytes(input, at, size);
		at += size;
		header.records[kind]++;
	}
	header.magic = SAVED_MAGIC;
	header.format = SAVED_FORMAT;
	header.pg_version = PG_VERSION_NUM / 100;
	header.at_stop = flags >> 1 & 1;
	header.node = this_node();
	this_boot(header.boot, sizeof(header.boot));
	header.saved_at = GetCurrentTimestamp();
	header.mono = monotonic_ns();
	header.length = at - file - HEADER_SIZE;
	INIT_CRC32C(header.records_crc);
	COMP_CRC32C(header.records_crc, file + HEADER_SIZE, header.length);
	FIN_CRC32C(header.records_crc);
	header.crc = saved_header_crc(&header);
	memset(file, 0, HEADER_SIZE);
	memcpy(file, &header, sizeof(header));
	write_file(file, at - file);
}

static void
show(void)
{
	static SPIPlanPtr plan = NULL;

	SPI_connect();
	if (!plan)
	{
		plan = SPI_prepare("SELECT (SELECT count(s) FROM rate_limit_status s),"
						   " (SELECT count(p) FROM rate_limit_pending p),"
						   " (SELECT count(e) FROM rate_limit_episodes e),"
						   " (SELECT count(s) FROM rate_limit_stats s),"
						   " (SELECT count(s) FROM rate_limit_slots s),"
						   " (SELECT count(t) FROM rate_limit_tickets t),"
						   " (SELECT count(r) FROM rate_limit_reservations r),"
						   " (SELECT count(p) FROM rl_partitions() p)", 0, NULL);
		SPI_keepplan(plan);
	}
	SPI_execute_plan(plan, NULL, NULL, true, 0);
	SPI_finish();
}

static void
try_saved(Bytes *input)
{
	static bool is_new = false; /* memory is as it began */
	uint8		flags = take_byte(input);

	if (!is_new)
		begin_anew();
	is_new = true;
	if (flags % 16 == 1)
		write_file((const char *) input->at, input->end - input->at);
	else
		write_records(input, flags);
	saved_load();
	if (saved_loaded_mono() == 0)
		return;
	is_new = false;
	show();
	if (!saved_save(NULL))
		finding("what was loaded is not saved");
	begin_anew();
	saved_load();
	if (saved_loaded_mono() == 0)
		finding("what was loaded and saved is not loaded");
}

const Fuzzer fuzz_saved = {"saved", try_saved, ""};
