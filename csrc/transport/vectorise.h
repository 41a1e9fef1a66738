#pragma once
// Between MERAK_VECTORISE and MERAK_VECTORISE_END gcc vectorises every loop that it can, as clang does everywhere. At
// -O2 it takes only those whose length it knows, before gcc 12 none.
//
// Two things of -O3 are left out, because they undo it where rows are added up: interleaving the rounds of an outer
// loop, and calling (or inlining as slow string instructions) memset and memcpy for short loops.

#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define MERAK_VECTORISE       \
  _Pragma("GCC push_options") \
      _Pragma("GCC optimize(\"O3\", \"no-loop-unroll-and-jam\", \"no-tree-loop-distribute-patterns\")")
#define MERAK_VECTORISE_END _Pragma("GCC pop_options")
#else
#define MERAK_VECTORISE
#define MERAK_VECTORISE_END
#endif
