#include "transport/signature.h"

#include <array>

namespace merak {
namespace {

constexpr std::array<const char*, kOperationKinds> kKindNames = {"unknown operation",
                                                                 "broadcast",
                                                                 "reduce",
                                                                 "all_reduce",
                                                                 "all_gather",
                                                                 "reduce_scatter",
                                                                 "all_to_all",
                                                                 "scatter",
                                                                 "gather",
                                                                 "barrier",
                                                                 "send/recv",
                                                                 "sparse_all_reduce",
                                                                 "sparse_all_reduce with method auto, measuring first",
                                                                 "embedding_lookup",
                                                                 "embedding_gradient",
                                                                 "embedding_announce",
                                                                 "embedding_rows",
                                                                 "embedding_update",
                                                                 "reshard"};
constexpr std::array<const char*, kDTypes> kDTypeNames = {
    "no data", "bool",     "uint8",         "int8",        "int16",           "int32",           "int64",
    "float16", "bfloat16", "float32",       "float64",     "complex64",       "complex128",      "uint16",
    "uint32",  "uint64",   "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
    "bytes"};
constexpr std::array<std::size_t, kDTypes> kDTypeBytes = {1, 1,  1, 1, 2, 4, 8, 2, 2, 4, 8,
                                                          8, 16, 2, 4, 8, 1, 1, 1, 1, 1, 1};
constexpr std::array<const char*, kReductions> kReductionNames = {"none", "sum", "avg", "product", "min",
                                                                  "max",  "and", "or",  "xor"};

bool is_of_table(OperationKind kind) {
  return OperationKind::kEmbeddingLookup <= kind && kind <= OperationKind::kEmbeddingUpdate;
}

}  // namespace

const char* name(OperationKind kind) { return kKindNames.at(static_cast<std::size_t>(kind)); }
const char* name(DType dtype) { return kDTypeNames.at(static_cast<std::size_t>(dtype)); }
const char* name(Reduction reduction) { return kReductionNames.at(static_cast<std::size_t>(reduction)); }
std::size_t element_bytes(DType dtype) { return kDTypeBytes.at(static_cast<std::size_t>(dtype)); }

std::string describe(const Signature& signature) {
  std::string details;
  auto add = [&details](const std::string& detail) { details += (details.empty() ? "" : ", ") + detail; };
  if (signature.dtype != DType::kNone) add(name(signature.dtype));
  if (signature.reduction != Reduction::kNone) add(name(signature.reduction));
  if (signature.bytes > 0) add(std::to_string(signature.bytes) + " bytes");
  if (signature.root >= 0) add((is_of_table(signature.kind) ? "table " : "root ") + std::to_string(signature.root));
  return name(signature.kind) + ("(" + details + ")");
}

}  // namespace merak
