#include "sim/cluster.h"

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <queue>

#include "base/check.h"
#include "sim/event_queue.h"

namespace sim {
namespace {

using scheduler::planner::PromptChunk;
using scheduler::planner::StepShape;

struct Request {
    const ClusterRequest* asked = nullptr;
    std::uint32_t prefilled = 0;
    std::uint32_t prefill_worker = 0;
    double last_step_began = 0;

    double room() const { return static_cast<double>(asked->prompt_tokens) + asked->output_tokens; }
};

/// Sequences that decode in the same steps: one lane for each stage of the pipeline.
struct Lane {
    using Ending = std::pair<std::uint64_t, std::uint32_t>;  // after which step, request
    std::priority_queue<Ending, std::vector<Ending>, std::greater<>> ending;
    std::vector<std::uint32_t> joining;         // at the next step
    std::vector<std::uint32_t> prompts_ending;  // with the step that runs
    std::uint64_t step = 0;
    double sequences = 0;
    double context = 0;
    bool is_running = false;
};

struct Worker {
    const ClusterWorker* kind = nullptr;
    std::deque<std::uint32_t> prompts;  // the head may be begun
    double prompt_tokens = 0;           // of them, not yet in a step
    std::vector<Lane> lanes;
    double stage_free = 0;
    double last_end = 0;
    double kv_reserved = 0;
    std::uint32_t sequences = 0;  // that decode or will
    double link_free = 0;
    double busy = 0;
    double link_busy = 0;
    bool is_waiting_for_stage = false;
};

struct Event {
    enum class Kind { arrival, prefill_end, lane_end, stage_free, handed_over, computed } kind;
    std::uint32_t worker = 0;
    std::uint32_t index = 0;  // request, lane, step of a prefill worker, or turn of the cores
};

/// A step that runs on cores that others compute on, too.
struct Computing {
    Worker* worker = nullptr;
    double seconds_left = 0;  // at full pace
    double began = 0;
    bool prefills = false;
    double pace = 1;
    Event end{};
};

class Simulation {
public:
    Simulation(const ClusterShape& shape, const std::vector<ClusterRequest>& requests)
        : shape_(shape), requests_(requests.size()) {
        result_.outcomes.resize(requests.size());
        for (std::size_t i = 0; i < requests.size(); ++i) {
            requests_[i].asked = &requests[i];
        }
        add(prefill_, shape.mixed > 0 ? 0 : shape.prefill, shape.prefill_worker, 0);
        add(decode_, shape.mixed > 0 ? shape.mixed : shape.decode,
            shape.mixed > 0 ? shape.mixed_worker : shape.decode_worker, 1);
        CHECK(!decode_.empty() && (is_mixed() || !prefill_.empty()), "a cluster without workers for a phase");
        for (const std::vector<Worker>* pool : {&prefill_, &decode_}) {
            CHECK(shape.cores == 0 || pool->empty() || (*pool)[0].kind->stages == 1, "pipelines that share cores");
        }
    }

    ClusterResult run() {
        if (!requests_.empty()) { events_.push(requests_[0].asked->arrival_s, {Event::Kind::arrival, 0, 0}); }
        while (!events_.empty()) {
            const Event event = events_.pop();
            ++result_.events;
            happen(event);
        }
        const double span = std::max(events_.now() - (requests_.empty() ? 0 : requests_[0].asked->arrival_s), 1e-9);
        for (const Worker& worker : prefill_) {
            result_.prefill_busy += worker.busy / span / static_cast<double>(prefill_.size());
            result_.link_busy = std::max(result_.link_busy, worker.link_busy / span);
        }
        for (const Worker& worker : decode_) {
            result_.decode_busy += worker.busy / span / static_cast<double>(decode_.size());
            result_.link_busy = std::max(result_.link_busy, worker.link_busy / span);
        }
        return std::move(result_);
    }

private:
    bool is_mixed() const { return shape_.mixed > 0; }

    void happen(const Event& event) {
        switch (event.kind) {
            case Event::Kind::arrival:
                return arrive(event.index);
            case Event::Kind::prefill_end:
                return end_prefill(event.worker, event.index);
            case Event::Kind::lane_end:
                return end_lane(event.worker, event.index);
            case Event::Kind::stage_free:
                (is_mixed() || event.index == 1 ? decode_ : prefill_)[event.worker].is_waiting_for_stage = false;
                return is_mixed() || event.index == 1 ? start_lanes(event.worker) : start_prefill(event.worker);
            case Event::Kind::handed_over:
                return join(event.worker, event.index);
            case Event::Kind::computed:
                return end_computing(event.index);
        }
    }

    static void add(std::vector<Worker>& pool, std::uint32_t count, const ClusterWorker& kind, std::size_t lanes) {
        for (std::uint32_t i = 0; i < count; ++i) {
            Worker& worker = pool.emplace_back();
            worker.kind = &kind;
            worker.lanes.resize(lanes * kind.stages);
        }
    }

    void arrive(std::uint32_t index) {
        if (index + 1 < requests_.size()) {
            events_.push(requests_[index + 1].asked->arrival_s, {Event::Kind::arrival, 0, index + 1});
        }
        std::vector<Worker>& pool = is_mixed() ? decode_ : prefill_;
        std::uint32_t best = 0;
        for (std::uint32_t i = 1; i < pool.size(); ++i) {
            const auto load = [](const Worker& worker) { return std::pair(worker.prompt_tokens, worker.kv_reserved); };
            if (load(pool[i]) < load(pool[best])) { best = i; }
        }
        Worker& worker = pool[best];
        worker.prompts.push_back(index);
        worker.prompt_tokens += requests_[index].asked->prompt_tokens;
        requests_[index].prefill_worker = best;
        is_mixed() ? start_lanes(best) : start_prefill(best);
    }

    /// Cuts chunks from the head of the queue. `may_begin` is asked before a prompt's first chunk.
    template <class MayBegin>
    void take_chunks(Worker& worker, double budget, std::vector<std::uint32_t>& ending, const MayBegin& may_begin) {
        chunks_.clear();
        while (budget >= 1 && !worker.prompts.empty()) {
            const std::uint32_t index = worker.prompts.front();
            Request& request = requests_[index];
            if (request.prefilled == 0 && !may_begin(request)) { break; }
            const double tokens = std::min<double>(budget, request.asked->prompt_tokens - request.prefilled);
            chunks_.push_back({tokens, static_cast<double>(request.prefilled)});
            request.prefilled += static_cast<std::uint32_t>(tokens);
            worker.prompt_tokens -= tokens;
            budget -= tokens;
            if (request.prefilled < request.asked->prompt_tokens) { break; }
            request.last_step_began = events_.now();
            ending.push_back(index);
            worker.prompts.pop_front();
        }
    }

    /// A step that takes so long begins; `end` is to happen with its end.
    void compute(Worker& worker, double seconds, bool prefills, const Event& end) {
        if (shape_.cores == 0) { return events_.push(enter(worker, seconds), end); }
        pass_time();
        worker.stage_free = kComputing;
        computing_.push_back({&worker, seconds, events_.now(), prefills, 1, end});
        await_computed();
    }

    /// All steps that run are as far as they are now.
    void pass_time() {
        const double passed = events_.now() - computed_until_;
        for (Computing& one : computing_) {
            one.seconds_left -= passed * one.pace;
        }
        host_left_ = std::max(0.0, host_left_ - passed * host_pace_);
        computed_until_ = events_.now();
    }

    /// Who computes has changed: with the pace of now, the end that comes first.
    void await_computed() {
        ++turn_;  // what was awaited before is not any more
        const bool hosts = host_left_ > 0;
        if (computing_.empty() && !hosts) { return; }
        double threads = hosts ? 1 : 0;
        double prefilling = 0;
        for (const Computing& one : computing_) {
            threads += one.worker->kind->threads;
            prefilling += one.prefills ? 1 : 0;
        }
        const double share = std::min(1.0, shape_.cores / threads);
        const double decoding = static_cast<double>(computing_.size()) - prefilling;
        const auto seconds = [](const Computing& one) { return std::max(0.0, one.seconds_left) / one.pace; };
        host_pace_ = hosts ? share : 0;
        next_ = hosts ? kHost : 0;
        double soonest = hosts ? host_left_ / share : kComputing;
        for (std::size_t i = 0; i < computing_.size(); ++i) {
            Computing& one = computing_[i];
            one.pace = share / shape_.beside.slowness(one.prefills, share * (prefilling - (one.prefills ? 1 : 0)),
                                                      share * (decoding - (one.prefills ? 0 : 1)));
            if (seconds(one) >= soonest) { continue; }
            soonest = seconds(one);
            next_ = i;
        }
        events_.push(events_.now() + soonest, {Event::Kind::computed, 0, turn_});
    }

    /// So much is done beside the engines from now on.
    void add_host_work(double seconds) {
        if (shape_.cores == 0 || seconds <= 0) { return; }
        pass_time();
        host_left_ += seconds;
        await_computed();
    }

    void end_computing(std::uint32_t turn) {
        if (turn != turn_) { return; }
        pass_time();
        if (next_ == kHost) {
            host_left_ = 0;
            return await_computed();
        }
        const Computing ended = computing_[next_];
        computing_.erase(computing_.begin() + static_cast<std::ptrdiff_t>(next_));
        await_computed();
        ended.worker->stage_free = events_.now();
        ended.worker->busy += events_.now() - ended.began;
        happen(ended.end);
    }

    /// Enters a step into the pipeline; returns when it leaves.
    double enter(Worker& worker, double seconds) {
        const double stage = seconds / worker.kind->stages;
        worker.stage_free = events_.now() + stage;
        worker.busy += stage;
        worker.last_end = std::max(worker.last_end + stage, events_.now() + seconds);
        return worker.last_end;
    }

    void wait_for_stage(Worker& worker, std::uint32_t index, std::uint32_t pool) {
        if (worker.is_waiting_for_stage || worker.stage_free == kComputing) { return; }  // its end asks again
        worker.is_waiting_for_stage = true;
        events_.push(worker.stage_free, {Event::Kind::stage_free, index, pool});
    }

    void start_prefill(std::uint32_t index) {
        Worker& worker = prefill_[index];
        if (worker.prompts.empty()) { return; }
        if (worker.stage_free > events_.now()) { return wait_for_stage(worker, index, 0); }
        std::vector<std::uint32_t> ending;
        take_chunks(worker, worker.kind->tokens_max, ending, [&](const Request& request) {
            if (worker.kv_reserved > 0 && worker.kv_reserved + request.asked->prompt_tokens > worker.kind->kv_tokens) {
                return false;
            }
            worker.kv_reserved += request.asked->prompt_tokens;
            return true;
        });
        if (chunks_.empty()) { return; }
        const double seconds = worker.kind->times->seconds({.prompts = chunks_,
                                                            .decode_sequences = 0,
                                                            .decode_context = 0,
                                                            .sampled = static_cast<double>(ending.size())});
        auto step = static_cast<std::uint32_t>(prefill_steps_.size());
        if (free_steps_.empty()) {
            prefill_steps_.push_back(std::move(ending));
        } else {
            step = free_steps_.back();
            free_steps_.pop_back();
            prefill_steps_[step] = std::move(ending);
        }
        compute(worker, seconds, true, {Event::Kind::prefill_end, index, step});
        if (!worker.prompts.empty()) { wait_for_stage(worker, index, 0); }
    }

    void end_prefill(std::uint32_t worker, std::uint32_t step) {
        add_host_work(shape_.host.step_seconds);
        const std::vector<std::uint32_t> ending = std::move(prefill_steps_[step]);
        free_steps_.push_back(step);
        for (const std::uint32_t index : ending) {
            const ClusterRequest& asked = *requests_[index].asked;
            result_.outcomes[index].ttft_s = events_.now() - asked.arrival_s;
            result_.outcomes[index].ended_s = events_.now();
            if (asked.output_tokens == 1 || shape_.ends_with_prefill) {
                prefill_[worker].kv_reserved -= asked.prompt_tokens;
            } else {
                waiting_for_room_.push_back(index);
            }
        }
        hand_over();
        start_prefill(worker);
    }

    /// Sends KV to decode workers with room for it, first come, first served.
    void hand_over() {
        while (!waiting_for_room_.empty()) {
            const std::uint32_t index = waiting_for_room_.front();
            const Request& request = requests_[index];
            std::uint32_t best = 0;
            double most = -1;
            for (std::uint32_t i = 0; i < decode_.size(); ++i) {
                const double room = decode_[i].kind->kv_tokens - decode_[i].kv_reserved - request.room();
                if (decode_[i].sequences < decode_[i].kind->sequences_max && room >= 0 && room > most) {
                    most = room;
                    best = i;
                }
            }
            if (most < 0) { return; }
            waiting_for_room_.pop_front();
            Worker& from = prefill_[request.prefill_worker];
            Worker& to = decode_[best];
            reserve(to, request);
            add_host_work(request.asked->prompt_tokens * shape_.host.handed_token_seconds);
            double end = events_.now();
            if (shape_.link.bytes_per_second > 0) {
                const double seconds =
                    request.asked->prompt_tokens * shape_.kv_bytes_per_token / shape_.link.bytes_per_second;
                const double begin = std::max(shape_.pushes_layers ? request.last_step_began : events_.now(),
                                              std::max(from.link_free, to.link_free));
                // The last layers cannot leave before they are computed.
                end = std::max(begin + seconds, events_.now() + seconds / shape_.layers) + shape_.link.latency_seconds;
                from.link_free = to.link_free = end;
                from.link_busy += seconds;
                to.link_busy += seconds;
            }
            result_.outcomes[index].hand_off_s = end - result_.outcomes[index].ended_s;
            events_.push(end, {Event::Kind::handed_over, best, index});
        }
    }

    void reserve(Worker& worker, const Request& request) {
        worker.kv_reserved += request.room();
        ++worker.sequences;
        result_.kv_share_max = std::max(result_.kv_share_max, worker.kv_reserved / worker.kind->kv_tokens);
    }

    /// KV is where the sequence decodes.
    void join(std::uint32_t index, std::uint32_t request) {
        Worker& from = prefill_[requests_[request].prefill_worker];
        from.kv_reserved -= requests_[request].asked->prompt_tokens;
        Lane* least = &decode_[index].lanes[0];
        const auto load = [](const Lane& lane) { return lane.sequences + static_cast<double>(lane.joining.size()); };
        for (Lane& lane : decode_[index].lanes) {
            if (load(lane) < load(*least)) { least = &lane; }
        }
        least->joining.push_back(request);
        start_lanes(index);
        start_prefill(requests_[request].prefill_worker);
    }

    void start_lanes(std::uint32_t index) {
        Worker& worker = decode_[index];
        for (std::uint32_t i = 0; i < worker.lanes.size(); ++i) {
            if (worker.lanes[i].is_running) { continue; }
            if (worker.stage_free > events_.now()) { return wait_for_stage(worker, index, 1); }
            start_lane(worker, index, i);
        }
    }

    void start_lane(Worker& worker, std::uint32_t index, std::uint32_t lane_index) {
        Lane& lane = worker.lanes[lane_index];
        for (const std::uint32_t joined : lane.joining) {
            const ClusterRequest& asked = *requests_[joined].asked;
            lane.sequences += 1;
            lane.context += asked.prompt_tokens + 1;
            lane.ending.emplace(lane.step + asked.output_tokens - 1, joined);
        }
        lane.joining.clear();
        chunks_.clear();
        if (is_mixed()) {
            take_chunks(worker, worker.kind->tokens_max - lane.sequences, lane.prompts_ending,
                        [&](const Request& next) {
                            if (worker.sequences >= worker.kind->sequences_max ||
                                worker.kv_reserved + next.room() > worker.kind->kv_tokens) {
                                return false;
                            }
                            reserve(worker, next);
                            return true;
                        });
        }
        if (lane.sequences == 0 && chunks_.empty()) { return; }
        lane.is_running = true;
        const StepShape step{.prompts = chunks_,
                             .decode_sequences = lane.sequences,
                             .decode_context = lane.context,
                             .sampled = lane.sequences + static_cast<double>(lane.prompts_ending.size())};
        compute(worker, worker.kind->times->seconds(step), !chunks_.empty(),
                {Event::Kind::lane_end, index, lane_index});
    }

    void end_lane(std::uint32_t index, std::uint32_t lane_index) {
        Worker& worker = decode_[index];
        Lane& lane = worker.lanes[lane_index];
        lane.is_running = false;
        add_host_work(shape_.host.step_seconds);
        ++lane.step;
        lane.context += lane.sequences;
        while (!lane.ending.empty() && lane.ending.top().first <= lane.step) {
            const std::uint32_t ended = lane.ending.top().second;
            lane.ending.pop();
            lane.sequences -= 1;
            lane.context -= requests_[ended].room();
            end(worker, ended);
        }
        for (const std::uint32_t prompt : lane.prompts_ending) {
            result_.outcomes[prompt].ttft_s = events_.now() - requests_[prompt].asked->arrival_s;
            if (requests_[prompt].asked->output_tokens == 1) {
                end(worker, prompt);
            } else {
                lane.joining.push_back(prompt);
            }
        }
        lane.prompts_ending.clear();
        hand_over();
        start_lanes(index);
    }

    void end(Worker& worker, std::uint32_t index) {
        const ClusterRequest& asked = *requests_[index].asked;
        ClusterOutcome& outcome = result_.outcomes[index];
        worker.kv_reserved -= requests_[index].room();
        --worker.sequences;
        outcome.ended_s = events_.now();
        if (asked.output_tokens > 1) {
            outcome.tpot_s = (events_.now() - asked.arrival_s - outcome.ttft_s) / (asked.output_tokens - 1);
        }
    }

    static constexpr double kComputing = 1e300;  // Worker::stage_free while a step runs whose end depends on others
    static constexpr std::size_t kHost = ~std::size_t{0};  // next_: the work beside the engines

    const ClusterShape& shape_;
    std::vector<Request> requests_;
    std::vector<Worker> prefill_;
    std::vector<Worker> decode_;  // or mixed
    std::deque<std::uint32_t> waiting_for_room_;
    std::vector<std::vector<std::uint32_t>> prefill_steps_;  // what ends with each that runs
    std::vector<std::uint32_t> free_steps_;
    std::vector<PromptChunk> chunks_;
    EventQueue<Event> events_;
    std::vector<Computing> computing_;  // where cores are shared
    double computed_until_ = 0;
    double host_left_ = 0;    // seconds on a core of its own
    double host_pace_ = 0;    // of which so many are done in a second
    std::size_t next_ = 0;    // of computing_: who ends first
    std::uint32_t turn_ = 0;  // times that who computes has changed
    ClusterResult result_;
};

}  // namespace

ClusterResult simulate_cluster(const ClusterShape& shape, const std::vector<ClusterRequest>& requests) {
    const ClusterWorker& keeper = shape.mixed > 0 ? shape.mixed_worker : shape.decode_worker;
    for (const ClusterRequest& request : requests) {
        CHECK(request.prompt_tokens > 0 && request.output_tokens > 0 &&
                  static_cast<double>(request.prompt_tokens) + request.output_tokens <= keeper.kv_tokens,
              request.prompt_tokens << " + " << request.output_tokens << " tokens, room for " << keeper.kv_tokens);
    }
    return Simulation(shape, requests).run();
}

}  // namespace sim
