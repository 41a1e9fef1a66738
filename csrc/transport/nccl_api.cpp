#include "transport/nccl_api.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace merak {
namespace {

constexpr char kLibrary[] = "libnccl.so.2";
// ncclCommInitRankConfig, and with it calls that do not block, came with 2.14; the next major version may change what
// the functions take.
constexpr int kOldest = 21400, kTooNew = 30000;

std::string text_of_version(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

template <class Function>
void find(Function*& function, const NcclLookup& lookup, const char* name) {
  function = reinterpret_cast<Function*>(lookup(name));
  if (!function)
    throw std::runtime_error(std::string("The NCCL that torch has loaded lacks ") + name +
                             ". merak needs NCCL 2.14 or newer: install a torch built with it.");
}

void check_version(NcclApi& api) {
  if (api.get_version(&api.version) != kNcclSuccess)
    throw std::runtime_error("NCCL does not tell its version. Reinstall torch: its NCCL is damaged.");
  if (api.version < kOldest || api.version >= kTooNew)
    throw std::runtime_error("torch has loaded NCCL " + text_of_version(api.version) +
                             ", but merak needs 2.14 or newer, and below 3: install a torch built with such a one.");
}

}  // namespace

NcclApi load_nccl(const NcclLookup& lookup) {
  NcclApi api;
  find(api.get_version, lookup, "ncclGetVersion");
  check_version(api);
  find(api.get_error_string, lookup, "ncclGetErrorString");
  find(api.get_unique_id, lookup, "ncclGetUniqueId");
  find(api.comm_init_rank_config, lookup, "ncclCommInitRankConfig");
  find(api.comm_get_async_error, lookup, "ncclCommGetAsyncError");
  find(api.comm_finalize, lookup, "ncclCommFinalize");
  find(api.comm_destroy, lookup, "ncclCommDestroy");
  find(api.comm_abort, lookup, "ncclCommAbort");
  find(api.send, lookup, "ncclSend");
  find(api.receive, lookup, "ncclRecv");
  find(api.group_start, lookup, "ncclGroupStart");
  find(api.group_end, lookup, "ncclGroupEnd");
  return api;
}

const NcclApi& loaded_nccl() {
  static const NcclApi api = [] {
    // Never loads: it finds the library by its name among those that are there. The handle is kept, and the library
    // with it.
    void* library = dlopen(kLibrary, RTLD_NOLOAD | RTLD_LAZY);
    if (!library)
      throw std::runtime_error(std::string("This process has not loaded ") + kLibrary +
                               ": import torch first, and one built with CUDA and NCCL (torch.cuda.nccl.version() "
                               "tells). CPU tensors need none of this.");
    return load_nccl([library](const char* name) { return dlsym(library, name); });
  }();
  return api;
}

}  // namespace merak
