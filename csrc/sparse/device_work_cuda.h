#pragma once
// What the steps of a sparse all-reduce become on a GPU.

#include "sparse/sum_rows_cuda.h"
#include "transport/nccl_programs_cuda.h"

namespace merak {

// `lists`: of the program that is to be carried out; must outlive the work. `divisor`: of an average, else 1. The work
// throws std::invalid_argument as make_sparse_reducer does.
DeviceWork sparse_cuda_work(DType dtype, Reduction reduction, int divisor, const DeviceRowLists& lists);

}  // namespace merak
