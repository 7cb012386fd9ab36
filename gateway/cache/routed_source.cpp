#include "gateway/cache/routed_source.h"

#include <utility>
#include <vector>

#include "gateway/cache/routed_context.h"
#include "gateway/openai/prepare.h"

namespace gateway {
namespace {

constexpr base::Duration kComparisonTimeout = std::chrono::minutes(5);  // nobody waits for it

}  // namespace

/// A sequence that somebody asked for.
struct RoutedSource::Watch final : GenerationSink {
    Watch(RoutedSource& of, std::uint64_t of_number, GenerationSink& of_sink)
        : source(of), number(of_number), sink(of_sink) {}
    void on_placed() override { sink.on_placed(); }
    void on_prompt(std::vector<TokenRecord> records) override { sink.on_prompt(std::move(records)); }
    void on_piece(Piece piece, std::uint32_t count, std::string_view path) override {
        if (routed != nullptr && text.size() <= text_max) { text += piece.text; }
        sink.on_piece(std::move(piece), count, path);
    }
    void on_end(const GenerationEnd& end) override { source.ended(*this, end); }

    RoutedSource& source;
    const std::uint64_t number;
    GenerationSink& sink;
    std::shared_ptr<RoutedAsk> routed = {};  // null: it only counts as load
    bool is_large = false;
    bool is_purged = false;  // operators want such answers gone
    std::size_t text_max = 0;
    std::string text = {};
    std::string tenant = {};
    std::uint64_t seed = 0;
};

/// The same question at the other model.
struct RoutedSource::Comparison final : GenerationSink {
    Comparison(RoutedSource& of, std::uint64_t of_number) : source(of), number(of_number) {}
    void on_placed() override {}
    void on_prompt(std::vector<TokenRecord>) override {}  // never asked for
    void on_piece(Piece piece, std::uint32_t, std::string_view) override {
        if (text.size() <= text_max) { text += piece.text; }
    }
    void on_end(const GenerationEnd& end) override { source.compared(*this, end); }

    RoutedSource& source;
    const std::uint64_t number;
    std::shared_ptr<RoutedAsk> routed = {};
    std::string told = {};  // the answer that the client got
    bool is_large = false;
    bool is_purged = false;
    std::size_t text_max = 0;
    std::string text = {};
    base::RequestId id{};
    bool has_id = false;
};

void RoutedSource::large_began(int count) {
    large_in_work_ = static_cast<std::size_t>(static_cast<std::ptrdiff_t>(large_in_work_) + count);
    setup_.examples.large_in_work(large_in_work_);
}

base::RequestId RoutedSource::open(GenerationRequest request, GenerationSink& sink) {
    const bool is_large = !request.encodes && request.model == setup_.examples.large();
    if ((request.routed == nullptr && !is_large) || is_stopped_) { return setup_.inner.open(std::move(request), sink); }
    const std::uint64_t number = next_++;
    const auto watch = std::make_shared<Watch>(*this, number, sink);
    watch->routed = request.routed;
    watch->is_large = is_large;
    watch->text_max = setup_.examples.settings().learning.example_bytes_max;
    watch->tenant = request.tenant;
    watch->seed = request.sampling.seed();
    watches_.emplace(number, watch);
    if (is_large) { large_began(1); }
    return setup_.inner.open(std::move(request), *watch);
}

void RoutedSource::ended(Watch& watch, const GenerationEnd& end) {
    const auto node = watches_.extract(watch.number);
    const std::shared_ptr<Watch> self = node.mapped();
    setup_.post([self] {});  // it stays until what is on the stack has been done
    if (watch.is_large) { large_began(-1); }
    // Without those that were cut off: half an answer is no example, and says nothing of the model.
    const bool is_whole =
        end.reason == EndReason::stop && watch.routed != nullptr && watch.text.size() <= watch.text_max;
    if (is_whole && watch.is_large && watch.routed->question != nullptr && !watch.is_purged) {
        setup_.examples.keep(watch.routed->question, without_reasoning(watch.text), watch.routed->revision_large,
                             watch.routed->tags);
    }
    if (is_whole && watch.routed->decision != nullptr && watch.routed->other != nullptr) { begin_comparison(watch); }
    self->sink.on_end(end);
}

void RoutedSource::begin_comparison(const Watch& watch) {
    const InContextSettings& settings = setup_.examples.settings();
    const bool wants_large = !watch.is_large;
    const bool is_free = comparisons_.size() < settings.comparisons_max && setup_.inner.has_room(1) && !is_stopped_ &&
                         (!wants_large || large_in_work_ < settings.large_sequences);
    setup_.examples.comparison(is_free ? "begun" : "busy");
    if (!is_free) { return; }
    const PreparedRequest& other = *watch.routed->other;
    GenerationRequest request = generation_request(other, 0, 0, watch.seed, *setup_.models[other.form.model].text);
    request.tenant = watch.tenant;
    request.received_at = setup_.clock.now();
    request.deadline = request.received_at + kComparisonTimeout;
    const auto comparison = std::make_shared<Comparison>(*this, next_++);
    comparison->routed = watch.routed;
    comparison->told = watch.text;
    comparison->is_large = wants_large;
    comparison->is_purged = watch.is_purged;
    comparison->text_max = watch.text_max;
    comparisons_.emplace(comparison->number, comparison);
    if (wants_large) { large_began(1); }
    // The sequence that was heard has not ended for everybody yet.
    setup_.post([this, comparison, request = std::make_shared<GenerationRequest>(std::move(request))] {
        if (!comparisons_.contains(comparison->number)) { return; }
        comparison->id = setup_.inner.open(std::move(*request), *comparison);
        comparison->has_id = true;
    });
}

void RoutedSource::compared(Comparison& comparison, const GenerationEnd& end) {
    const auto node = comparisons_.extract(comparison.number);
    if (node.empty()) { return; }
    setup_.post([self = node.mapped()] {});
    if (comparison.is_large) { large_began(-1); }
    if (end.reason != EndReason::stop || comparison.text.size() > comparison.text_max) {
        setup_.examples.comparison("failed");
        return;
    }
    const RoutedAsk& routed = *comparison.routed;
    const std::string told = without_reasoning(comparison.told);
    const std::string other = without_reasoning(comparison.text);
    if (comparison.is_large && routed.question != nullptr && !comparison.is_purged) {
        setup_.examples.keep(routed.question, other, routed.revision_large, routed.tags);
    }
    setup_.examples.compare(routed.decision, comparison.is_large ? told : other, comparison.is_large ? other : told);
}

void RoutedSource::purge() {
    for (const auto& [number, watch] : watches_) {
        watch->is_purged = true;
    }
    for (const auto& [number, comparison] : comparisons_) {
        comparison->is_purged = true;
    }
}

void RoutedSource::stop() {
    is_stopped_ = true;
    std::vector<std::shared_ptr<Comparison>> left;
    for (const auto& [number, comparison] : comparisons_) {
        left.push_back(comparison);
    }
    for (const auto& comparison : left) {
        if (comparison->has_id) {
            setup_.inner.cancel(comparison->id, "drain");
        } else {
            comparisons_.erase(comparison->number);
        }
    }
}

}  // namespace gateway
