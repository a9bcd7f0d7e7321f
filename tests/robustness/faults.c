/* Preloaded into a real daemon: makes reads fail and turns the wall clock, as long as files in $FAULTS say so.

   $FAULTS/eio    holds a piece of a path: reading a file whose path holds it fails with EIO
   $FAULTS/clock  holds seconds: the wall clock is off by so many; the monotonic clock is not
   $FAULTS/rename holds an error's number and a piece of a path: renaming to a path that holds it fails so
   $FAULTS/folds  holds a piece of a path: there a file is found by its name in capitals or small letters alike
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
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

int rename(const char *from, const char *to) {
    char fault[4096], piece[4096];
    int number;
    if (wanted("rename", fault, sizeof fault) && sscanf(fault, "%d %4095s", &number, piece) == 2 && strstr(to, piece)) {
        errno = number;
        return -1;
    }
    return syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}

static int folded_stat(const char *path, void *status) {
    char piece[4096], folder[4096];
    const char *slash = strrchr(path, '/');
    int result = syscall(SYS_newfstatat, AT_FDCWD, path, status, 0);
    if (result == 0 || errno != ENOENT || !slash || !wanted("folds", piece, sizeof piece) || !strcasestr(path, piece))
        return result;
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
    DIR *listing = opendir(folder);
    struct dirent *entry;
    while (listing && (entry = readdir(listing)))
        if (strcasecmp(entry->d_name, slash + 1) == 0)
            result = syscall(SYS_newfstatat, dirfd(listing), entry->d_name, status, 0);
    if (listing) closedir(listing);
    if (result) errno = ENOENT;
    return result;
}

int stat(const char *path, struct stat *status) { return folded_stat(path, status); }
int stat64(const char *path, struct stat64 *status) { return folded_stat(path, status); }
