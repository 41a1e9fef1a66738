#include <stdexcept>
#include <string>

#include "sparse/row_energies.h"
#include "sparse/row_energies_cuda.h"
#include "transport/for_each.h"

namespace merak {
namespace {

constexpr std::size_t kStrip = 16;  // elements of a thread

template <class T>
void launch(const DeviceRows& rows, double* strips, double* energies, cudaStream_t stream) {
  const EnergiesOfStrips<T, kStrip> body{static_cast<const T*>(rows.from), rows.first, rows.sources, rows.elements,
                                         strips};
  for_each(OnCuda{stream}, rows.rows * body.strips(), body);
  for_each(OnCuda{stream}, rows.rows, EnergiesOfRows{strips, body.strips(), energies});
}

}  // namespace

std::size_t strip_energies(const DeviceRows& rows) { return rows.rows * ((rows.elements + kStrip - 1) / kStrip); }

void energies_of_rows_on_device(DType dtype, const DeviceRows& rows, double* strips, double* energies,
                                cudaStream_t stream) {
  if (dtype == DType::kFloat32)
    launch<float>(rows, strips, energies, stream);
  else if (dtype == DType::kFloat64)
    launch<double>(rows, strips, energies, stream);
  else
    throw std::invalid_argument(std::string("rows of ") + name(dtype) + " have no norm here");
}

}  // namespace merak
