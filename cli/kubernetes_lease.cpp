#include "cli/kubernetes_lease.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/loopback.h"

namespace cli {
namespace {

namespace json = boost::json;
using base::ErrorCode;
using base::fail;
using scheduler::LeaderTerm;

constexpr std::size_t kAnswerBytesMax = 1 << 20;
constexpr std::size_t kTokenBytesMax = 1 << 16;
constexpr std::size_t kNameBytesMax = 253;
// Annotations.
constexpr const char* kSerial = "sluice.dev/serial";
constexpr const char* kEpoch = "sluice.dev/epoch";
constexpr const char* kBeat = "sluice.dev/beat";
constexpr const char* kWorkers = "sluice.dev/workers";

bool is_kubernetes_name(std::string_view text) {
    return !text.empty() && text.size() <= kNameBytesMax && text.front() != '.' && text.front() != '-' &&
           std::all_of(text.begin(), text.end(),
                       [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.'; });
}

base::Result<std::string> read_word(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text(kTokenBytesMax, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(file.gcount()));
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) {
        text.pop_back();
    }
    if (text.empty() || text.find_first_of("\r\n") != std::string::npos) {
        return fail(ErrorCode::unavailable, path +
                                                " cannot be read, or holds no single line: has the pod a service "
                                                "account (automountServiceAccountToken)?");
    }
    return text;
}

/// As Kubernetes writes a MicroTime.
std::string time_text(std::int64_t unix_us) {
    const std::time_t seconds = unix_us / 1'000'000;
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    char text[32];
    const std::size_t bytes = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    return fmt::format("{}.{:06}Z", std::string_view(text, bytes), unix_us % 1'000'000);
}

/// What is at `path` inside `object`; null where there is nothing.
const json::value* find(const json::value& object, std::initializer_list<std::string_view> path) {
    const json::value* at = &object;
    for (const std::string_view key : path) {
        at = at->is_object() ? at->as_object().if_contains(key) : nullptr;
        if (at == nullptr) { break; }
    }
    return at;
}

std::string text_at(const json::value& object, std::initializer_list<std::string_view> path) {
    const json::value* const found = find(object, path);
    return found != nullptr && found->is_string() ? std::string(found->as_string()) : std::string();
}

std::optional<std::uint64_t> number_at(const json::value& object, const char* annotation) {
    const std::string text = text_at(object, {"metadata", "annotations", annotation});
    std::uint64_t number = 0;
    const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (text.empty() || error != std::errc{} || at != text.data() + text.size()) { return std::nullopt; }
    return number;
}

/// The term of an object. One without annotations of ours is nobody's, unless somebody holds it.
base::Result<LeaderTerm> term_of(const json::value& object) {
    LeaderTerm term;
    term.holder = text_at(object, {"spec", "holderIdentity"});
    const auto serial = number_at(object, kSerial);
    const auto epoch = number_at(object, kEpoch);
    const auto beat = number_at(object, kBeat);
    const auto workers = number_at(object, kWorkers);
    if (!serial || !epoch || !beat || !workers || *serial == 0 || *workers > 0xffffffff) {
        if (term.holder.empty()) { return LeaderTerm(); }
        return fail(ErrorCode::invalid_argument,
                    "the Lease is held by " + term.holder + ", which is no scheduler of Sluice: name another one");
    }
    term.serial = *serial;
    term.epoch = *epoch;
    term.beat = *beat;
    term.workers = static_cast<std::uint32_t>(*workers);
    term.over = term.holder.empty();
    return term;
}

/// Requests to one API server.
class Http {
public:
    struct Answer {
        long status = 0;
        json::value body;  // null where there is none
    };

    Http(std::string server, std::string account_dir, std::chrono::milliseconds timeout)
        : server_(std::move(server)), account_dir_(std::move(account_dir)), timeout_(timeout) {}
    ~Http() { curl_easy_cleanup(handle_); }
    Http(const Http&) = delete;
    Http& operator=(const Http&) = delete;

    /// Error: unavailable (no answer in time, no token, 5xx, 401, 403, 429: all that another try may mend).
    base::Result<Answer> ask(const char* method, const std::string& path, const json::value& body = {}) {
        if (handle_ == nullptr) { return fail(ErrorCode::unavailable, "libcurl cannot be used"); }
        const auto token = read_word(account_dir_ + "/token");
        if (!token) { return base::pass_on(token, "the leader's Lease"); }
        const std::string text = body.is_null() ? std::string() : json::serialize(body);
        std::string answer;
        curl_easy_reset(handle_);  // keeps the connection
        const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(
            curl_slist_append(curl_slist_append(curl_slist_append(nullptr, ("Authorization: Bearer " + *token).c_str()),
                                                "Content-Type: application/json"),
                              "Expect:"),
            curl_slist_free_all);
        curl_easy_setopt(handle_, CURLOPT_URL, (server_ + path).c_str());
        curl_easy_setopt(handle_, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(handle_, CURLOPT_CAINFO, (account_dir_ + "/ca.crt").c_str());
        curl_easy_setopt(handle_, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(handle_, CURLOPT_NOPROXY, "*");
        curl_easy_setopt(handle_, CURLOPT_TIMEOUT_MS, static_cast<long>(timeout_.count()));
        curl_easy_setopt(handle_, CURLOPT_HTTPHEADER, headers.get());
        curl_easy_setopt(handle_, CURLOPT_CUSTOMREQUEST, method);
        if (!text.empty()) {
            curl_easy_setopt(handle_, CURLOPT_POSTFIELDS, text.data());
            curl_easy_setopt(handle_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(text.size()));
        }
        curl_easy_setopt(handle_, CURLOPT_WRITEDATA, &answer);
        curl_easy_setopt(handle_, CURLOPT_WRITEFUNCTION, keep);
        if (const CURLcode code = curl_easy_perform(handle_); code != CURLE_OK) {
            return fail(ErrorCode::unavailable,
                        "the leader's Lease: no answer of " + server_ + ": " + curl_easy_strerror(code));
        }
        Answer made;
        curl_easy_getinfo(handle_, CURLINFO_RESPONSE_CODE, &made.status);
        boost::system::error_code ignored;
        made.body = json::parse(answer, ignored, {}, {.max_depth = 64});
        if (ignored) { made.body = nullptr; }
        const bool is_answer = made.status == 200 || made.status == 201 || made.status == 404 || made.status == 409;
        if (!is_answer) {
            const std::string reason = text_at(made.body, {"message"});
            return fail(ErrorCode::unavailable,
                        fmt::format("the leader's Lease: {} {} answers {}{}{}{}", method, server_ + path, made.status,
                                    reason.empty() ? "" : ": ", reason,
                                    made.status == 401 || made.status == 403
                                        ? " (its service account needs get, create and update of leases in "
                                          "coordination.k8s.io)"
                                        : ""));
        }
        if (made.status < 300 && !made.body.is_object()) {
            return fail(ErrorCode::unavailable, "the leader's Lease: " + server_ + path + " answers no JSON object");
        }
        return made;
    }

private:
    static std::size_t keep(char* data, std::size_t size, std::size_t count, void* to) {
        auto& text = *static_cast<std::string*>(to);
        if (text.size() + size * count > kAnswerBytesMax) { return 0; }
        text.append(data, size * count);
        return size * count;
    }

    const std::string server_;
    const std::string account_dir_;
    const std::chrono::milliseconds timeout_;
    CURL* handle_ = curl_easy_init();
};

/// Error: invalid_argument.
base::Result<std::string> server_of(const KubernetesAccess& access) {
    std::string server = access.server;
    if (server.empty()) {
        const char* const host = std::getenv("KUBERNETES_SERVICE_HOST");
        const char* const port = std::getenv("KUBERNETES_SERVICE_PORT");
        if (host == nullptr || port == nullptr) {
            return fail(ErrorCode::invalid_argument,
                        "scheduler.leader_lease names a Lease of Kubernetes, and KUBERNETES_SERVICE_HOST and _PORT are "
                        "not set: outside a pod set scheduler.kubernetes_server and scheduler.kubernetes_account_dir");
        }
        const bool is_ipv6 = std::string_view(host).find(':') != std::string_view::npos;
        return is_ipv6 ? fmt::format("https://[{}]:{}", host, port) : fmt::format("https://{}:{}", host, port);
    }
    while (server.ends_with('/')) {
        server.pop_back();
    }
    constexpr std::string_view kPlain = "http://";
    const std::string_view host = std::string_view(server).substr(std::min(server.size(), kPlain.size()));
    const bool is_local = server.starts_with(kPlain) && base::is_loopback_host(host.substr(0, host.rfind(':')));
    if (!server.starts_with("https://") && !is_local) {
        return fail(ErrorCode::invalid_argument,
                    "scheduler.kubernetes_server is https://HOST:PORT (http:// on loopback alone), got " + server);
    }
    return server;
}

/// The Lease of one name.
class KubernetesStore final : public TermStore {
public:
    KubernetesStore(std::string space, std::string name, std::string server, std::string account_dir,
                    std::chrono::milliseconds lease)
        : path_("/apis/coordination.k8s.io/v1/namespaces/" + space + "/leases"),
          space_(std::move(space)),
          name_(std::move(name)),
          lease_(lease),
          http_(std::move(server), std::move(account_dir), RecordLease::request_time(lease)) {}

    base::Result<LeaderTerm> read() override;
    base::Result<bool> write(const LeaderTerm& term) override;
    std::optional<LeaderTerm> known() const override;
    bool is_there() const override { return object_.is_object(); }

private:
    /// object_ as it would be with this term; one that is over has no holder.
    json::value with(const LeaderTerm& term) const;

    const std::string path_;  // of all leases of the namespace
    const std::string space_;
    const std::string name_;
    const std::chrono::milliseconds lease_;
    Http http_;
    json::value object_;  // as the server had it last; null: it had none
};

base::Result<LeaderTerm> KubernetesStore::read() {
    const auto answer = http_.ask("GET", path_ + "/" + name_);
    if (!answer) { return base::pass_on(answer); }
    if (answer->status == 404) {
        object_ = nullptr;
        return LeaderTerm();
    }
    auto term = term_of(answer->body);
    if (term) { object_ = answer->body; }
    return term;
}

std::optional<LeaderTerm> KubernetesStore::known() const {
    if (!is_there()) { return LeaderTerm(); }
    const auto term = term_of(object_);
    return term ? std::optional(*term) : std::nullopt;
}

json::value KubernetesStore::with(const LeaderTerm& term) const {
    // What others wrote into it (labels, an owner) stays.
    json::value made = object_.is_object() ? object_ : json::value(json::object());
    json::object& root = made.as_object();
    const auto part = [](json::object& of, const char* name) -> json::object& {
        json::value& value = of[name];
        if (!value.is_object()) { value = json::object(); }
        return value.as_object();
    };
    root["apiVersion"] = "coordination.k8s.io/v1";
    root["kind"] = "Lease";
    json::object& metadata = part(root, "metadata");
    metadata["name"] = name_;
    metadata["namespace"] = space_;
    json::object& annotations = part(metadata, "annotations");
    annotations[kSerial] = std::to_string(term.serial);
    annotations[kEpoch] = std::to_string(term.epoch);
    annotations[kBeat] = std::to_string(term.beat);
    annotations[kWorkers] = std::to_string(term.workers);
    json::object& spec = part(root, "spec");
    const std::string now = time_text(base::SystemClock().unix_us());
    if (term.beat == 0) { spec["acquireTime"] = now; }
    spec["renewTime"] = now;
    spec["holderIdentity"] = term.over ? std::string() : term.holder;
    spec["leaseDurationSeconds"] = std::max<std::int64_t>(1, (lease_.count() + 999) / 1000);
    spec["leaseTransitions"] = std::min<std::uint64_t>(term.serial, 0x7fffffff);
    return made;
}

base::Result<bool> KubernetesStore::write(const LeaderTerm& term) {
    const bool is_new = !object_.is_object();
    const auto answer =
        is_new ? http_.ask("POST", path_, with(term)) : http_.ask("PUT", path_ + "/" + name_, with(term));
    if (!answer) { return base::pass_on(answer); }
    if (answer->status >= 300) {
        if (answer->status == 404 && is_new) {
            return fail(ErrorCode::unavailable,
                        "the leader's Lease: the API server has no namespace " + space_ + ", or no leases");
        }
        return false;
    }
    object_ = answer->body;
    return true;
}

}  // namespace

void read_kubernetes_access(base::Config& config, KubernetesAccess& access) {
    access.server = config.string("scheduler.kubernetes_server", access.server);
    access.account_dir = config.string("scheduler.kubernetes_account_dir", access.account_dir);
}

base::Result<std::unique_ptr<RecordLease>> open_kubernetes_lease(const std::string& name,
                                                                 const KubernetesAccess& access,
                                                                 std::chrono::milliseconds lease) {
    const auto server = server_of(access);
    if (!server) { return base::pass_on(server); }
    const auto slash = name.find('/');
    auto space = slash != std::string::npos ? base::Result<std::string>(name.substr(0, slash))
                                            : read_word(access.account_dir + "/namespace");
    if (!space) { return base::pass_on(space); }
    const std::string own = slash != std::string::npos ? name.substr(slash + 1) : name;
    if (!is_kubernetes_name(*space) || !is_kubernetes_name(own)) {
        return fail(ErrorCode::invalid_argument,
                    "a Lease is kubernetes:NAME or kubernetes:NAMESPACE/NAME in small letters, got '" + name + "'");
    }
    if (const auto token = read_word(access.account_dir + "/token"); !token) { return base::pass_on(token); }
    return std::make_unique<RecordLease>(
        std::make_unique<KubernetesStore>(*space, own, *server, access.account_dir, lease));
}

}  // namespace cli
