#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/cache/cache_metrics.h"
#include "gateway/request/ports.h"
#include "gateway/request/sequence_source.h"

namespace gateway {

/// Null: there is none.
using SharedVector = std::shared_ptr<const std::vector<float>>;

/// Vectors of questions by a sentence encoder of the cluster. Its workers take what waits in one batch; a text that is
/// under way is asked for once, and the latest vectors are kept, each tenant's apart, so that nobody's answer comes
/// sooner because of another one's question. I/O thread only.
class ServedVectors {
public:
    struct Setup {
        SequenceSource& inner;  // borrowed, like all references here
        std::size_t model;      // the encoder's
        std::size_t texts_max;  // under way at a time, and that wait for one of them; more get no vector
        std::size_t kept_max;
        CacheMetrics& metrics;
        const base::Clock& clock;
        Post post;  // to this thread, later
    };
    using Made = std::function<void(const SharedVector&)>;

    explicit ServedVectors(Setup setup) : setup_(std::move(setup)) {}
    /// stop() came before, and the source has ended what was open.
    ~ServedVectors();

    /// `made` hears of the vector once, maybe from inside; of null where the encoder cannot be asked or fails.
    void get(const std::string& tenant, const EncodedQuestion& question, Made made);
    /// Nobody hears of anything from here on.
    void stop();
    std::size_t kept() const { return kept_.size(); }

private:
    struct Text final : GenerationSink {
        Text(ServedVectors& by, const base::BlockHash& called) : of(by), name(called) {}
        void on_placed() override {}
        void on_prompt(std::vector<TokenRecord> /*records*/) override {}
        void on_piece(Piece /*piece*/, std::uint32_t /*tokens*/, std::string_view /*path*/) override {}
        void on_vector(std::vector<float> made) override {
            vector = std::make_shared<const std::vector<float>>(std::move(made));
        }
        void on_end(const GenerationEnd& end) override { of.ended(name, end); }

        ServedVectors& of;
        const base::BlockHash name;
        std::vector<Made> waiting = {};
        SharedVector vector = {};
        std::optional<base::RequestId> id = {};
    };
    struct Kept {
        base::BlockHash name;
        SharedVector vector;
    };

    void ended(const base::BlockHash& name, const GenerationEnd& end);
    void keep(const base::BlockHash& name, const SharedVector& vector);

    Setup setup_;
    std::unordered_map<base::BlockHash, std::unique_ptr<Text>> open_;
    std::list<Kept> kept_;  // used last first
    std::unordered_map<base::BlockHash, std::list<Kept>::iterator> by_name_;
    std::size_t waiting_ = 0;
    bool is_stopped_ = false;
};

}  // namespace gateway
