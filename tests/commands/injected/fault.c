/* Preloaded into the program under test: counts what it asks of files below $FAULT_ROOT, and lets
 * the $FAULT_AT-th of these fail as $FAULT_KIND says:
 *
 *   full   this and every later write finds no space
 *   error  this one fails with an input/output error
 *   torn   half of it is written, then the process is killed
 *   kill   the process is killed before it
 *
 * `error` also takes reads. The number of calls is written to $FAULT_COUNT at the end. A connection
 * or a look for an address is written to $FAULT_CONNECTIONS and refused.
 *
 * From the $FAULT_CLOCK_AT-th look at the time of day on, that is $FAULT_CLOCK seconds later (or
 * earlier, below 0); and so for $FAULT_UPTIME_AT and $FAULT_UPTIME with the clock that only goes
 * forward, as when the machine slept.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static atomic_long calls;

static int ours(int fd) {
    const char *root = getenv("FAULT_ROOT");
    if (!root) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return strncmp(path, root, strlen(root)) == 0;
}

static int is(const char *kind) {
    const char *asked = getenv("FAULT_KIND");
    return asked && strcmp(asked, kind) == 0;
}

/* Whether the call fails; kills where that is asked for. */
static int due(int fd, int writes) {
    if (!ours(fd)) return 0;
    if (!writes && !is("error")) return 0;
    const char *at = getenv("FAULT_AT");
    long wanted = at ? atol(at) : 0, now = atomic_fetch_add(&calls, 1) + 1;
    if (!wanted || now < wanted) return 0;
    if (is("full")) {
        errno = ENOSPC;
        return 1;
    }
    if (now != wanted) return 0;
    if (is("kill")) kill(getpid(), SIGKILL);
    errno = EIO;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t count) {
    if (due(fd, 1)) {
        if (is("torn")) {
            REAL(write)(fd, bytes, count / 2);
            kill(getpid(), SIGKILL);
        }
        return -1;
    }
    return REAL(write)(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (due(fd, 1)) {
        if (is("torn")) kill(getpid(), SIGKILL);
        return -1;
    }
    return REAL(writev)(fd, parts, count);
}

ssize_t read(int fd, void *bytes, size_t count) {
    return due(fd, 0) ? -1 : REAL(read)(fd, bytes, count);
}

int fsync(int fd) { return due(fd, 1) ? (is("torn") ? kill(getpid(), SIGKILL) : 0, -1) : REAL(fsync)(fd); }

int fdatasync(int fd) { return due(fd, 1) ? (is("torn") ? kill(getpid(), SIGKILL) : 0, -1) : REAL(fdatasync)(fd); }

int ftruncate64(int fd, off64_t length) {
    return due(fd, 1) ? (is("torn") ? kill(getpid(), SIGKILL) : 0, -1) : REAL(ftruncate64)(fd, length);
}

static int noted(const char *what) {
    const char *path = getenv("FAULT_CONNECTIONS");
    if (!path) return 0;
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (log >= 0) {
        dprintf(log, "%s\n", what);
        close(log);
    }
    return 1;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    if (!noted("connect")) return REAL(connect)(fd, address, length);
    errno = ENETUNREACH;
    return -1;
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    if (!noted(host ? host : "")) return REAL(getaddrinfo)(host, service, hints, found);
    return EAI_FAIL;
}

static atomic_long looks, ticks;

/* How far a clock has jumped; `count` is of looks at it, of which this is one. */
static long jumped(atomic_long *count, const char *by, const char *at) {
    const char *far = getenv(by), *when = getenv(at);
    if (!far) return 0;
    long now = atomic_fetch_add(count, 1) + 1;
    return now >= (when ? atol(when) : 1) ? atol(far) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *told) {
    /* Looked up once: this is called often. */
    static _Atomic(int (*)(clockid_t, struct timespec *)) real;
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, told);
    if (failed) return failed;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        told->tv_sec += jumped(&looks, "FAULT_CLOCK", "FAULT_CLOCK_AT");
    else if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME)
        told->tv_sec += jumped(&ticks, "FAULT_UPTIME", "FAULT_UPTIME_AT");
    return 0;
}

int gettimeofday(struct timeval *restrict told, void *restrict zone) {
    int failed = REAL(gettimeofday)(told, zone);
    if (!failed) told->tv_sec += jumped(&looks, "FAULT_CLOCK", "FAULT_CLOCK_AT");
    return failed;
}

time_t time(time_t *told) {
    time_t now = REAL(time)(NULL) + jumped(&looks, "FAULT_CLOCK", "FAULT_CLOCK_AT");
    if (told) *told = now;
    return now;
}

/* A wait until a time, which the kernel takes by its own clock. */
long syscall(long number, ...) {
    static _Atomic(long (*)(long, ...)) real;
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_list list;
    va_start(list, number);
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    struct timespec until;
    int wait = (int)a[1] & FUTEX_CMD_MASK;
    if (number == SYS_futex && wait == FUTEX_WAIT_BITSET && a[3] && !((int)a[1] & FUTEX_CLOCK_REALTIME)) {
        until = *(struct timespec *)a[3];
        const char *far = getenv("FAULT_UPTIME"), *when = getenv("FAULT_UPTIME_AT");
        if (far && atomic_load(&ticks) >= (when ? atol(when) : 1)) until.tv_sec -= atol(far);
        a[3] = (long)&until;
        if (until.tv_sec < 0) until.tv_sec = 0;
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

__attribute__((destructor)) static void count(void) {
    const char *path = getenv("FAULT_COUNT");
    if (!path) return;
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "%ld", atomic_load(&calls));
    fclose(file);
}
