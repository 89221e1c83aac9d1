/* fp32 numbers as a bf16 number and a signed 16-bit remainder, and back, for many tensors at once.
 *
 * The bf16 number is the fp32 one rounded half away from zero: with the bits u of the fp32 number it is
 * (u + 0x8000) >> 16, and the remainder is the lower half of u as a signed number, so that
 * u = (bf16 << 16) + remainder. A NaN is not rounded, as it might become another number: its upper half is the bf16
 * NaN, made quiet, and its lower half the remainder. Compiled when first needed (builder.py).
 */
#include <stdint.h>

#include "threads.h"

typedef struct { /* split.py has it, too: n numbers each, one after the other */
    uint16_t *weight;
    uint16_t *remainder;
    uint32_t *wide;
    int64_t n;
} tensor_t;

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

typedef struct {
    const tensor_t *tensors;
    int32_t count, joins;
} all_t;

static void part(const void *of, int64_t t, int64_t threads) {
    const all_t *all = of;
    for (const tensor_t *x = all->tensors; x < all->tensors + all->count; x++) {
        const int64_t from = share(x->n, t, threads), n = share(x->n, t + 1, threads) - from;
        if (all->joins) join(x->weight + from, x->remainder + from, x->wide + from, n);
        else split(x->wide + from, x->weight + from, x->remainder + from, n);
    }
}

/* Splits all, or joins them. */
void hs_remainders(const tensor_t *tensors, int32_t count, int32_t joins, int32_t most) {
    const all_t all = {tensors, count, joins};
    int64_t numbers = 0;
    for (int32_t i = 0; i < count; i++) numbers += tensors[i].n;
    share_out(part, &all, numbers, most);
}
