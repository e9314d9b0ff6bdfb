#line 2 "dequantise_rows.cu"
// A matrix in E4M3 with a scale for each row to halves: a code times its row's scale in f32, rounded to a half. Two
// roundings a number, each to nearest, ties to even.

struct DequantiseRowsParams {
    u64 codes;
    u64 scales;   // f32 [rows]
    u64 out;      // fp16 [rows][columns]
    u64 rows;
    u32 columns;  // a multiple of 128
    u32 reserved;
};
static_assert(sizeof(DequantiseRowsParams) == 40, "the Rust side asserts the same size");

// Sixteen numbers of a row a thread.
extern "C" __global__ void __launch_bounds__(256) dequantise_rows(const DequantiseRowsParams p) {
    const u32 in_row = p.columns / 16;
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.rows * in_row) return;
    const float scale = ((const float*)p.scales)[at / in_row];
    const uint4 codes = ((const uint4*)p.codes)[at];
    u32 words[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
    for (u32 i = 0; i < 16; ++i) {
        const u32 word = i < 4 ? codes.x : i < 8 ? codes.y : i < 12 ? codes.z : codes.w;
        const float number = decode<E4M3>(word >> (i % 4 * 8) & 0xFF);
        words[i / 2] |= encode<F16>(__fmul_rn(number, scale)) << (i % 2 * 16);
    }
    uint4* out = (uint4*)p.out + 2 * at;
    out[0] = make_uint4(words[0], words[1], words[2], words[3]);
    out[1] = make_uint4(words[4], words[5], words[6], words[7]);
}
