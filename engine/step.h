#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/model/decoder.h"
#include "engine/sampler.h"

namespace engine {

/// Turns a Batch into one run of the decoder, its logits into tokens, scores and copies, and hidden states into
/// vectors. Keeps its memory from step to step. Not thread-safe: owned by the engine's coordinator thread.
class StepRunner {
public:
    /// `decoder` must outlive the runner.
    StepRunner(Decoder& decoder, std::uint32_t vocabulary, std::uint32_t layer_group)
        : decoder_(&decoder), vocabulary_(vocabulary), layer_group_(layer_group) {}

    /// Error: invalid_argument for a token outside of the vocabulary (nothing has been computed then), naming the
    /// sequence; as Decoder::run().
    base::Result<std::vector<EntryResult>> run(const Batch& batch, const LayersDone& layers_done);

private:
    /// A row of logits and what it is for.
    struct WantedRow {
        std::uint32_t entry = 0;
        std::uint32_t row = 0;  // within the entry
    };

    base::Result<void> flatten(const Batch& batch);
    /// choices_ of the wanted rows; none where a row is wanted for more than one purpose.
    void find_choices(const Batch& batch);
    static void take_chosen(const Batch& batch, const WantedRow& wanted, base::Result<SampledToken> chosen,
                            EntryResult& result);
    base::Result<void> take_row(const Batch& batch, const WantedRow& wanted, std::span<const float> logits,
                                EntryResult& result);
    static bool is_sampled(const Batch& batch, const WantedRow& wanted);
    /// Waits for the entry's mask, and has the sampler heed it. Error: LateMask::wait()'s.
    base::Result<void> take_mask(const Batch& batch, const WantedRow& wanted);
    void take_hidden(const Batch& batch, const WantedRow& wanted, std::span<const float> row, EntryResult& result);

    Decoder* decoder_;
    std::uint32_t vocabulary_;
    std::uint32_t layer_group_;
    Sampler sampler_;
    std::vector<base::TokenId> tokens_;
    std::vector<SequenceRows> sequences_;
    std::vector<std::uint32_t> rows_wanted_;
    std::vector<WantedRow> wanted_;                 // of rows_wanted_
    std::vector<std::uint8_t> wants_hidden_;        // of rows_wanted_
    std::vector<SamplerContext> contexts_;          // [entries]
    std::vector<RowChoice> choices_;                // of rows_wanted_, or empty
    std::vector<std::size_t> late_rows_;            // of take_logits: those whose masks are not there yet
    std::optional<base::TimePoint> mask_deadline_;  // of this step, once it has waited for a mask
    std::vector<double> hidden_sum_;                // [hidden]: of the entry whose rows are taken
};

}  // namespace engine
