// What stands in for cuda_programs.cu in a build without CUDA.

#include "backend/cuda_programs.h"

namespace merak {

bool CudaPrograms::built() { return false; }
std::unique_ptr<CudaPrograms> CudaPrograms::make(std::shared_ptr<Membership>) { return nullptr; }
Bitmap present_rows_on_cuda(const at::Tensor&, const Shape& shape) { return Bitmap(shape.table_rows); }
std::vector<double> energies_on_cuda(const at::Tensor&, const RowSums&) { return {}; }

}  // namespace merak
