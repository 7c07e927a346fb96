// What two processes pay to talk through pipes, in the ways of lmbench's lat_pipe and bw_pipe.
//
//   pipe CORE CORE trip COUNT BATCHES        a byte there and a byte back, COUNT times
//   pipe CORE CORE pour COUNT BATCHES SIZE   COUNT writes of SIZE bytes, read as they come
//
// Prints the nanoseconds of each batch; the first one warms up and is not printed.

#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void pin(int core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores)) {
        perror("sched_setaffinity");
        exit(1);
    }
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void expect(ssize_t done, ssize_t wanted) {
    if (done != wanted) {
        fprintf(stderr, "the pipe broke\n");
        exit(1);
    }
}

static void drain(int from, char *buffer, size_t size, long total) {
    while (total > 0) {
        ssize_t got = read(from, buffer, size);
        expect(got > 0, 1);
        total -= got;
    }
}

int main(int count_of_words, char **words) {
    if (count_of_words < 6) {
        fprintf(stderr, "see the source\n");
        return 2;
    }
    int trips = !strcmp(words[3], "trip");
    long count = atol(words[4]), batches = atol(words[5]) + 1;
    size_t size = trips ? 1 : (size_t)atol(words[6]);
    char *buffer = malloc(size), byte = 'x';
    int there[2], back[2];
    if (!buffer || pipe(there) || pipe(back)) return 1;
    memset(buffer, 1, size);

    pid_t child = fork();
    if (child == 0) {
        pin(atoi(words[2]));
        for (long batch = 0; batch < batches; batch++) {
            if (trips) {
                for (long done = 0; done < count; done++) {
                    expect(read(there[0], &byte, 1), 1);
                    expect(write(back[1], &byte, 1), 1);
                }
            } else {
                drain(there[0], buffer, size, count * (long)size);
                expect(write(back[1], &byte, 1), 1);
            }
        }
        _exit(0);
    }
    pin(atoi(words[1]));
    for (long batch = 0; batch < batches; batch++) {
        long begin = now();
        if (trips) {
            for (long done = 0; done < count; done++) {
                expect(write(there[1], &byte, 1), 1);
                expect(read(back[0], &byte, 1), 1);
            }
        } else {
            for (long done = 0; done < count; done++) expect(write(there[1], buffer, size), (ssize_t)size);
            expect(read(back[0], &byte, 1), 1);
        }
        long spent = now() - begin;
        if (batch) printf("%ld\n", spent);
    }
    waitpid(child, NULL, 0);
    return 0;
}
