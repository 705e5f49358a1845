// Products of levels and an int8 query of magnitudes up to 127: a part of kernels_avx512.inl, included inside its
// namespaces.

// add_narrow adds the products of 64 levels and 64 values of the query, whose offset is subtracted where the sum
// starts. add_unsigned does the same for levels that went through to_unsigned, as a table of levels may do once for all
// rows.
#ifdef VQ_VNNI
VQ_T VQ_INLINE __m512i first_sum(const NarrowQuery& query) {
  return _mm512_zextsi128_si512(_mm_cvtsi32_si128(-query.offset));
}
VQ_T VQ_INLINE __m512i to_unsigned(__m512i levels) {
  return _mm512_xor_si512(levels, _mm512_set1_epi8(static_cast<char>(0x80)));
}
VQ_T VQ_INLINE __m512i add_unsigned(__m512i sum, __m512i levels, __m512i query) {
  return _mm512_dpbusd_epi32(sum, levels, query);
}
VQ_T VQ_INLINE __m512i add_narrow(__m512i sum, __m512i levels, __m512i query) {
  return add_unsigned(sum, to_unsigned(levels), query);
}
#else
VQ_T VQ_INLINE __m512i first_sum(const NarrowQuery&) { return _mm512_setzero_si512(); }
VQ_T VQ_INLINE __m512i to_unsigned(__m512i levels) { return levels; }
// A pair of products is at most 127 * 127 * 2 < 2^15 once the sign of each level has gone to the query.
VQ_T VQ_INLINE __m512i add_narrow(__m512i sum, __m512i levels, __m512i query) {
  const __m512i turned = _mm512_mask_sub_epi8(query, _mm512_movepi8_mask(levels), _mm512_setzero_si512(), query);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(levels), turned);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
VQ_T VQ_INLINE __m512i add_unsigned(__m512i sum, __m512i levels, __m512i query) {
  return add_narrow(sum, levels, query);
}
#endif

VQ_T VQ_INLINE __m512i narrow_values(const NarrowQuery& query, std::size_t at) {
  return _mm512_loadu_si512(query.values + at);
}

// Calls sum_rows(i, sums) with four registers of sums for each four rows, and for the rest one by one.
template <typename SumFour, typename SumOne>
VQ_T VQ_INLINE void by_fours(std::size_t count, const SumFour& sum_four, const SumOne& sum_one, std::int32_t* sums) {
  std::size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    __m512i four[4];
    sum_four(i, four);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + i), four_sums(four[0], four[1], four[2], four[3]));
  }
  for (; i < count; ++i) sums[i] = _mm512_reduce_add_epi32(sum_one(i));
}

VQ_T void dot_many_s8s8(const std::int8_t* const* rows, std::size_t stride, std::size_t count, const NarrowQuery& query,
                        std::int32_t* sums) {
  const auto sum_four = [&](std::size_t i, __m512i(&four)[4]) VQ_T {
    VQ_UNROLL
    for (int j = 0; j < 4; ++j) four[j] = first_sum(query);
    for (std::size_t at = 0; at < stride; at += 64) {
      const __m512i x = narrow_values(query, at);
      VQ_UNROLL
      for (int j = 0; j < 4; ++j) four[j] = add_narrow(four[j], _mm512_loadu_si512(rows[i + j] + at), x);
    }
  };
  const auto sum_one = [&](std::size_t i) VQ_T {
    __m512i sum = first_sum(query);
    for (std::size_t at = 0; at < stride; at += 64)
      sum = add_narrow(sum, _mm512_loadu_si512(rows[i] + at), narrow_values(query, at));
    return sum;
  };
  by_fours(count, sum_four, sum_one, sums);
}

VQ_T void dot_nibbles(const Fields& f, const std::uint8_t* const* records, std::size_t code_at, std::size_t row_bytes,
                      std::size_t count, const NarrowQuery& query, std::int32_t* sums) {
  const __m512i table = to_unsigned(_mm512_loadu_si512(f.repeated));
  const auto levels = [&](std::size_t i, std::size_t at) VQ_T {
    return _mm512_shuffle_epi8(table, nibbles(records[i] + code_at + at / 2, row_bytes - at / 2));
  };
  const auto sum_four = [&](std::size_t i, __m512i(&four)[4]) VQ_T {
    VQ_UNROLL
    for (int j = 0; j < 4; ++j) four[j] = first_sum(query);
    for (std::size_t at = 0; at < f.dim; at += 64) {
      const __m512i x = narrow_values(query, at);
      VQ_UNROLL
      for (int j = 0; j < 4; ++j) four[j] = add_unsigned(four[j], levels(i + j, at), x);
    }
  };
  const auto sum_one = [&](std::size_t i) VQ_T {
    __m512i sum = first_sum(query);
    for (std::size_t at = 0; at < f.dim; at += 64) sum = add_unsigned(sum, levels(i, at), narrow_values(query, at));
    return sum;
  };
  by_fours(count, sum_four, sum_one, sums);
}

#ifdef VQ_VBMI
// For each_64 of a decoder.
struct NarrowDot {
  const NarrowQuery& query;
  __m512i sum;

  VQ_T VQ_INLINE explicit NarrowDot(const NarrowQuery& values) : query(values), sum(first_sum(values)) {}
  VQ_T VQ_INLINE void operator()(std::size_t t, __m512i x) { sum = add_narrow(sum, x, narrow_values(query, t)); }
};
#endif

VQ_T void decode_dot_s8s8(const Fields& f, const std::uint8_t* const* records, std::size_t code_at,
                          std::size_t row_bytes, std::size_t count, const NarrowQuery& query, std::int8_t* levels,
                          std::int32_t* sums) {
  if (has_nibbles(f)) return dot_nibbles(f, records, code_at, row_bytes, count, query, sums);
#ifdef VQ_VBMI
  const auto read = [&](const auto& fields) VQ_T {
    const auto sum_one = [&](std::size_t i) VQ_T {
      NarrowDot dot(query);
      fields.each_64(records[i] + code_at, row_bytes, records[i], dot);
      return dot.sum;
    };
    const auto sum_four = [&](std::size_t i, __m512i(&four)[4]) VQ_T {
      VQ_UNROLL
      for (int j = 0; j < 4; ++j) four[j] = sum_one(i + j);
    };
    by_fours(count, sum_four, sum_one, sums);
  };
  if (by_window(f, read)) return;
#endif
  for (std::size_t i = 0; i < count; ++i) {
    decode_s8(f, records[i] + code_at, row_bytes, records[i], levels);
    dot_many_s8s8(&levels, padded(f.dim, 64), 1, query, sums + i);
  }
}
