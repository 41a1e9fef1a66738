#include "transport/environment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "transport/link_helpers.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

class Set {
 public:
  Set(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Set() { ::unsetenv(name_); }

 private:
  const char* name_;
};

TEST(Environment, TableIsSortedAndEveryLineIsWhole) {
  const auto& table = environment::all_variables();
  EXPECT_TRUE(std::is_sorted(table.begin(), table.end(),
                             [](const auto& a, const auto& b) { return std::string(a.name) < b.name; }));
  for (const auto& variable : table) {
    EXPECT_EQ(std::string(variable.name).rfind("MERAK_", 0), 0u);
    EXPECT_NE(std::string(variable.type), "");
    EXPECT_NE(std::string(variable.doc), "");
  }
}

TEST(Environment, DefaultsAreThoseOfTheTable) {
  for (const auto& variable : environment::all_variables()) ::unsetenv(variable.name);
  EXPECT_EQ(environment::callback_threads(), 2);
  EXPECT_EQ(environment::connect_timeout(), 20s);
  EXPECT_EQ(environment::lost_host_timeout(), 60s);
  EXPECT_EQ(environment::log_level(), LogLevel::kWarning);
  EXPECT_EQ(environment::host_id(), std::nullopt);
  EXPECT_EQ(environment::socket_address(), std::nullopt);
  EXPECT_TRUE(environment::socket_interfaces().empty());
  EXPECT_EQ(environment::socket_ports(), PortRange{});
}

TEST(Environment, EmptyIsUnset) {
  const Set ports("MERAK_SOCKET_PORTS", ""), host("MERAK_HOST_ID", "");
  EXPECT_EQ(environment::socket_ports(), PortRange{});
  EXPECT_EQ(environment::text_of("MERAK_HOST_ID"), std::nullopt);
}

TEST(Environment, ValuesAreParsed) {
  const Set ports("MERAK_SOCKET_PORTS", "5000-5010"), names("MERAK_SOCKET_IFNAME", "eth0,ib0"),
      level("MERAK_LOG_LEVEL", "debug"), timeout("MERAK_CONNECT_TIMEOUT_S", "2.5"),
      threads("MERAK_CALLBACK_THREADS", "8"), host("MERAK_HOST_ID", "left rack");
  EXPECT_EQ(environment::socket_ports(), (PortRange{5000, 5010}));
  EXPECT_EQ(environment::socket_interfaces(), (std::vector<std::string>{"eth0", "ib0"}));
  EXPECT_EQ(environment::log_level(), LogLevel::kDebug);
  EXPECT_EQ(environment::connect_timeout(), 2500ms);
  EXPECT_EQ(environment::callback_threads(), 8);
  EXPECT_EQ(environment::host_id(), "left rack");
}

TEST(Environment, ErrorsNameTheVariableTheValueAndWhatIsAllowed) {
  const Set level("MERAK_LOG_LEVEL", "loud");
  EXPECT_EQ(error_of<std::invalid_argument>(environment::log_level),
            "MERAK_LOG_LEVEL='loud': expected error, warning, info or debug.");
}

TEST(Environment, RejectsWhatIsOutOfRangeOrNotWholly) {
  for (const char* bad : {"5000", "5000-", "-5000", "6000-5000", "0-10", "1-65536", "a-b", "1-2-3", " 1-2"}) {
    const Set ports("MERAK_SOCKET_PORTS", bad);
    EXPECT_THROW(environment::socket_ports(), std::invalid_argument) << bad;
  }
  for (const char* bad : {"1", "257", "two", "2.5", "-3"}) {
    const Set threads("MERAK_CALLBACK_THREADS", bad);
    EXPECT_THROW(environment::callback_threads(), std::invalid_argument) << bad;
  }
  for (const char* bad : {"0", "-1", "1e9", "nan", "inf", "5s"}) {
    const Set timeout("MERAK_CONNECT_TIMEOUT_S", bad);
    EXPECT_THROW(environment::connect_timeout(), std::invalid_argument) << bad;
  }
  const Set names("MERAK_SOCKET_IFNAME", "eth0,,eth1");
  EXPECT_THROW(environment::socket_interfaces(), std::invalid_argument);
}

TEST(Environment, AllAreCheckedAtOnce) {
  EXPECT_NO_THROW(environment::check_all());
  const Set address("MERAK_SOCKET_ADDRESS", "localhost");
  EXPECT_EQ(error_of<std::invalid_argument>(environment::check_all),
            "MERAK_SOCKET_ADDRESS='localhost': expected a numeric IPv4 or IPv6 address of this host.");
}

TEST(Environment, OnlyNamesOfTheTableCanBeAskedFor) {
  EXPECT_THROW(environment::text_of("MERAK_NO_SUCH_THING"), std::logic_error);
}

TEST(Log, LinesSayWhomTheyAreAbout) {
  EXPECT_EQ(log_line(LogLevel::kInfo, {}, "hello"), "[merak] info: hello\n");
  EXPECT_EQ(log_line(LogLevel::kError, {.rank = 3, .size = 8, .group = "tp", .sequence = 1274}, "two\nlines"),
            "[merak r3/8 tp #1274] error: two lines\n");
}

}  // namespace
}  // namespace merak
