/*
 * Makes chosen system calls of a program fail, or stops the program there.
 *
 * Preloaded (ld.so(8), LD_PRELOAD) into the daemon, which is not changed for it: what SQLite, LMDB, the daemon's own file code and
 * its connections ask of the kernel passes through the functions below. Each call that concerns a file beneath a given
 * folder, or a connection that the program itself opened, is a step. A test arms the file that FAULT_SHIM_CONTROL
 * names, which is mapped here and which support/shim.rs reads and writes: at which step what is to happen. Connections
 * that the program accepted, standard output and its log are no steps. Unarmed, everything passes.
 *
 * The same file holds what is added to the time of day, so that a test can set the clock of one program.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Kinds of steps: bits of `kinds`. */
enum kind {
    OPEN = 1 << 0,    /* a file is opened, made or mapped, a folder is listed */
    READ = 1 << 1,    /* a file or a connection is read, a name is looked at */
    WRITE = 1 << 2,   /* a file or a connection is written */
    FLUSH = 1 << 3,   /* a file or a folder is made durable */
    NAME = 1 << 4,    /* a name, a size, an owner or a mode is changed */
    LOCK = 1 << 5,    /* a file is locked */
    CONNECT = 1 << 6, /* a connection is opened */
};

/* What happens at the step. */
enum action {
    PASS = 0,
    FAIL = 1,  /* it fails with `error` */
    HALF = 2,  /* of a write, the first half is written: the caller is told so */
    KILL = 3,  /* the process is killed instead */
    TEAR = 4,  /* of a write, the first half is written, and the process killed */
};

/* The control file, as support/shim.rs knows it. */
struct control {
    _Atomic uint32_t kinds;  /* which steps count; 0: none, unarmed. Written last. */
    uint32_t action;
    int32_t error;           /* of FAIL: see errno(3) */
    uint32_t lasts;          /* whether it happens at every step from then on */
    _Atomic int64_t left;    /* steps until it happens, that one included */
    _Atomic uint32_t hit;    /* whether it has happened. Written after `where`. */
    _Atomic int64_t clock_ns; /* added to the time of day */
    char folder[256];        /* what counts lies beneath; with a slash at its end */
    char where[512];         /* function and file of the first step that it happened to */
};

_Static_assert(offsetof(struct control, left) == 16 && offsetof(struct control, hit) == 24 &&
                   offsetof(struct control, clock_ns) == 32 && offsetof(struct control, folder) == 40 &&
                   offsetof(struct control, where) == 296 && sizeof(struct control) == 808,
               "support/shim.rs writes these places");

static struct control *control;

/* Descriptors of connections that the program opened. Higher ones than these are never steps. */
static _Atomic uint8_t outgoing[1 << 16];

static int is_outgoing(int fd)
{
    return fd >= 0 && (size_t)fd < sizeof outgoing && outgoing[fd];
}

static void set_outgoing(int fd, int is)
{
    if (fd >= 0 && (size_t)fd < sizeof outgoing)
        outgoing[fd] = (uint8_t)is;
}

/* The function of libc (or of the next library) that one of ours hides. */
#define REAL(function) \
    static __typeof__(&function) real; \
    if (!real) \
    real = (__typeof__(&function))dlsym(RTLD_NEXT, #function)

__attribute__((constructor)) static void map_control(void)
{
    const char *path = getenv("FAULT_SHIM_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) {
        fprintf(stderr, "shim: FAULT_SHIM_CONTROL names no file that can be opened\n");
        abort();
    }
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED)
        abort();
    control = mapped;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* The name of what a call concerns: the path, beneath an open folder if it is relative, or the descriptor's. */
static void name_of(char name[PATH_MAX], int fd, const char *path)
{
    char link[32];
    ssize_t length = 0;
    if (path && (path[0] == '/' || fd == AT_FDCWD)) {
        snprintf(name, PATH_MAX, "%s", path);
        return;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    REAL(readlink);
    length = real(link, name, PATH_MAX - 1);
    name[length > 0 ? length : 0] = '\0';
    if (path && length > 0)
        snprintf(name + length, (size_t)(PATH_MAX - length), "/%s", path);
}

/* Counts a step and says what is to happen to it; errno is set for FAIL and left alone otherwise. */
static enum action step(enum kind kind, const char *function, int fd, const char *path)
{
    if (!control || !(control->kinds & kind))
        return PASS;
    int before = errno;
    char name[PATH_MAX];
    name_of(name, fd, path);
    errno = before;
    if (!is_outgoing(fd) && strncmp(name, control->folder, strlen(control->folder)) != 0)
        return PASS;
    int64_t left = control->left--;
    if (left > 1 || (left < 1 && !control->lasts))
        return PASS;
    if (left == 1) {
        snprintf(control->where, sizeof control->where, "%s %.400s", function, name);
        control->hit = 1;
    }
    if (control->action == KILL)
        die();
    if (control->action == FAIL) {
        /* A connection that failed is broken for good. */
        if (is_outgoing(fd))
            shutdown(fd, SHUT_RDWR);
        errno = control->error;
    }
    return control->action;
}

/* How much of a write is done. */
static size_t part(enum action action, size_t length)
{
    return action == HALF || action == TEAR ? (length + 1) / 2 : length;
}

/* A function whose step either fails or is passed on. */
#define FAILING(kind, type, failure, function, fd, path, parameters, arguments) \
    type function parameters \
    { \
        REAL(function); \
        if (step(kind, #function, fd, path) == FAIL) \
            return failure; \
        return real arguments; \
    }

/* Names, sizes, owners, modes. */
FAILING(NAME, int, -1, mkdir, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
FAILING(NAME, int, -1, rename, AT_FDCWD, to, (const char *from, const char *to), (from, to))
FAILING(NAME, int, -1, unlink, AT_FDCWD, path, (const char *path), (path))
FAILING(NAME, int, -1, unlinkat, fd, path, (int fd, const char *path, int flags), (fd, path, flags))
FAILING(NAME, int, -1, rmdir, AT_FDCWD, path, (const char *path), (path))
FAILING(NAME, int, -1, chmod, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
FAILING(NAME, int, -1, fchmod, fd, NULL, (int fd, mode_t mode), (fd, mode))
FAILING(NAME, int, -1, fchown, fd, NULL, (int fd, uid_t uid, gid_t gid), (fd, uid, gid))
FAILING(NAME, int, -1, ftruncate, fd, NULL, (int fd, off_t length), (fd, length))
FAILING(NAME, int, -1, ftruncate64, fd, NULL, (int fd, off64_t length), (fd, length))

/* Flushes and locks. */
FAILING(FLUSH, int, -1, fsync, fd, NULL, (int fd), (fd))
FAILING(FLUSH, int, -1, fdatasync, fd, NULL, (int fd), (fd))
FAILING(LOCK, int, -1, flock, fd, NULL, (int fd, int operation), (fd, operation))

/* Reading. */
FAILING(READ, ssize_t, -1, read, fd, NULL, (int fd, void *buffer, size_t length), (fd, buffer, length))
FAILING(READ, ssize_t, -1, readv, fd, NULL, (int fd, const struct iovec *parts, int count), (fd, parts, count))
FAILING(READ, ssize_t, -1, pread, fd, NULL, (int fd, void *buffer, size_t length, off_t at), (fd, buffer, length, at))
FAILING(READ, ssize_t, -1, pread64, fd, NULL, (int fd, void *buffer, size_t length, off64_t at),
        (fd, buffer, length, at))
FAILING(READ, ssize_t, -1, recv, fd, NULL, (int fd, void *buffer, size_t length, int flags),
        (fd, buffer, length, flags))
FAILING(READ, ssize_t, -1, recvmsg, fd, NULL, (int fd, struct msghdr *message, int flags), (fd, message, flags))
FAILING(READ, int, -1, stat64, AT_FDCWD, path, (const char *path, struct stat64 *found), (path, found))
FAILING(READ, int, -1, lstat64, AT_FDCWD, path, (const char *path, struct stat64 *found), (path, found))
FAILING(READ, int, -1, fstat64, fd, NULL, (int fd, struct stat64 *found), (fd, found))
FAILING(READ, int, -1, statx, fd, path,
        (int fd, const char *path, int flags, unsigned int mask, struct statx *found), (fd, path, flags, mask, found))
FAILING(READ, struct dirent64 *, NULL, readdir64, dirfd(folder), NULL, (DIR *folder), (folder))

/* Opening. */
FAILING(OPEN, DIR *, NULL, opendir, AT_FDCWD, path, (const char *path), (path))
FAILING(OPEN, void *, MAP_FAILED, mmap, fd, NULL,
        (void *at, size_t length, int protection, int flags, int fd, off_t offset),
        (at, length, protection, flags, fd, offset))
FAILING(OPEN, void *, MAP_FAILED, mmap64, fd, NULL,
        (void *at, size_t length, int protection, int flags, int fd, off64_t offset),
        (at, length, protection, flags, fd, offset))

/* open(2) has a mode only where it may make a file. */
#define MODE_OF(flags) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

#define OPENING(function) \
    int function(const char *path, int flags, ...) \
    { \
        REAL(function); \
        MODE_OF(flags) \
        return step(OPEN, #function, AT_FDCWD, path) == FAIL ? -1 : real(path, flags, mode); \
    }
OPENING(open)
OPENING(open64)

#define OPENING_AT(function) \
    int function(int folder, const char *path, int flags, ...) \
    { \
        REAL(function); \
        MODE_OF(flags) \
        return step(OPEN, #function, folder, path) == FAIL ? -1 : real(folder, path, flags, mode); \
    }
OPENING_AT(openat)
OPENING_AT(openat64)

/* Of fcntl(2), locking is a step; unlocking is none, for it does not fail. The argument is a pointer or an integer, which
 * is no longer than one. */
static int takes_lock(int command, const void *argument)
{
    int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    return locks && ((const struct flock *)argument)->l_type != F_UNLCK;
}

#define CONTROLLING(function) \
    int function(int fd, int command, ...) \
    { \
        REAL(function); \
        va_list more; \
        va_start(more, command); \
        void *argument = va_arg(more, void *); \
        va_end(more); \
        if (takes_lock(command, argument) && step(LOCK, #function, fd, NULL) == FAIL) \
            return -1; \
        return real(fd, command, argument); \
    }
CONTROLLING(fcntl)
CONTROLLING(fcntl64)

/* Writing. */
#define WRITING(function, parameters, arguments) \
    ssize_t function parameters \
    { \
        REAL(function); \
        enum action action = step(WRITE, #function, fd, NULL); \
        if (action == FAIL) \
            return -1; \
        length = part(action, length); \
        ssize_t written = real arguments; \
        if (action == TEAR) \
            die(); \
        return written; \
    }
WRITING(write, (int fd, const void *buffer, size_t length), (fd, buffer, length))
WRITING(pwrite, (int fd, const void *buffer, size_t length, off_t at), (fd, buffer, length, at))
WRITING(pwrite64, (int fd, const void *buffer, size_t length, off64_t at), (fd, buffer, length, at))
WRITING(send, (int fd, const void *buffer, size_t length, int flags), (fd, buffer, length, flags))

/* Several buffers: the first half of a write is at most the first half of the first. */
ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    enum action action = step(WRITE, "writev", fd, NULL);
    if (action == FAIL)
        return -1;
    if (action == PASS || count < 1)
        return real(fd, parts, count);
    struct iovec first = parts[0];
    first.iov_len = part(action, first.iov_len);
    ssize_t written = real(fd, &first, 1);
    if (action == TEAR)
        die();
    return written;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    enum action action = step(WRITE, "sendmsg", fd, NULL);
    if (action == FAIL)
        return -1;
    if (action == TEAR)
        die();
    return real(fd, message, flags);
}

/* Connections: those that the program opens are told from those that it accepts. */
int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    REAL(connect);
    set_outgoing(fd, 1);
    return step(CONNECT, "connect", fd, NULL) == FAIL ? -1 : real(fd, address, length);
}

int close(int fd)
{
    REAL(close);
    set_outgoing(fd, 0);
    return real(fd);
}

/* The time of day. */
#define NS_PER_S 1000000000LL

int clock_gettime(clockid_t clock, struct timespec *now)
{
    REAL(clock_gettime);
    int result = real(clock, now);
    if (result == 0 && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_sec * NS_PER_S + now->tv_nsec + control->clock_ns;
        now->tv_sec = ns / NS_PER_S;
        now->tv_nsec = ns % NS_PER_S;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now)
        *now = precise.tv_sec;
    return precise.tv_sec;
}
