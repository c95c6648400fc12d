/* Makes one call on a file under a folder fail: the n-th of a kind, with an error number, or short.
 *
 * To be preloaded; `fault_set` chooses the call and begins to count, `fault_seen` says how many there were.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, FSYNC, TRUNCATE, RENAME, KINDS };

static char folder[PATH_MAX];
static int kind = -1, number, error, seen[KINDS];

void fault_set(const char *under, int which, int nth, int with) {
    strncpy(folder, under, sizeof folder - 1);
    memset(seen, 0, sizeof seen);
    kind = which, number = nth, error = with;
}

int fault_seen(int which) { return seen[which]; }

static int under_folder(const char *path) { return kind >= 0 && strncmp(path, folder, strlen(folder)) == 0; }

static int on_folder(int descriptor) {
    char link[64], path[PATH_MAX];
    if (kind < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return under_folder(path);
}

/* Whether this call is the one to fail; every later write to a full disk fails, too. */
static int fails(int which, int concerns) {
    if (!concerns) return 0;
    int now = seen[which]++;
    return which == kind && (now == number || (error == ENOSPC && now > number));
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(which, concerns) if (fails(which, concerns)) { errno = error; return -1; }
/* An error of 0 stands for a call that takes a byte of what it is given. */
#define FAIL_OR_SHORTEN(which, concerns, size) \
    if (fails(which, concerns)) { if (error) { errno = error; return -1; } if (size > 1) size = 1; }

static int resolve(const char *path, char *full) {
    if (path[0] == '/') { strncpy(full, path, PATH_MAX - 1); return 1; }
    if (!getcwd(full, PATH_MAX)) return 0;
    strncat(full, "/", PATH_MAX - strlen(full) - 1);
    strncat(full, path, PATH_MAX - strlen(full) - 1);
    return 1;
}

static int path_concerns(const char *path) {
    char full[PATH_MAX] = "";
    return kind >= 0 && resolve(path, full) && under_folder(full);
}

#define OPENS(name) \
int name(const char *path, int flags, ...) { \
    va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
    FAIL(OPEN, path_concerns(path)) \
    return REAL(name)(path, flags, mode); \
}
OPENS(open) OPENS(open64)
ssize_t read(int fd, void *data, size_t size) { FAIL(READ, on_folder(fd)) return REAL(read)(fd, data, size); }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) { FAIL(READ, on_folder(fd)) return REAL(pread64)(fd, data, size, at); }
ssize_t write(int fd, const void *data, size_t size) { FAIL_OR_SHORTEN(WRITE, on_folder(fd), size) return REAL(write)(fd, data, size); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { FAIL_OR_SHORTEN(WRITE, on_folder(fd), size) return REAL(pwrite64)(fd, data, size, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { FAIL_OR_SHORTEN(WRITE, on_folder(fd), count) return REAL(pwritev64)(fd, parts, count, at); }
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) { FAIL_OR_SHORTEN(WRITE, on_folder(fd), count) return REAL(pwritev64v2)(fd, parts, count, at, flags); }
int fsync(int fd) { FAIL(FSYNC, on_folder(fd)) return REAL(fsync)(fd); }
int ftruncate64(int fd, off64_t size) { FAIL(TRUNCATE, on_folder(fd)) return REAL(ftruncate64)(fd, size); }
int rename(const char *from, const char *to) { FAIL(RENAME, path_concerns(to)) return REAL(rename)(from, to); }
