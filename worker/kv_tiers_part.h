#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/metrics.h"
#include "worker/kv_tiers.h"
#include "worker/role_part.h"
#include "worker/tier_control.h"

namespace worker {

/// KvTiers as a helper of the step loop: says of its sequences what KvTiers goes by. Step thread, except on_event (any
/// thread).
class KvTiersPart final : public RolePart, private TierControl {
public:
    /// As KvTiers's.
    KvTiersPart(std::vector<KvTiers::Tier> tiers, const WorkerOptions& limits, StepControl& control,
                const std::string& worker, base::Metrics& metrics);

    KvTiers& tiers() { return tiers_; }
    void on_event(std::size_t tier, kv_transfer::TierEvent event) { tiers_.on_event(tier, std::move(event)); }

    void admitted(Sequence& sequence) override { tiers_.admitted(seen(sequence)); }
    void front_computed(Sequence& sequence) override { tiers_.front_computed(seen(sequence)); }
    void closing(Sequence& sequence) override { tiers_.closing(seen(sequence)); }
    void published(Sequence& sequence) override { tiers_.published(seen(sequence)); }
    void leaving(Sequence& sequence, bool for_good) override { tiers_.leaving(seen(sequence), for_good); }
    void dropped() override { tiers_.dropped(); }
    std::uint32_t blocks_returning() const override { return tiers_.blocks_returning(); }
    std::uint32_t blocks_to_save(const Sequence& sequence) const override {
        return tiers_.blocks_to_save(seen(sequence));
    }
    bool may_load_ahead() const override { return tiers_.may_load_ahead(); }
    std::uint32_t blocks_ahead(const Sequence& sequence) const override { return tiers_.blocks_ahead(seen(sequence)); }
    void load_ahead(const Sequence& sequence, kv_cache::PrefixMatch prefix, std::uint32_t kept,
                    std::uint32_t blocks) override {
        tiers_.load_ahead(seen(sequence), std::move(prefix), kept, blocks);
    }
    bool busy() const override { return tiers_.busy(); }
    using RolePart::loaded;  // beside TierControl's

private:
    static TierSequence seen(const Sequence& sequence);

    std::optional<TierSequence> find(RequestKey key) const override;
    void make_loading(RequestKey key) override;
    void load_from_end(RequestKey key, const KvFromEnd& range) override;
    void loaded(RequestKey key, base::Result<std::uint32_t> kv_tokens) override;
    std::optional<base::Duration> predict_prefill(std::uint32_t computed_tokens, std::uint32_t tokens) const override;
    kv_cache::KvCache& cache() const override { return control_.cache(); }
    const base::Clock& clock() const override { return control_.clock(); }
    [[nodiscard]] bool post(std::function<void()> task) override { return control_.post(std::move(task)); }
    void tell_load_price(std::size_t level, double seconds_per_token) override;

    StepControl& control_;
    KvTiers tiers_;
};

}  // namespace worker
