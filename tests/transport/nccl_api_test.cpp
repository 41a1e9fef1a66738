// How the functions of NCCL are found, and what is said when they are not. The functions here are stand-ins.

#include "transport/nccl_api.h"

#include <gtest/gtest.h>

#include <set>
#include <stdexcept>
#include <string>

namespace merak {
namespace {

int g_version = 0;
int tell_version(int* version) { return *version = g_version, kNcclSuccess; }
int tell_no_version(int*) { return 1; }
int other() { return kNcclSuccess; }

NcclLookup library(int version, std::string missing = {}) {
  g_version = version;
  return [missing](const char* name) -> void* {
    if (name == missing) return nullptr;
    return name == std::string("ncclGetVersion") ? reinterpret_cast<void*>(tell_version)
                                                 : reinterpret_cast<void*>(other);
  };
}

std::string refusal(const NcclLookup& lookup) {
  try {
    load_nccl(lookup);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

TEST(NcclApi, FindsEveryFunction) {
  std::set<std::string> names;
  const NcclLookup all = library(22703);
  const NcclApi api = load_nccl([&](const char* name) { return names.insert(name), all(name); });
  EXPECT_EQ(api.version, 22703);
  EXPECT_EQ(names.size(), 12u);
  EXPECT_TRUE(api.group_end && api.send && api.receive && api.comm_abort);
  for (const std::string& name : names)
    EXPECT_NE(refusal(library(22703, name)).find("lacks " + name), std::string::npos) << name;
}

TEST(NcclApi, RefusesVersionsThatItDoesNotKnow) {
  EXPECT_EQ(refusal(library(21400)), "");
  EXPECT_NE(refusal(library(21304)).find("NCCL 2.13.4"), std::string::npos);
  EXPECT_NE(refusal(library(30000)).find("NCCL 3.0.0"), std::string::npos);
  const auto silent = [](const char*) { return reinterpret_cast<void*>(tell_no_version); };
  EXPECT_NE(refusal(silent).find("does not tell its version"), std::string::npos);
}

// This program has loaded no NCCL, and asking for it must not load one.
TEST(NcclApi, LoadsNoLibraryOfItsOwn) {
  for (int i = 0; i < 2; ++i) {
    try {
      loaded_nccl();
      FAIL() << "an NCCL was found";
    } catch (const std::runtime_error& error) {
      EXPECT_NE(std::string(error.what()).find("import torch first"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace merak
