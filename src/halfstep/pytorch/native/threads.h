/* Work on many numbers shared out among as many threads as PyTorch would use: this OpenMP may be another one. */
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_num_threads(void) { return 1; }
static inline int omp_get_thread_num(void) { return 0; }
#endif

enum {
    A_THREAD = 1 << 15, /* elements for which another thread costs less than it saves, as PyTorch has it */
    LINE = 64,          /* elements: threads write to cache lines of their own */
};

/* Where the share of thread t of n numbers begins. */
static inline int64_t share(int64_t n, int64_t t, int64_t threads) {
    return t == threads ? n : n / threads * t / LINE * LINE;
}

/* Does the part of thread t. */
typedef void work_t(const void *of, int64_t t, int64_t threads);

/* Lets threads do the work, which is about `all` numbers; no more threads than `most`. */
static inline void share_out(work_t *work, const void *of, int64_t all, int32_t most) {
    int64_t useful = (all + A_THREAD - 1) / A_THREAD;
    if (useful > most) useful = most;
    if (useful <= 1) {
        work(of, 0, 1);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel
#endif
    { /* of all threads: GNU's OpenMP ends those that a smaller team has no use for */
        const int64_t got = omp_get_num_threads(), threads = useful < got ? useful : got, t = omp_get_thread_num();
        if (t < threads) work(of, t, threads);
    }
}
