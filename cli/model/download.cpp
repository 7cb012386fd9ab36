#include "cli/model/download.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "cli/model/manifest.h"
#include "cli/model/part_file.h"

namespace cli::model {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

constexpr std::uint32_t kTriesMax = 200;  // of one file, however much each of them brought
constexpr std::chrono::seconds kTextSeconds{60};

/// One try: what is missing of the file, as far as it comes.
class Try {
public:
    Try(const Download& wanted, PartFile& part, std::uint64_t done_before, Fetch& fetch)
        : wanted_(wanted), part_(part), done_before_(done_before), fetch_(fetch) {}

    Result<HttpAnswer> run() {
        return fetch_.http.get({.url = wanted_.url, .token = wanted_.token, .first_byte = part_.bytes()},
                               {.head = [this](const HttpHead& head) { return on_head(head); },
                                .body = [this](std::span<const std::byte> bytes) { return on_body(bytes); }});
    }

private:
    tl::unexpected<base::Error> other_length(std::uint64_t bytes) const {
        return base::fail(ErrorCode::failed_precondition, wanted_.url + " has " + std::to_string(bytes) +
                                                              " bytes, must have " + std::to_string(*wanted_.bytes) +
                                                              ": it is another file than was asked for");
    }

    Result<void> on_head(const HttpHead& head) {
        if (head.status == 206) {
            const std::string expected = "bytes " + std::to_string(part_.bytes()) + "-";
            if (!head.header("content-range").starts_with(expected)) {
                return base::fail(ErrorCode::failed_precondition, head.host + " sent another range than " + expected);
            }
        } else if (part_.bytes() > 0) {  // the server does not do ranges
            if (auto cleared = part_.clear(); !cleared) { return cleared; }
        }
        const auto coming = head.number("content-length");
        if (!coming) { return {}; }
        const std::uint64_t whole = part_.bytes() + *coming;
        if (wanted_.bytes && whole != *wanted_.bytes) { return other_length(whole); }
        if (!wanted_.bytes) {  // only now is it known how much room is needed
            fetch_.progress.begin(part_.bytes(), whole);
            return fetch_.check_room(*coming);
        }
        return {};
    }

    Result<void> on_body(std::span<const std::byte> bytes) {
        const std::uint64_t whole = part_.bytes() + bytes.size();
        if (wanted_.bytes && whole > *wanted_.bytes) { return other_length(whole); }
        if (auto written = part_.append(bytes); !written) { return written; }
        fetch_.progress.at(done_before_ + part_.bytes());
        return {};
    }

    const Download& wanted_;
    PartFile& part_;
    std::uint64_t done_before_;
    Fetch& fetch_;
};

Failure failure_of(const Result<HttpAnswer>& answer) {
    if (!answer) { return {.error = answer.error().code}; }
    Failure failure{.status = answer->head.status};
    if (const auto seconds = answer->head.number("retry-after"); seconds && *seconds < 1'000'000) {
        failure.retry_after = std::chrono::seconds(*seconds);
    }
    return failure;
}

/// Waits before the next try and says why. Error: that of the failure when there is to be none; cancelled.
Result<void> wait_for_next_try(const Result<HttpAnswer>& answer, std::uint32_t tries, const ExplainStatus& explain,
                               Fetch& fetch) {
    const base::Error error = answer ? explain(*answer) : answer.error();
    const auto wait = wait_before_retry(failure_of(answer), tries, fetch.retry);
    if (!wait) { return tl::unexpected(error); }
    fetch.progress.say(error.message + "; trying again in " + std::to_string(wait->count()) + " ms");
    if (!wait_unless_stopped(*wait, fetch.stop_asked)) { return base::fail(ErrorCode::cancelled, "interrupted"); }
    return {};
}

bool is_whole(const Result<HttpAnswer>& answer, const Download& wanted, const PartFile& part) {
    if (!answer) { return false; }
    const long status = answer->head.status;
    if (wanted.bytes && part.bytes() != *wanted.bytes) { return false; }
    return status == 200 || status == 206 || (status == 416 && wanted.bytes.has_value());
}

/// The whole file in `part`, of whatever hash; true when it was put together from more than one try.
Result<bool> bring(const Download& wanted, PartFile& part, std::uint64_t done_before, Fetch& fetch) {
    bool is_joined = part.bytes() > 0;
    if (wanted.bytes && part.bytes() > *wanted.bytes) {
        if (const auto cleared = part.clear(); !cleared) { return base::pass_on(cleared); }
    }
    std::uint32_t in_vain = 0;
    for (std::uint32_t tries = 1;; ++tries) {
        if (wanted.bytes && part.bytes() == *wanted.bytes) { return is_joined; }
        const std::uint64_t before = part.bytes();
        auto answer = Try(wanted, part, done_before, fetch).run();
        if (is_whole(answer, wanted, part)) { return is_joined; }
        if (answer && answer->head.status == 416 && part.bytes() > 0) {  // what is there does not belong to the file
            if (const auto cleared = part.clear(); !cleared) { return base::pass_on(cleared); }
            continue;
        }
        if (answer && answer->head.status < 300) {  // ended early without saying so
            answer = base::fail(ErrorCode::data_loss, wanted.url + " ended after " + std::to_string(part.bytes()) +
                                                          " bytes (HTTP " + std::to_string(answer->head.status) + ")");
        }
        in_vain = part.bytes() > before ? 0 : in_vain + 1;
        if (tries == kTriesMax) { in_vain = fetch.retry.tries_max; }
        const auto waited = wait_for_next_try(answer, std::max(in_vain, 1u), wanted.explain, fetch);
        if (!waited) { return base::pass_on(waited); }
        is_joined = part.bytes() > 0;
    }
}

}  // namespace

Result<std::string> download(const Download& wanted, const fs::path& path, std::uint64_t done_before, Fetch& fetch) {
    for (bool is_first = true;; is_first = false) {
        auto part = PartFile::open(path);
        if (!part) { return base::pass_on(part); }
        const auto is_joined = bring(wanted, *part, done_before, fetch);
        if (!is_joined) { return base::pass_on(is_joined); }
        const auto sha256 = part->finish();
        if (!sha256 || wanted.sha256.empty() || *sha256 == wanted.sha256) { return sha256; }
        std::error_code ignored;
        fs::remove(path, ignored);
        const std::string message = wanted.url + " has the SHA-256 " + *sha256 + ", must have " + wanted.sha256;
        if (!is_first || !*is_joined) { return base::fail(ErrorCode::data_loss, message); }
        fetch.progress.say(message + "; beginning again");
    }
}

Result<std::string> get_text(const std::string& url, const std::string& token, std::size_t bytes_max,
                             const ExplainStatus& explain, Fetch& fetch) {
    for (std::uint32_t tries = 1;; ++tries) {
        std::string text;
        const auto answer =
            fetch.http.get({.url = url, .token = token, .whole = kTextSeconds},
                           {.head = [&text](const HttpHead&) -> Result<void> {
                                text.clear();
                                return {};
                            },
                            .body = [&](std::span<const std::byte> bytes) -> Result<void> {
                                if (text.size() + bytes.size() > bytes_max) {
                                    return base::fail(ErrorCode::resource_exhausted,
                                                      url + " sends more than " + format_bytes(bytes_max));
                                }
                                text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
                                return {};
                            }});
        if (answer && answer->head.status == 200) { return text; }
        const auto waited = wait_for_next_try(answer, tries, explain, fetch);
        if (!waited) { return base::pass_on(waited); }
    }
}

std::string describe_status(const HttpAnswer& answer) {
    std::string said = answer.head.header("x-error-message");
    if (said.empty() && !answer.head.header("content-type").starts_with("text/html")) { said = answer.error_text; }
    constexpr std::size_t kShown = 200;
    std::string line;
    for (const char c : said.substr(0, kShown)) {
        line += std::iscntrl(static_cast<unsigned char>(c)) != 0 ? ' ' : c;
    }
    while (!line.empty() && line.back() == ' ') {
        line.pop_back();
    }
    return answer.head.host + " answers HTTP " + std::to_string(answer.head.status) + (line.empty() ? "" : ": " + line);
}

}  // namespace cli::model
