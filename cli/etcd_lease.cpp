#include "cli/etcd_lease.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "base/loopback.h"

namespace cli {
namespace {

namespace json = boost::json;
using base::ErrorCode;
using base::fail;
using scheduler::LeaderTerm;

constexpr std::size_t kAnswerBytesMax = 1 << 20;
constexpr std::size_t kKeyBytesMax = 1024;
constexpr std::size_t kServersMax = 16;

std::string base64(std::string_view bytes) {
    std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
    const int length =
        EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                        reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
    text.resize(static_cast<std::size_t>(length));
    return text;
}

std::optional<std::string> from_base64(std::string_view text) {
    if (text.size() % 4 != 0 || text.size() > kAnswerBytesMax) { return std::nullopt; }
    std::string bytes(text.size() / 4 * 3, '\0');
    const int length =
        EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                        reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
    if (length < 0) { return std::nullopt; }
    const auto padding = static_cast<std::size_t>(
        std::count(text.end() - std::min<std::ptrdiff_t>(2, std::ssize(text)), text.end(), '='));
    bytes.resize(bytes.size() - padding);
    return bytes;
}

/// A number as the gateway writes 64 bits: in a text.
std::optional<std::int64_t> number_in(const json::object& object, const char* name) {
    const json::value* const value = object.if_contains(name);
    if (value == nullptr || !value->is_string()) { return std::nullopt; }
    const std::string_view text = value->as_string();
    std::int64_t number = 0;
    const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || at != text.data() + text.size()) { return std::nullopt; }
    return number;
}

json::object value_of(const LeaderTerm& term) {
    json::object value;
    value["serial"] = term.serial;
    value["epoch"] = term.epoch;
    value["holder"] = term.holder;
    value["beat"] = term.beat;
    value["workers"] = term.workers;
    value["over"] = term.over;
    return value;
}

base::Result<LeaderTerm> term_of(std::string_view text) {
    const auto wrong = [] {
        return fail(ErrorCode::invalid_argument,
                    "the key of etcd holds no leader of Sluice's schedulers: name another one");
    };
    boost::system::error_code ignored;
    const json::value value = json::parse(text, ignored, {}, {.max_depth = 8});
    if (ignored || !value.is_object()) { return wrong(); }
    const json::object& object = value.as_object();
    LeaderTerm term;
    const auto number = [&](const char* name, std::uint64_t& into) {
        const json::value* const found = object.if_contains(name);
        if (found == nullptr || !(found->is_int64() || found->is_uint64())) { return false; }
        boost::system::error_code outside;
        into = found->to_number<std::uint64_t>(outside);
        return !outside;
    };
    std::uint64_t workers = 0;
    const json::value* const holder = object.if_contains("holder");
    const json::value* const over = object.if_contains("over");
    if (!number("serial", term.serial) || !number("epoch", term.epoch) || !number("beat", term.beat) ||
        !number("workers", workers) || workers > std::numeric_limits<std::uint32_t>::max() || term.serial == 0 ||
        holder == nullptr || !holder->is_string() || over == nullptr || !over->is_bool()) {
        return wrong();
    }
    term.workers = static_cast<std::uint32_t>(workers);
    term.holder = std::string(holder->as_string());
    term.over = over->as_bool();
    return term;
}

/// Error: invalid_argument.
base::Result<std::vector<std::string>> servers_of(const std::string& list) {
    std::vector<std::string> servers;
    for (std::size_t begin = 0; begin <= list.size();) {
        const auto end = std::min(list.find(',', begin), list.size());
        std::string server = list.substr(begin, end - begin);
        begin = end + 1;
        while (!server.empty() && (server.back() == '/' || server.back() == ' ')) {
            server.pop_back();
        }
        server.erase(0, std::min(server.find_first_not_of(' '), server.size()));
        constexpr std::string_view kPlain = "http://";
        const std::string_view host = std::string_view(server).substr(std::min(server.size(), kPlain.size()));
        const bool is_local = server.starts_with(kPlain) && base::is_loopback_host(host.substr(0, host.rfind(':')));
        if (!server.starts_with("https://") && !is_local) {
            return fail(ErrorCode::invalid_argument,
                        "scheduler.etcd_servers has https://HOST:PORT (http:// on loopback alone), with commas between "
                        "several; got '" +
                            server + "'");
        }
        servers.push_back(std::move(server));
    }
    if (servers.size() > kServersMax) {
        return fail(ErrorCode::invalid_argument,
                    fmt::format("scheduler.etcd_servers has {} servers, {} at most", servers.size(), kServersMax));
    }
    return servers;
}

/// Requests to the members of one etcd.
class Http {
public:
    Http(std::vector<std::string> servers, EtcdAccess access, std::chrono::milliseconds timeout)
        : servers_(std::move(servers)), access_(std::move(access)), timeout_(timeout) {}
    ~Http() { curl_easy_cleanup(handle_); }
    Http(const Http&) = delete;
    Http& operator=(const Http&) = delete;

    /// Error: unavailable; the next request goes to the next member.
    base::Result<json::object> post(const char* path, const json::object& body) {
        auto answer = ask(servers_[at_] + path, json::serialize(body));
        if (!answer) { at_ = (at_ + 1) % servers_.size(); }
        return answer;
    }

private:
    base::Result<json::object> ask(const std::string& url, const std::string& text) {
        if (handle_ == nullptr) { return fail(ErrorCode::unavailable, "libcurl cannot be used"); }
        std::string answer;
        curl_easy_reset(handle_);  // keeps the connection
        const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(
            curl_slist_append(curl_slist_append(nullptr, "Content-Type: application/json"), "Expect:"),
            curl_slist_free_all);
        curl_easy_setopt(handle_, CURLOPT_URL, url.c_str());
        curl_easy_setopt(handle_, CURLOPT_PROTOCOLS_STR, "http,https");
        if (!access_.authority_file.empty()) {
            curl_easy_setopt(handle_, CURLOPT_CAINFO, access_.authority_file.c_str());
        }
        if (!access_.certificate_file.empty()) {
            curl_easy_setopt(handle_, CURLOPT_SSLCERT, access_.certificate_file.c_str());
            curl_easy_setopt(handle_, CURLOPT_SSLKEY, access_.certificate_key_file.c_str());
        }
        curl_easy_setopt(handle_, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(handle_, CURLOPT_NOPROXY, "*");
        curl_easy_setopt(handle_, CURLOPT_TIMEOUT_MS, static_cast<long>(timeout_.count()));
        curl_easy_setopt(handle_, CURLOPT_HTTPHEADER, headers.get());
        curl_easy_setopt(handle_, CURLOPT_POSTFIELDS, text.data());
        curl_easy_setopt(handle_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(text.size()));
        curl_easy_setopt(handle_, CURLOPT_WRITEDATA, &answer);
        curl_easy_setopt(handle_, CURLOPT_WRITEFUNCTION, keep);
        if (const CURLcode code = curl_easy_perform(handle_); code != CURLE_OK) {
            return fail(ErrorCode::unavailable,
                        "the leader's key: no answer of " + url + ": " + curl_easy_strerror(code));
        }
        long status = 0;
        curl_easy_getinfo(handle_, CURLINFO_RESPONSE_CODE, &status);
        boost::system::error_code ignored;
        json::value made = json::parse(answer, ignored, {}, {.max_depth = 32});
        if (ignored || !made.is_object()) { made = json::object(); }
        if (status != 200) {
            const json::value* const reason = made.as_object().if_contains("message");
            return fail(ErrorCode::unavailable,
                        fmt::format("the leader's key: {} answers {}{}{}", url, status, reason != nullptr ? ": " : "",
                                    reason != nullptr && reason->is_string()
                                        ? std::string_view(reason->as_string()).substr(0, 200)
                                        : std::string_view()));
        }
        if (!made.as_object().contains("header")) {
            return fail(ErrorCode::unavailable, "the leader's key: " + url + " answers as no etcd 3.4 or newer does");
        }
        return std::move(made.as_object());
    }
    static std::size_t keep(char* data, std::size_t size, std::size_t count, void* to) {
        auto& text = *static_cast<std::string*>(to);
        if (text.size() + size * count > kAnswerBytesMax) { return 0; }
        text.append(data, size * count);
        return size * count;
    }

    const std::vector<std::string> servers_;
    const EtcdAccess access_;
    const std::chrono::milliseconds timeout_;
    std::size_t at_ = 0;  // of servers_: who is asked
    CURL* handle_ = curl_easy_init();
};

/// The value of one key.
class EtcdStore final : public TermStore {
public:
    EtcdStore(std::string key, std::vector<std::string> servers, EtcdAccess access, std::chrono::milliseconds timeout)
        : key_(std::move(key)), http_(std::move(servers), std::move(access), timeout) {}

    base::Result<LeaderTerm> read() override;
    base::Result<bool> write(const LeaderTerm& term) override;
    std::optional<LeaderTerm> known() const override { return known_; }
    bool is_there() const override { return revision_ != 0; }

private:
    const std::string key_;  // in base64, as the gateway wants it
    Http http_;
    std::int64_t revision_ = 0;  // of the key as it was last; 0: there was none
    LeaderTerm known_;           // at that revision
};

base::Result<LeaderTerm> EtcdStore::read() {
    json::object body;
    body["key"] = key_;
    const auto answer = http_.post("/v3/kv/range", body);
    if (!answer) { return base::pass_on(answer); }
    const json::value* const found = answer->if_contains("kvs");
    if (found == nullptr || !found->is_array() || found->as_array().empty()) {
        revision_ = 0;
        known_ = LeaderTerm();
        return known_;
    }
    const auto unreadable = [] {
        return fail(ErrorCode::unavailable, "the leader's key: etcd's answer cannot be read");
    };
    if (!found->as_array().front().is_object()) { return unreadable(); }
    const json::object& one = found->as_array().front().as_object();
    const auto revision = number_in(one, "mod_revision");
    const json::value* const value = one.if_contains("value");
    const auto text = value != nullptr && value->is_string() ? from_base64(value->as_string())
                                                             : std::optional<std::string>(std::string());
    if (!revision || !text) { return unreadable(); }
    auto term = term_of(*text);
    if (term) {
        revision_ = *revision;
        known_ = *term;
    }
    return term;
}

base::Result<bool> EtcdStore::write(const LeaderTerm& term) {
    json::object compare;
    compare["key"] = key_;
    compare["target"] = "MOD";
    compare["result"] = "EQUAL";
    compare["mod_revision"] = std::to_string(revision_);  // of a key that is not there: 0
    json::object put;
    put["key"] = key_;
    put["value"] = base64(json::serialize(value_of(term)));
    json::object success;
    success["request_put"] = std::move(put);
    json::object body;
    body["compare"].emplace_array().push_back(std::move(compare));
    body["success"].emplace_array().push_back(std::move(success));
    const auto answer = http_.post("/v3/kv/txn", body);
    if (!answer) { return base::pass_on(answer); }
    const json::value* const succeeded = answer->if_contains("succeeded");
    if (succeeded == nullptr || !succeeded->is_bool() || !succeeded->as_bool()) { return false; }
    const json::value& header = answer->at("header");
    const auto revision = header.is_object() ? number_in(header.as_object(), "revision") : std::nullopt;
    if (!revision) { return fail(ErrorCode::unavailable, "the leader's key: etcd's answer cannot be read"); }
    revision_ = *revision;
    known_ = term;
    return true;
}

}  // namespace

void read_etcd_access(base::Config& config, EtcdAccess& access) {
    access.servers = config.string("scheduler.etcd_servers", access.servers);
    access.authority_file = config.string("scheduler.etcd_authority_file", access.authority_file);
    access.certificate_file = config.string("scheduler.etcd_certificate_file", access.certificate_file);
    access.certificate_key_file = config.string("scheduler.etcd_certificate_key_file", access.certificate_key_file);
}

base::Result<std::unique_ptr<RecordLease>> open_etcd_lease(const std::string& key, const EtcdAccess& access,
                                                           std::chrono::milliseconds lease) {
    if (key.empty() || key.size() > kKeyBytesMax) {
        return fail(ErrorCode::invalid_argument,
                    fmt::format("a key of etcd is etcd:KEY of 1 to {} bytes", kKeyBytesMax));
    }
    if (access.servers.empty()) {
        return fail(ErrorCode::invalid_argument, "with etcd:KEY scheduler.etcd_servers has to say where etcd is");
    }
    auto servers = servers_of(access.servers);
    if (!servers) { return base::pass_on(servers); }
    if (access.certificate_file.empty() != access.certificate_key_file.empty()) {
        return fail(ErrorCode::invalid_argument,
                    "scheduler.etcd_certificate_file and scheduler.etcd_certificate_key_file go together");
    }
    for (const auto& file : {access.authority_file, access.certificate_file, access.certificate_key_file}) {
        if (!file.empty() && ::access(file.c_str(), R_OK) != 0) {
            return fail(ErrorCode::invalid_argument, file + " cannot be read");
        }
    }
    return std::make_unique<RecordLease>(
        std::make_unique<EtcdStore>(base64(key), std::move(*servers), access, RecordLease::request_time(lease)));
}

}  // namespace cli
