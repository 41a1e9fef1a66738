#include "transport/socket_address.h"

#include <gtest/gtest.h>

#include "transport/errors.h"
#include "transport/link_helpers.h"
#include "transport/local_address.h"

namespace merak {
namespace {

TEST(SocketAddress, ComesBackAsWritten) {
  for (const char* text : {"192.0.2.7:4711", "[2001:db8::7]:4711", "[::1]:1", "127.0.0.1:65535"})
    EXPECT_EQ(SocketAddress::parse(text).text(), text);
  EXPECT_EQ(SocketAddress::parse_host("192.0.2.7").with_port(80).text(), "192.0.2.7:80");
}

TEST(SocketAddress, RejectsWhatIsNone) {
  for (const char* text : {"", ":", "192.0.2.7", "192.0.2.7:", "192.0.2.7:65536", "192.0.2.7:-1", "192.0.2:7",
                           "2001:db8::7:4711", "[2001:db8::7]", "localhost:80", "[::1]x:80", "192.0.2.7:80 "})
    EXPECT_THROW(SocketAddress::parse(text), std::invalid_argument) << text;
  EXPECT_EQ(error_of<std::invalid_argument>([] { SocketAddress::parse("nonsense"); }),
            "'nonsense' is not an address with a port.");
}

TEST(SocketAddress, KnowsItsKind) {
  EXPECT_TRUE(SocketAddress::parse_host("0.0.0.0").is_any());
  EXPECT_TRUE(SocketAddress::parse_host("::").is_any());
  EXPECT_TRUE(SocketAddress::parse_host("127.3.2.1").is_loopback());
  EXPECT_TRUE(SocketAddress::parse_host("::1").is_loopback());
  EXPECT_FALSE(SocketAddress::parse_host("192.0.2.7").is_loopback());
  EXPECT_TRUE(SocketAddress::parse_host("fe80::1").is_link_local());
  EXPECT_FALSE(SocketAddress::parse_host("2001:db8::7").is_link_local());
}

TEST(SocketAddress, LinkLocalIsPublishedWithoutTheInterfaceAndReachedThroughOnesOwn) {
  const SocketAddress here = SocketAddress::parse_host("fe80::1%lo"), published = SocketAddress::parse("[fe80::2]:80");
  EXPECT_EQ(here.host(), "fe80::1");
  const SocketAddress reached = published.reached_from(here);
  EXPECT_EQ(reached.text(), "[fe80::2]:80");
  EXPECT_NE(reinterpret_cast<const sockaddr_in6*>(reached.get())->sin6_scope_id, 0u);
}

TEST(LocalAddress, IsLoopbackWhenNothingIsKnown) { EXPECT_EQ(choose_address({}).text(), "127.0.0.1:0"); }

TEST(LocalAddress, LeadsToTheRendezvous) {
  EXPECT_EQ(choose_address({.rendezvous_host = "127.0.0.1"}).text(), "127.0.0.1:0");
  EXPECT_EQ(choose_address({.rendezvous_host = "::1"}).text(), "[::1]:0");
  EXPECT_TRUE(choose_address({.rendezvous_host = "localhost"}).is_loopback());
}

TEST(LocalAddress, OfOneOfThisHostsInterfaces) {
  EXPECT_EQ(choose_address({.interfaces = {"lo"}}).text(), "127.0.0.1:0");
  EXPECT_EQ(choose_address({.interfaces = {"absent0", "lo"}}).text(), "127.0.0.1:0");
  for (const NetworkInterface& candidate : network_interfaces())
    if (!candidate.address.is_link_local()) {
      EXPECT_EQ(choose_address({.address = candidate.address.host()}).host(), candidate.address.host());
    }
}

TEST(LocalAddress, ErrorsNameTheVariableAndWhatThereIs) {
  const std::string name = error_of<std::invalid_argument>([] { choose_address({.interfaces = {"absent0"}}); });
  EXPECT_TRUE(contains(name, "MERAK_SOCKET_IFNAME='absent0'") && contains(name, "lo (127.0.0.1)")) << name;
  const std::string other = error_of<std::invalid_argument>([] { choose_address({.address = "192.0.2.77"}); });
  EXPECT_TRUE(contains(other, "MERAK_SOCKET_ADDRESS='192.0.2.77'") && contains(other, "lo (127.0.0.1)")) << other;
  const std::string all = error_of<std::invalid_argument>([] { choose_address({.address = "0.0.0.0"}); });
  EXPECT_TRUE(contains(all, "all interfaces")) << all;
}

TEST(LocalAddress, NobodyAnswersToANameThatIsNone) {
  const std::string text = error_of<NetworkError>([] { choose_address({.rendezvous_host = "no-such-host.invalid"}); });
  EXPECT_TRUE(contains(text, "no-such-host.invalid")) << text;
}

}  // namespace
}  // namespace merak
