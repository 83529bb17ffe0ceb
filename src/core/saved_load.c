/*
 * core/saved_load.c
 *		Reading the file of saved state when the server starts.
 *
 * What the file is for, who writes it and when its violations may be taken is in
 * core/saved_file.c.  This file checks a file that may contain anything, and then
 * hands its records to the parts of the extension.
 *
 * The file is read as if an enemy had written it, and twice: the first time to check
 * it, the second time to take what it holds.  So nothing is taken before all of it
 * has been found right.  (If the disk fails during the second time, what has been
 * taken by then stays.)  A file that cannot be used is reported in one line and stays
 * until the next save replaces it; the server starts in any case.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/parts.h"
#include "core/saved_file.h"
#include "core/saved_format.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

/* A part of the file. */
static char buffer[BUFFER_SIZE];

/* Nanoseconds since the file was saved, as of "now" on the monotonic clock. */
static Owed
time_since(const SavedHeader *header, int64 now)
{
	char		boot[sizeof(header->boot)];

	this_boot(boot, sizeof(boot));
	if (boot[0] && memcmp(boot, header->boot, sizeof(boot)) == 0 && now >= header->mono)
		return (Owed) now - header->mono;
	return Max((Owed) GetCurrentTimestamp() - header->saved_at, 0) * 1000;
}

/*
 * Convert a time, given as the nanoseconds by which it came before the saving, to the
 * monotonic clock of this boot.
 */
int64
saved_mono(const Loading *loading, int64 age)
{
	Owed		then = (Owed) loading->now - loading->elapsed - age;

	return (int64) Max(Min(then, PG_INT64_MAX), -PG_INT64_MAX);
}

/* Can this be the name of a key or limiter? */
bool
saved_name_valid(const char *name, int len, int max)
{
	return len > 0 && len <= max && memchr(name, '\0', len) == NULL;
}

/*
 * Take a record, or, while the file is being checked, find out whether it makes
 * sense.  Pending violations are skipped unless "pending" is true.
 */
static bool
load_record(int kind, const char *record, Size size, bool pending, Loading *loading)
{
	const Part *part;

	if (saved_kind_is_pending(kind) && !pending)
		return true;
	part = part_of_kind(&kind);
	return part && part->load(kind, record, size, loading);
}

/* Read into the buffer until it is full or nothing is left; false if that failed. */
static bool
fill_buffer(int fd, Size *used, int64 *left)
{
	while (*used < BUFFER_SIZE && *left > 0)
	{
		ssize_t		n = read(fd, buffer + *used, Min((int64) (BUFFER_SIZE - *used), *left));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		*used += n;
		*left -= n;
	}
	return true;
}

/* Go through the records.  Returns what is wrong with them, or NULL. */
static const char *
load_records(int fd, const SavedHeader *header, bool pending, Loading *loading)
{
	uint64		records[MAX_SAVED_KINDS] = {0};
	int64		left = header->length;
	Size		used = 0;
	int			last_kind = 0;
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	if (lseek(fd, HEADER_SIZE, SEEK_SET) != HEADER_SIZE)
		return "it cannot be read";
	for (;;)
	{
		Size		at = 0;
		Size		had = used;

		if (!fill_buffer(fd, &used, &left))
			return "it cannot be read";
		COMP_CRC32C(crc, buffer + had, used - had);
		if (used == 0)
			break;
		while (at < used)
		{
			RecordHead	head;
			const char *record = buffer + at + sizeof(head);

			if (used - at < sizeof(head))
				break;
			memcpy(&head, buffer + at, sizeof(head));
			if (head.kind >= MAX_SAVED_KINDS || head.kind < last_kind ||
				head.size > MAX_SAVED_SIZE)
				return "it has a record that makes no sense";
			if (used - at < sizeof(head) + head.size)
				break;
			if (!load_record(head.kind, record, head.size, pending, loading))
				return "it has a record that makes no sense";
			records[head.kind]++;
			last_kind = head.kind;
			at += sizeof(head) + head.size;
		}
		/* a full buffer, or the end of the file, has no complete record */
		if (at == 0)
			return "it has a record that makes no sense";
		memmove(buffer, buffer + at, used - at);
		used -= at;
	}
	FIN_CRC32C(crc);
	if (!EQ_CRC32C(crc, header->records_crc))
		return "its checksum is wrong";
	if (memcmp(records, header->records, sizeof(records)) != 0)
		return "it does not have the records that it should";
	return NULL;
}

/* Read the header, which begins the file.  Returns what is wrong with it, or NULL. */
static const char *
load_header(int fd, int64 size, SavedHeader *header)
{
	char		sector[HEADER_SIZE];
	NodeId		node = this_node();

	if (size == 0)
		return "it is empty";
	if (size < HEADER_SIZE)
		return "it is truncated";
	if (read(fd, sector, HEADER_SIZE) != HEADER_SIZE)
		return "it cannot be read";
	memcpy(header, sector, sizeof(*header));
	if (header->magic != SAVED_MAGIC)
		return "it is not a file of ratelimit";
	if (header->format != SAVED_FORMAT || header->pg_version != PG_VERSION_NUM / 100)
		return "it is of another version";
	for (Size i = offsetof(SavedHeader, crc) + sizeof(header->crc); i < HEADER_SIZE; i++)
		if (sector[i] != 0)
			return "its checksum is wrong";
	if (!EQ_CRC32C(saved_header_crc(header), header->crc))
		return "its checksum is wrong";
	if (!IS_VALID_TIMESTAMP(header->saved_at))
		return "it says that it was saved at no time that there is";
	if (header->length < size - HEADER_SIZE)
		return "it is too long";
	if (header->length > size - HEADER_SIZE)
		return "it is truncated";
	if (!same_node(&node, &header->node))
		return "it was saved by another server, whose data directory this one was copied from";
	return NULL;
}

/*
 * Ensure that no later start takes the pending violations in the file again, or takes
 * the file for what is there: mark it as used, or remove it.  If neither is possible,
 * report that and return false.
 */
static bool
mark_used(SavedHeader *header)
{
	char		sector[HEADER_SIZE] = {0};
	bool		done = false;
	int			fd = OpenTransientFile(SAVED_FILE, O_WRONLY | PG_BINARY);

	header->used = true;
	header->crc = saved_header_crc(header);
	memcpy(sector, header, sizeof(*header));
	if (fd >= 0)
	{
		done = saved_write_all(fd, sector, HEADER_SIZE) && pg_fsync(fd) == 0;
		if (CloseTransientFile(fd) != 0)
			done = false;
	}
	if (!done)
		done = unlink(SAVED_FILE) == 0 &&
			fsync_fname_ext(PGSTAT_STAT_PERMANENT_DIRECTORY, true, true, LOG) == 0;
	if (!done)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("ratelimit: leaving out the pending violations in file \"%s\", which can be neither written nor removed: %m",
						SAVED_FILE),
				 errdetail("They would be written again after a crash.")));
	return done;
}

/* Take what the open file holds.  Returns what is wrong with the file, or NULL. */
static const char *
load(int fd, SavedHeader *header, Loading *loading)
{
	struct stat st;
	const char *problem;
	XLogRecPtr	checkpoint;
	TimeLineID	timeline;
	bool		pending;

	if (fstat(fd, &st) != 0)
		return "it cannot be read";
	if (!S_ISREG(st.st_mode))
		return "it is not a regular file";
	problem = load_header(fd, st.st_size, header);
	if (problem)
		return problem;

	problem = load_records(fd, header, true, loading);
	if (problem)
		return problem;

	loading->clean = shut_down_cleanly(&checkpoint, &timeline) && header->at_stop &&
		checkpoint == header->checkpoint;
	loading->rows_stay = loading->clean && !will_recover();
	pending = header->at_stop && !header->used && mark_used(header);

	/*
	 * When memory is made by a running server, the server may have done much since,
	 * and may have crashed.  But nobody has used this extension since, or the file
	 * would be marked.
	 */
	if (IsUnderPostmaster)
		loading->clean = pending;
	if (pending && saved_pending_records(header->records) > 0 &&
		(IsUnderPostmaster ? has_replayed(header->timeline, header->saved_at) : will_replay()))
	{
		pending = false;
		ereport(LOG,
				(errmsg("ratelimit: leaving out the pending violations in file \"%s\"",
						SAVED_FILE),
				 errdetail("Recovery may replay, or have replayed, that they were written.")));
	}

	loading->take = true;
	loading->now = monotonic_ns();
	loading->elapsed = time_since(header, loading->now);
	problem = load_records(fd, header, pending, loading);
	return problem;
}

/* When the loaded file was saved, on the monotonic clock; 0: nothing was loaded. */
static int64 loaded_mono = 0;

/*
 * When the loaded state was saved.  The saver, which the postmaster forks, or which
 * has been told, starts from this time, so that the file does not get older than
 * save_interval however often the server crashes.
 */
int64
saved_loaded_mono(void)
{
	return loaded_mono;
}

/* Another process has loaded the state. */
void
saved_set_loaded_mono(int64 mono)
{
	loaded_mono = mono;
}

/*
 * Load the file when the server starts, or when shared memory is made; nobody uses
 * that memory yet.
 */
void
saved_load(void)
{
	SavedHeader header = {0};
	Loading		loading = {0};
	int64		began = monotonic_ns();
	const char *problem;
	int			fd;

	/* if it is a pipe, do not wait for a process that opens its other end */
	fd = OpenTransientFile(SAVED_FILE, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (fd < 0)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("ratelimit: ignoring file \"%s\": %m", SAVED_FILE)));
		return;
	}
	loaded_mono = 0;
	problem = load(fd, &header, &loading);
	CloseTransientFile(fd);
	if (problem)
	{
		ereport(LOG,
				(errmsg("ratelimit: ignoring file \"%s\": %s", SAVED_FILE, problem)));
		return;
	}
	loaded_mono = saved_mono(&loading, 0);
	/* a clean stop and a start that lost nothing need no message */
	ereport(loading.clean && loading.given_way == 0 ? DEBUG1 : LOG,
			(errmsg("ratelimit: loaded %llu buckets, saved %s, in %.3f s",
					(unsigned long long) loading.buckets,
					timestamptz_to_str(header.saved_at),
					(monotonic_ns() - began) / 1e9),
			 loading.given_way == 0 ? 0 :
			 errdetail("%lld did not fit: those nearest to full gave way.",
					   (long long) loading.given_way),
			 loading.given_way == 0 ? 0 :
			 errhint("Increase ratelimit.max_buckets.")));
}
