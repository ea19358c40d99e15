// The Llama decoder's own kernels; matrix products of more than a few rows are cuBLAS's.
// Compiled at run time for one model and the card at hand. The model's sizes come as macros:
// HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM (a power of two from 16 to 256), LAYERS, PAGE
// (positions a KV page, a multiple of 4), SHARE (query heads of one key head that a block of
// `attend` serves; divides HEADS / KV_HEADS).
//
// bf16 values travel as 16-bit integers: no header is needed. Sums are f32.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define HALF (HEAD_DIM / 2)
#define WIDTH ((HEADS + 2 * KV_HEADS) * HEAD_DIM)
#define INFINITE __int_as_float(0x7f800000)
#define EVERY 0xffffffffu

static __device__ __forceinline__ float wide(u16 x) { return __uint_as_float((u32)x << 16); }
static __device__ __forceinline__ float low(u32 x) { return __uint_as_float(x << 16); }
static __device__ __forceinline__ float high(u32 x) { return __uint_as_float(x & 0xffff0000u); }

// Two floats to bf16, nearest even; `a` into the lower half.
static __device__ __forceinline__ u32 narrow2(float a, float b) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(b), "f"(a));
    return out;
}
static __device__ __forceinline__ u16 narrow(float a) { return (u16)narrow2(a, 0.0f); }

static __device__ __forceinline__ void widen8(uint4 from, float* to) {
    to[0] = low(from.x); to[1] = high(from.x);
    to[2] = low(from.y); to[3] = high(from.y);
    to[4] = low(from.z); to[5] = high(from.z);
    to[6] = low(from.w); to[7] = high(from.w);
}

// Weights are read once: they need not stay in the first cache.
static __device__ __forceinline__ uint4 stream(const uint4* from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

static __device__ __forceinline__ float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(EVERY, x, step);
    return x;
}

// hidden[row] = table[tokens[row]]; a block a row.
extern "C" __global__ void embed(float* hidden, const u16* table, const int* tokens) {
    const u16* from = table + (u64)tokens[blockIdx.x] * HIDDEN;
    float* to = hidden + (u64)blockIdx.x * HIDDEN;
    for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x) to[i] = wide(from[i]);
}

// y[row] = norm(x[which ? which[row] : row]) * weight, in bf16; a block of 256 a row.
extern "C" __global__ void __launch_bounds__(256)
rms_norm(u16* y, const float* x, const float* weight, const int* which, float eps) {
    __shared__ float sums[8];
    const u64 source = which ? which[blockIdx.x] : blockIdx.x;
    const float4* from = (const float4*)(x + source * HIDDEN);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < HIDDEN / 4; i += 256) {
        const float4 v = from[i];
        sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < 8; ++i) sum += sums[i];
    const float scale = rsqrtf(sum / HIDDEN + eps);
    uint2* to = (uint2*)(y + (u64)blockIdx.x * HIDDEN);
    for (int i = threadIdx.x; i < HIDDEN / 4; i += 256) {
        const float4 v = from[i];
        const float4 w = ((const float4*)weight)[i];
        to[i] = make_uint2(narrow2(v.x * scale * w.x, v.y * scale * w.y),
                           narrow2(v.z * scale * w.z, v.w * scale * w.w));
    }
}

// Offset of a position's key or value in the pool: [page][layer][key head][PAGE][HEAD_DIM].
static __device__ __forceinline__ u64 place(const int* pages, int layer, int head, int position) {
    const u64 page = pages[position / PAGE];
    return (((page * LAYERS + layer) * KV_HEADS + head) * PAGE + position % PAGE) * HEAD_DIM;
}

// Rotates the queries of a row in place, stores its rotated keys and its values; a block a row.
extern "C" __global__ void
rotate_store(u16* qkv, u16* keys, u16* values, const float* cosines, const float* sines,
             const int* slots, const int* positions, const int* tables, int table_len, int layer) {
    const int row = blockIdx.x;
    const int position = positions[row];
    const int* pages = tables + (u64)slots[row] * table_len;
    u16* own = qkv + (u64)row * WIDTH;
    const float* c = cosines + (u64)position * HALF;
    const float* s = sines + (u64)position * HALF;
    for (int i = threadIdx.x; i < (HEADS + KV_HEADS) * HALF; i += blockDim.x) {
        const int head = i / HALF;
        const int at = i % HALF;
        u16* vector = own + head * HEAD_DIM;
        const float a = wide(vector[at]);
        const float b = wide(vector[at + HALF]);
        const u16 x = narrow(a * c[at] - b * s[at]);
        const u16 y = narrow(b * c[at] + a * s[at]);
        if (head < HEADS) {
            vector[at] = x;
            vector[at + HALF] = y;
        } else {
            u16* key = keys + place(pages, layer, head - HEADS, position);
            key[at] = x;
            key[at + HALF] = y;
        }
    }
    const u16* fresh = own + (HEADS + KV_HEADS) * HEAD_DIM;
    for (int i = threadIdx.x; i < KV_HEADS * HEAD_DIM; i += blockDim.x) {
        values[place(pages, layer, i / HEAD_DIM, position) + i % HEAD_DIM] = fresh[i];
    }
}

#define LANES (HEAD_DIM / 8)      // lanes that hold one key
#define TEAMS (128 / LANES)       // keys a block of `attend` reads side by side
#define AHEAD 4                   // keys a team has in flight
#define BLOCKS_A_ROW (HEADS / SHARE)

// Attention of the rows over the positions [split * span, ...) of their own slots, of which
// row sees positions[row] + 1. Grid: (HEADS / SHARE, rows, splits), 128 threads. With one split
// the result goes to `out`, otherwise softmax numerators, their sum and maximum to `partial`
// ([row][head][split][HEAD_DIM + 2]), which `merge` brings together.
extern "C" __global__ void __launch_bounds__(128)
attend(u16* out, float* partial, const u16* qkv, const u16* keys, const u16* values,
       const int* slots, const int* positions, const int* tables, int table_len, int layer,
       int span, float scale) {
    __shared__ float gathered[TEAMS][SHARE][HEAD_DIM];
    __shared__ float maxima[TEAMS][SHARE];
    __shared__ float totals[TEAMS][SHARE];
    const int row = blockIdx.y;
    const int first_head = blockIdx.x * SHARE;
    const int kv_head = first_head / (HEADS / KV_HEADS);
    const int length = positions[row] + 1;
    const int begin = blockIdx.z * span;
    if (begin >= length) return;
    const int end = min(length, begin + span);
    const int* pages = tables + (u64)slots[row] * table_len;
    const int team = threadIdx.x / LANES;
    const int lane = threadIdx.x % LANES;

    float query[SHARE][8];
    float sum[SHARE][8];
    float largest[SHARE];
    float total[SHARE];
#pragma unroll
    for (int g = 0; g < SHARE; ++g) {
        const u16* own = qkv + (u64)row * WIDTH + (first_head + g) * HEAD_DIM;
        widen8(((const uint4*)own)[lane], query[g]);
        largest[g] = -INFINITE;
        total[g] = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            query[g][i] *= scale;
            sum[g][i] = 0.0f;
        }
    }
    // All teams of a block go round equally often: shuffles need whole warps.
    for (int base = begin; base < end; base += TEAMS * AHEAD) {
        const int mine = base + team * AHEAD;
        uint4 key[AHEAD];
        uint4 value[AHEAD];
        // AHEAD divides PAGE and every begin is a multiple of it: one page.
        const u64 at = mine < end ? place(pages, layer, kv_head, mine) : 0;
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) {
            const bool there = mine + u < end;
            const u64 offset = at / 8 + u * LANES + lane;
            key[u] = there ? ((const uint4*)keys)[offset] : make_uint4(0, 0, 0, 0);
            value[u] = there ? ((const uint4*)values)[offset] : make_uint4(0, 0, 0, 0);
        }
        float score[AHEAD][SHARE];
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) {
            float k[8];
            widen8(key[u], k);
#pragma unroll
            for (int g = 0; g < SHARE; ++g) {
                float dot = 0.0f;
#pragma unroll
                for (int i = 0; i < 8; ++i) dot += query[g][i] * k[i];
#pragma unroll
                for (int step = LANES / 2; step > 0; step /= 2) {
                    dot += __shfl_xor_sync(EVERY, dot, step);
                }
                score[u][g] = mine + u < end ? dot : -INFINITE;
            }
        }
#pragma unroll
        for (int g = 0; g < SHARE; ++g) {
            float most = largest[g];
#pragma unroll
            for (int u = 0; u < AHEAD; ++u) most = fmaxf(most, score[u][g]);
            // A team without a key yet has nothing to scale.
            const float zero = most == -INFINITE ? 0.0f : most;
            const float shrink = exp2f(largest[g] - zero);
            largest[g] = most;
            total[g] *= shrink;
#pragma unroll
            for (int i = 0; i < 8; ++i) sum[g][i] *= shrink;
#pragma unroll
            for (int u = 0; u < AHEAD; ++u) {
                score[u][g] = exp2f(score[u][g] - zero);
                total[g] += score[u][g];
            }
        }
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) {
            float v[8];
            widen8(value[u], v);
#pragma unroll
            for (int g = 0; g < SHARE; ++g) {
#pragma unroll
                for (int i = 0; i < 8; ++i) sum[g][i] += score[u][g] * v[i];
            }
        }
    }
#pragma unroll
    for (int g = 0; g < SHARE; ++g) {
        if (lane == 0) {
            maxima[team][g] = largest[g];
            totals[team][g] = total[g];
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) gathered[team][g][lane * 8 + i] = sum[g][i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < SHARE * HEAD_DIM; i += 128) {
        const int g = i / HEAD_DIM;
        const int at = i % HEAD_DIM;
        float most = -INFINITE;
        for (int t = 0; t < TEAMS; ++t) most = fmaxf(most, maxima[t][g]);
        float numerator = 0.0f;
        float denominator = 0.0f;
        for (int t = 0; t < TEAMS; ++t) {
            const float weight = exp2f(maxima[t][g] - most);
            numerator += weight * gathered[t][g][at];
            denominator += weight * totals[t][g];
        }
        const u64 head = (u64)row * HEADS + first_head + g;
        if (gridDim.z == 1) {
            out[head * HEAD_DIM + at] = narrow(numerator / denominator);
        } else {
            float* to = partial + (head * gridDim.z + blockIdx.z) * (HEAD_DIM + 2);
            to[at] = numerator;
            if (at == 0) {
                to[HEAD_DIM] = denominator;
                to[HEAD_DIM + 1] = most;
            }
        }
    }
}

// Brings the splits of `attend` together; grid (HEADS, rows), HEAD_DIM threads.
extern "C" __global__ void
merge(u16* out, const float* partial, const int* positions, int span, int splits) {
    const int used = (positions[blockIdx.y] + span) / span;
    const u64 head = (u64)blockIdx.y * HEADS + blockIdx.x;
    const float* from = partial + head * splits * (HEAD_DIM + 2);
    float most = -INFINITE;
    for (int i = 0; i < used; ++i) most = fmaxf(most, from[i * (HEAD_DIM + 2) + HEAD_DIM + 1]);
    float numerator = 0.0f;
    float denominator = 0.0f;
    for (int i = 0; i < used; ++i) {
        const float* part = from + i * (HEAD_DIM + 2);
        const float weight = exp2f(part[HEAD_DIM + 1] - most);
        numerator += weight * part[threadIdx.x];
        denominator += weight * part[HEAD_DIM];
    }
    out[head * HEAD_DIM + threadIdx.x] = narrow(numerator / denominator);
}

static __device__ __forceinline__ float gated(float gate, float up) {
    return gate / (1.0f + exp2f(-1.4426950408889634f * gate)) * up;
}

// to[row][i] = silu(gate) * up of from[row] = [gate | up]; grid (any, rows), eight at a time.
extern "C" __global__ void silu_gate(u16* to, const u16* from) {
    const uint4* gates = (const uint4*)(from + (u64)blockIdx.y * 2 * INNER);
    const uint4* ups = gates + INNER / 8;
    uint4* out = (uint4*)(to + (u64)blockIdx.y * INNER);
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < INNER / 8; i += gridDim.x * blockDim.x) {
        float g[8], u[8];
        widen8(gates[i], g);
        widen8(ups[i], u);
        out[i] = make_uint4(narrow2(gated(g[0], u[0]), gated(g[1], u[1])),
                            narrow2(gated(g[2], u[2]), gated(g[3], u[3])),
                            narrow2(gated(g[4], u[4]), gated(g[5], u[5])),
                            narrow2(gated(g[6], u[6]), gated(g[7], u[7])));
    }
}

// The largest logit's index, the first of equals, NaN left out; a block of 1024 a row.
extern "C" __global__ void __launch_bounds__(1024)
argmax(u32* tokens, const float* logits, int vocab) {
    __shared__ float best_values[32];
    __shared__ u32 best_places[32];
    const float* row = logits + (u64)blockIdx.x * vocab;
    float best = -INFINITE;
    u32 where = EVERY;
    for (int i = threadIdx.x; i < vocab; i += 1024) {
        const float x = row[i];
        if (x > best || (x == best && (u32)i < where)) {
            best = x;
            where = i;
        }
    }
    for (int round = 0; round < 2; ++round) {
        for (int step = 16; step > 0; step /= 2) {
            const float x = __shfl_xor_sync(EVERY, best, step);
            const u32 i = __shfl_xor_sync(EVERY, where, step);
            if (x > best || (x == best && i < where)) {
                best = x;
                where = i;
            }
        }
        if (round == 0) {
            if (threadIdx.x % 32 == 0) {
                best_values[threadIdx.x / 32] = best;
                best_places[threadIdx.x / 32] = where;
            }
            __syncthreads();
            best = best_values[threadIdx.x % 32];
            where = best_places[threadIdx.x % 32];
        }
    }
    if (threadIdx.x == 0) tokens[blockIdx.x] = where == EVERY ? 0 : where;
}

// Products of a few rows, bound by the reading of the weights: a warp computes two rows of
// weights (`n` of them, `k` wide, both in HBM once) against ROWS rows of x. What becomes of the
// results: STORE y bf16; ADD to y f32; GATE the pair (i, i + n / 2) into bf16 y[i]; FLOAT y f32.
enum Fate { STORE, ADD, GATE, FLOAT };

template <int ROWS, Fate FATE>
static __device__ __forceinline__ void
few_rows(void* y, const u16* weights, const u16* x, int n, int k) {
    const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (warp >= n / 2) return;
    const int one = FATE == GATE ? warp : 2 * warp;
    const int two = FATE == GATE ? warp + n / 2 : 2 * warp + 1;
    const uint4* first = (const uint4*)(weights + (u64)one * k);
    const uint4* second = (const uint4*)(weights + (u64)two * k);
    float sums[2][ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) sums[0][r] = sums[1][r] = 0.0f;
#pragma unroll 4
    for (int i = lane; i < k / 8; i += 32) {
        float a[8], b[8], v[8];
        const uint4 from_a = stream(first + i);
        const uint4 from_b = stream(second + i);
        widen8(from_a, a);
        widen8(from_b, b);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            widen8(((const uint4*)(x + (u64)r * k))[i], v);
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                sums[0][r] += a[e] * v[e];
                sums[1][r] += b[e] * v[e];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const float p = warp_sum(sums[0][r]);
        const float q = warp_sum(sums[1][r]);
        if (lane != 0) continue;
        if (FATE == STORE) {
            ((u32*)y)[((u64)r * n + one) / 2] = narrow2(p, q);
        } else if (FATE == GATE) {
            // Rounded as the product of many rows is before it is gated.
            ((u16*)y)[(u64)r * (n / 2) + one] = narrow(gated(wide(narrow(p)), wide(narrow(q))));
        } else {
            float2* to = (float2*)((float*)y + (u64)r * n + one);
            const float2 old = FATE == ADD ? *to : make_float2(0.0f, 0.0f);
            *to = make_float2(old.x + p, old.y + q);
        }
    }
}

#define FEW_ROWS(name, fate, rows)                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                        \
    name##_##rows(void* y, const u16* weights, const u16* x, int n, int k) {                 \
        few_rows<rows, fate>(y, weights, x, n, k);                                           \
    }
#define FEW_ROWS_ALL(name, fate) \
    FEW_ROWS(name, fate, 1) FEW_ROWS(name, fate, 2) FEW_ROWS(name, fate, 3) FEW_ROWS(name, fate, 4)
FEW_ROWS_ALL(store, STORE)
FEW_ROWS_ALL(add, ADD)
FEW_ROWS_ALL(gate, GATE)
FEW_ROWS_ALL(logits, FLOAT)

// to[i] uniform in (-bound, bound), a hash of seed and i (splitmix64).
extern "C" __global__ void randomise(u16* to, u64 count, u64 seed, float bound) {
    const u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        u64 z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        z ^= z >> 31;
        to[i] = narrow(((float)(u32)(z >> 40) * (2.0f / 16777216.0f) - 1.0f) * bound);
    }
}
