#include "kv_transfer/tier/s3_client.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <iterator>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"

namespace kv_transfer {

using base::ErrorCode;
using base::Result;

namespace {

constexpr std::size_t kErrorBytesMax = 4096;                 // of an answer that is no success
constexpr std::size_t kListBytesMax = std::size_t{4} << 20;  // of a page
constexpr std::size_t kPageObjectsMax = 1000;                // as S3
constexpr std::chrono::milliseconds kPoll{100};
constexpr long kCurlBufferBytes = 256 << 10;

struct CurlText {
    char* text = nullptr;
    ~CurlText() { curl_free(text); }
};

void init_curl() {
    static std::once_flag once;
    std::call_once(once, [] { CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK); });
}

}  // namespace

/// One request under way.
struct S3Client::Transfer {
    // What is asked.
    std::string_view method;
    std::string key;
    std::string query;                // encoded
    std::span<const std::byte> sent;  // put
    std::span<std::byte> place;       // where an object goes
    bool wants_object = false;        // else the body, if there is one, is `page`
    std::string payload_sha256;       // of `sent`
    // How far it is.
    std::size_t index = 0;
    std::uint32_t attempts = 0;
    TimePoint deadline;
    TimePoint due;        // waits to be tried again until then,
    Result<void> failed;  // because of this
    std::size_t bytes_sent = 0;
    std::size_t bytes_received = 0;  // of the object
    std::string page;
    std::string refusal;  // the body of an answer that is no success
    bool is_too_long = false;
    CURL* easy = nullptr;
    curl_slist* headers = nullptr;
    std::array<char, CURL_ERROR_SIZE> message{};

    ~Transfer() {
        curl_slist_free_all(headers);
        curl_easy_cleanup(easy);
    }

    void begin_anew() {
        curl_easy_reset(easy);  // its connection stays with the multi handle
        curl_slist_free_all(std::exchange(headers, nullptr));
        bytes_sent = bytes_received = 0;
        page.clear();
        refusal.clear();
        is_too_long = false;
        message = {};
    }

    void add_header(const std::string& line) {
        curl_slist* longer = curl_slist_append(headers, line.c_str());
        CHECK(longer != nullptr, "no memory for a header");
        headers = longer;
    }

    static std::size_t on_send(char* into, std::size_t size, std::size_t count, void* self) {
        auto& transfer = *static_cast<Transfer*>(self);
        const std::size_t bytes = std::min(size * count, transfer.sent.size() - transfer.bytes_sent);
        if (bytes > 0) { std::memcpy(into, transfer.sent.data() + transfer.bytes_sent, bytes); }
        transfer.bytes_sent += bytes;
        return bytes;
    }

    /// A kept connection that was closed meanwhile: curl takes another and begins anew.
    static int on_seek(void* self, curl_off_t offset, int origin) {
        auto& transfer = *static_cast<Transfer*>(self);
        if (origin != SEEK_SET || offset < 0 || static_cast<std::size_t>(offset) > transfer.sent.size()) {
            return CURL_SEEKFUNC_CANTSEEK;
        }
        transfer.bytes_sent = static_cast<std::size_t>(offset);
        return CURL_SEEKFUNC_OK;
    }

    static std::size_t on_body(char* data, std::size_t size, std::size_t count, void* self) {
        auto& transfer = *static_cast<Transfer*>(self);
        const std::size_t bytes = size * count;
        long status = 0;
        curl_easy_getinfo(transfer.easy, CURLINFO_RESPONSE_CODE, &status);
        if (status < 200 || status > 299) {
            transfer.refusal.append(data, std::min(bytes, kErrorBytesMax - transfer.refusal.size()));
            return bytes;
        }
        if (!transfer.wants_object) {
            transfer.is_too_long = transfer.page.size() + bytes > kListBytesMax;
            if (transfer.is_too_long) { return 0; }
            transfer.page.append(data, bytes);
            return bytes;
        }
        transfer.is_too_long = bytes > transfer.place.size() - transfer.bytes_received;
        if (transfer.is_too_long) { return 0; }
        std::memcpy(transfer.place.data() + transfer.bytes_received, data, bytes);
        transfer.bytes_received += bytes;
        return bytes;
    }
};

struct S3Client::Handles {
    CURLM* multi = curl_multi_init();
    std::vector<std::unique_ptr<Transfer>> transfers;
    std::vector<Transfer*> idle;
    std::vector<Transfer*> waiting;  // to be tried again
    std::size_t running = 0;

    Handles() = default;
    Handles(const Handles&) = delete;
    Handles& operator=(const Handles&) = delete;
    ~Handles() {
        for (const auto& transfer : transfers) {
            curl_multi_remove_handle(multi, transfer->easy);
        }
        transfers.clear();
        curl_multi_cleanup(multi);
    }
};

bool S3Client::is_key(std::string_view text) {
    return uri_encode(text, true) == text;
}

Result<std::unique_ptr<S3Client>> S3Client::make(Options options, device::Buffer arriving) {
    init_curl();
    const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> url(curl_url(), &curl_url_cleanup);
    CurlText host, scheme, path, user, query, port;
    const auto part = [&url](CURLUPart which, CurlText& into) {
        return curl_url_get(url.get(), which, &into.text, 0) == CURLUE_OK;
    };
    const bool is_url = curl_url_set(url.get(), CURLUPART_URL, options.endpoint.c_str(), 0) == CURLUE_OK &&
                        part(CURLUPART_HOST, host) && part(CURLUPART_SCHEME, scheme) && part(CURLUPART_PATH, path) &&
                        (std::strcmp(scheme.text, "http") == 0 || std::strcmp(scheme.text, "https") == 0) &&
                        std::strcmp(path.text, "/") == 0 && !part(CURLUPART_USER, user) &&
                        !part(CURLUPART_QUERY, query);
    if (!is_url) {
        return base::fail(
            ErrorCode::invalid_argument,
            "endpoint is no address of a store: give http(s)://HOST[:PORT], without a path, a query or a user");
    }
    const std::string_view bucket = options.bucket;
    if (bucket.empty() || !is_key(bucket) || bucket.find('/') != std::string_view::npos) {
        return base::fail(ErrorCode::invalid_argument,
                          fmt::format("bucket: '{}' is no name of a bucket", base::log_safe(bucket.substr(0, 100))));
    }
    if (!is_key(options.region) || options.region.empty() || options.region.find('/') != std::string::npos) {
        return base::fail(ErrorCode::invalid_argument,
                          "region is no name of a region; us-east-1 where a store has none");
    }
    Target target;
    target.host = host.text;
    if (!options.path_style) { target.host = options.bucket + "." + target.host; }
    if (part(CURLUPART_PORT, port)) { target.host += std::string(":") + port.text; }
    target.base = std::string(scheme.text) + "://" + target.host;
    target.folder = options.path_style ? "/" + options.bucket + "/" : "/";
    CHECK(options.connections > 0 && arriving.size() == options.connections * options.object_bytes);
    auto credentials = options.credentials();
    if (!credentials) { return base::pass_on(credentials); }
    return std::unique_ptr<S3Client>(
        new S3Client(std::move(options), std::move(target), std::move(*credentials), std::move(arriving)));
}

S3Client::S3Client(Options options, Target target, S3Credentials credentials, device::Buffer arriving)
    : options_(std::move(options)),
      target_(std::move(target)),
      credentials_(std::move(credentials)),
      arriving_(std::move(arriving)),
      random_(std::random_device{}()),
      handles_(std::make_unique<Handles>()) {
    CHECK(handles_->multi != nullptr);
    curl_multi_setopt(handles_->multi, CURLMOPT_MAXCONNECTS, static_cast<long>(options_.connections));
    for (std::uint32_t i = 0; i < options_.connections; ++i) {
        auto& transfer = handles_->transfers.emplace_back(std::make_unique<Transfer>());
        transfer->easy = curl_easy_init();
        CHECK(transfer->easy != nullptr);
        transfer->place = {arriving_.data() + i * options_.object_bytes, options_.object_bytes};
        handles_->idle.push_back(transfer.get());
    }
}

S3Client::~S3Client() = default;

void S3Client::read_credentials() {
    was_refused_ = false;
    if (auto read = options_.credentials()) {
        credentials_ = std::move(*read);
    } else {
        base::warn_limited("kv s3 credentials", "the store of KV: credentials: {}; those of before are tried",
                           base::log_safe(read.error().message));
    }
}

void S3Client::begin(Transfer& transfer) {
    transfer.begin_anew();
    ++transfer.attempts;
    const std::string path = target_.folder + transfer.key;
    const S3SigningScope scope{options_.region, "s3", s3_time(std::time(nullptr))};
    S3SignedParts parts{transfer.method, path, transfer.query, {}, transfer.payload_sha256};
    parts.headers = {
        {"host", target_.host}, {"x-amz-content-sha256", transfer.payload_sha256}, {"x-amz-date", scope.time}};
    if (!credentials_.session_token.empty()) {
        parts.headers.emplace_back("x-amz-security-token", credentials_.session_token);
    }
    for (const auto& [name, value] : parts.headers) {
        transfer.add_header(name + ": " + value);
    }
    transfer.add_header("Authorization: " + s3_authorization(parts, credentials_, scope));
    transfer.add_header("Expect:");  // nobody waits for "100 Continue"

    CURL* const easy = transfer.easy;
    const std::string url = target_.base + path + (transfer.query.empty() ? "" : "?") + transfer.query;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(transfer.deadline - std::chrono::steady_clock::now());
    curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer.headers);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));  // a connection each
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "sluice");
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer.message.data());
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options_.connect_timeout.count()));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, std::max<long>(1, static_cast<long>(left.count())));
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, kCurlBufferBytes);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, Transfer::on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, &transfer);
    if (!options_.ca_file.empty()) { curl_easy_setopt(easy, CURLOPT_CAINFO, options_.ca_file.c_str()); }
    if (transfer.method == "PUT") {
        curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, kCurlBufferBytes);
        curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(transfer.sent.size()));
        curl_easy_setopt(easy, CURLOPT_READFUNCTION, Transfer::on_send);
        curl_easy_setopt(easy, CURLOPT_READDATA, &transfer);
        curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, Transfer::on_seek);
        curl_easy_setopt(easy, CURLOPT_SEEKDATA, &transfer);
    } else if (transfer.method == "DELETE") {
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, "DELETE");
    }
    CHECK(curl_multi_add_handle(handles_->multi, easy) == CURLM_OK);
    ++handles_->running;
}

bool S3Client::is_passing(int code, long status) {
    switch (code) {
        case CURLE_OK:
            return status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
        case CURLE_COULDNT_RESOLVE_HOST:
        case CURLE_COULDNT_CONNECT:
        case CURLE_SEND_ERROR:
        case CURLE_RECV_ERROR:
        case CURLE_GOT_NOTHING:
        case CURLE_PARTIAL_FILE:
            return true;
        default:
            return false;
    }
}

Result<void> S3Client::result_of(const Transfer& transfer, int code) const {
    const std::string where = target_.base + target_.folder + ": ";
    long status = 0;
    curl_easy_getinfo(transfer.easy, CURLINFO_RESPONSE_CODE, &status);
    const bool is_success = status >= 200 && status < 300;
    if (code == CURLE_OPERATION_TIMEDOUT) {
        return base::fail(ErrorCode::deadline_exceeded, where + "no answer in time");
    }
    if (is_success && transfer.is_too_long) {
        return base::fail(ErrorCode::data_loss, where + "an answer has more bytes than it should");
    }
    if (is_success && transfer.wants_object &&
        (code == CURLE_PARTIAL_FILE ||
         (code == CURLE_OK && !options_.may_be_shorter && transfer.bytes_received < transfer.place.size()))) {
        return base::fail(ErrorCode::data_loss, where + "an object has fewer bytes than it should");
    }
    if (code != CURLE_OK) {
        const char* text =
            transfer.message[0] != '\0' ? transfer.message.data() : curl_easy_strerror(static_cast<CURLcode>(code));
        return base::fail(ErrorCode::unavailable, where + text);
    }
    if (is_success) { return {}; }
    const std::string name = s3_error_code(transfer.refusal);
    const std::string what = fmt::format("{}HTTP {}{}{}", where, status, name.empty() ? "" : " ", name);
    if (status == 404 && (name.empty() || name == "NoSuchKey")) { return base::fail(ErrorCode::not_found, what); }
    if (status == 401 || status == 403 || name == "ExpiredToken" || name == "InvalidToken") {
        return base::fail(ErrorCode::permission_denied, what);
    }
    if (status == 507) { return base::fail(ErrorCode::resource_exhausted, what); }
    return base::fail(ErrorCode::unavailable, what);
}

void S3Client::step(TimePoint until, const std::function<void(Transfer&, Result<void>, bool)>& ended) {
    int running = 0;
    CHECK(curl_multi_perform(handles_->multi, &running) == CURLM_OK);
    int left = 0;
    bool any = false;
    while (const CURLMsg* news = curl_multi_info_read(handles_->multi, &left)) {
        if (news->msg != CURLMSG_DONE) { continue; }
        any = true;
        const int code = news->data.result;
        CURL* const easy = news->easy_handle;  // the message is gone with the handle
        char* self = nullptr;
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &self);
        auto& transfer = *reinterpret_cast<Transfer*>(self);
        long status = 0;
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        auto result = result_of(transfer, code);
        --handles_->running;
        curl_multi_remove_handle(handles_->multi, easy);
        ended(transfer, std::move(result), is_passing(code, status));
    }
    if (any) { return; }
    const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    const auto bounded = std::clamp(wait, std::chrono::milliseconds(1), kPoll);
    curl_multi_poll(handles_->multi, nullptr, 0, static_cast<int>(bounded.count()), nullptr);
}

void S3Client::run_all(std::size_t count, const std::function<void(std::size_t, Transfer&)>& prepare,
                       const std::function<void(std::size_t, Transfer&, Result<void>)>& on_end,
                       const std::function<bool()>& goes_on) {
    if (was_refused_) { read_credentials(); }
    std::size_t next = 0;
    bool is_over = false;
    const auto finish = [&](Transfer& transfer, Result<void> result) {
        was_refused_ = was_refused_ || (!result && result.error().code == ErrorCode::permission_denied);
        on_end(transfer.index, transfer, std::move(result));
        handles_->idle.push_back(&transfer);
        is_over = is_over || !goes_on();
    };
    const auto ended = [&](Transfer& transfer, Result<void> result, bool is_passing) {
        const auto now = std::chrono::steady_clock::now();
        const auto longest = options_.retry_wait * (1u << std::min(transfer.attempts - 1, 10u));
        const auto wait =
            longest / 2 + std::chrono::milliseconds(static_cast<std::int64_t>(random_()) % (longest.count() / 2 + 1));
        if (result || !is_passing || is_over || transfer.attempts > options_.retries ||
            now + wait >= transfer.deadline) {
            return finish(transfer, std::move(result));
        }
        if (options_.on_retry) { options_.on_retry(); }
        transfer.due = now + wait;
        transfer.failed = std::move(result);
        handles_->waiting.push_back(&transfer);
    };
    while (true) {
        while (!is_over && next < count && !handles_->idle.empty()) {
            Transfer& transfer = *handles_->idle.back();
            handles_->idle.pop_back();
            transfer.index = next++;
            transfer.attempts = 0;
            transfer.deadline = std::chrono::steady_clock::now() + options_.timeout;
            prepare(transfer.index, transfer);
            transfer.payload_sha256 = sha256_hex(transfer.sent);
            begin(transfer);
        }
        const auto now = std::chrono::steady_clock::now();
        TimePoint until = now + kPoll;
        for (Transfer* transfer : std::exchange(handles_->waiting, {})) {
            if (is_over) {
                finish(*transfer, std::move(transfer->failed));
            } else if (transfer->due <= now) {
                begin(*transfer);
            } else {
                until = std::min(until, transfer->due);
                handles_->waiting.push_back(transfer);
            }
        }
        if (handles_->running == 0 && handles_->waiting.empty() && (is_over || next == count)) { return; }
        step(until, ended);
    }
}

void S3Client::run(std::span<const Request> requests, const OnEnd& on_end, const std::function<bool()>& goes_on) {
    const auto prepare = [&](std::size_t index, Transfer& transfer) {
        const Request& request = requests[index];
        CHECK(is_key(request.key) && !request.key.empty(), "the key " << request.key);
        CHECK(request.verb != Verb::get || !transfer.place.empty());
        transfer.method = request.verb == Verb::put ? "PUT" : request.verb == Verb::get ? "GET" : "DELETE";
        transfer.key = request.key;
        transfer.query.clear();
        transfer.sent = request.sent;
        transfer.wants_object = request.verb == Verb::get;
    };
    const auto ended = [&](std::size_t index, Transfer& transfer, Result<void> result) {
        if (!result) { return on_end(index, base::pass_on(result)); }
        on_end(index, transfer.wants_object ? transfer.place.first(transfer.bytes_received) : std::span<std::byte>{});
    };
    run_all(requests.size(), prepare, ended, goes_on);
}

S3Client::Listing S3Client::list(const std::string& prefix, std::size_t most, TimePoint until) {
    Listing listing;
    std::optional<std::string> next;
    do {
        if (std::chrono::steady_clock::now() >= until) {
            listing.error = base::Error{ErrorCode::deadline_exceeded, target_.base + ": the list takes too long"};
            return listing;
        }
        const auto prepare = [&](std::size_t, Transfer& transfer) {
            transfer.method = "GET";
            transfer.key.clear();
            // By name, as the signature wants them.
            transfer.query = (next ? "continuation-token=" + uri_encode(*next, false) + "&" : std::string()) +
                             fmt::format("list-type=2&max-keys={}&prefix=",
                                         std::min(most - listing.objects.size(), kPageObjectsMax)) +
                             uri_encode(prefix, false);
            transfer.sent = {};
            transfer.wants_object = false;
        };
        std::optional<S3ListPage> page;
        const auto ended = [&](std::size_t, Transfer& transfer, const Result<void>& result) {
            page = result ? parse_s3_list(transfer.page) : std::nullopt;
            if (!result) { listing.error = result.error(); }
        };
        run_all(1, prepare, ended, [] { return true; });
        if (!listing.error && !page) {
            listing.error = base::Error{ErrorCode::unavailable, target_.base + ": no list of objects came"};
        }
        if (listing.error || page->objects.empty()) { return listing; }
        std::move(page->objects.begin(), page->objects.end(), std::back_inserter(listing.objects));
        next = std::move(page->next);
    } while (next && listing.objects.size() < most);
    listing.objects.resize(std::min(listing.objects.size(), most));
    return listing;
}

}  // namespace kv_transfer
