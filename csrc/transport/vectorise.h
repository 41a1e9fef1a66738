#pragma once
// Between MERAK_VECTORISE and MERAK_VECTORISE_END gcc vectorises every loop that it can, as clang does everywhere. At
// -O2 it takes only those whose length it knows, before gcc 12 none.
//
// Two things of -O3 are left out, because they undo it where rows are added up: interleaving the rounds of an outer
// loop, and making calls, or slow string instructions, of short loops that clear or copy.
//
// with_longest_vectors() chooses while the program runs: builds are for any x86-64, whose vectors have 16 bytes, and
// most processors have those of 32 bytes, too. The same operations in the same order: the same bits.

#include <cstddef>

#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define MERAK_VECTORISE       \
  _Pragma("GCC push_options") \
      _Pragma("GCC optimize(\"O3\", \"no-loop-unroll-and-jam\", \"no-tree-loop-distribute-patterns\")")
#define MERAK_VECTORISE_END _Pragma("GCC pop_options")
#else
#define MERAK_VECTORISE
#define MERAK_VECTORISE_END
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__CUDACC__)
#define MERAK_HAS_AVX2
#endif

namespace merak {

#ifdef MERAK_HAS_AVX2
MERAK_VECTORISE

template <class Body>
struct Avx2 {
  Body body;
  __attribute__((target("avx2"), flatten)) auto operator()(std::size_t i) const { return body(i); }
};

MERAK_VECTORISE_END
#endif

// Calls use(body'), where body'(i) does what body(i) does, with vectors as long as this processor has them. Needs a
// body whose loops lie between the macros.
template <class Body, class Use>
auto with_longest_vectors(const Body& body, Use use) {
#ifdef MERAK_HAS_AVX2
  if (__builtin_cpu_supports("avx2")) return use(Avx2<Body>{body});
#endif
  return use(body);
}

}  // namespace merak
