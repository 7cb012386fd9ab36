#include "sim/distserve.h"

#include <deque>

#include "base/check.h"
#include "sim/event_queue.h"

namespace sim {
namespace {

struct Sequence {
    const DistserveRequest* request = nullptr;
    std::uint32_t decoded = 0;  // steps
    double first_token = 0;
    std::uint64_t batch = 0;  // prefill batch that it travels in through the stages

    double context() const { return request->prompt_tokens + decoded; }
};

/// One pipeline stage: one step at a time, prefill before decode.
struct Stage {
    std::size_t next = 0;  // stage that it hands on to; the last one to the first
    bool is_first = false;
    bool is_last = false;
    bool is_prefill_only = false;
    std::uint32_t stages = 1;
    std::deque<std::size_t> prefill;
    std::deque<std::size_t> decode;
    std::vector<std::size_t> running;
    bool is_prefill_step = false;
    bool is_busy = false;
};

struct Event {
    enum class Kind { arrival, wake, step_end } kind;
    std::size_t index;  // request or stage
};

class Simulation {
public:
    Simulation(const DistserveCluster& cluster, const std::vector<DistserveRequest>& requests)
        : cluster_(cluster), sequences_(requests.size()), outcomes_(requests.size()) {
        add_instances(cluster.prefill_instances, cluster.prefill_stages, !cluster.colocated, prefill_heads_);
        if (cluster.colocated) {
            decode_heads_ = prefill_heads_;
        } else {
            add_instances(cluster.decode_instances, cluster.decode_stages, false, decode_heads_);
        }
        for (std::size_t i = 0; i < requests.size(); ++i) {
            sequences_[i].request = &requests[i];
            events_.push(requests[i].arrival_ms, {Event::Kind::arrival, i});
        }
    }

    std::vector<DistserveOutcome> run() {
        while (!events_.empty()) {
            const Event event = events_.pop();
            if (event.kind == Event::Kind::arrival) {
                const std::size_t head = shortest(prefill_heads_, true);
                stages_[head].prefill.push_back(event.index);
                wake(head);
            } else {
                Stage& stage = stages_[event.index];
                if (event.kind == Event::Kind::step_end) {
                    stage.is_busy = false;
                    const std::vector<std::size_t> done = std::move(stage.running);
                    stage.running.clear();
                    for (const std::size_t sequence : done) {
                        stage.is_prefill_step ? end_prefill(stage, sequence) : end_decode(stage, sequence);
                    }
                }
                if (!stage.is_busy) { begin(event.index); }
            }
        }
        return std::move(outcomes_);
    }

private:
    void add_instances(std::uint32_t count, std::uint32_t stages, bool is_prefill_only,
                       std::vector<std::size_t>& heads) {
        for (std::uint32_t instance = 0; instance < count; ++instance) {
            const std::size_t head = stages_.size();
            heads.push_back(head);
            for (std::uint32_t rank = 0; rank < stages; ++rank) {
                Stage stage;
                stage.next = rank + 1 < stages ? stages_.size() + 1 : head;
                stage.is_first = rank == 0;
                stage.is_last = rank + 1 == stages;
                stage.is_prefill_only = is_prefill_only;
                stage.stages = stages;
                stages_.push_back(std::move(stage));
            }
        }
    }

    /// By number of requests, as its scheduler counts: those in a prefill step, and the queue.
    std::size_t shortest(const std::vector<std::size_t>& heads, bool is_prefill) const {
        const auto length = [&](std::size_t head) {
            const Stage& stage = stages_[head];
            return (stage.is_busy && stage.is_prefill_step ? stage.running.size() : 0) +
                   (is_prefill ? stage.prefill.size() : stage.decode.size());
        };
        std::size_t best = heads[0];
        for (const std::size_t head : heads) {
            if (length(head) < length(best)) { best = head; }
        }
        return best;
    }

    void wake(std::size_t stage) {
        if (!stages_[stage].is_busy) { events_.push(events_.now(), {Event::Kind::wake, stage}); }
    }

    void begin(std::size_t index) {
        Stage& stage = stages_[index];
        if (stage.prefill.empty() && stage.decode.empty()) { return; }
        stage.is_prefill_step = !stage.prefill.empty();
        const double ms = stage.is_prefill_step ? begin_prefill(stage) : begin_decode(stage);
        CHECK(!stage.running.empty(), "a request is larger than a batch may be");
        stage.is_busy = true;
        events_.push(events_.now() + ms, {Event::Kind::step_end, index});
    }

    double overhead(const Stage& stage, double context) const {
        return cluster_.quirks.first_stage_overhead && stage.is_first ? 2 + 1e-4 * context : 0;
    }

    double begin_prefill(Stage& stage) {
        const std::uint64_t batch = stage.is_first ? ++batches_ : sequences_[stage.prefill.front()].batch;
        double tokens = 0;
        double squares = 0;
        while (!stage.prefill.empty()) {
            Sequence& sequence = sequences_[stage.prefill.front()];
            const double length = sequence.request->prompt_tokens;
            if (stage.is_first ? tokens + length > cluster_.prefill_tokens_max : sequence.batch != batch) { break; }
            sequence.batch = batch;
            tokens += length;
            squares += length * length;
            stage.running.push_back(stage.prefill.front());
            stage.prefill.pop_front();
        }
        return cluster_.prefill.prefill_seconds(tokens, squares) / stage.stages +
               (cluster_.quirks.stage_overhead_ms ? stage.stages : 0) + overhead(stage, tokens);
    }

    double begin_decode(Stage& stage) {
        const double bound = cluster_.quirks.decode_context_max;
        double context = 0;
        while (!stage.decode.empty()) {
            const double more = sequences_[stage.decode.front()].context() + 1;
            if (bound > 0 && context + more > bound) { break; }
            context += more;
            stage.running.push_back(stage.decode.front());
            stage.decode.pop_front();
        }
        const auto sequences = static_cast<double>(stage.running.size());
        return cluster_.decode.decode_seconds(context, sequences) / stage.stages + overhead(stage, context - sequences);
    }

    void end_prefill(Stage& stage, std::size_t index) {
        if (!stage.is_last) {
            stages_[stage.next].prefill.push_back(index);
            wake(stage.next);
            return;
        }
        Sequence& sequence = sequences_[index];
        sequence.first_token = events_.now();
        outcomes_[index].ttft_ms = sequence.first_token - sequence.request->arrival_ms;
        if (sequence.request->output_tokens <= (cluster_.quirks.decodes_one_too_many ? 0u : 1u)) { return; }
        const std::size_t to = stage.is_prefill_only ? shortest(decode_heads_, false) : stage.next;
        stages_[to].decode.push_back(index);
        wake(to);
    }

    void end_decode(Stage& stage, std::size_t index) {
        Sequence& sequence = sequences_[index];
        if (stage.is_last) { ++sequence.decoded; }
        const std::uint32_t steps = sequence.request->output_tokens - (cluster_.quirks.decodes_one_too_many ? 0 : 1);
        if (sequence.decoded < steps) {
            stages_[stage.next].decode.push_back(index);
            wake(stage.next);
            return;
        }
        outcomes_[index].tpot_ms = (events_.now() - sequence.first_token) / steps;
    }

    const DistserveCluster& cluster_;
    std::vector<Sequence> sequences_;
    std::vector<DistserveOutcome> outcomes_;
    std::vector<Stage> stages_;
    std::vector<std::size_t> prefill_heads_;
    std::vector<std::size_t> decode_heads_;
    EventQueue<Event> events_;
    std::uint64_t batches_ = 0;
};

}  // namespace

std::vector<DistserveOutcome> simulate_distserve(const DistserveCluster& cluster,
                                                 const std::vector<DistserveRequest>& requests) {
    return Simulation(cluster, requests).run();
}

}  // namespace sim
