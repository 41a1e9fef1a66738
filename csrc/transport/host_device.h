#pragma once
// Marks a function that runs on CPU and GPU alike: the body of a kernel, and what it calls.

#ifdef __CUDACC__
#define MERAK_HD __host__ __device__
#else
#define MERAK_HD
#endif
