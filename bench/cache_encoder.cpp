#include "bench/cache_encoder.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/crc32c.h"
#include "engine/engine.h"
#include "text/model_text.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;

class Encoder final : public caching::Embedder {
public:
    Encoder(std::string name, std::unique_ptr<engine::Engine> engine, text::ModelText text)
        : name_(std::move(name)), engine_(std::move(engine)), text_(std::move(text)) {}

    std::string name() const override { return name_; }
    std::size_t dimensions() const override { return engine_->shape().hidden; }

    Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) override {
        std::vector<std::vector<float>> vectors;
        for (const std::string& one : texts) {
            auto tokens = text_.tokenizer->encode(one, {.add_special = true});
            if (!tokens) { return base::pass_on(tokens); }
            const std::size_t longest = std::min<std::size_t>(engine_->shape().context_tokens, kTokensMost);
            if (tokens->size() > longest) {
                const base::TokenId last = tokens->back();
                tokens->resize(longest);
                tokens->back() = last;
            }
            engine::Batch batch;
            engine::BatchEntry& entry = batch.add();
            entry.sequence = base::SequenceId{next_++};
            entry.tokens = std::move(*tokens);
            entry.pooling = engine::Pooling::own;
            auto result = engine::run_to_end(*engine_, std::move(batch));
            if (!result) { return base::pass_on(result); }
            vectors.push_back(std::move(result->entries[0].pooled));
            caching::normalise(vectors.back());
        }
        return vectors;
    }

    static constexpr std::size_t kTokensMost = 512;

private:
    std::string name_;
    std::unique_ptr<engine::Engine> engine_;
    text::ModelText text_;
    std::uint64_t next_ = 0;
};

}  // namespace

Result<std::unique_ptr<caching::Embedder>> load_encoder(const std::string& model_dir, const std::string& kernels,
                                                        std::uint32_t threads) {
    engine::EngineOptions chosen;
    chosen.model_dir = model_dir;
    chosen.kernels = kernels;
    chosen.threads = threads;
    chosen.batch_tokens_max = Encoder::kTokensMost;
    chosen.batch_sequences_max = 1;
    auto engine = engine::load_engine(chosen);
    if (!engine) { return base::pass_on(engine); }
    if ((*engine)->keeps_kv()) {
        return base::fail(ErrorCode::invalid_argument, model_dir + " makes text; --embedder takes a sentence encoder");
    }
    auto text = text::ModelText::load(model_dir);
    if (!text) { return base::pass_on(text); }
    std::filesystem::path folder(model_dir);
    if (!folder.has_filename()) { folder = folder.parent_path(); }
    std::string name =
        folder.filename().string() + "-" + std::to_string(static_cast<std::uint64_t>((*engine)->numerics_id()));
    return std::make_unique<Encoder>(std::move(name), std::move(*engine), std::move(*text));
}

}  // namespace bench
