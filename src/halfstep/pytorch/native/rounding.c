/* The arithmetic of kernels.py and blocks.py in one pass over memory, for float32 on a CPU.
 *
 * Compiled when first needed, where there is a C compiler (builder.py); tests hold both to the same exact reference.
 * Every operation is one IEEE 754 operation (no contraction, no reassociation): products are by powers of two and exact.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { SATURATE, INFINITE, NOT_A_NUMBER }; /* what becomes of numbers beyond the largest */

typedef struct {
    int fraction_bits; /* stored bits of the significand */
    int min_exponent;  /* of the smallest normal number */
    float largest;
    int overflow;
    int pass_nonfinite; /* NaN and infinity stay what they are */
} format_t;

static inline float as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t as_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

/* Nearest even: x over the distance between its neighbours in the format, to a whole number, and back. */
static inline float rounded(float x, const format_t f) {
    int32_t e = (int32_t)(as_bits(x) & 0x7f800000u);
    const int32_t lowest = (f.min_exponent + 127) << 23, highest = 254 << 23;
    e = e < lowest ? lowest : e;
    e = e > highest ? highest : e;
    const int32_t shift = f.fraction_bits << 23;
    /* by 2^(fraction_bits - e), and back in two exact steps that cannot overflow on the way */
    const float steps = rintf(x * as_float((uint32_t)((254 << 23) - e + shift)));
    const float r = steps * as_float((uint32_t)((127 << 23) - shift)) * as_float((uint32_t)e);
    const float beyond = f.overflow == SATURATE ? f.largest : f.overflow == INFINITE ? INFINITY : NAN;
    const float bounded = fabsf(r) > f.largest ? copysignf(beyond, x) : r;
    return f.pass_nonfinite && !(fabsf(x) <= 3.40282347e38f) ? x : bounded;
}

#ifdef __F16C__
#include <immintrin.h>

/* fp16 with infinities, by the CPU's own conversion: 8 numbers at a time, the rest by the loop of hs_round. */
static int64_t round_fp16(const float *x, float *out, int64_t n, int threads) {
    const int64_t whole = n & ~(int64_t)7;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < whole; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT)));
    return whole;
}
#else
static int64_t round_fp16(const float *x, float *out, int64_t n, int threads) {
    (void)x, (void)out, (void)n, (void)threads;
    return 0;
}
#endif

void hs_round(const float *x, float *out, int64_t n, int threads, int fraction_bits, int min_exponent, float largest,
              int overflow, int pass_nonfinite) {
    if (fraction_bits == 10 && min_exponent == -14 && overflow == INFINITE) {
        const int64_t done = round_fp16(x, out, n, threads);
        x += done, out += done, n -= done;
    }
    const format_t f = {fraction_bits, min_exponent, largest, overflow, pass_nonfinite};
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) out[i] = rounded(x[i], f);
}

/* Formats with float32's exponents: nearest even on the bits; a carry out of the fraction raises the exponent. */
void hs_drop(const float *x, float *out, int64_t n, int threads, int dropped, float largest, int overflow) {
    const uint32_t half = (1u << (dropped - 1)) - 1, keep = ~((1u << dropped) - 1);
    const float beyond = overflow == SATURATE ? largest : NAN;
    if (overflow == INFINITE) { /* where the carry leads */
#pragma omp parallel for simd num_threads(threads) schedule(static)
        for (int64_t i = 0; i < n; i++) {
            const uint32_t bits = as_bits(x[i]);
            const float r = as_float((bits + half + ((bits >> dropped) & 1u)) & keep);
            out[i] = x[i] != x[i] ? x[i] : r;
        }
        return;
    }
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = as_bits(x[i]);
        const float r = as_float((bits + half + ((bits >> dropped) & 1u)) & keep);
        const float bounded = fabsf(r) > largest ? copysignf(beyond, x[i]) : r;
        out[i] = x[i] != x[i] ? x[i] : bounded;
    }
}

/* The largest finite magnitude. Magnitudes are ordered as their bits are. */
float hs_largest(const float *x, int64_t n, int threads) {
    int32_t top = 0;
#pragma omp parallel for simd num_threads(threads) schedule(static) reduction(max : top)
    for (int64_t i = 0; i < n; i++) {
        const int32_t bits = (int32_t)(as_bits(x[i]) & 0x7fffffffu);
        const int32_t finite = bits < 0x7f800000 ? bits : 0;
        top = finite > top ? finite : top;
    }
    return as_float((uint32_t)top);
}

/* 2^(floor(log2(largest)) - the element's largest exponent), at least 2^-127; NaN where largest is not finite. */
static inline float power_of_two(int32_t top, int max_exponent) {
    if (top >= 0x7f800000) return NAN;
    int e = (top >> 23) - 127;
    if (e == -127) e = top ? 31 - __builtin_clz((unsigned)top) - 149 : -127 + max_exponent; /* subnormal, or zero */
    e -= max_exponent;
    return ldexpf(1.0f, e < -127 ? -127 : e);
}

/* The block's scale, rounded to E4M3, times the tensor's. */
static inline float two_level(int32_t top, float element_largest, float tensor_scale, const format_t scale) {
    if (top >= 0x7f800000) return NAN;
    const float s = rounded((as_float((uint32_t)top) / element_largest) / tensor_scale, scale);
    const float smallest = ldexpf(1.0f, scale.min_exponent - scale.fraction_bits);
    return (s < smallest ? smallest : s) * tensor_scale;
}

enum { COLUMNS = 64 };

/* x is (outer, n, inner), contiguous; blocks of `block` run along n. tensor_scale 0: scales are powers of two. */
void hs_blocks(const float *x, float *out, int64_t outer, int64_t n, int64_t inner, int threads, int block,
               int fraction_bits, int min_exponent, int max_exponent, float largest, float tensor_scale) {
    const format_t element = {fraction_bits, min_exponent, largest, SATURATE, 0};
    const format_t scale = {3, -6, 448.0f, SATURATE, 0};
    const int64_t blocks = (n + block - 1) / block, strips = (inner + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t job = 0; job < outer * blocks * strips; job++) {
        const int64_t strip = job % strips, b = job / strips % blocks, o = job / strips / blocks;
        const int64_t from = b * block, rows = from + block < n ? block : n - from;
        const int64_t column = strip * COLUMNS, width = column + COLUMNS < inner ? COLUMNS : inner - column;
        const float *in = x + (o * n + from) * inner + column;
        float *to = out + (o * n + from) * inner + column;
        if (inner == 1) { /* the block lies in a row */
            int32_t top = 0;
#pragma omp simd reduction(max : top)
            for (int64_t i = 0; i < rows; i++) {
                const int32_t bits = (int32_t)(as_bits(in[i]) & 0x7fffffffu);
                top = bits > top ? bits : top;
            }
            const float s = tensor_scale ? two_level(top, largest, tensor_scale, scale) : power_of_two(top, max_exponent);
#pragma omp simd
            for (int64_t i = 0; i < rows; i++) to[i] = rounded(in[i] / s, element) * s;
            continue;
        }
        int32_t tops[COLUMNS] = {0};
        float scales[COLUMNS];
        for (int64_t r = 0; r < rows; r++)
#pragma omp simd
            for (int64_t c = 0; c < width; c++) {
                const int32_t bits = (int32_t)(as_bits(in[r * inner + c]) & 0x7fffffffu);
                tops[c] = bits > tops[c] ? bits : tops[c];
            }
        for (int64_t c = 0; c < width; c++)
            scales[c] = tensor_scale ? two_level(tops[c], largest, tensor_scale, scale)
                                     : power_of_two(tops[c], max_exponent);
        for (int64_t r = 0; r < rows; r++)
#pragma omp simd
            for (int64_t c = 0; c < width; c++)
                to[r * inner + c] = rounded(in[r * inner + c] / scales[c], element) * scales[c];
    }
}
