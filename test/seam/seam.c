/*
 * seam.c
 *		What tests need to happen to a server and cannot ask for: another wall
 *		clock, a full disk, a disk that hangs, a process that is stopped just there.
 *
 * Preloaded with LD_PRELOAD into the server, and told what to do by the file that
 * RATELIMIT_SEAM names, of which the struct below is a map: so a test changes it
 * while the server runs.  Only files whose names have "ratelimit" in them are
 * touched.  The monotonic clock stays what it is.  (pg_ctl needs the same clock.)
 *
 * Where a process is stopped: as it reads the monotonic clock, which ratelimit also
 * does with locks held.  Without a vDSO to be found it reads it through libc.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile struct
{
	int64_t		clock_us;		/* added to the wall clock */
	int64_t		write_errno;	/* of write(); 0: it works */
	int64_t		write_after;	/* calls that still work */
	int64_t		fsync_errno;
	int64_t		rename_errno;
	int64_t		unlink_errno;
	int64_t		hang;			/* n > 0: the n-th write() waits until it is 0 */
	int64_t		hanging;		/* one does */
	int64_t		stopped;		/* processes, so far, by: */
	int64_t		stop_after;		/* readings of the clock that are let pass */
	int64_t		stop_pid;		/* of the process; then 0 again */
	int64_t		clock_at;		/* not 0: the wall clock stands there, in us since 1970 */
}		   *seam;

__attribute__((constructor))
static void
attach(void)
{
	const char *name = getenv("RATELIMIT_SEAM");
	int			fd = name ? open(name, O_RDWR) : -1;

	if (fd < 0)
		return;
	seam = mmap(NULL, sizeof(*seam), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (seam == MAP_FAILED)
		abort();
	close(fd);
}

/* Is this file one of ours? */
static int
ours(int fd)
{
	char		link[64];
	char		name[4096];
	ssize_t		n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, name, sizeof(name) - 1);
	if (n <= 0)
		return 0;
	name[n] = '\0';
	return strstr(name, "pgsql_tmp.ratelimit") != NULL;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec now;
	int64_t		us;

	syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
	us = now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000 + (seam ? seam->clock_us : 0);
	if (seam && seam->clock_at)
		us = seam->clock_at;
	tv->tv_sec = us / 1000000;
	tv->tv_usec = us % 1000000;
	return 0;
}

time_t
time(time_t *where)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	if (where)
		*where = now.tv_sec;
	return now.tv_sec;
}

ssize_t
write(int fd, const void *bytes, size_t n)
{
	if (seam && (seam->write_errno || seam->hang) && ours(fd))
	{
		if (seam->hang > 1)
			seam->hang--;
		else
		{
			while (seam->hang)
			{
				seam->hanging = 1;
				usleep(1000);
			}
		}
		seam->hanging = 0;
		if (seam->write_errno && seam->write_after-- <= 0)
		{
			errno = (int) seam->write_errno;
			return -1;
		}
	}
	return syscall(SYS_write, fd, bytes, n);
}

int
fsync(int fd)
{
	if (seam && seam->fsync_errno && ours(fd))
	{
		errno = (int) seam->fsync_errno;
		return -1;
	}
	return (int) syscall(SYS_fsync, fd);
}

int
rename(const char *from, const char *to)
{
	if (seam && seam->rename_errno && strstr(from, "pgsql_tmp.ratelimit"))
	{
		errno = (int) seam->rename_errno;
		return -1;
	}
	return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int
unlink(const char *name)
{
	if (seam && seam->unlink_errno && strstr(name, "pgsql_tmp.ratelimit"))
	{
		errno = (int) seam->unlink_errno;
		return -1;
	}
	return unlinkat(AT_FDCWD, name, 0);
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	if (seam && clock == CLOCK_MONOTONIC && seam->stop_pid == getpid() &&
		seam->stop_after-- <= 0)
	{
		seam->stop_pid = 0;
		seam->stopped++;
		raise(SIGSTOP);
	}
	return (int) syscall(SYS_clock_gettime, clock, now);
}

void *
dlopen(const char *name, int flags)
{
	static void *(*original) (const char *, int);

	if (name && strcmp(name, "linux-vdso.so.1") == 0)
		return NULL;
	if (!original)
		original = (void *(*) (const char *, int)) dlsym(RTLD_NEXT, "dlopen");
	return original(name, flags);
}
