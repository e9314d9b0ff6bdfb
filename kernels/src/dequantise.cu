#line 2 "dequantise.cu"
// Microscaled matrices to halves or bfloat16 that hold every number of theirs: a code times the scale of its
// block. NVFP4's factor of the whole matrix stays apart.

struct DequantiseParams {
    u64 codes;
    u64 scales;   // in the tensor cores' layout
    u64 out;      // NVFP4: fp16, else bfloat16: [rows][columns]
    u64 rows;
    u32 columns;  // a multiple of 128
    u32 reserved;
};
static_assert(sizeof(DequantiseParams) == 40, "the Rust side asserts the same size");

enum Kind { NVFP4, MXFP8, MXFP4 };

// Where the scale of a block lies. Of a piece of 128 rows by 4 blocks the four blocks of a row are neighbours,
// then come rows 32 apart, then the rows between (cuBLAS documentation, "1D block scaling factors layout").
__device__ __forceinline__ u64 scale_at(u64 row, u32 block, u32 blocks) {
    const u32 pieces = (blocks + 3) >> 2;
    const u32 inside = (u32)(row & 31) << 4 | (u32)(row >> 5 & 3) << 2 | (block & 3);
    return ((row >> 7) * pieces + (block >> 2)) << 9 | inside;
}

// Eight numbers a thread, which share a scale.
template <int KIND>
__device__ __forceinline__ void dequantise(const DequantiseParams& p) {
    constexpr u32 GROUP = KIND == NVFP4 ? 16 : 32;
    constexpr int OUT = KIND == NVFP4 ? F16 : BF16;
    const u32 in_row = p.columns / 8;
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.rows * in_row) return;
    const u64 row = at / in_row;
    const u32 block = (u32)(at % in_row) * 8 / GROUP;
    const u32 code = ((const u8*)p.scales)[scale_at(row, block, p.columns / GROUP)];
    const float scale = KIND == NVFP4 ? E4m3::decode(code) : ue8m0_decode(code);
    u32 words[4] = {0, 0, 0, 0};
    if constexpr (KIND == MXFP8) {
        const uint2 codes = ((const uint2*)p.codes)[at];
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            const u32 byte = (i < 4 ? codes.x : codes.y) >> (i % 4 * 8) & 0xFF;
            words[i / 2] |= encode<OUT>(__fmul_rn(E4m3::decode(byte), scale)) << (i % 2 * 16);
        }
    } else {
        const u32 codes = ((const u32*)p.codes)[at];
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            const float number = E2m1::decode(codes >> (i * 4) & 0xF);
            words[i / 2] |= encode<OUT>(__fmul_rn(number, scale)) << (i % 2 * 16);
        }
    }
    ((uint4*)p.out)[at] = make_uint4(words[0], words[1], words[2], words[3]);
}

extern "C" __global__ void __launch_bounds__(256) dequantise_nvfp4(const DequantiseParams p) {
    dequantise<NVFP4>(p);
}

extern "C" __global__ void __launch_bounds__(256) dequantise_mxfp8(const DequantiseParams p) {
    dequantise<MXFP8>(p);
}

extern "C" __global__ void __launch_bounds__(256) dequantise_mxfp4(const DequantiseParams p) {
    dequantise<MXFP4>(p);
}
