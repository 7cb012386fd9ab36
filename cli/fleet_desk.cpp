#include "cli/fleet_desk.h"

#include <fmt/format.h>
#include <boost/json.hpp>

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"
#include "cli/ask_gateway.h"
#include "cli/operator_access.h"
#include "gateway/http/query.h"
#include "gateway/openai/errors.h"
#include "gateway/page/page.h"

namespace cli {

namespace json = boost::json;
using base::ErrorCode;
using gateway::ApiError;

namespace {

constexpr std::string_view kPagePath = "/fleet";
constexpr std::string_view kStatePath = "/fleet/state";
constexpr std::string_view kDrainPath = "/fleet/drain";
constexpr std::string_view kKeyScope = "admin";

constexpr std::size_t kWaitingMax = 64;  // who wait for one look; more come again
constexpr std::size_t kDrainsMax = 8;    // in work
constexpr std::size_t kChangesMax = 100;
/// Rates over a longer time than this say nothing of now.
constexpr std::chrono::minutes kForgetAfter{1};

ApiError problem(unsigned status, std::string code, std::string message) {
    ApiError error;
    error.status = status;
    error.code = std::move(code);
    error.message = std::move(message);
    return error;
}

/// Of what the scheduler, or the way to it, says. Operators may read all of it.
ApiError problem_of(const base::Error& error) {
    switch (error.code) {
        case ErrorCode::invalid_argument:
            return problem(400, "invalid_argument", error.message);
        case ErrorCode::not_found:
            return problem(404, "not_found", error.message);
        case ErrorCode::failed_precondition:
            return problem(409, "failed_precondition", error.message);
        case ErrorCode::unauthenticated:
        case ErrorCode::permission_denied:
            return problem(502, "refused_by_scheduler", "the scheduler refuses this process: " + error.message);
        case ErrorCode::unavailable:
        case ErrorCode::deadline_exceeded:
            return problem(503, "scheduler_unreachable", "the scheduler is not reached: " + error.message);
        default:
            return problem(500, "internal", error.message);
    }
}

gateway::HttpResponse json_answer(const json::object& body) {
    gateway::HttpResponse response;
    response.fields.emplace_back("Cache-Control", "no-store");
    response.body = json::serialize(body);
    return response;
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') { return c - '0'; }
    const char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/// A value of a query as it was meant; what is no encoding stays.
std::string decoded(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const int high = text[i] == '%' && i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
        const int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
        if (low >= 0) {
            out += static_cast<char>(16 * high + low);
            i += 2;
        } else {
            out += text[i] == '+' ? ' ' : text[i];
        }
    }
    return out;
}

FleetQuery query_of(std::string_view query) {
    FleetQuery out;
    auto pairs = gateway::query_pairs(query);
    out.words = decoded(pairs["q"]);
    const std::string& rows = pairs["rows"];
    std::size_t number = 0;
    const auto [at, error] = std::from_chars(rows.data(), rows.data() + rows.size(), number);
    if (!rows.empty() && error == std::errc{} && at == rows.data() + rows.size()) {
        out.rows_max = std::min(number, kFleetRowsMax);
    }
    return out;
}

/// Which life of which worker.
struct Asked {
    std::uint64_t worker = 0;
    std::uint64_t incarnation = 0;
};

gateway::ApiResult<Asked> read_drain(const gateway::HttpRequest& request) {
    const std::string* const type = request.head.field("content-type");
    if (type == nullptr || !type->starts_with("application/json")) {
        return gateway::pass_on(problem(415, "unsupported_media_type", "POST needs Content-Type: application/json"));
    }
    boost::system::error_code error;
    const json::value body = json::parse(request.body, error);
    if (error || !body.is_object()) {
        return gateway::pass_on(
            problem(400, "invalid_json", "the body is a JSON object: {\"worker\", \"incarnation\"}"));
    }
    Asked asked;
    for (const auto& [name, number] :
         {std::pair("worker", &asked.worker), std::pair("incarnation", &asked.incarnation)}) {
        const auto parsed = parse_worker_number(std::string(text_of(body.get_object(), name)), name);
        if (!parsed) { return gateway::pass_on(problem(400, "invalid_argument", parsed.error().message)); }
        *number = *parsed;
    }
    return asked;
}

}  // namespace

base::Result<std::unique_ptr<FleetDesk>> FleetDesk::open(Setup setup) {
    auto desk = std::unique_ptr<FleetDesk>(new FleetDesk(std::move(setup)));
    const Setup& own = desk->setup_;
    if (own.keys_file.empty()) {
        desk->keys_ = gateway::KeyKeeper::of(own.keys, own.clock, desk->own_metrics_);
        return desk;
    }
    auto keys = gateway::KeyKeeper::open({.path = own.keys_file, .clock = own.clock, .metrics = desk->own_metrics_});
    if (!keys) { return base::pass_on(keys); }
    desk->keys_ = std::move(*keys);
    return desk;
}

FleetDesk::FleetDesk(Setup setup) : setup_(std::move(setup)), tasks_(kDrainsMax + 1) {}

FleetDesk::~FleetDesk() = default;

void FleetDesk::start(Post post) {
    post_ = std::move(post);
    thread_ = std::jthread([this](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
            if (const auto task = tasks_.pop(stop)) { (*task)(); }
        }
    });
}

bool FleetDesk::is_route(std::string_view path) {
    return path == "/" || path == kStatePath || path == kDrainPath || gateway::is_fleet_page_file(path);
}

void FleetDesk::handle(const gateway::HttpRequest& request, const std::shared_ptr<gateway::Exchange>& exchange) {
    const gateway::RequestHead& head = request.head;
    const bool is_drain = head.path == kDrainPath;
    const bool is_read = head.method == "GET" || head.method == "HEAD";
    if (is_drain ? head.method != "POST" : !is_read) {
        ApiError error = problem(405, "method_not_allowed", "not allowed at " + head.sent_path + ": " + head.method);
        error.allow = is_drain ? std::vector<std::string>{"POST"} : std::vector<std::string>{"GET", "HEAD"};
        return exchange->respond(gateway::error_response(error));
    }
    if (head.path == "/") {
        gateway::HttpResponse response{
            .status = 302, .content_type = "", .fields = {{"Location", std::string(kPagePath)}}, .body = {}};
        return exchange->respond(std::move(response));
    }
    if (auto file = gateway::fleet_page_file(head.path)) { return exchange->respond(std::move(*file)); }
    keys_->tick(setup_.clock.now());
    const auto key = keys_->who(head);
    if (!key || !(*key)->allows(kKeyScope)) {
        base::warn_limited("fleet page refused", "fleet page: {} at {} is refused: {}", head.path, request.client,
                           key ? "key " + (*key)->id + " lacks the scope admin" : key.error().message);
        return exchange->respond(gateway::error_response(
            key ? problem(403, "permission_denied", "this API key is not for operators: it lacks the scope 'admin'")
                : key.error()));
    }
    is_drain ? take_drain(request, **key, exchange) : tell_state(head, exchange);
}

void FleetDesk::tell_state(const gateway::RequestHead& head, const std::shared_ptr<gateway::Exchange>& exchange) {
    Waiting waiting{query_of(head.query), exchange};
    const bool is_fresh = told_ && !is_outdated_ && setup_.clock.now() - told_at_ < setup_.look_interval;
    if (is_fresh) { return answer(waiting); }
    if (waiting_.size() >= kWaitingMax) {
        ApiError error = problem(503, "busy", "too many pages wait for a look at the cluster");
        error.retry_after_s = 2;
        return exchange->respond(gateway::error_response(error));
    }
    waiting_.push_back(std::move(waiting));
    if (!std::exchange(is_looking_, true)) {
        const bool is_taken = tasks_.push([this] { look(); });
        CHECK(is_taken);  // it has room for one look and all drains
    }
}

void FleetDesk::answer(const Waiting& waiting) const {
    if (waiting.exchange->is_gone()) { return; }
    waiting.exchange->respond(json_answer(fleet_json(told_->moment, told_->changes, waiting.query)));
}

void FleetDesk::seen(std::shared_ptr<const Told> told) {
    told_ = std::move(told);
    told_at_ = setup_.clock.now();
    is_looking_ = false;
    is_outdated_ = false;
    for (const Waiting& waiting : std::exchange(waiting_, {})) {
        answer(waiting);
    }
}

void FleetDesk::take_drain(const gateway::HttpRequest& request, const gateway::ApiKey& key,
                           const std::shared_ptr<gateway::Exchange>& exchange) {
    const auto asked = read_drain(request);
    if (!asked) { return exchange->respond(gateway::error_response(asked.error())); }
    if (drains_.size() >= kDrainsMax) {
        ApiError error = problem(503, "busy", "too many drains are asked for at once");
        error.retry_after_s = 1;
        return exchange->respond(gateway::error_response(error));
    }
    const std::uint64_t number = next_drain_++;
    drains_[number] = exchange;
    const std::string who = fmt::format("key {} ({}) at {}", key.id, base::log_safe(key.name), request.client);
    const bool is_taken = tasks_.push([this, asked = *asked, who, number] {
        auto worker = setup_.drain(asked.worker, asked.incarnation);
        spdlog::info("fleet page: {} asks to drain worker {:016x} incarnation {:016x}: {}", who, asked.worker,
                     asked.incarnation,
                     worker ? "it takes no new requests" : "refused: " + base::log_safe(worker.error().message));
        post_([this, number, worker = std::move(worker)] { drained(number, worker); });
    });
    CHECK(is_taken);
}

void FleetDesk::drained(std::uint64_t number, const base::Result<proto::WorkerState>& worker) {
    const auto exchange = drains_.extract(number).mapped();
    is_outdated_ = true;
    if (!worker) { return exchange->respond(gateway::error_response(problem_of(worker.error()))); }
    json::object body;
    body["worker"] = fmt::format("{:016x}", worker->endpoint().worker_id());
    body["address"] = worker->endpoint().control_address();
    body["requests"] = worker->load().requests_running() + worker->load().requests_waiting();
    exchange->respond(json_answer(body));
}

void FleetDesk::look() {
    base::Result<proto::DescribeReply> described = base::fail(ErrorCode::internal, "not asked");
    TopMoment processes;
    {
        const std::jthread asking([&] { described = setup_.describe(); });
        processes = setup_.look();
    }
    const bool has_before = before_ && processes.at - before_->at < kForgetAfter;
    auto told = std::make_shared<Told>();
    FleetMoment& now = told->moment;
    now.unix_s = processes.unix_s;
    now.view = top_view(processes, has_before ? &*before_ : nullptr);
    if (described) {
        now.roster = std::move(*described);
        now.roster_unix_s = now.unix_s;
    } else {
        now.scheduler_problem = described.error().message.empty() ? "no answer" : described.error().message;
        if (last_) {
            now.roster = last_->moment.roster;
            now.roster_unix_s = last_->moment.roster_unix_s;
        }
    }
    if (last_) {
        told->changes = fleet_changes(last_->moment, now, kChangesMax);
        std::reverse(told->changes.begin(), told->changes.end());
        const std::size_t kept = std::min(last_->changes.size(), kChangesMax - told->changes.size());
        told->changes.insert(told->changes.end(), last_->changes.begin(),
                             last_->changes.begin() + static_cast<std::ptrdiff_t>(kept));
    }
    before_ = std::move(processes);
    last_ = told;
    post_([this, told = std::move(told)] { seen(told); });
}

MadeKey make_admin_key() {
    MadeKey made;
    made.secret = gateway::random_api_key();
    made.key.id = gateway::random_key_id();
    made.key.name = "made for this run";
    made.key.digest = gateway::digest_of_key(made.secret);
    made.key.scopes = {std::string(kKeyScope)};
    return made;
}

}  // namespace cli
