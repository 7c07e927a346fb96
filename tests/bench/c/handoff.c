/* lmbench's method for a context switch, in C of our own: two processes pass a token round a ring of two pipes.
 *
 *     handoff BYTES TOUCH TRIPS BATCHES
 *
 * On each arrival of the token a process reads its own BYTES of memory: TOUCH is `sum` (all words in order) or `chase`
 * (the cache lines in a random cycle). Per batch of TRIPS round trips one line: wall clock and CPU time of both
 * processes per hop, then the same for the baseline, one process with a pipe to itself: write, read, touch. All in ns.
 * Both processes stay on the core that they were started on (taskset). BYTES is a multiple of 1 KiB: like lmbench's,
 * the sum is a loop over 128 words at a time, so that the loop itself costs nothing, and adds word by word.
 */

#include "memory.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    int read_from, write_to;
    uint64_t *words;
    size_t bytes;
    int chase;
    uint64_t seen; /* printed at the end, so that no reading can be left out */
} Side;

typedef struct {
    int64_t wall, cpu;
} Spent;

__attribute__((noinline)) static uint64_t touch(const uint64_t *words, size_t bytes, int chase)
{
    uint64_t total = 0;
    if (chase) {
        for (size_t line = 0; line < bytes / (WORDS_PER_LINE * sizeof *words); line++)
            total = words[total];
        return total;
    }
    for (size_t block = 0; block < bytes / sizeof *words; block += 128) {
#pragma GCC unroll 128
        for (size_t index = 0; index < 128; index++)
            total += words[block + index];
    }
    return total;
}

static void hand_on(const Side *side)
{
    char token = 1;
    if (write(side->write_to, &token, 1) != 1)
        give_up("write");
}

static void await(const Side *side)
{
    char token;
    if (read(side->read_from, &token, 1) != 1)
        give_up("read");
}

static void ask(Side *side, long trips)
{
    for (long trip = 0; trip < trips; trip++) {
        hand_on(side);
        await(side);
        side->seen += touch(side->words, side->bytes, side->chase);
    }
}

static void answer(Side *side, long trips)
{
    for (long trip = 0; trip < trips; trip++) {
        await(side);
        side->seen += touch(side->words, side->bytes, side->chase);
        hand_on(side);
    }
}

static Spent so_far(void)
{
    return (Spent){clock_ns(CLOCK_MONOTONIC), clock_ns(CLOCK_PROCESS_CPUTIME_ID)};
}

static Spent spent_by(void (*play)(Side *, long), Side *side, long trips)
{
    Spent before = so_far();
    play(side, trips);
    Spent after = so_far();
    return (Spent){after.wall - before.wall, after.cpu - before.cpu};
}

/* Each process has a working set of its own, every page of it written. */
static void fill(Side *side)
{
    if (side->bytes == 0)
        return;
    side->words = map_words(side->bytes, 0);
    for (size_t index = 0; index < side->bytes / sizeof *side->words; index++)
        side->words[index] = 1;
    if (side->chase)
        link_cycle(side->words, side->bytes);
}

static void make_pipe(int ends[2])
{
    if (pipe(ends) != 0)
        give_up("pipe");
}

int main(int count, char **words)
{
    if (count != 5) {
        fprintf(stderr, "usage: handoff BYTES in-order|at-random TRIPS BATCHES\n");
        return 2;
    }
    size_t bytes = strtoull(words[1], NULL, 10);
    int chase = strcmp(words[2], "at-random") == 0;
    long trips = atol(words[3]), batches = atol(words[4]);
    int there[2], back[2], own[2], reports[2];
    make_pipe(there);
    make_pipe(back);
    make_pipe(own);
    make_pipe(reports);

    pid_t child = fork();
    if (child < 0)
        give_up("fork");
    if (child == 0) {
        Side side = {.read_from = there[0], .write_to = back[1], .bytes = bytes, .chase = chase};
        fill(&side);
        answer(&side, trips); /* the first batch warms up */
        for (long batch = 0; batch < batches; batch++) {
            Spent spent = spent_by(answer, &side, trips);
            if (write(reports[1], &spent, sizeof spent) != sizeof spent)
                give_up("report");
        }
        _exit((int)(side.seen & 0)); /* uses what was read */
    }

    Side ours = {.read_from = back[0], .write_to = there[1], .bytes = bytes, .chase = chase};
    fill(&ours);
    Side alone = ours;
    alone.read_from = own[0];
    alone.write_to = own[1];
    ask(&ours, trips);
    ask(&alone, trips);
    for (long batch = 0; batch < batches; batch++) {
        Spent theirs, base = {0, 0};
        int alone_first = random_word() >> 32 & 1;
        if (alone_first)
            base = spent_by(ask, &alone, trips);
        Spent hops = spent_by(ask, &ours, trips);
        if (read(reports[0], &theirs, sizeof theirs) != sizeof theirs)
            give_up("report");
        if (!alone_first)
            base = spent_by(ask, &alone, trips);
        double per_hop = 2.0 * (double)trips, per_call = (double)trips;
        printf("%.3f %.3f %.3f %.3f\n", (double)hops.wall / per_hop, (double)(hops.cpu + theirs.cpu) / per_hop,
               (double)base.wall / per_call, (double)base.cpu / per_call);
    }
    fprintf(stderr, "%llu\n", (unsigned long long)(ours.seen + alone.seen));
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}
