#include "transport/strided_copy.h"

#include "transport/for_each.h"

namespace merak {

void copy_strided(std::byte* at, const std::byte* from, const StridedCopy& copy) {
  with_copy_body(at, from, copy, kWholeLines,
                 [](const auto& body, std::size_t lines) { for_each(OnCpu{}, lines, body); });
}

}  // namespace merak
