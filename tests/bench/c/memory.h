/* Memory laid out as helpers/compiled.py lays it out: same kind of pages, same kind of random cycle. */

#ifndef MEMORY_H
#define MEMORY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { WORDS_PER_LINE = 8 }; /* of 8 bytes, in a cache line of 64 */

static inline void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static inline int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Private anonymous memory, on huge or on ordinary pages. */
static inline uint64_t *map_words(size_t bytes, int huge_pages)
{
    void *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        give_up("mmap");
    madvise(area, bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); /* may fail: then there are no huge pages */
    return area;
}

/* A small generator (Marsaglia's xorshift), good enough to defeat a prefetcher. */
static inline uint64_t random_word(void)
{
    static uint64_t state;
    if (state == 0)
        state = (uint64_t)clock_ns(CLOCK_REALTIME) | 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* One random cycle through the first word of each cache line: a shuffled order of the lines, closed to a ring. */
static inline void link_cycle(uint64_t *words, size_t bytes)
{
    size_t lines = bytes / (WORDS_PER_LINE * sizeof *words);
    if (lines == 0)
        return;
    uint64_t *order = malloc(lines * sizeof *order);
    if (order == NULL)
        give_up("malloc");
    for (size_t index = 0; index < lines; index++)
        order[index] = index;
    for (size_t index = lines - 1; index > 0; index--) {
        size_t other = random_word() % (index + 1);
        uint64_t kept = order[index];
        order[index] = order[other];
        order[other] = kept;
    }
    for (size_t index = 0; index < lines; index++)
        words[order[index] * WORDS_PER_LINE] = order[(index + 1) % lines] * WORDS_PER_LINE;
    free(order);
}

#endif
