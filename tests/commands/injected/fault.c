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
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
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

__attribute__((destructor)) static void count(void) {
    const char *path = getenv("FAULT_COUNT");
    if (!path) return;
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "%ld", atomic_load(&calls));
    fclose(file);
}
