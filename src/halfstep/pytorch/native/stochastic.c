/* fp32 numbers rounded to bf16 at random: up with the probability of the share of the way that they have gone to the
 * upper neighbour, so that the mean of many roundings is the number. With the bits u of the number it is
 * (u + r) >> 16, with r of 16 random bits. These are a hash of u, of the number's place, and of a second number's bits:
 * the same training has the same ones, and a step later they are others. stochastic.py has the same, and says more.
 * Compiled when first needed (builder.py).
 */
#include <stdint.h>

static inline uint32_t mixed(uint32_t h) { /* the last step of MurmurHash3 */
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    return h ^ (h >> 16);
}

/* n numbers each, one after the other; salt has the second numbers. */
void hs_stochastic(const uint32_t *restrict wide, const uint32_t *restrict salt, uint16_t *restrict narrow, int64_t n,
                   uint32_t seed) {
#ifdef _OPENMP
#pragma omp parallel for schedule(static) if (n > (1 << 15))
#endif
    for (int64_t i = 0; i < n; i++) {
        const uint32_t u = wide[i], is_nan = (u & 0x7fffffffu) > 0x7f800000u;
        const uint32_t place = mixed((uint32_t)i + seed), r = mixed(u ^ mixed(salt[i] ^ place)) & 0xffffu;
        narrow[i] = (uint16_t)(is_nan ? (u >> 16) | 0x40u : (u + r) >> 16);
    }
}
