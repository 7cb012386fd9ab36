#include "engine/step.h"

#include <chrono>
#include <string>
#include <utility>

#include "base/check.h"

namespace engine {

using base::ErrorCode;
using base::Result;

Result<std::vector<EntryResult>> StepRunner::run(const Batch& batch, const LayersDone& layers_done) {
    if (auto flat = flatten(batch); !flat) { return base::pass_on(flat); }
    std::vector<EntryResult> results(batch.entries().size());
    for (std::size_t i = 0; i < results.size(); ++i) {
        results[i].sequence = batch.entries()[i].sequence;
    }
    mask_deadline_.reset();
    const auto take_logits = [&](std::size_t first, std::size_t count, std::span<const float> logits) {
        const auto take = [&](std::size_t i) {
            const WantedRow& wanted = wanted_[first + i];
            EntryResult& result = results[wanted.entry];
            if (result.error) { return; }  // others in the batch are not concerned
            auto taken = take_row(batch, wanted, logits.subspan(i * vocabulary_, vocabulary_), result);
            if (!taken) { result.error = taken.error(); }
        };
        late_rows_.clear();  // these come last: meanwhile their masks may
        for (std::size_t i = 0; i < count; ++i) {
            const auto& mask = batch.entries()[wanted_[first + i].entry].mask;
            if (mask != nullptr && is_sampled(batch, wanted_[first + i]) && !mask->is_there()) {
                late_rows_.push_back(i);
            } else {
                take(i);
            }
        }
        for (const std::size_t i : late_rows_) {
            take(i);
        }
    };
    const auto take_hidden_rows = [&](std::size_t first, std::size_t count, std::span<const float> rows) {
        const std::size_t hidden = rows.size() / count;
        for (std::size_t i = 0; i < count; ++i) {
            const WantedRow& wanted = wanted_[first + i];
            take_hidden(batch, wanted, rows.subspan(i * hidden, hidden), results[wanted.entry]);
        }
    };
    const auto take_one = [&](std::size_t row, Result<SampledToken> chosen) {
        EntryResult& result = results[wanted_[row].entry];
        if (!result.error) { take_chosen(batch, wanted_[row], std::move(chosen), result); }
    };
    find_choices(batch);
    auto done = decoder_->run({.tokens = tokens_,
                               .sequences = sequences_,
                               .rows_wanted = rows_wanted_,
                               .wants_hidden = wants_hidden_,
                               .layer_group = layer_group_,
                               .layers_done = layers_done,
                               .choices = choices_,
                               .take_chosen = take_one,
                               .take_logits = take_logits,
                               .take_hidden = take_hidden_rows});
    if (!done) { return base::pass_on(done); }
    return results;
}

void StepRunner::find_choices(const Batch& batch) {
    choices_.clear();
    if (batch.keep_logits) { return; }
    for (const WantedRow& wanted : wanted_) {
        const BatchEntry& entry = batch.entries()[wanted.entry];
        const bool sample = is_sampled(batch, wanted);
        if (entry.score && sample) {  // two results from one row of logits
            choices_.clear();
            return;
        }
        RowChoice choice;
        if (entry.pooling != Pooling::none || (sample && entry.mask != nullptr)) {
            choice.by_caller = true;
        } else if (entry.score) {
            choice.score_target = entry.score_targets[wanted.row];
            choice.score_top = entry.sampler.params.top_logprobs;
        } else {
            choice.draw = &contexts_[wanted.entry];
        }
        choices_.push_back(choice);
    }
}

void StepRunner::take_chosen(const Batch& batch, const WantedRow& wanted, Result<SampledToken> chosen,
                             EntryResult& result) {
    if (!chosen) {
        result.error = std::move(chosen.error());
    } else if (batch.entries()[wanted.entry].score) {
        result.scores.push_back(std::move(*chosen));
    } else {
        result.sampled = std::move(*chosen);
    }
}

Result<void> StepRunner::flatten(const Batch& batch) {
    tokens_.clear();
    sequences_.clear();
    rows_wanted_.clear();
    wanted_.clear();
    wants_hidden_.clear();
    contexts_.clear();
    for (std::size_t i = 0; i < batch.entries().size(); ++i) {
        const BatchEntry& entry = batch.entries()[i];
        contexts_.push_back(entry.sampler.context());
        const auto row_begin = static_cast<std::uint32_t>(tokens_.size());
        const auto rows = static_cast<std::uint32_t>(entry.tokens.size());
        for (const base::TokenId token : entry.tokens) {
            if (token < 0 || static_cast<std::uint32_t>(token) >= vocabulary_) {
                return base::fail(ErrorCode::invalid_argument,
                                  "sequence " + std::to_string(base::raw(entry.sequence)) + ": token " +
                                      std::to_string(token) + ", the vocabulary has " + std::to_string(vocabulary_));
            }
            tokens_.push_back(token);
        }
        sequences_.push_back({.row_begin = row_begin,
                              .rows = rows,
                              .position = entry.position,
                              .blocks = entry.block_tables[0],
                              .sequence = static_cast<std::uint32_t>(i)});
        const bool is_pooled = entry.pooling != Pooling::none;
        const bool all = is_pooled ? entry.pooling == Pooling::mean : batch.keep_logits || entry.score;
        const bool last = is_pooled || entry.sample;
        for (std::uint32_t row = all ? 0 : rows - 1; row < rows && (all || last); ++row) {
            rows_wanted_.push_back(row_begin + row);
            wanted_.push_back({static_cast<std::uint32_t>(i), row});
            wants_hidden_.push_back(is_pooled ? 1 : 0);
        }
    }
    return {};
}

Result<void> StepRunner::take_row(const Batch& batch, const WantedRow& wanted, std::span<const float> logits,
                                  EntryResult& result) {
    const BatchEntry& entry = batch.entries()[wanted.entry];
    if (batch.keep_logits) { result.logits.insert(result.logits.end(), logits.begin(), logits.end()); }
    if (entry.score) {
        auto score = sampler_.score(logits, entry.score_targets[wanted.row], entry.sampler.params.top_logprobs);
        if (!score) { return base::pass_on(score); }
        result.scores.push_back(std::move(*score));
    }
    if (is_sampled(batch, wanted)) {
        if (auto masked = take_mask(batch, wanted); !masked) { return masked; }
        auto token = sampler_.sample(logits, contexts_[wanted.entry]);
        if (!token) { return base::pass_on(token); }
        result.sampled = std::move(*token);
    }
    return {};
}

bool StepRunner::is_sampled(const Batch& batch, const WantedRow& wanted) {
    const BatchEntry& entry = batch.entries()[wanted.entry];
    return entry.sample && wanted.row + 1 == entry.tokens.size();
}

Result<void> StepRunner::take_mask(const Batch& batch, const WantedRow& wanted) {
    const BatchEntry& entry = batch.entries()[wanted.entry];
    if (entry.mask == nullptr) { return {}; }
    if (!mask_deadline_) { mask_deadline_ = std::chrono::steady_clock::now() + batch.mask_wait; }
    const auto words = entry.mask->wait(*mask_deadline_);
    if (!words) { return base::pass_on(words); }
    contexts_[wanted.entry].allowed = *words;
    return {};
}

/// Sums in double, in the order of the tokens.
void StepRunner::take_hidden(const Batch& batch, const WantedRow& wanted, std::span<const float> row,
                             EntryResult& result) {
    const BatchEntry& entry = batch.entries()[wanted.entry];
    if (entry.pooling == Pooling::last) {
        result.pooled.assign(row.begin(), row.end());
        return;
    }
    if (wanted.row == 0) { hidden_sum_.assign(row.size(), 0); }
    for (std::size_t i = 0; i < row.size(); ++i) {
        hidden_sum_[i] += static_cast<double>(row[i]);
    }
    if (wanted.row + 1 < entry.tokens.size()) { return; }
    for (const double sum : hidden_sum_) {
        result.pooled.push_back(static_cast<float>(sum / static_cast<double>(entry.tokens.size())));
    }
}

}  // namespace engine
