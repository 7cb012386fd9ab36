#include "cli/kv_codecs.h"

#include <string>
#include <utility>

#include "bench/zstd_codec.h"
#include "engine/model/rope.h"
#include "kv_transfer/codec/codecs.h"

namespace cli {

using base::ErrorCode;

namespace {

std::shared_ptr<const kv_transfer::RotaryTable> rotary_of(const engine::Engine& engine) {
    auto angles = engine::make_rope_table(engine.shape(), engine.shape().context_tokens);
    auto rotary = std::make_shared<kv_transfer::RotaryTable>();
    rotary->head_dim = angles.head_dim;
    rotary->positions = engine.shape().context_tokens;
    rotary->cosines = std::move(angles.cosines);
    rotary->sines = std::move(angles.sines);
    return rotary;
}

}  // namespace

kv_transfer::Codecs KvCodecs::codecs() const {
    std::vector<const kv_transfer::Codec*> borrowed;
    for (const auto& codec : owned) {
        borrowed.push_back(codec.get());
    }
    return kv_transfer::Codecs(std::move(borrowed));
}

base::Result<KvCodecs> make_kv_codecs(const worker::WorkerOptions& options, const engine::Engine& engine,
                                      std::uint64_t numerics_id) {
    const std::string& wanted = options.kv_codec;
    const bool chooses = wanted == "auto";
    const bool is_lossy = wanted != "raw" && wanted != "exact" && !chooses;
    if (is_lossy && !options.kv_lossy_allowed) {
        return base::fail(ErrorCode::invalid_argument, "worker.kv_codec: " + wanted +
                                                           " loses a little of the KV: say worker.kv_lossy: allowed, "
                                                           "or take exact, which loses nothing");
    }
    const bool has_sluice = wanted == "sluice" || (chooses && options.kv_lossy_allowed);
    if (!options.kv_profile.empty() && !has_sluice) {
        return base::fail(ErrorCode::invalid_argument,
                          "worker.kv_profile is for the codec sluice: worker.kv_codec: sluice, or auto with "
                          "worker.kv_lossy: allowed");
    }
    KvCodecs made;
    const auto add = [&](const std::string& name, std::shared_ptr<const kv_transfer::RotaryTable> rotary,
                         std::shared_ptr<const kv_transfer::KvProfile> profile) -> base::Result<void> {
        if (name == "zstd") {
            auto zstd = bench::make_zstd_codec(numerics_id);
            if (zstd == nullptr) {
                return base::fail(ErrorCode::not_found, "worker.kv_codec: zstd needs the system's libzstd.so.1");
            }
            made.owned.push_back(std::move(zstd));
            return {};
        }
        auto codec = kv_transfer::make_codec(name, numerics_id, std::move(rotary), std::move(profile));
        if (!codec) { return base::pass_on(codec, "worker.kv_codec"); }
        made.owned.push_back(std::move(*codec));
        return {};
    };
    if (wanted == "raw") { return made; }
    if (auto added = add("exact", nullptr, nullptr); !added) { return base::pass_on(added); }
    if (has_sluice) {
        std::shared_ptr<kv_transfer::KvProfile> profile;
        if (!options.kv_profile.empty()) {
            auto read = kv_transfer::read_profile(options.kv_profile);
            if (!read) { return base::pass_on(read, "worker.kv_profile"); }
            if (auto fits = read->fits(engine.layout(), numerics_id); !fits) {
                return base::pass_on(fits, "worker.kv_profile");
            }
            profile = std::make_shared<kv_transfer::KvProfile>(std::move(*read));
        }
        if (auto added = add("sluice", rotary_of(engine), std::move(profile)); !added) { return base::pass_on(added); }
    } else if (is_lossy) {
        if (auto added = add(wanted, nullptr, nullptr); !added) { return base::pass_on(added); }
    }
    const std::uint32_t level = wanted == "int8" || wanted == "zstd" ? 0 : options.kv_level;
    if (is_lossy && !made.owned.back()->has_level(level)) {
        return base::fail(ErrorCode::invalid_argument, "worker.kv_level: " + wanted + " has no level " +
                                                           std::to_string(level) +
                                                           (wanted == "cachegen" ? ", but 1 to 6" : ", but 0 to 7"));
    }
    return made;
}

}  // namespace cli
