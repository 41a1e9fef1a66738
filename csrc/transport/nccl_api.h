#pragma once
// The functions of NCCL that merak calls, looked up while the program runs in the library that torch has loaded. merak
// links no NCCL and loads none: two copies in one process would each think that they own the GPU's channels and the
// network. So this compiles without nccl.h, which is why the few types of NCCL are declared here; where a build has the
// header, nccl_header_check.cu compares.

#include <cstddef>
#include <functional>

namespace merak {

using NcclCommunicatorHandle = void*;  // ncclComm_t
using CudaStreamHandle = void*;        // cudaStream_t

struct NcclUniqueId {  // ncclUniqueId
  char bytes[128];
};

// The values of ncclResult_t that are told apart; all others are failures, which comm's error text explains.
inline constexpr int kNcclSuccess = 0;
inline constexpr int kNcclInProgress = 7;
inline constexpr int kNcclUInt8 = 1;  // of ncclDataType_t: messages are bytes

// The first members of ncclConfig_t. NCCL reads as many as `size` says, by the rules of the version that `version`
// names, and takes its defaults for the rest.
struct NcclConfig {
  std::size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;  // calls return at once; get_async_error tells when they have taken effect
  int reserved = 0;  // where later versions have another member, which version 2.14 leaves out of account
};

// Immutable once loaded; each function as thread-safe as NCCL's own.
struct NcclApi {
  int version = 0;  // as NCCL counts: 22703 is 2.27.3

  int (*get_version)(int* version) = nullptr;
  const char* (*get_error_string)(int result) = nullptr;
  int (*get_unique_id)(NcclUniqueId* id) = nullptr;
  int (*comm_init_rank_config)(NcclCommunicatorHandle* comm, int size, NcclUniqueId id, int rank,
                               NcclConfig* config) = nullptr;
  int (*comm_get_async_error)(NcclCommunicatorHandle comm, int* result) = nullptr;
  int (*comm_finalize)(NcclCommunicatorHandle comm) = nullptr;
  int (*comm_destroy)(NcclCommunicatorHandle comm) = nullptr;
  int (*comm_abort)(NcclCommunicatorHandle comm) = nullptr;
  int (*send)(const void* from, std::size_t count, int type, int peer, NcclCommunicatorHandle comm,
              CudaStreamHandle stream) = nullptr;
  int (*receive)(void* to, std::size_t count, int type, int peer, NcclCommunicatorHandle comm,
                 CudaStreamHandle stream) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
};

// Finds a function of NCCL by its name in C; null: there is none.
using NcclLookup = std::function<void*(const char* name)>;

// Fills the table. Throws std::runtime_error, with what to do, when a function is missing or the version is unknown.
NcclApi load_nccl(const NcclLookup& lookup);

// The table for the libnccl.so.2 that this process has loaded, made at the first call. Thread-safe. Throws
// std::runtime_error, with what to do, when there is none, or as load_nccl does; a later call tries again.
const NcclApi& loaded_nccl();

}  // namespace merak
