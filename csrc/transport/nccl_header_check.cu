// Compares what nccl_api.h declares with NCCL's own header, where the build has one.

#if __has_include(<nccl.h>)

#include <cuda_runtime.h>
#include <nccl.h>

#include <cstddef>
#include <type_traits>

#include "transport/nccl_api.h"

namespace merak {
namespace {

static_assert(sizeof(NcclUniqueId) == sizeof(ncclUniqueId) && alignof(NcclUniqueId) == alignof(ncclUniqueId));
static_assert(kNcclSuccess == ncclSuccess && kNcclInProgress == ncclInProgress && kNcclUInt8 == ncclUint8);
static_assert(sizeof(ncclResult_t) == sizeof(int) && sizeof(ncclDataType_t) == sizeof(int));
static_assert(std::is_pointer_v<ncclComm_t> && std::is_pointer_v<cudaStream_t>);

static_assert(sizeof(NcclConfig) <= sizeof(ncclConfig_t));
static_assert(offsetof(NcclConfig, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(NcclConfig, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(NcclConfig, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(NcclConfig, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(std::is_same_v<decltype(NcclConfig::magic), decltype(ncclConfig_t::magic)>);

// Each function takes as many arguments, and each argument is passed alike: as a pointer, or as a value of its size.
template <class Ours, class Theirs>
constexpr bool passed_alike = std::is_pointer_v<Ours> ? std::is_pointer_v<Theirs> && sizeof(Ours) == sizeof(Theirs)
                                                      : !std::is_pointer_v<Theirs> && sizeof(Ours) == sizeof(Theirs);
template <class Ours, class Theirs>
constexpr bool called_alike = false;
template <class OurResult, class... Ours, class TheirResult, class... Theirs>
requires(sizeof...(Ours) ==
         sizeof...(Theirs)) constexpr bool called_alike<OurResult (*)(Ours...), TheirResult(Theirs...)> =
    passed_alike<OurResult, TheirResult> && (passed_alike<Ours, Theirs> && ...);

static_assert(called_alike<decltype(NcclApi::get_version), decltype(ncclGetVersion)>);
static_assert(called_alike<decltype(NcclApi::get_error_string), decltype(ncclGetErrorString)>);
static_assert(called_alike<decltype(NcclApi::get_unique_id), decltype(ncclGetUniqueId)>);
static_assert(called_alike<decltype(NcclApi::comm_init_rank_config), decltype(ncclCommInitRankConfig)>);
static_assert(called_alike<decltype(NcclApi::comm_get_async_error), decltype(ncclCommGetAsyncError)>);
static_assert(called_alike<decltype(NcclApi::comm_finalize), decltype(ncclCommFinalize)>);
static_assert(called_alike<decltype(NcclApi::comm_destroy), decltype(ncclCommDestroy)>);
static_assert(called_alike<decltype(NcclApi::comm_abort), decltype(ncclCommAbort)>);
static_assert(called_alike<decltype(NcclApi::send), decltype(ncclSend)>);
static_assert(called_alike<decltype(NcclApi::receive), decltype(ncclRecv)>);
static_assert(called_alike<decltype(NcclApi::group_start), decltype(ncclGroupStart)>);
static_assert(called_alike<decltype(NcclApi::group_end), decltype(ncclGroupEnd)>);

}  // namespace
}  // namespace merak

#endif
