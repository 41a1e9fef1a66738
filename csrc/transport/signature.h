#pragma once
// What all ranks of a group must agree on when they start the same operation: carried by every frame, compared on
// arrival, and named in every error.

#include <cstddef>
#include <cstdint>
#include <string>

namespace merak {

enum class OperationKind : std::uint8_t {
  kBroadcast = 1,
  kReduce,
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kScatter,
  kGather,
  kBarrier,
  kSend,  // point to point: the sender's send and the receiver's receive
  kSparseAllReduce,
  kMeasuring,  // of what the group's operations cost
  kEmbeddingLookup,
  kEmbeddingGradient,
  kEmbeddingAnnounce,
  kEmbeddingRows,
  kEmbeddingUpdate,
  kReshard,
};
inline constexpr int kOperationKinds = 19;  // one above the last

enum class DType : std::uint8_t {
  kNone = 0,  // no data (barrier)
  kBool,
  kUInt8,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kComplex64,
  kComplex128,
  // Moved, never reduced.
  kUInt16,
  kUInt32,
  kUInt64,
  kFloat8E4M3,
  kFloat8E5M2,
  kFloat8E4M3Fnuz,
  kFloat8E5M2Fnuz,
  kFloat8E8M0,
  kBytes,  // all others
};
inline constexpr int kDTypes = 22;

enum class Reduction : std::uint8_t { kNone = 0, kSum, kAverage, kProduct, kMin, kMax, kBitAnd, kBitOr, kBitXor };
inline constexpr int kReductions = 9;

const char* name(OperationKind kind);
const char* name(DType dtype);
const char* name(Reduction reduction);
std::size_t element_bytes(DType dtype);  // kNone and kBytes: 1

struct Signature {
  OperationKind kind = OperationKind::kBarrier;
  DType dtype = DType::kNone;
  Reduction reduction = Reduction::kNone;
  std::int32_t root = -1;   // of an embedding operation: which table. -1: the operation has none
  std::uint64_t bytes = 0;  // what every rank must state alike; 0 where ranks may differ (uneven all_to_all, receives)

  bool operator==(const Signature&) const = default;
};

// For people: "all_reduce(float32, sum, 4096 bytes)", "broadcast(int64, 8 bytes, root 2)".
std::string describe(const Signature& signature);

}  // namespace merak
