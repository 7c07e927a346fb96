/* The memory ladder in C: nanoseconds per load whose address comes from the load before.
 *
 * Each line "BYTES HUGE" on standard input is answered by two numbers, wall clock and CPU time. Memory is mapped
 * afresh each time. As in the experiment, the cycle is walked once (or half a million steps of it), then walked on in
 * batches that double until one lasts 8 ms; that one counts.
 */

#include "memory.h"

#include <unistd.h>

static const int64_t BATCH_NS = 5000000;
static const size_t LOADS_AT_LEAST = 20000;
static const size_t WARM_UP_AT_MOST = (size_t)1 << 17;

/* Not inlined and its result used, so that the compiler cannot do without the loads. */
__attribute__((noinline)) static uint64_t follow(const uint64_t *words, uint64_t place, size_t steps)
{
    for (size_t step = 0; step < steps; step++)
        place = words[place];
    return place;
}

typedef struct {
    double wall, cpu;
} Load;

static Load load_ns(size_t bytes, int huge_pages)
{
    uint64_t *words = map_words(bytes, huge_pages);
    link_cycle(words, bytes);
    size_t lines = bytes / (WORDS_PER_LINE * sizeof *words);
    uint64_t place = follow(words, 0, lines < WARM_UP_AT_MOST ? lines : WARM_UP_AT_MOST);
    size_t loads = LOADS_AT_LEAST;
    int64_t wall, cpu;
    for (;;) {
        int64_t cpu_start = clock_ns(CLOCK_THREAD_CPUTIME_ID), wall_start = clock_ns(CLOCK_MONOTONIC);
        place = follow(words, place, loads);
        wall = clock_ns(CLOCK_MONOTONIC) - wall_start;
        cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_start;
        if (wall >= BATCH_NS)
            break;
        loads *= 2;
    }
    if (place * sizeof *words >= bytes) { /* never, but the compiler does not know */
        fprintf(stderr, "the chase left its array\n");
        exit(1);
    }
    munmap(words, bytes);
    return (Load){(double)wall / (double)loads, (double)cpu / (double)loads};
}

int main(void)
{
    size_t bytes;
    int huge_pages;
    while (scanf("%zu %d", &bytes, &huge_pages) == 2) {
        Load load = load_ns(bytes, huge_pages);
        printf("%.6f %.6f\n", load.wall, load.cpu);
        fflush(stdout);
    }
    return 0;
}
