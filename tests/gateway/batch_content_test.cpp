// The content of files on its way to clients that take their time.
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/gateway/http_client.h"
#include "tests/gateway/server.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;
namespace json = boost::json;

constexpr std::size_t kPieceBytes = 256 * 1024;
constexpr std::size_t kFileBytes = 6'000'001;
constexpr int kSmallBufferBytes = 32 * 1024;

struct World {
    World() {
        std::string name = (std::filesystem::temp_directory_path() / "sluice-content-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        folder = name;
        gateway::GatewayOptions options;
        options.batch.file = folder + "/batches.sqlite";
        options.http.socket_send_bytes = kSmallBufferBytes;
        options.http.send_buffer_bytes_max = 64 * 1024;  // less than a piece: who takes pieces is not cut for it
        options.http.write_timeout = std::chrono::minutes(10);
        server.emplace(options);
        for (std::size_t i = 0; i < kFileBytes; ++i) {
            content += static_cast<char>((i * 31 + i / 977) % 256);
        }
    }
    ~World() {
        server.reset();
        std::filesystem::remove_all(folder);
    }

    std::uint16_t port() const { return server->core->port(); }
    /// The id that it gets.
    std::string upload(const std::string& bytes) const {
        const std::string body =
            "--x\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
            "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n" +
            bytes + "\r\n--x--\r\n";
        const std::string answer =
            exchange(port(),
                     "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                     "multipart/form-data; boundary=x\r\nContent-Length: " +
                         std::to_string(body.size()) + "\r\n\r\n" + body);
        REQUIRE(status_of(answer) == 200);
        return json::parse(answer.substr(answer.find("\r\n\r\n") + 4)).at("id").as_string().c_str();
    }
    static std::string get(const std::string& id, const std::string& method = "GET", const std::string& fields = "") {
        return method + " /v1/files/" + id + "/content HTTP/1.1\r\nHost: localhost\r\n" + fields + "\r\n";
    }
    /// Bytes that wait for clients.
    std::size_t buffered() const {
        const std::string text =
            exchange(port(), "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        const std::string name = "\nsluice_gateway_send_buffer_bytes ";
        return static_cast<std::size_t>(std::stod(text.substr(text.find(name) + name.size())));
    }

    std::string folder;
    std::string content;
    std::optional<ServerWith<base::SystemClock>> server;
};

}  // namespace

TEST_CASE("a file is read as its client takes it", "[gateway][batch][http]") {
    World world;
    const std::string id = world.upload(world.content);
    Client slow(world.port(), kSmallBufferBytes);
    slow.send(World::get(id, "GET", "Connection: close\r\n"));
    const std::string head = slow.read_until("\r\n\r\n");
    REQUIRE(status_of(head) == 200);
    REQUIRE(head.find("Content-Length: " + std::to_string(kFileBytes) + "\r\n") != std::string::npos);
    REQUIRE(head.find("application/octet-stream") != std::string::npos);
    // It stands still: what waits for it is a piece, and others are answered beside it.
    wait_until([&] { return world.buffered() > 0; });
    for (int look = 0; look < 20; ++look) {
        REQUIRE(world.buffered() <= kPieceBytes + 1024);
    }
    REQUIRE(slow.read_all() == world.content);
}

TEST_CASE("a client that takes a file may go at any time, or ask for something else afterwards",
          "[gateway][batch][http]") {
    World world;
    const std::string id = world.upload(world.content);
    for (const bool resets : {false, true}) {
        Client gone(world.port(), kSmallBufferBytes);
        gone.send(World::get(id));
        gone.read_until("\r\n\r\n");
        resets ? gone.reset() : gone.close();
    }
    wait_until([&] { return world.buffered() == 0; });
    const std::string only_head = exchange(world.port(), World::get(id, "HEAD", "Connection: close\r\n"));
    REQUIRE(only_head.find("Content-Length: " + std::to_string(kFileBytes) + "\r\n") != std::string::npos);
    REQUIRE(only_head.ends_with("\r\n\r\n"));
    const std::string two = exchange(world.port(), World::get(id) + World::get(id, "GET", "Connection: close\r\n"));
    REQUIRE(count(two, "HTTP/1.1 200 OK\r\n") == 2);
    REQUIRE(two.ends_with(world.content));
    const std::string small = world.upload("x");
    REQUIRE(exchange(world.port(), World::get(small, "GET", "Connection: close\r\n")).ends_with("\r\n\r\nx"));
    REQUIRE(status_of(exchange(world.port(), World::get("file-none", "GET", "Connection: close\r\n"))) == 404);
}

TEST_CASE("a file that is deleted while a client takes it ends before its end", "[gateway][batch][http]") {
    World world;
    const std::string id = world.upload(world.content);
    Client slow(world.port(), kSmallBufferBytes);
    slow.send(World::get(id));
    slow.read_until("\r\n\r\n");
    wait_until([&] { return world.buffered() > 0; });
    REQUIRE(status_of(exchange(world.port(), "DELETE /v1/files/" + id +
                                                 " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")) == 200);
    const std::string rest = slow.read_all();  // the connection is cut
    REQUIRE(rest.size() < kFileBytes);
    REQUIRE(world.content.starts_with(rest));
}
