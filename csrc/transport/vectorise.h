#pragma once
// Between MERAK_VECTORISE and MERAK_VECTORISE_END gcc vectorises every loop that it can. At -O2 it takes only those whose
// length it knows, before gcc 12 none. (clang takes them all, always.)

#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define MERAK_VECTORISE _Pragma("GCC push_options") _Pragma("GCC optimize(\"O3\")")
#define MERAK_VECTORISE_END _Pragma("GCC pop_options")
#else
#define MERAK_VECTORISE
#define MERAK_VECTORISE_END
#endif
