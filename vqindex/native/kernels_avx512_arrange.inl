// Rearranging decoded rows: a part of kernels_avx512.inl and of kernels_amx.cpp, included inside their namespaces.

// Reorders 16 rows of levels, `stride` bytes apart, to [four coordinates][row][coordinate]; inverts the bits of `flip`
// in each 64 bytes.
VQ_T VQ_INLINE void arrange_16_rows(const std::int8_t* levels, std::size_t stride, __m512i flip, void* tiles) {
  for (std::size_t at = 0; at < stride; at += 64) {
    __m512i a[16], b[16];
    VQ_UNROLL
    for (std::size_t r = 0; r < 16; ++r) a[r] = _mm512_xor_si512(_mm512_loadu_si512(levels + r * stride + at), flip);
    // Transposes 16 x 16 words of 32 bits: in pairs, in fours, then by 128-bit lanes.
    VQ_UNROLL
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    VQ_UNROLL
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    VQ_UNROLL
    for (int i = 0; i < 4; ++i) {
      b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
      b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xDD);
      b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
      b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xDD);
    }
    VQ_UNROLL
    for (int i = 0; i < 4; ++i) {
      a[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
      a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xDD);
      a[i + 4] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88);
      a[i + 12] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xDD);
    }
    VQ_UNROLL
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(static_cast<std::uint8_t*>(tiles) + at * 16 + i * 64, a[i]);
  }
}
