#include "sim/request_owner.h"

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "base/log.h"
#include "gateway/request/request_table.h"
#include "tests/gateway/support.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

// The light form of the owner of a request (sim::RequestOwner) against gateway::RequestTable itself, both on a virtual
// clock and over the same small traces: a scheduler and workers that do what a seed says, whoever asks. Everything that
// an owner says to the scheduler and to workers, and what becomes of each request, is written down with its time and
// has to be equal.

namespace {

using sim::AttemptKey;
using sim::VirtualClock;
using worker::Part;

constexpr std::uint64_t kNumerics = 77;  // of gateway_test::split_placement
constexpr base::TokenId kLetter = 'a';

std::uint64_t mixed(std::uint64_t value) {
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30u)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27u)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31u);
}

struct Script {
    std::uint64_t seed = 0;
    std::uint32_t workers = 0;
    std::uint64_t fails_of_16 = 0;  // how many parts fail
    std::uint64_t splits_of_16 = 0;
    bool has_final_errors = false;  // that no other worker can help with
    sim::ServingOptions options;
    sim::ServingTrace trace;
    std::vector<std::pair<base::TimePoint, std::uint32_t>> losses;  // of workers, by time

    /// The same for whoever asks about the same.
    std::uint64_t draw(AttemptKey key, std::uint64_t what) const {
        return mixed(mixed(mixed(seed ^ (what << 48u)) + key.request) + key.epoch);
    }
};

/// What one form has said, request by request.
using Story = std::vector<std::vector<std::string>>;

/// One of the two forms, as the cluster sees it.
class Form {
public:
    virtual ~Form() = default;
    virtual void arrive(std::uint32_t request) = 0;
    virtual void token(std::uint32_t worker, AttemptKey key, std::uint32_t generated, bool is_last) = 0;
    virtual void failed(std::uint32_t worker, AttemptKey key, base::ErrorCode code) = 0;
    virtual void handed_over(std::uint32_t worker, AttemptKey key) = 0;
    virtual void lost(std::uint32_t worker, std::uint64_t life) = 0;
    virtual std::optional<base::TimePoint> wakes_at() const = 0;
    virtual void on_time() = 0;
    virtual std::size_t open() const = 0;
};

/// The scheduler and the workers of a script, on the clock that they move.
class Cluster {
public:
    explicit Cluster(const Script& script)
        : script_(script), lives_(script.workers, 1), story_(script.trace.requests.size()) {}

    VirtualClock& clock() { return clock_; }
    std::uint64_t life(std::uint32_t worker) const { return (lives_[worker] << 32u) | (worker + 1); }
    Story take_story() { return std::move(story_); }

    template <class... Parts>
    void say(std::uint32_t request, const Parts&... parts) {
        std::string line = std::to_string((clock_.now() - VirtualClock::kStart).count());
        ((line += ' ', line += text(parts)), ...);
        story_[request].push_back(std::move(line));
    }

    std::variant<sim::Placed, sim::NotPlaced> place(AttemptKey key) {
        constexpr base::ErrorCode kCodes[] = {base::ErrorCode::unavailable, base::ErrorCode::resource_exhausted,
                                              base::ErrorCode::not_found, base::ErrorCode::invalid_argument};
        constexpr std::uint32_t kPauses[] = {0, 60, 700, 9000};
        const std::uint64_t drawn = script_.draw(key, 1);
        if (script_.draw(key, 9) % 16 == 0) { return sim::NotPlaced{.is_silent = true}; }
        if (drawn % 8 == 0) {
            const std::uint64_t kind = drawn / 8 % (script_.has_final_errors ? 4 : 3);
            return sim::NotPlaced{kCodes[kind], kPauses[drawn / 32 % 4]};
        }
        const auto prefill = static_cast<std::uint32_t>(drawn / 128 % script_.workers);
        const bool is_split = drawn / 4096 % 16 < script_.splits_of_16 && script_.workers > 1;
        const auto other = static_cast<std::uint32_t>(1 + drawn / 65536 % (script_.workers - 1));
        return sim::Placed{prefill, is_split ? (prefill + other) % script_.workers : prefill};
    }

    /// A part begins on a worker: what it will do is put on the agenda.
    void start(std::uint32_t worker, AttemptKey key, Part part, std::uint32_t generated) {
        say(key.request, "start", worker, static_cast<int>(part), key.epoch, generated);
        const std::uint64_t drawn = script_.draw(key, part == Part::decode ? 2 : 3);
        const std::uint32_t wanted = script_.trace.requests[key.request].output_tokens - generated;
        // Not before its first token, or after some; a decode part waits for it.
        const bool fails = drawn % 16 < script_.fails_of_16;
        const std::uint32_t before_failure = part == Part::prefill ? 0 : static_cast<std::uint32_t>(drawn / 16 % 7);
        const base::Duration first = std::chrono::microseconds(500 + drawn / 128 % 90'000);
        const base::Duration gap = std::chrono::microseconds(300 + drawn / 16384 % 20'000);
        Running running{worker, lives_[worker], part, generated, wanted, fails ? before_failure : wanted + 1, gap};
        running.code = code_of(drawn / 1'048'576);
        if (part == Part::decode) {
            if (fails && before_failure == 0) { add(clock_.now() + first, key, worker, Kind::failure); }
        } else {
            add(clock_.now() + first, key, worker, before_failure == 0 && fails ? Kind::failure : Kind::token);
        }
        running_[{key, worker}] = running;
    }
    void go_on(std::uint32_t worker, AttemptKey key, std::uint32_t generated) {
        say(key.request, "go on", worker, key.epoch, generated);
        const auto at = running_.find({key, worker});
        if (at == running_.end()) { return; }
        at->second.generated = generated;
        at->second.wanted -= 1;
        if (at->second.until_failure == 0) { return; }  // on the agenda
        add(clock_.now() + at->second.gap, key, worker, Kind::token);
    }
    void cancel(std::uint32_t worker, AttemptKey key) {
        say(key.request, "cancel", worker, key.epoch);
        running_.erase({key, worker});
    }

    void play(Form& form) {
        std::size_t arrived = 0;
        std::size_t lost = 0;
        const auto& requests = script_.trace.requests;
        for (int moves = 0; arrived < requests.size() || form.open() > 0; ++moves) {
            REQUIRE(moves < 200'000);
            // What is due first; of what is due at once: losses, what workers do, requests that come, and timers.
            constexpr auto kNever = base::TimePoint::max();
            const base::TimePoint loss = lost < script_.losses.size() ? script_.losses[lost].first : kNever;
            const base::TimePoint event = agenda_.empty() ? kNever : std::get<0>(*agenda_.begin());
            const base::TimePoint arrival =
                arrived < requests.size() ? VirtualClock::at(requests[arrived].arrival_s) : kNever;
            const base::TimePoint wake = form.wakes_at().value_or(kNever);
            const base::TimePoint next = std::min({loss, event, arrival, wake});
            REQUIRE(next != kNever);
            clock_.set(std::max(next, clock_.now()));
            if (loss == next) {
                const std::uint32_t worker = script_.losses[lost++].second;
                const std::uint64_t former = life(worker);
                ++lives_[worker];
                form.lost(worker, former);
            } else if (event == next) {
                const auto [at, key, worker, kind] = *agenda_.begin();
                agenda_.erase(agenda_.begin());
                happen(form, key, worker, kind);
            } else if (arrival == next) {
                form.arrive(static_cast<std::uint32_t>(arrived++));
            } else {
                form.on_time();
            }
        }
    }

private:
    enum class Kind { token, failure, handed_over };
    struct Running {
        std::uint32_t worker = 0;
        std::uint64_t life = 0;
        Part part = Part::whole;
        std::uint32_t generated = 0;      // with what the client had before
        std::uint32_t wanted = 0;         // tokens
        std::uint32_t until_failure = 0;  // tokens; more than are wanted: it does not fail
        base::Duration gap{};
        base::ErrorCode code = base::ErrorCode::unavailable;
    };

    static std::string text(const std::string& words) { return words; }
    static std::string text(const char* words) { return words; }
    template <class Number>
    static std::string text(Number number) {
        return std::to_string(number);
    }
    base::ErrorCode code_of(std::uint64_t drawn) const {
        constexpr base::ErrorCode kCodes[] = {base::ErrorCode::unavailable, base::ErrorCode::resource_exhausted,
                                              base::ErrorCode::data_loss, base::ErrorCode::internal};
        return kCodes[drawn % (script_.has_final_errors ? 4 : 3)];
    }
    void add(base::TimePoint at, AttemptKey key, std::uint32_t worker, Kind kind) {
        agenda_.emplace(at, key, worker, kind);
    }

    void happen(Form& form, AttemptKey key, std::uint32_t worker, Kind kind) {
        const auto at = running_.find({key, worker});
        if (at == running_.end() || at->second.life != lives_[worker]) { return; }
        Running& running = at->second;
        if (kind == Kind::handed_over) {
            running_.erase(at);
            return form.handed_over(worker, key);
        }
        if (kind == Kind::failure) {
            const base::ErrorCode code = running.code;
            running_.erase(at);
            return form.failed(worker, key, code);
        }
        const std::uint32_t generated = ++running.generated;
        --running.until_failure;
        const bool is_last = --running.wanted == 0;
        if (is_last) {
            running_.erase(at);
        } else if (running.part == Part::prefill) {
            add(clock_.now() + running.gap, key, worker,
                script_.draw(key, 4) % 5 == 0 ? Kind::failure : Kind::handed_over);
        } else {
            add(clock_.now() + running.gap, key, worker, running.until_failure == 0 ? Kind::failure : Kind::token);
        }
        form.token(worker, key, generated, is_last);
    }

    const Script& script_;
    VirtualClock clock_;
    std::vector<std::uint64_t> lives_;
    Story story_;
    std::map<std::pair<AttemptKey, std::uint32_t>, Running> running_;  // by attempt and worker
    // By time, and then by what it is, not by who put it there first: the forms go through requests in other orders.
    std::set<std::tuple<base::TimePoint, AttemptKey, std::uint32_t, Kind>> agenda_;
};

std::string words_of(const std::vector<std::uint64_t>& lives) {
    std::string words = "avoid";
    for (const std::uint64_t life : lives) {
        words += ' ' + std::to_string(life);
    }
    return words;
}

class LightForm final : public Form, sim::PlacePort, sim::AttemptPort {
public:
    LightForm(const Script& script, Cluster& cluster)
        : cluster_(cluster), owner_(script.options, script.trace, *this, *this, cluster.clock(), result_) {
        result_.outcomes.resize(script.trace.requests.size());
    }

    void arrive(std::uint32_t request) override { owner_.arrive(request), look(); }
    void token(std::uint32_t worker, AttemptKey key, std::uint32_t generated, bool) override {
        owner_.on_token(worker, key, generated, 0);
        look();
    }
    void failed(std::uint32_t worker, AttemptKey key, base::ErrorCode code) override {
        owner_.on_failed(worker, key, code);
        look();
    }
    void handed_over(std::uint32_t, AttemptKey key) override { owner_.on_handed_over(key), look(); }
    void lost(std::uint32_t worker, std::uint64_t) override { owner_.on_worker_lost(worker), look(); }
    std::optional<base::TimePoint> wakes_at() const override {
        return wakes_.empty() ? std::nullopt : std::optional(wakes_.begin()->first);
    }
    void on_time() override {
        while (!wakes_.empty() && wakes_.begin()->first <= cluster_.clock().now()) {
            const AttemptKey key = wakes_.begin()->second;
            wakes_.erase(wakes_.begin());
            owner_.on_time(key);
        }
        look();
    }
    std::size_t open() const override { return owner_.open(); }

    const sim::ServingResult& result() const { return result_; }

private:
    void look() const {
        if (owner_.violation()) { FAIL(*owner_.violation()); }
    }
    std::variant<sim::Placed, sim::NotPlaced> place(const sim::PlaceAsk& ask) override {
        const auto due_us = ask.first_token_due ? base::time_left_us(*ask.first_token_due, cluster_.clock().now()) : 0;
        cluster_.say(ask.key.request, "place", ask.key.epoch, ask.prompt_tokens, ask.new_tokens_max, ask.has_begun,
                     due_us, ask.ttft_ms, ask.tpot_ms, words_of({ask.avoid.begin(), ask.avoid.end()}));
        return cluster_.place(ask.key);
    }
    void first_token(AttemptKey key, base::Duration ttft) override {
        cluster_.say(key.request, "first token", key.epoch, microseconds(ttft));
    }
    void ended(AttemptKey key, base::Duration ttft, base::Duration tpot) override {
        cluster_.say(key.request, "ended", key.epoch, microseconds(ttft), microseconds(tpot));
    }
    static std::int64_t microseconds(base::Duration duration) {
        return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
    }
    void start(std::uint32_t worker, const sim::LightStart& start, std::uint32_t) override {
        cluster_.start(worker, start.key, start.part, start.generated_tokens);
    }
    void go_on(std::uint32_t worker, AttemptKey key, std::uint32_t generated) override {
        cluster_.go_on(worker, key, generated);
    }
    void cancel(std::uint32_t worker, AttemptKey key) override { cluster_.cancel(worker, key); }
    std::uint64_t incarnation(std::uint32_t worker) const override { return cluster_.life(worker); }
    void wake(AttemptKey key, base::TimePoint at) override { wakes_.emplace(at, key); }

    Cluster& cluster_;
    sim::ServingResult result_;
    sim::RequestOwner owner_;
    std::multimap<base::TimePoint, AttemptKey> wakes_;
};

/// What a client of the real form saw.
class Client final : public gateway::GenerationSink {
public:
    explicit Client(const VirtualClock& clock) : clock_(clock) {}
    void on_placed() override {}
    void on_prompt(std::vector<gateway::TokenRecord>) override {}
    void on_piece(gateway::Piece piece, std::uint32_t, std::string_view) override {
        if (piece.tokens.empty()) { return; }
        if (outcome.first_token_s < 0) { outcome.first_token_s = VirtualClock::seconds(clock_.now()); }
        outcome.last_token_s = VirtualClock::seconds(clock_.now());
    }
    void on_end(const gateway::GenerationEnd& end) override {
        REQUIRE(outcome.ended_s < 0);
        outcome.ended_s = VirtualClock::seconds(clock_.now());
        outcome.tokens = end.completion_tokens;
        if (end.error) { outcome.error = end.error->code; }
    }
    sim::ServedOutcome outcome;

private:
    const VirtualClock& clock_;
};

class RealForm final : public Form, gateway::SchedulerPort, gateway::WorkerPort {
public:
    RealForm(const Script& script, Cluster& cluster)
        : script_(script),
          cluster_(cluster),
          models_(gateway_test::make_models({"m"})),
          rows_(metrics_, models_.own_names()),
          table_({.scheduler = *this,
                  .workers = *this,
                  .models = models_,
                  .clock = cluster.clock(),
                  .metrics = rows_,
                  .options = {},
                  .hash_key = {},
                  .seed = script.seed}),
          placements_(script.trace.requests.size()) {
        table_.on_cluster(gateway_test::description());
        for (std::size_t i = 0; i < script.trace.requests.size(); ++i) {
            clients_.push_back(std::make_unique<Client>(cluster.clock()));
        }
    }

    void arrive(std::uint32_t request) override {
        const sim::ServedRequest& asked = script_.trace.requests[request];
        gateway::GenerationRequest opened;
        opened.prompt = std::make_shared<const gateway_test::Tokens>(asked.prompt_tokens, kLetter);
        opened.new_tokens_max = asked.output_tokens;
        opened.received_at = cluster_.clock().now();
        opened.slo.targets.ttft = sim::duration_of(script_.options.ttft_target_s);
        opened.slo.targets.tpot = sim::duration_of(script_.options.tpot_target_s);
        opening_ = request;
        table_.open(opened, *clients_[request]);
        answer();
    }
    void token(std::uint32_t worker, AttemptKey key, std::uint32_t, bool is_last) override {
        auto output = this->output(key);
        output.add_tokens()->set_token(kLetter);
        if (is_last) { output.set_finish(sluice::proto::SequenceOutput::FINISH_LENGTH); }
        tell(worker, output);
    }
    void failed(std::uint32_t worker, AttemptKey key, base::ErrorCode code) override {
        tell(worker, gateway_test::error_output(ids_.at(key.request), key.epoch, code));
    }
    void handed_over(std::uint32_t worker, AttemptKey key) override {
        auto output = this->output(key);
        output.set_finish(sluice::proto::SequenceOutput::FINISH_HANDED_OVER);
        tell(worker, output);
    }
    void lost(std::uint32_t, std::uint64_t life) override {
        table_.on_worker_lost(base::Incarnation{life}, {base::ErrorCode::unavailable, "lost"});
        answer();
    }
    std::optional<base::TimePoint> wakes_at() const override { return table_.wakes_at(); }
    void on_time() override { table_.on_time(), answer(); }
    std::size_t open() const override { return table_.open_count(); }

    sim::ServedOutcome outcome(std::uint32_t request) const {
        sim::ServedOutcome outcome = clients_[request]->outcome;
        outcome.placements = placements_[request];
        return outcome;
    }

private:
    sluice::proto::SequenceOutput output(AttemptKey key) const {
        sluice::proto::SequenceOutput output;
        output.set_request_id(base::raw(ids_.at(key.request)));
        output.set_epoch(key.epoch);
        return output;
    }
    void tell(std::uint32_t worker, const sluice::proto::SequenceOutput& output) {
        table_.on_output(base::Incarnation{cluster_.life(worker)}, output);
        answer();
    }
    AttemptKey key_of(std::uint64_t id, std::uint32_t epoch) const {
        return {requests_.at(base::RequestId{id}), epoch};
    }
    static sluice::proto::WorkerEndpoint endpoint(std::uint32_t worker, std::uint64_t life) {
        return gateway_test::make_endpoint(worker + 1, life);
    }
    void answer() {
        while (!asked_.empty()) {
            const AttemptKey key = asked_.front();
            asked_.erase(asked_.begin());
            const auto drawn = cluster_.place(key);
            base::Result<sluice::proto::PlaceReply> reply;
            const auto* refused = std::get_if<sim::NotPlaced>(&drawn);
            if (refused != nullptr && refused->is_silent) {
                reply = base::fail(base::ErrorCode::unavailable, "nobody leads");
            } else if (const auto* placed = std::get_if<sim::Placed>(&drawn)) {
                ++placements_[key.request];
                const auto prefill = endpoint(placed->prefill, cluster_.life(placed->prefill));
                const auto decode = endpoint(placed->decode, cluster_.life(placed->decode));
                reply = placed->prefill == placed->decode ? gateway_test::local_placement(decode)
                                                          : gateway_test::split_placement(prefill, decode);
            } else {
                const auto& refusal = std::get<sim::NotPlaced>(drawn);
                reply = gateway_test::refusal(refusal.code, refusal.retry_after_ms);
            }
            table_.on_place_answered(ids_.at(key.request), base::Epoch{key.epoch}, reply);
        }
    }

    void place(const sluice::proto::PlaceRequest& request, base::Duration) override {
        const base::RequestId id{request.request_id()};
        if (!requests_.contains(id)) {
            requests_[id] = opening_;
            ids_[opening_] = id;
        }
        const AttemptKey key = key_of(request.request_id(), request.epoch());
        REQUIRE(request.header().numerics_id() == kNumerics);
        cluster_.say(key.request, "place", key.epoch, request.prompt_tokens(), request.new_tokens_max(),
                     request.begun(), request.first_token_in_us(), request.slo_ttft_ms(), request.slo_tpot_ms(),
                     words_of({request.avoid_workers().begin(), request.avoid_workers().end()}));
        asked_.push_back(key);
    }
    void release(const sluice::proto::ReleaseRequest::Ended& ended) override {
        const AttemptKey key = key_of(ended.request_id(), ended.epoch());
        if (ended.phase() == sluice::proto::ReleaseRequest::Ended::PHASE_PREFILL) {
            cluster_.say(key.request, "first token", key.epoch, ended.ttft_us());
        } else {
            cluster_.say(key.request, "ended", key.epoch, ended.ttft_us(), ended.tpot_us());
        }
    }
    void send(const std::string&, const sluice::proto::WorkerEndpoint& to,
              sluice::proto::WorkerCommand command) override {
        const auto worker = static_cast<std::uint32_t>(to.worker_id() - 1);
        REQUIRE(to.incarnation() == cluster_.life(worker));
        if (command.has_start()) {
            const auto& start = command.start();
            const Part part = start.part() == sluice::proto::Start::PART_PREFILL  ? Part::prefill
                              : start.part() == sluice::proto::Start::PART_DECODE ? Part::decode
                                                                                  : Part::whole;
            cluster_.start(worker, key_of(start.request_id(), start.epoch()), part,
                           static_cast<std::uint32_t>(start.generated_size()));
        } else if (command.has_go_on()) {
            const auto& go_on = command.go_on();
            cluster_.go_on(worker, key_of(go_on.request_id(), go_on.epoch()),
                           static_cast<std::uint32_t>(go_on.tokens_size()));
        } else {
            REQUIRE(command.has_cancel());
            cluster_.cancel(worker, key_of(command.cancel().request_id(), command.cancel().epoch()));
        }
    }
    void drop_prefixes(base::Duration, std::function<void(const Dropped&)>) override {}

    const Script& script_;
    Cluster& cluster_;
    base::Metrics metrics_;
    gateway::Models models_;
    gateway::GatewayMetrics rows_;
    gateway::RequestTable table_;
    std::vector<std::unique_ptr<Client>> clients_;
    std::vector<std::uint32_t> placements_;
    std::map<std::uint32_t, base::RequestId> ids_;
    std::map<base::RequestId, std::uint32_t> requests_;
    std::uint32_t opening_ = 0;
    std::vector<AttemptKey> asked_;
};

Script draw_script(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    Script script;
    script.seed = seed;
    script.workers = static_cast<std::uint32_t>(2 + random() % 4);
    script.fails_of_16 = random() % 12;
    script.splits_of_16 = random() % 17;
    script.has_final_errors = random() % 2 == 0;
    script.options.keeps_token_times = random() % 2 == 0;
    script.options.ttft_target_s = random() % 2 == 0 ? 0 : 0.0305;
    script.options.tpot_target_s = random() % 2 == 0 ? 0 : 0.0204;
    double at = 0;
    const std::size_t requests = 1 + random() % 60;
    for (std::size_t i = 0; i < requests; ++i) {
        at += static_cast<double>(random() % 40'000) * 1e-6;
        script.trace.requests.push_back({.arrival_s = at,
                                         .prompt_tokens = static_cast<std::uint32_t>(1 + random() % 50),
                                         .output_tokens = static_cast<std::uint32_t>(1 + random() % 20)});
    }
    for (std::uint64_t losses = random() % 5; losses > 0; --losses) {
        const base::Duration after = std::chrono::microseconds(random() % 1'500'000);
        script.losses.emplace_back(VirtualClock::kStart + after, static_cast<std::uint32_t>(random() % script.workers));
    }
    std::sort(script.losses.begin(), script.losses.end());
    return script;
}

struct Seen {
    std::size_t placed_again = 0;
    std::size_t failed = 0;
};

Seen compare(const Script& script) {
    Cluster of_light(script);
    LightForm light(script, of_light);
    of_light.play(light);
    Cluster of_real(script);
    RealForm real(script, of_real);
    of_real.play(real);

    Seen seen;
    const Story light_story = of_light.take_story();
    const Story real_story = of_real.take_story();
    for (std::uint32_t request = 0; request < script.trace.requests.size(); ++request) {
        CAPTURE(request);
        REQUIRE(light_story[request] == real_story[request]);
        const sim::ServedOutcome& one = light.result().outcomes[request];
        const sim::ServedOutcome other = real.outcome(request);
        REQUIRE(one.error == other.error);
        REQUIRE(one.tokens == other.tokens);
        REQUIRE(one.placements == other.placements);
        REQUIRE(one.first_token_s == other.first_token_s);
        REQUIRE(one.last_token_s == other.last_token_s);
        REQUIRE(one.ended_s == other.ended_s);
        seen.placed_again += one.placements > 1;
        seen.failed += one.error.has_value();
    }
    return seen;
}

}  // namespace

TEST_CASE("the light form of a request's owner says and does what the gateway's own does", "[sim][property]") {
    spdlog::set_level(spdlog::level::off);
    Seen all;
    const unsigned seeds = test_support::seeds_of(300);
    for (std::uint64_t seed = 0; seed < seeds; ++seed) {
        CAPTURE(seed);
        const Seen seen = compare(draw_script(seed));
        all.placed_again += seen.placed_again;
        all.failed += seen.failed;
    }
    // What goes wrong is there in numbers.
    CHECK(all.placed_again > 3 * seeds);
    CHECK(all.failed > seeds);
}

TEST_CASE("and gives up with it when too much has failed lately", "[sim][property]") {
    spdlog::set_level(spdlog::level::off);
    Script script = draw_script(7);
    script.workers = 4;
    script.fails_of_16 = 16;
    script.has_final_errors = false;
    script.losses.clear();
    script.trace.requests.assign(900, {.arrival_s = 0, .prompt_tokens = 5, .output_tokens = 200});
    for (std::size_t i = 0; i < script.trace.requests.size(); ++i) {
        script.trace.requests[i].arrival_s = static_cast<double>(i) * 1e-3;  // no two at once: the last retry is one's
    }
    const Seen seen = compare(script);
    CHECK(seen.failed > 800);
    CHECK(seen.placed_again > 0);
}
