#include "caching/in_context/example_book.h"

#include <algorithm>
#include <cmath>

#include "caching/in_context/example_pack.h"
#include "caching/in_context/knapsack.h"
#include "caching/semantic/words.h"

namespace caching {
namespace {

constexpr double kFirstValue = 1.0;           // as if it had been of use once: a new example gets its chance
constexpr double kGainStep = 0.1;             // of the mean of G; IC-Cache does not give it
constexpr double kRecordMost = 50;            // judged answers that a record remembers
constexpr double kRoomKept = 0.9;             // of the bounds, after room was made: so it is not made for every example
constexpr std::size_t kFixedBytes = 512;      // of an example's own fields and its places in the tables
constexpr std::size_t kStandingsAtOnce = 64;  // that a store is told together

std::size_t bytes_of(const Example& example, std::size_t dimensions) {
    return kFixedBytes + 2 * example.question.size() + example.answer.size() + dimensions;
}

}  // namespace

bool ExampleFilter::matches(const Example& example, base::TimePoint now) const {
    if (id && *id != example.id) { return false; }
    if (tenant && *tenant != example.tenant) { return false; }
    if (revision && *revision != example.revision) { return false; }
    if (tag && std::find(example.tags.begin(), example.tags.end(), *tag) == example.tags.end()) { return false; }
    return !older_than || now - example.created >= *older_than;
}

ExampleBook::ExampleBook(const InContextOptions& options, const base::Clock& clock, std::size_t dimensions)
    : options_(options), clock_(clock), dimensions_(dimensions) {}

const Example* ExampleBook::find(ExampleId id) const {
    const auto found = examples_.find(id);
    return found == examples_.end() ? nullptr : &found->second;
}

ExampleIndex* ExampleBook::index(const base::BlockHash& partition) {
    const auto found = partitions_.find(partition);
    return found == partitions_.end() ? nullptr : found->second.get();
}

double ExampleBook::value_of(const Example& example) const {
    const double hours = std::chrono::duration<double, std::ratio<3600>>(clock_.now() - example.valued).count();
    return example.value * std::pow(options_.hourly_decay, std::max(hours, 0.0));
}

void ExampleBook::credit(Example& example, double value) {
    example.value = value_of(example) + value;
    example.valued = clock_.now();
    changed(example, false);
}

void ExampleBook::changed(const Example& example, bool text) {
    if (tracks_) { (text ? texts_changed_ : standings_changed_).insert(example.exact); }
}

base::BlockHash ExampleBook::exact_of(const base::BlockHash& partition, std::string_view question) const {
    std::string name(reinterpret_cast<const char*>(&partition.high), 8);
    name.append(reinterpret_cast<const char*>(&partition.low), 8);
    name += canonical_text(question);
    return base::keyed_hash(options_.key, std::as_bytes(std::span(name)));
}

ExampleBook::Added ExampleBook::add(const New& given) {
    if (canonical_text(given.question).empty() || canonical_text(given.answer).empty()) { return Added::empty; }
    if (given.question.size() + given.answer.size() > options_.example_bytes_max ||
        rendered_bytes({given.question, given.answer}) > options_.prompt_bytes_max) {
        return Added::too_large;
    }
    const base::BlockHash exact = exact_of(given.partition, given.question);
    if (const auto same = exact_.find(exact); same != exact_.end()) {
        Example& example = examples_.at(same->second);
        // Other weights' answers are not compared with these: the newer ones count.
        if (example.revision == given.revision && example.answer_quality > given.answer_quality) {
            return Added::worse;
        }
        owners_[example.tenant].bytes += given.answer.size();
        owners_[example.tenant].bytes -= example.answer.size();
        bytes_ += given.answer.size();
        bytes_ -= example.answer.size();
        example.bytes = example.bytes + given.answer.size() - example.answer.size();
        example.answer = given.answer;
        example.revision = given.revision;
        example.answer_quality = given.answer_quality;
        example.created = clock_.now();
        for (const std::string& tag : given.tags) {
            if (std::find(example.tags.begin(), example.tags.end(), tag) == example.tags.end()) {
                example.tags.push_back(tag);
            }
        }
        if (example.tags.size() > 64) { example.tags.resize(64); }
        changed(example, true);
        keep_within_bounds(std::string(given.tenant));
        return Added::replaced;
    }
    Example example;
    example.tenant = given.tenant;
    example.partition = given.partition;
    example.exact = exact;
    example.question = given.question;
    example.answer = given.answer;
    example.revision = given.revision;
    example.tags = given.tags;
    example.words = words_of(given.question);
    example.created = clock_.now();
    example.valued = example.created;
    example.value = kFirstValue;
    example.answer_quality = given.answer_quality;
    example.bytes = bytes_of(example, dimensions_);
    const std::size_t tenant_bytes = tenant_bytes_max();
    const std::size_t tenant_examples = tenant_examples_max();
    if (example.bytes > std::min(tenant_bytes, options_.bytes_max) || options_.examples_max == 0) {
        return Added::no_room;
    }
    if (const Owner& owner = owners_[example.tenant];
        owner.bytes + example.bytes > tenant_bytes || owner.examples + 1 > tenant_examples) {
        make_room(&example.tenant, tenant_bytes - example.bytes, tenant_examples - 1);
    }
    if (bytes_ + example.bytes > options_.bytes_max || examples_.size() + 1 > options_.examples_max) {
        make_room(nullptr, options_.bytes_max - example.bytes, options_.examples_max - 1);
    }
    changed(example, true);
    place(std::move(example), given.vector);
    return Added::kept;
}

void ExampleBook::place(Example example, std::span<const float> vector) {
    example.id = ExampleId{next_++};
    auto& index = partitions_[example.partition];
    if (index == nullptr) { index = std::make_unique<ExampleIndex>(dimensions_); }
    index->add(example.id, vector);
    exact_[example.exact] = example.id;
    Owner& owner = owners_[example.tenant];
    owner.bytes += example.bytes;
    ++owner.examples;
    bytes_ += example.bytes;
    const ExampleId id = example.id;
    examples_.emplace(id, std::move(example));
}

std::size_t ExampleBook::tenant_bytes_max() const {
    return static_cast<std::size_t>(options_.tenant_share * static_cast<double>(options_.bytes_max));
}

std::size_t ExampleBook::tenant_examples_max() const {
    return std::max<std::size_t>(
        static_cast<std::size_t>(options_.tenant_share * static_cast<double>(options_.examples_max)), 1);
}

void ExampleBook::keep_within_bounds(const std::string& tenant) {
    if (owners_.at(tenant).bytes > tenant_bytes_max()) {
        make_room(&tenant, tenant_bytes_max(), tenant_examples_max());
    }
    if (bytes_ > options_.bytes_max) { make_room(nullptr, options_.bytes_max, options_.examples_max); }
}

void ExampleBook::make_room(const std::string* tenant, std::size_t bytes_max, std::size_t examples_max) {
    std::vector<const Example*> among;
    for (const auto& [id, example] : examples_) {
        if (tenant == nullptr || example.tenant == *tenant) { among.push_back(&example); }
    }
    std::sort(among.begin(), among.end(), [](const Example* a, const Example* b) { return a->id < b->id; });
    std::vector<KnapsackItem> items;
    items.reserve(among.size());
    for (const Example* example : among) {
        items.push_back({example->bytes, value_of(*example)});
    }
    std::vector<std::size_t> kept =
        knapsack(items, static_cast<std::size_t>(kRoomKept * static_cast<double>(bytes_max)));
    const auto most = static_cast<std::size_t>(kRoomKept * static_cast<double>(examples_max));
    if (kept.size() > most) {
        std::stable_sort(kept.begin(), kept.end(),
                         [&](std::size_t a, std::size_t b) { return items[a].value > items[b].value; });
        kept.resize(most);
        std::sort(kept.begin(), kept.end());
    }
    std::vector<ExampleId> gone;
    for (std::size_t at = 0, next = 0; at < among.size(); ++at) {
        if (next < kept.size() && kept[next] == at) {
            ++next;
        } else {
            gone.push_back(among[at]->id);
        }
    }
    for (const ExampleId id : gone) {
        erase(id);
    }
    evicted_ += gone.size();
}

void ExampleBook::erase(ExampleId id) {
    auto node = examples_.extract(id);
    if (node.empty()) { return; }
    const Example& example = node.mapped();
    changed(example, true);
    standings_changed_.erase(example.exact);
    exact_.erase(example.exact);
    const auto index = partitions_.find(example.partition);
    index->second->remove(id);
    if (index->second->size() == 0) { partitions_.erase(index); }
    const auto owner = owners_.find(example.tenant);
    owner->second.bytes -= example.bytes;
    if (--owner->second.examples == 0) { owners_.erase(owner); }
    bytes_ -= example.bytes;
}

void ExampleBook::used(ExampleId id, double expected_quality) {
    const auto found = examples_.find(id);
    if (found == examples_.end()) { return; }
    ++found->second.uses;
    credit(found->second, std::clamp(expected_quality, 0.0, 1.0));
}

void ExampleBook::judged(ExampleId id, double quality, double expected, double cost) {
    const auto found = examples_.find(id);
    if (found == examples_.end() || !std::isfinite(quality)) { return; }
    Example& example = found->second;
    quality = std::clamp(quality, 0.0, 1.0);
    example.gain += kGainStep * ((1 - quality) * cost - example.gain);
    example.record_uses = std::min(example.record_uses + 1, kRecordMost);
    const double standing = std::clamp(0.5 + quality - expected, 0.0, 1.0);
    example.record += (standing - example.record) / example.record_uses;
    changed(example, false);
}

void ExampleBook::answer_judged(ExampleId id, double quality) {
    const auto found = examples_.find(id);
    if (found != examples_.end() && std::isfinite(quality)) {
        found->second.answer_quality = std::clamp(quality, 0.0, 1.0);
        changed(found->second, false);
    }
}

std::vector<ExampleId> ExampleBook::replay_candidates(std::size_t limit) const {
    std::vector<const Example*> order;
    for (const auto& [id, example] : examples_) {
        if (example.uses > 0 && example.gain > 0 && example.replays <= options_.replays_max) {
            order.push_back(&example);
        }
    }
    limit = std::min(limit, order.size());
    std::partial_sort(
        order.begin(), order.begin() + static_cast<std::ptrdiff_t>(limit), order.end(),
        [](const Example* a, const Example* b) { return a->gain != b->gain ? a->gain > b->gain : a->id < b->id; });
    std::vector<ExampleId> ids;
    for (std::size_t at = 0; at < limit; ++at) {
        ids.push_back(order[at]->id);
    }
    return ids;
}

bool ExampleBook::replayed(ExampleId id, std::string_view answer, double quality) {
    const auto found = examples_.find(id);
    if (found == examples_.end()) { return false; }
    Example& example = found->second;
    ++example.replays;
    changed(example, false);
    if (!std::isfinite(quality) || quality <= example.answer_quality || answer.empty() ||
        example.question.size() + answer.size() > options_.example_bytes_max ||
        rendered_bytes({example.question, answer}) > options_.prompt_bytes_max) {
        return false;
    }
    Owner& owner = owners_[example.tenant];
    for (std::size_t* total : {&owner.bytes, &bytes_, &example.bytes}) {
        *total = *total + answer.size() - example.answer.size();
    }
    example.answer = answer;
    example.answer_quality = std::min(quality, 1.0);
    // What it is worth in prompts is to be seen anew.
    example.record = 0.5;
    example.record_uses = 0;
    changed(example, true);
    keep_within_bounds(std::string(example.tenant));
    return true;
}

std::size_t ExampleBook::remove(const ExampleFilter& filter, bool dry_run) {
    std::vector<ExampleId> meant;
    for (const auto& [id, example] : examples_) {
        if (filter.matches(example, clock_.now())) { meant.push_back(id); }
    }
    if (!dry_run) {
        for (const ExampleId id : meant) {
            erase(id);
        }
    }
    return meant.size();
}

ExampleStanding ExampleBook::standing_of(const Example& example) const {
    const auto since_valued = std::chrono::duration_cast<std::chrono::microseconds>(clock_.now() - example.valued);
    return {.exact = example.exact,
            .value = example.value,
            .valued_unix_us = clock_.unix_us() - since_valued.count(),
            .gain = example.gain,
            .uses = example.uses,
            .record = example.record,
            .record_uses = example.record_uses,
            .replays = example.replays,
            .answer_quality = example.answer_quality};
}

SavedExample ExampleBook::saved_of(const Example& example) const {
    const auto age = std::chrono::duration_cast<std::chrono::microseconds>(clock_.now() - example.created);
    SavedExample saved{.standing = standing_of(example),
                       .partition = example.partition,
                       .tenant = example.tenant,
                       .question = example.question,
                       .answer = example.answer,
                       .revision = example.revision,
                       .tags = example.tags,
                       .created_unix_us = clock_.unix_us() - age.count()};
    saved.seal = seal_of(saved, options_.key);
    return saved;
}

ExampleChanges ExampleBook::take_changes(bool all_standings) {
    ExampleChanges changes;
    for (const base::BlockHash& exact : texts_changed_) {
        standings_changed_.erase(exact);
        const auto found = exact_.find(exact);
        if (found == exact_.end()) {
            changes.gone.push_back(exact);
        } else {
            changes.put.push_back(saved_of(examples_.at(found->second)));
        }
    }
    texts_changed_.clear();
    if (!all_standings && standings_changed_.size() < kStandingsAtOnce) { return changes; }
    for (const base::BlockHash& exact : standings_changed_) {
        changes.standings.push_back(standing_of(examples_.at(exact_.at(exact))));
    }
    standings_changed_.clear();
    return changes;
}

bool ExampleBook::restore(const SavedExample& saved, std::span<const float> vector) {
    const ExampleStanding& standing = saved.standing;
    if (saved.seal != seal_of(saved, options_.key) || standing.exact != exact_of(saved.partition, saved.question) ||
        exact_.contains(standing.exact) || !standing.is_possible()) {
        return false;
    }
    if (canonical_text(saved.question).empty() || canonical_text(saved.answer).empty() ||
        saved.question.size() + saved.answer.size() > options_.example_bytes_max ||
        rendered_bytes({saved.question, saved.answer}) > options_.prompt_bytes_max) {
        return false;
    }
    const auto ago = [&](std::int64_t unix_us) {
        return clock_.now() - std::chrono::microseconds(std::max<std::int64_t>(clock_.unix_us() - unix_us, 0));
    };
    Example example;
    example.tenant = saved.tenant;
    example.partition = saved.partition;
    example.exact = standing.exact;
    example.question = saved.question;
    example.answer = saved.answer;
    example.revision = saved.revision;
    example.tags = saved.tags;
    example.words = words_of(saved.question);
    example.created = ago(saved.created_unix_us);
    example.valued = ago(standing.valued_unix_us);
    example.value = standing.value;
    example.gain = standing.gain;
    example.uses = standing.uses;
    example.record = standing.record;
    example.record_uses = standing.record_uses;
    example.replays = standing.replays;
    example.answer_quality = standing.answer_quality;
    example.bytes = bytes_of(example, dimensions_);
    const auto owner = owners_.find(example.tenant);
    const Owner now = owner == owners_.end() ? Owner{} : owner->second;
    const bool fits = now.bytes + example.bytes <= tenant_bytes_max() && now.examples < tenant_examples_max() &&
                      bytes_ + example.bytes <= options_.bytes_max && examples_.size() < options_.examples_max;
    if (fits) { place(std::move(example), vector); }
    return fits;
}

void ExampleBook::for_each(const std::function<void(const Example&)>& visit) const {
    for (const auto& [id, example] : examples_) {
        visit(example);
    }
}

HelpfulnessEvidence ExampleBook::evidence(const Example& example, double similarity,
                                          std::span<const std::string> words) const {
    return {.similarity = similarity,
            .word_overlap = word_overlap(words, example.words),
            .answer_quality = example.answer_quality,
            .record = example.record,
            .record_uses = example.record_uses,
            .answer_bytes = static_cast<double>(example.answer.size())};
}

ExampleBook::Counts ExampleBook::counts() const {
    Counts counts{.examples = examples_.size(), .bytes = bytes_, .partitions = partitions_.size(), .evicted = evicted_};
    for (const auto& [name, index] : partitions_) {
        counts.clusters += index->clusters();
    }
    return counts;
}

}  // namespace caching
