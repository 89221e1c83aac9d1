/* fp32 numbers as a bf16 number and a signed 16-bit remainder, and back, for many tensors at once.
 *
 * The bf16 number is the fp32 one rounded half away from zero: with the bits u of the fp32 number it is
 * (u + 0x8000) >> 16, and the remainder is the lower half of u as a signed number, so that
 * u = (bf16 << 16) + remainder. A NaN is not rounded, as it might become another number: its upper half is the bf16
 * NaN, made quiet, and its lower half the remainder. Compiled when first needed (builder.py).
 */
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_num_threads(void) { return 1; }
static inline int omp_get_thread_num(void) { return 0; }
#endif

typedef struct { /* split.py has it, too: n numbers each, one after the other */
    uint16_t *weight;
    uint16_t *remainder;
    uint32_t *wide;
    int64_t n;
} tensor_t;

enum {
    A_THREAD = 1 << 15, /* elements for which another thread costs less than it saves, as PyTorch has it */
    LINE = 64,          /* elements: threads write to cache lines of their own */
};

static void split(const uint32_t *restrict wide, uint16_t *restrict weight, uint16_t *restrict remainder, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t u = wide[i], is_nan = (u & 0x7fffffffu) > 0x7f800000u;
        weight[i] = (uint16_t)(is_nan ? (u >> 16) | 0x40u : (u + 0x8000u) >> 16);
        remainder[i] = (uint16_t)u;
    }
}

static void join(const uint16_t *restrict weight, const uint16_t *restrict remainder, uint32_t *restrict wide, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t high = weight[i], low = remainder[i], is_nan = (high & 0x7fffu) > 0x7f80u;
        /* a negative remainder: the upper half of the fp32 number is one less than the bf16 number */
        wide[i] = ((high - (is_nan ? 0u : low >> 15)) << 16) | low;
    }
}

/* Where the share of thread t of the given number begins. */
static inline int64_t share(int64_t n, int64_t t, int64_t threads) {
    return t == threads ? n : n / threads * t / LINE * LINE;
}

static void part(const tensor_t *tensors, int32_t count, int32_t joins, int64_t t, int64_t threads) {
    for (const tensor_t *x = tensors; x < tensors + count; x++) {
        const int64_t from = share(x->n, t, threads), n = share(x->n, t + 1, threads) - from;
        if (joins) join(x->weight + from, x->remainder + from, x->wide + from, n);
        else split(x->wide + from, x->weight + from, x->remainder + from, n);
    }
}

/* Splits all, or joins them, in as many threads as PyTorch would use: this OpenMP may be another one. */
void hs_remainders(const tensor_t *tensors, int32_t count, int32_t joins, int32_t most) {
    int64_t all = 0;
    for (int32_t i = 0; i < count; i++) all += tensors[i].n;
    int64_t useful = (all + A_THREAD - 1) / A_THREAD;
    if (useful > most) useful = most;
    if (useful <= 1) {
        part(tensors, count, joins, 0, 1);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel
#endif
    { /* of all threads: GNU's OpenMP ends those that a smaller team has no use for */
        const int64_t got = omp_get_num_threads(), threads = useful < got ? useful : got, t = omp_get_thread_num();
        if (t < threads) part(tensors, count, joins, t, threads);
    }
}
