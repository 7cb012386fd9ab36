#include "tests/support/s3_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"

namespace test_support {
namespace {

constexpr std::string_view kAuthorization = "authorization";

void send_all(int descriptor, std::string_view text) {
    while (!text.empty()) {
        const ssize_t sent = ::send(descriptor, text.data(), text.size(), MSG_NOSIGNAL);
        if (sent <= 0) { return; }
        text.remove_prefix(static_cast<std::size_t>(sent));
    }
}

/// What stands between `begin` and the next `end`.
std::string between(std::string_view text, std::string_view begin, std::string_view end) {
    const std::size_t at = text.find(begin);
    if (at == std::string_view::npos) { return {}; }
    text.remove_prefix(at + begin.size());
    return std::string(text.substr(0, text.find(end)));
}

std::string decode(std::string_view text) {
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%' && i + 2 < text.size()) {
            plain += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
            i += 2;
        } else {
            plain += text[i];
        }
    }
    return plain;
}

/// The value of a field of a query; empty: it has none.
std::string field(std::string_view query, std::string_view name) {
    while (!query.empty()) {
        const std::string_view pair = query.substr(0, query.find('&'));
        query.remove_prefix(std::min(query.size(), pair.size() + 1));
        if (pair.substr(0, pair.find('=')) == name) { return decode(pair.substr(pair.find('=') + 1)); }
    }
    return {};
}

std::string error_body(std::string_view code) {
    return "<?xml version=\"1.0\"?><Error><Code>" + std::string(code) + "</Code><Message>told to</Message></Error>";
}

}  // namespace

S3Server::S3Server(std::string bucket, kv_transfer::S3Credentials credentials)
    : bucket_(std::move(bucket)), credentials_(std::move(credentials)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(listener_ >= 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), bytes) == 0 && ::listen(listener_, 128) == 0 &&
          ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &bytes) == 0);
    port_ = ntohs(address.sin_port);
    accepting_ = std::thread([this] { accept_all(); });
}

S3Server::~S3Server() {
    {
        const std::scoped_lock lock(mutex_);
        ends_ = true;
        for (const Connection& connection : connections_) {
            if (connection.descriptor >= 0) { ::shutdown(connection.descriptor, SHUT_RDWR); }
        }
    }
    ::shutdown(listener_, SHUT_RDWR);
    accepting_.join();
    for (Connection& connection : connections_) {
        connection.thread.join();
    }
    ::close(listener_);
}

std::string S3Server::endpoint() const {
    return "http://127.0.0.1:" + std::to_string(port_);
}

void S3Server::set_faults(std::function<Fault(const Call&)> faults) {
    const std::scoped_lock lock(mutex_);
    faults_ = std::move(faults);
}

void S3Server::set_credentials(kv_transfer::S3Credentials credentials) {
    const std::scoped_lock lock(mutex_);
    credentials_ = std::move(credentials);
}

S3Server::Objects S3Server::objects() const {
    const std::scoped_lock lock(mutex_);
    return objects_;
}

void S3Server::set_objects(Objects objects) {
    const std::scoped_lock lock(mutex_);
    objects_ = std::move(objects);
}

std::size_t S3Server::calls() const {
    const std::scoped_lock lock(mutex_);
    return calls_;
}

std::size_t S3Server::wrong_signatures() const {
    const std::scoped_lock lock(mutex_);
    return wrong_signatures_;
}

void S3Server::accept_all() {
    while (true) {
        const int descriptor = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (descriptor < 0) { return; }
        const std::scoped_lock lock(mutex_);
        if (ends_) {
            ::close(descriptor);
            return;
        }
        Connection& connection = connections_.emplace_back();
        connection.descriptor = descriptor;
        connection.thread = std::thread([this, descriptor] { serve(descriptor); });
    }
}

bool S3Server::read_request(int descriptor, std::string& received, Request& request) {
    std::optional<std::size_t> whole;
    std::size_t body_at = 0;
    while (!whole || received.size() < *whole) {
        std::vector<char> more(1 << 16);
        const ssize_t got = ::recv(descriptor, more.data(), more.size(), 0);
        if (got <= 0) { return false; }
        received.append(more.data(), static_cast<std::size_t>(got));
        const std::size_t end = received.find("\r\n\r\n");
        if (whole || end == std::string::npos) { continue; }
        body_at = end + 4;
        request = {};
        std::string_view head = std::string_view(received).substr(0, end + 2);
        const std::string_view line = head.substr(0, head.find("\r\n"));
        head.remove_prefix(line.size() + 2);
        request.call.method = line.substr(0, line.find(' '));
        const std::string target = between(line, " ", " ");
        request.path = target.substr(0, target.find('?'));
        if (request.path.size() < target.size()) { request.query = target.substr(request.path.size() + 1); }
        while (!head.empty()) {
            const std::string_view header = head.substr(0, head.find("\r\n"));
            head.remove_prefix(header.size() + 2);
            std::string name(header.substr(0, header.find(':')));
            std::transform(name.begin(), name.end(), name.begin(),
                           [](char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); });
            request.headers[name] = header.substr(std::min(header.size(), name.size() + 2));
        }
        const auto length = request.headers.find("content-length");
        whole = body_at + (length == request.headers.end() ? 0 : std::stoul(length->second));
    }
    request.body = received.substr(body_at, *whole - body_at);
    received.erase(0, *whole);
    return true;
}

bool S3Server::is_signed(const Request& request) const {
    const auto shown = request.headers.find(std::string(kAuthorization));
    if (shown == request.headers.end()) { return false; }
    kv_transfer::S3SignedParts parts;
    parts.method = request.call.method;
    parts.path = request.path;
    parts.query = request.query;
    std::string names = between(shown->second, "SignedHeaders=", ",") + ";";
    while (!names.empty()) {
        const std::string name = names.substr(0, names.find(';'));
        names.erase(0, name.size() + 1);
        const auto header = request.headers.find(name);
        if (header == request.headers.end()) { return false; }
        parts.headers.emplace_back(name, header->second);
    }
    const std::string hash = kv_transfer::sha256_hex(std::as_bytes(std::span(request.body)));
    parts.payload_sha256 = hash;
    const std::string scope = between(shown->second, "Credential=", ",");
    const std::string region = between(scope.substr(scope.find('/') + 1), "/", "/");
    const auto time = request.headers.find("x-amz-date");
    if (time == request.headers.end() || request.headers.count("host") == 0) { return false; }
    return shown->second == kv_transfer::s3_authorization(parts, credentials_, {region, "s3", time->second});
}

std::string S3Server::list(const Request& request) const {
    const std::string prefix = field(request.query, "prefix");
    const std::string after = field(request.query, "continuation-token");
    const std::size_t most = std::stoul(field(request.query, "max-keys"));
    std::string entries;
    std::string last;
    std::size_t count = 0;
    bool is_cut = false;
    for (const auto& [key, content] : objects_) {
        if (!key.starts_with(prefix) || (!after.empty() && key <= after)) { continue; }
        is_cut = count == most;
        if (is_cut) { break; }
        ++count;
        last = key;
        entries += "<Contents><Key>" + key + "</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>" +
                   std::to_string(content.size()) + "</Size></Contents>";
    }
    return "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>" +
           std::string(is_cut ? "true" : "false") + "</IsTruncated>" +
           (is_cut ? "<NextContinuationToken>" + last + "</NextContinuationToken>" : "") + entries +
           "</ListBucketResult>";
}

std::pair<int, std::string> S3Server::answer(const Request& request, Fault fault, bool& is_object) {
    if (fault == Fault::refuse) { return {403, error_body("AccessDenied")}; }
    if (fault == Fault::error) { return {503, error_body("SlowDown")}; }
    if (fault == Fault::full) { return {507, error_body("InsufficientStorage")}; }
    const std::string& method = request.call.method;
    const std::string& key = request.call.key;
    if (key.empty()) { return {200, list(request)}; }
    const auto known = objects_.find(key);
    if (method == "PUT") {
        if (fault != Fault::forget) { objects_[key] = request.body; }
        return {200, {}};
    }
    if (method == "DELETE") {
        if (fault != Fault::forget && known != objects_.end()) { objects_.erase(known); }
        return {204, {}};
    }
    if (known == objects_.end()) { return {404, error_body("NoSuchKey")}; }
    is_object = true;
    std::string content = known->second;
    if (fault == Fault::swapped) {
        content = (std::next(known) == objects_.end() ? objects_.begin() : std::next(known))->second;
    }
    if (fault == Fault::shorter) { content.pop_back(); }
    if (fault == Fault::longer) { content += 'x'; }
    if (fault == Fault::corrupt) { content[calls_ * 7919 % content.size()] ^= static_cast<char>(1 << calls_ % 8); }
    return {200, content};
}

void S3Server::serve(int descriptor) {
    std::string received;
    Request request;
    while (read_request(descriptor, received, request)) {
        const std::string folder = "/" + bucket_ + "/";
        if (request.path.starts_with(folder)) { request.call.key = decode(request.path.substr(folder.size())); }
        Fault fault = Fault::none;
        int status = 0;
        std::string body;
        bool is_object = false;
        {
            const std::scoped_lock lock(mutex_);
            ++calls_;
            if (!is_signed(request)) {
                ++wrong_signatures_;
                fault = Fault::refuse;
            } else if (faults_) {
                fault = faults_(request.call);
            }
            if (fault != Fault::close && fault != Fault::silent) {
                std::tie(status, body) = answer(request, fault, is_object);
            }
        }
        if (fault == Fault::silent) {
            char byte = 0;
            while (::recv(descriptor, &byte, 1, 0) > 0) {}
        }
        if (fault == Fault::silent || fault == Fault::close) { break; }
        const bool is_cut = fault == Fault::cut && is_object;
        send_all(descriptor, "HTTP/1.1 " + std::to_string(status) +
                                 " x\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
                                 (is_cut ? body.substr(0, body.size() / 2) : body));
        if (is_cut) { break; }
    }
    const std::scoped_lock lock(mutex_);
    for (Connection& connection : connections_) {
        if (connection.descriptor == descriptor) { connection.descriptor = -1; }
    }
    ::close(descriptor);
}

}  // namespace test_support
