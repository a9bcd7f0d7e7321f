/* Preloaded into a real daemon: makes reads fail and turns the wall clock, as long as files in $FAULTS say so.

   $FAULTS/eio    holds a piece of a path: reading a file whose path holds it fails with EIO
   $FAULTS/clock  holds seconds: the wall clock is off by so many; the monotonic clock is not
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int wanted(const char *fault, char *value, size_t size) {
    const char *folder = getenv("FAULTS");
    char name[4096];
    if (!folder) return 0;
    snprintf(name, sizeof name, "%s/%s", folder, fault);
    int fd = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = syscall(SYS_read, fd, value, size - 1);
    syscall(SYS_close, fd);
    if (n <= 0) return 0;
    value[n] = 0;
    return 1;
}

static int fails(int fd) {
    char piece[4096], link[64], path[4096];
    if (!wanted("eio", piece, sizeof piece)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return strstr(path, piece) != NULL;
}

ssize_t read(int fd, void *buffer, size_t count) {
    if (fails(fd)) { errno = EIO; return -1; }
    return syscall(SYS_read, fd, buffer, count);
}

size_t fread(void *buffer, size_t size, size_t count, FILE *file) {
    static size_t (*real)(void *, size_t, size_t, FILE *);
    if (!real) real = (size_t (*)(void *, size_t, size_t, FILE *))dlsym(RTLD_NEXT, "fread");
    if (fails(fileno(file))) { errno = EIO; return 0; }
    return real(buffer, size, count, file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    char seconds[64];
    if (result == 0 && clock == CLOCK_REALTIME && wanted("clock", seconds, sizeof seconds)) now->tv_sec += atol(seconds);
    return result;
}
