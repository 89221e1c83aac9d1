/* Multiplies many gradients by a factor and tests the products, in one call and one pass over memory.
 *
 * Compiled when first needed, where there is a C compiler (builder.py). What a tensor is and where it lies is asked of
 * PyTorch's stable C interface (aoti_torch_*: torch/csrc/inductor/aoti_torch/c/shim.h), some nanoseconds per question. The arithmetic is PyTorch's: products of 16-bit
 * numbers are rounded once, to nearest even, from float32.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

typedef void **tensor_t; /* at::Tensor *, of which the one member points to the TensorImpl */

typedef struct {
    int32_t (*data)(tensor_t, void **);
    int32_t (*numel)(tensor_t, int64_t *);
    int32_t (*dim)(tensor_t, int64_t *);
    int32_t (*sizes)(tensor_t, int64_t **);
    int32_t (*strides)(tensor_t, int64_t **);
    int32_t (*dtype)(tensor_t, int32_t *);
    int32_t (*device)(tensor_t, int32_t *);
    int32_t (*layout)(tensor_t, int32_t *);
    int32_t cpu, strided, float32, float64, bfloat16, float16;
} torch_t;

typedef struct { /* a stretch of memory that one thread works on */
    char *data;
    int64_t n;
    int32_t dtype;
} piece_t;

enum {
    PIECE = 1 << 15,      /* elements: small enough to share them out evenly among threads */
    ONE_THREAD = 1 << 16, /* elements below which a second thread costs more than it saves */
};

static inline float as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t as_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

/* Each returns whether a product is not finite: whether all its exponent's bits are set. */

static inline int pass_float32(float *x, int64_t n, float factor, int write) {
    uint32_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (int64_t i = 0; i < n; i++) {
        const float y = x[i] * factor;
        if (write) x[i] = y;
        bad |= (as_bits(y) & 0x7f800000u) == 0x7f800000u;
    }
    return bad != 0;
}

static inline int pass_float64(double *x, int64_t n, double factor, int write) {
    uint64_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (int64_t i = 0; i < n; i++) {
        const double y = x[i] * factor;
        uint64_t bits;
        memcpy(&bits, &y, 8);
        if (write) x[i] = y;
        bad |= (bits & 0x7ff0000000000000u) == 0x7ff0000000000000u;
    }
    return bad != 0;
}

static inline int pass_bfloat16(uint16_t *x, int64_t n, float factor, int write) {
    uint32_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (int64_t i = 0; i < n; i++) {
        const float y = as_float((uint32_t)x[i] << 16) * factor;
        const uint32_t bits = as_bits(y), even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const uint32_t r = y != y ? 0x7fc0u : even;
        if (write) x[i] = (uint16_t)r;
        bad |= (r & 0x7f80u) == 0x7f80u;
    }
    return bad != 0;
}

#ifdef __F16C__
static inline __m128i product_float16(__m128i x, __m256 factor) {
    return _mm256_cvtps_ph(_mm256_mul_ps(_mm256_cvtph_ps(x), factor), _MM_FROUND_TO_NEAREST_INT);
}

static inline int pass_float16(uint16_t *x, int64_t n, float factor, int write) {
    const __m256 factors = _mm256_set1_ps(factor);
    const __m128i exponent = _mm_set1_epi16(0x7c00);
    __m128i bad = _mm_setzero_si128();
    for (int64_t i = 0; i < n; i += 8) {
        uint16_t rest[8] = {0}; /* the last numbers, where fewer than 8 are left */
        uint16_t *const at = n - i >= 8 ? x + i : memcpy(rest, x + i, 2 * (size_t)(n - i));
        const __m128i y = product_float16(_mm_loadu_si128((const __m128i *)at), factors);
        bad = _mm_or_si128(bad, _mm_cmpeq_epi16(_mm_and_si128(y, exponent), exponent));
        if (write) _mm_storeu_si128((__m128i *)at, y);
        if (write && at == rest) memcpy(x + i, rest, 2 * (size_t)(n - i));
    }
    return _mm_movemask_epi8(bad) != 0;
}
enum { HAS_FLOAT16 = 1 };
#else
static int pass_float16(uint16_t *x, int64_t n, float factor, int write) {
    (void)x, (void)n, (void)factor, (void)write;
    return 0;
}
enum { HAS_FLOAT16 = 0 };
#endif

static int pass(const piece_t p, double factor, int write, const torch_t *torch) {
    const float f = (float)factor;
    if (p.dtype == torch->float32)
        return write ? pass_float32((float *)p.data, p.n, f, 1) : pass_float32((float *)p.data, p.n, f, 0);
    if (p.dtype == torch->float64)
        return write ? pass_float64((double *)p.data, p.n, factor, 1) : pass_float64((double *)p.data, p.n, factor, 0);
    if (p.dtype == torch->bfloat16)
        return write ? pass_bfloat16((uint16_t *)p.data, p.n, f, 1) : pass_bfloat16((uint16_t *)p.data, p.n, f, 0);
    return write ? pass_float16((uint16_t *)p.data, p.n, f, 1) : pass_float16((uint16_t *)p.data, p.n, f, 0);
}

/* Bytes an element, of the dtypes that there is a pass for; 0 of others. */
static int width(int32_t dtype, const torch_t *torch) {
    if (dtype == torch->float32) return 4;
    if (dtype == torch->float64) return 8;
    if (dtype == torch->bfloat16 || (HAS_FLOAT16 && dtype == torch->float16)) return 2;
    return 0;
}

/* Whether the elements fill their stretch of memory, each once, in whatever order of the dimensions. */
static int dense(const int64_t *sizes, const int64_t *strides, int64_t dim, int64_t numel) {
    int64_t step = 1, i = 0;
    while (i < dim)
        if (sizes[i] != 1 && strides[i] == step) step *= sizes[i], i = 0;
        else i++;
    return step == numel;
}

/* The tensor as one piece; its dtype is -1 where the tensor is for PyTorch. */
static piece_t whole(tensor_t t, const torch_t *torch) {
    piece_t p = {NULL, 0, -1};
    const piece_t others = p;
    int32_t device, layout, dtype;
    int64_t dim, *sizes, *strides;
    void *data;
    if (torch->device(t, &device) || device != torch->cpu || torch->layout(t, &layout) || layout != torch->strided)
        return others;
    if (torch->dtype(t, &dtype) || !width(dtype, torch) || torch->numel(t, &p.n)) return others;
    p.dtype = dtype;
    if (p.n == 0) return p;
    if (torch->dim(t, &dim) || torch->sizes(t, &sizes) || torch->strides(t, &strides)) return others;
    if (!dense(sizes, strides, dim, p.n) || torch->data(t, &data) || !data) return others;
    p.data = data;
    return p;
}

/* Cuts n tensors into pieces. Returns how many there are, or -1 where not all can be served: served[i] tells. */
static int64_t cut(void **tensors, int64_t n, uint8_t *served, piece_t **pieces, int refuse_float16, const torch_t *torch) {
    int64_t count = 0, room = n + 16, others = 0;
    *pieces = malloc((size_t)room * sizeof(piece_t));
    for (int64_t i = 0; i < n; i++) {
        const piece_t p = whole(tensors + i, torch);
        served[i] = p.dtype >= 0 && !(refuse_float16 && p.dtype == torch->float16) && *pieces;
        others += !served[i];
        for (int64_t from = 0; from < p.n && !others; from += PIECE) {
            if (count == room) {
                piece_t *const more = realloc(*pieces, (size_t)(room *= 2) * sizeof(piece_t));
                if (!more) { served[i] = 0, others++; break; }
                *pieces = more;
            }
            const int64_t length = p.n - from < PIECE ? p.n - from : PIECE;
            (*pieces)[count++] = (piece_t){p.data + from * width(p.dtype, torch), length, p.dtype};
        }
    }
    return others ? -1 : count;
}

/* Multiplies n tensors by the factor in place (unless !write) and tests the products.
 * Returns 0 where all are finite, 1 where one is not, and -1, with nothing done, where some cannot be served: served[i]. */
int hs_unscale(void **tensors, int64_t n, uint8_t *served, double factor, int write, int refuse_float16, int threads,
               const torch_t *torch) {
    piece_t *pieces;
    const int64_t count = cut(tensors, n, served, &pieces, refuse_float16, torch);
    int64_t elements = 0;
    for (int64_t i = 0; i < count; i++) elements += pieces[i].n;
    threads = elements < ONE_THREAD ? 1 : threads;
    int bad = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : bad)
    for (int64_t i = 0; i < count; i++) bad |= pass(pieces[i], factor, write, torch);
    free(pieces);
    return count < 0 ? -1 : bad;
}
