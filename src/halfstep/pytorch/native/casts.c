/* Casts of several tensors at once between 16 bits and fp32, round to nearest even.
 *
 * PyTorch casts them one by one: the threads are woken and waited for as often, and its bf16 casts take longer than memory
 * does. Compiled when first needed (builder.py), for the kernel in C++, which casts every operand of a product.
 */
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "threads.h"

typedef struct { /* products.cpp has it, too */
    const void *from;
    void *to;
    int64_t n, row, step; /* rows of so many numbers, `step` apart in `from`; in `to` one after the other */
} cast_t;

enum { WIDEN_BF16, WIDEN_FP16, ROUND_BF16, ROUND_FP16 }; /* products.cpp has them, too */

static inline float as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t as_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static void widen_bf16(const uint16_t *restrict from, float *restrict to, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = as_float((uint32_t)from[i] << 16);
}

static void round_bf16(const float *restrict from, uint16_t *restrict to, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = as_bits(from[i]), even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        to[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : even); /* a NaN stays one */
    }
}

/* FP16: by the CPU's own conversions, WIDTH numbers at once; the last ones by way of memory of that size. */
#if defined(__AVX512F__)
enum { HAS_FP16 = 1, WIDTH = 16 };
static inline void widen_some(const uint16_t *from, float *to) {
    _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)));
}
static inline void round_some(const float *from, uint16_t *to) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(_mm512_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
enum { HAS_FP16 = 1, WIDTH = 8 };
static inline void widen_some(const uint16_t *from, float *to) {
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)));
}
static inline void round_some(const float *from, uint16_t *to) {
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(_mm256_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__ARM_FP16_FORMAT_IEEE)
enum { HAS_FP16 = 1, WIDTH = 1 };
static inline void widen_some(const uint16_t *from, float *to) {
    __fp16 x;
    memcpy(&x, from, 2);
    *to = x;
}
static inline void round_some(const float *from, uint16_t *to) {
    const __fp16 x = *from;
    memcpy(to, &x, 2);
}
#else
enum { HAS_FP16 = 0, WIDTH = 1 };
static inline void widen_some(const uint16_t *from, float *to) { (void)from, (void)to; }
static inline void round_some(const float *from, uint16_t *to) { (void)from, (void)to; }
#endif

static void widen_fp16(const uint16_t *restrict from, float *restrict to, int64_t n) {
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) widen_some(from + i, to + i);
    if (i == n) return;
    uint16_t low[WIDTH] = {0};
    float wide[WIDTH];
    memcpy(low, from + i, sizeof(*from) * (size_t)(n - i));
    widen_some(low, wide);
    memcpy(to + i, wide, sizeof(*to) * (size_t)(n - i));
}

static void round_fp16(const float *restrict from, uint16_t *restrict to, int64_t n) {
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) round_some(from + i, to + i);
    if (i == n) return;
    float wide[WIDTH] = {0};
    uint16_t low[WIDTH];
    memcpy(wide, from + i, sizeof(*from) * (size_t)(n - i));
    round_some(wide, low);
    memcpy(to + i, low, sizeof(*to) * (size_t)(n - i));
}

/* n numbers of c: those from `from` on, to the place of those from `to` on. */
static void some(const cast_t *c, int32_t kind, int64_t from, int64_t to, int64_t n) {
    switch (kind) {
    case WIDEN_BF16: widen_bf16((const uint16_t *)c->from + from, (float *)c->to + to, n); break;
    case WIDEN_FP16: widen_fp16((const uint16_t *)c->from + from, (float *)c->to + to, n); break;
    case ROUND_BF16: round_bf16((const float *)c->from + from, (uint16_t *)c->to + to, n); break;
    case ROUND_FP16: round_fp16((const float *)c->from + from, (uint16_t *)c->to + to, n); break;
    }
}

typedef struct {
    const cast_t *casts;
    int32_t count, kind;
} all_t;

static void part(const void *of, int64_t t, int64_t threads) {
    const all_t *all = of;
    for (const cast_t *c = all->casts; c < all->casts + all->count; c++) {
        const int64_t end = share(c->n, t + 1, threads);
        for (int64_t i = share(c->n, t, threads), n; i < end; i += n) {
            const int64_t begun = i % c->row, left = c->row - begun;
            n = left < end - i ? left : end - i;
            some(c, all->kind, i / c->row * c->step + begun, i, n);
        }
    }
}

/* All of one kind. Returns 0, or -1, with nothing done, where the CPU has no such conversion. */
int32_t hs_cast(const cast_t *casts, int32_t count, int32_t kind, int32_t most) {
    if (!HAS_FP16 && (kind == WIDEN_FP16 || kind == ROUND_FP16)) return -1;
    const all_t all = {casts, count, kind};
    int64_t numbers = 0;
    for (int32_t i = 0; i < count; i++) numbers += casts[i].n;
    share_out(part, &all, numbers, most);
    return 0;
}
