/* Stands between a member and the C library: syncs that fail or are slow, a wall clock that is off.

   LD_PRELOAD brings it into the process; CHAOS_PAGE names a file of one page that is mapped shared,
   so that whoever has it mapped too turns faults on and off under the running process, and reads
   how often they bit. The layout is that of _Page in shim.py. Not reached: programs that call the
   kernel without the C library (etcd). The monotonic clock is left alone. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct page {
    uint32_t sync_fails;    /* 1: syncs return EIO; 2: those of the log alone */
    uint32_t sync_delay_us; /* before each sync */
    uint64_t sync_hits;
    int64_t clock_ns;       /* what the wall clock is off by */
    int64_t drift_from_ns;  /* real time at which the drift began */
    double drift;           /* what a second gains since then */
    uint64_t clock_hits;    /* looks at a clock that was off */
};

static volatile struct page none, *page = &none;
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

static void look_up(void)
{
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
}

__attribute__((constructor)) static void map_page(void)
{
    const char *path = getenv("CHAOS_PAGE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    look_up();
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED)
        page = at;
    close(fd);
}

static int of_the_log(int fd)
{
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return strstr(path, "/wal/") != NULL;
}

static int sync_fails(int fd)
{
    uint32_t delay_us = page->sync_delay_us, which = page->sync_fails;
    int fails = which == 1 || (which == 2 && of_the_log(fd));
    if (delay_us || fails)
        __atomic_fetch_add(&page->sync_hits, 1, __ATOMIC_RELAXED);
    if (delay_us)
        usleep(delay_us);
    if (fails)
        errno = EIO;
    return fails;
}

int fsync(int fd)
{
    return sync_fails(fd) ? -1 : real_fsync(fd);
}

int fdatasync(int fd)
{
    return sync_fails(fd) ? -1 : real_fdatasync(fd);
}

static int64_t wall_ns(const struct timespec *real)
{
    int64_t now = real->tv_sec * 1000000000LL + real->tv_nsec;
    double drift = page->drift;
    int64_t off = page->clock_ns;
    if (drift != 0)
        off += (int64_t)((double)(now - page->drift_from_ns) * drift);
    if (off)
        __atomic_fetch_add(&page->clock_hits, 1, __ATOMIC_RELAXED);
    return now + off;
}

int clock_gettime(clockid_t clock, struct timespec *to)
{
    if (!real_clock_gettime)
        look_up();
    int answer = real_clock_gettime(clock, to);
    if (answer == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = wall_ns(to);
        to->tv_sec = ns / 1000000000LL;
        to->tv_nsec = ns % 1000000000LL;
    }
    return answer;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    int answer = clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return answer;
}

time_t time(time_t *to)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}
